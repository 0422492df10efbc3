"""What is found in the tables becomes an alert, and is closed when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from alert_watch import watch
from config import load_settings
from db_layer import TradingDB

WEDNESDAY = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)  # 10:00 in New York
SETTINGS = load_settings(True, {})
HOUR = timedelta(hours=1)
ADD_RUN = """
INSERT INTO audit.data_ingestion_runs
    (task_name, data_source, status, started_at, completed_at, failed_at, records_fetched, error_message)
VALUES (%(task)s, 'source', %(status)s, %(at)s, CASE WHEN %(status)s = 'completed' THEN %(at)s::timestamptz END,
        CASE WHEN %(status)s = 'failed' THEN %(at)s::timestamptz END, %(fetched)s, 'no line')
"""
ADD_DECISIONS = """
INSERT INTO audit.trade_decisions (strategy_name, strategy_version, action, symbol, decision_rationale,
    source_bytes_sha256, status, status_reason, executed_at, failed_at, created_at)
SELECT 'n8n_analysis', '1', 'new_trade', 'NVDA', '{}', repeat('a', 64), status, 'why',
       CASE WHEN status = 'executed' THEN %(at)s::timestamptz END,
       CASE WHEN status = 'failed' THEN %(at)s::timestamptz END, %(at)s
FROM unnest(%(statuses)s::text[]) AS status
"""
ADD_CALLS = """
INSERT INTO audit.api_call_logs (endpoint, http_status_code, created_at)
SELECT 'GET /v2/orders', status, %(at)s FROM unnest(%(statuses)s::integer[]) AS status
"""
ADD_UNKNOWN = """
WITH decision AS (
    INSERT INTO audit.trade_decisions
        (strategy_name, strategy_version, action, symbol, decision_rationale, source_bytes_sha256)
    VALUES ('n8n_analysis', '1', 'new_trade', 'NVDA', '{}', repeat('a', 64)) RETURNING id
), journal AS (
    INSERT INTO trade_journal (trade_id, symbol, side, trade_style, status, planned_stop_loss, planned_qty)
    VALUES ('NVDA-1', 'NVDA', 'buy', 'TREND', 'ORDERED', 124, 45) RETURNING id
), orders AS (
    INSERT INTO order_execution (trade_journal_id, trade_decision_id, client_order_id, order_type, side, order_status,
                                 time_in_force, qty)
    SELECT journal.id, decision.id, 'tm-1-e', 'ENTRY', 'buy', %(order_status)s, 'day', 45
    FROM journal, decision RETURNING id
)
INSERT INTO audit.trade_executions
    (trade_decision_id, order_execution_id, attempt_number, status, client_order_id, submitted_at)
SELECT decision.id, orders.id, 1, %(status)s, 'tm-1-e', %(at)s FROM orders, decision
"""
CLOSED_AT_A_LOSS = """
INSERT INTO trade_journal (trade_id, symbol, side, trade_style, status, planned_stop_loss, planned_qty, exit_reason,
                           exit_date, actual_pnl)
VALUES ('NVDA-2', 'NVDA', 'buy', 'TREND', 'CLOSED', 124, 45, 'STOPPED_OUT', %(at)s, -2000.01)
"""


class Watch:
    """A database, and what of the watched matters is open in it after a look."""

    def __init__(self, db: TradingDB) -> None:
        self.db = db

    def run(self, status: str, at: datetime, fetched: int = 5, task: str = "congress_daily") -> None:
        self.db.execute_update(ADD_RUN, {"task": task, "status": status, "at": at, "fetched": fetched})

    def open(self, now: datetime = WEDNESDAY) -> dict[str, str]:
        watch(self.db, SETTINGS, now)
        rows = self.db.query("alerts", {"resolved_at": None})
        return {row["kind"]: f"{row['level']} {row['subject']}: {row['message']}" for row in rows}


@pytest.fixture
def books(database: dict[str, Any]) -> Iterator[Watch]:
    with TradingDB(config=database | {"user": "trading_app"}) as db:
        yield Watch(db)


def test_a_database_without_any_trouble_has_no_alert(books: Watch) -> None:
    books.run("completed", WEDNESDAY - 3 * HOUR)
    assert books.open() == {}


def test_a_failed_run_is_an_alert_until_one_completes(books: Watch) -> None:
    books.run("completed", WEDNESDAY - 3 * HOUR)
    books.run("failed", WEDNESDAY - 2 * HOUR, fetched=0)
    found = books.open()
    assert list(found) == ["run_failed"]
    assert found["run_failed"].startswith("warning congress_daily: the run ")
    assert found["run_failed"].endswith(" of congress_daily failed: no line")
    books.run("running", WEDNESDAY - HOUR)
    assert list(books.open()) == ["run_failed"]
    books.run("completed", WEDNESDAY)
    assert books.open() == {}


def test_a_run_that_brings_nothing_is_an_alert_until_one_brings_something(books: Watch) -> None:
    books.run("completed", WEDNESDAY - 3 * HOUR, fetched=0)
    assert list(books.open()) == ["no_records_fetched"]
    books.run("completed", WEDNESDAY - HOUR)
    assert books.open() == {}


@pytest.mark.parametrize(("completed", "now", "overdue"), [
    ("2025-01-15T12:05", "2025-01-15T15:00", False),
    ("2025-01-14T12:05", "2025-01-15T13:59", False),  # two hours of grace
    ("2025-01-14T12:05", "2025-01-15T14:01", True),
    ("2025-07-14T11:05", "2025-07-15T13:01", True),  # summer time
])
def test_a_task_that_did_not_complete_when_it_was_due_is_overdue(
    books: Watch, completed: str, now: str, overdue: bool,
) -> None:
    books.run("completed", datetime.fromisoformat(f"{completed}+00:00"))
    assert ("run_overdue" in books.open(datetime.fromisoformat(f"{now}+00:00"))) == overdue


def test_a_run_that_does_not_end_is_overdue_and_a_task_nobody_schedules_never_is(books: Watch) -> None:
    books.run("completed", WEDNESDAY - 3 * HOUR)
    books.run("running", WEDNESDAY - 2 * HOUR - timedelta(seconds=1))
    books.run("completed", WEDNESDAY - 100 * HOUR, task="by_hand")
    assert "has not ended since 2025-01-15 12:59 UTC" in books.open()["run_overdue"]
    books.run("completed", WEDNESDAY)
    books.db.execute_update("UPDATE audit.data_ingestion_runs SET status = 'failed', failed_at = now() "
                            "WHERE status = 'running'")
    assert books.open() == {}


@pytest.mark.parametrize(("statuses", "alert"), [
    (["failed"] * 4, False), (["failed"] * 2 + ["executed"] * 3, True), (["failed"] * 3 + ["executed"] * 7, False),
    (["failed"] * 2 + ["pending"] * 3, False),
])
def test_more_failed_trades_than_three_in_ten_are_an_alert_for_the_day(
    books: Watch, statuses: list[str], alert: bool,
) -> None:
    books.db.execute_update(ADD_DECISIONS, {"statuses": statuses, "at": WEDNESDAY})
    found = books.open()
    assert ("failure_rate" in found) == alert
    if alert:
        assert found["failure_rate"] == "critical 2025-01-15: 2 of 5 decided trades of the day failed"
        assert books.open(WEDNESDAY + timedelta(hours=13, minutes=59)) != {}
        assert books.open(WEDNESDAY + timedelta(hours=14)) == {}  # midnight in New York


@pytest.mark.parametrize(("failed", "well", "alert"), [
    ([503, None, 429], [200] * 7, True), ([503, 408], [200] * 8, False), ([500] * 9, [], False),
    ([404, 403, 422], [200] * 7, False),
])
def test_more_failed_calls_than_two_in_ten_are_an_alert_for_an_hour(
    books: Watch, failed: list[int | None], well: list[int], alert: bool,
) -> None:
    books.db.execute_update(ADD_CALLS, {"statuses": failed + well, "at": WEDNESDAY})
    found = books.open()
    assert ("api_error_rate" in found) == alert
    if alert:
        assert found["api_error_rate"] == (
            "warning the broker: more than 20% of the calls to the broker in the last hour failed"
        )
        assert books.open(WEDNESDAY + HOUR) == {}


@pytest.mark.parametrize(("order_status", "status"), [("unknown", "unknown"), ("intended", "submitted")])
def test_an_order_that_has_been_unknown_for_too_long_is_an_alert_until_it_is_known(
    books: Watch, order_status: str, status: str,
) -> None:
    books.db.execute_update(ADD_UNKNOWN, {"order_status": order_status, "status": status, "at": WEDNESDAY})
    assert books.open(WEDNESDAY + timedelta(minutes=15)) == {}
    late = WEDNESDAY + timedelta(minutes=15, seconds=1)
    assert books.open(late) == {"unknown_order": (
        "critical tm-1-e: what became of the order to buy NVDA has been unknown since 2025-01-15 15:00 UTC"
    )}
    books.db.execute_update("UPDATE order_execution SET order_status = 'pending'")
    assert books.open(late) == {}


def test_an_order_that_was_never_sent_is_not_unknown(books: Watch) -> None:
    at = {"order_status": "intended", "status": "not_placed", "at": WEDNESDAY}
    books.db.execute_update(ADD_UNKNOWN, at)
    assert books.open(WEDNESDAY + HOUR) == {}


def test_the_loss_of_a_day_over_its_limit_is_an_alert_until_the_next_day(books: Watch) -> None:
    books.db.execute_update(CLOSED_AT_A_LOSS, {"at": WEDNESDAY})
    words = "critical 2025-01-15: more than MAX_DAILY_LOSS=2000 dollars have been lost today"
    assert books.open() == {"daily_loss": words}
    assert books.open(WEDNESDAY + timedelta(days=1)) == {}


def test_what_is_acknowledged_stays_so_while_it_says_the_same(books: Watch) -> None:
    books.run("completed", WEDNESDAY - 100 * HOUR)
    books.db.execute_update(CLOSED_AT_A_LOSS, {"at": WEDNESDAY})
    books.open()
    books.db.execute_update("UPDATE audit.alerts SET acknowledged_at = now()")
    books.open(WEDNESDAY + HOUR)
    assert [row["acknowledged_at"] is None for row in books.db.query("alerts")] == [False, False]
