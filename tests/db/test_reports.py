"""What the reports say about books written by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from audit_trail.reports import Period, Report, as_json, failure_analysis, known_at, origin, symbol_report
from audit_trail.reports import strategy_performance as performance_of
from db_layer import TradingDB
from tests.db.ledger import NOON, Ledger

WEEK = Period(date(2025, 1, 13), date(2025, 1, 19))
EMPTY = Period(date(2024, 1, 1), date(2024, 1, 31))
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
BEFORE = NOON - 20 * HOUR


class Books:
    """A week: data by two runs, six decisions of two versions and another strategy, three of them traded."""

    def __init__(self, db: TradingDB) -> None:
        self.db = db
        self.ledger = ledger = Ledger(db)
        self.first_run, self.second_run = ledger.run(BEFORE), ledger.run(NOON + HOUR)
        self.disclosed = ledger.disclosed(self.first_run, BEFORE)
        ledger.touched(self.second_run, self.disclosed, "skipped", NOON + HOUR)
        ledger.disclosed(self.second_run, NOON + HOUR, side="sell", transaction_type="Sale (Full)")
        ledger.disclosed(self.first_run, BEFORE, symbol="MSFT")
        self._trade_well()
        self._trade_badly()
        self._trade_at_market()
        self._fail()

    def _trade_well(self) -> None:
        decision = self.ledger.decided(
            analysis_decision_id="WON", primary_quiver_trade_id=self.disclosed, primary_ingestion_run_id=self.first_run,
            decision_rationale=json.dumps({"signal_strength": 0.8, "trigger_event": {"type": "disclosure"}}),
        )
        trade = self.ledger.traded(decision, actual_pnl=Decimal(20))
        self.ledger.ordered(decision, trade, filled_at=NOON + 10 * MINUTE)

    def _trade_badly(self) -> None:
        decision = self.ledger.decided(NOON + MINUTE, analysis_decision_id="LOST")
        trade = self.ledger.traded(
            decision, NOON + MINUTE, actual_qty=5, planned_qty=10, actual_entry=102, actual_pnl=Decimal(-30),
            exit_reason="STOPPED_OUT", pnl_is_estimate=True, exit_date=NOON + 2 * DAY,
        )
        self.ledger.ordered(decision, trade, NOON + MINUTE, filled_qty=5, order_status="cancelled", filled_at=None)

    def _trade_at_market(self) -> None:
        decision = self.ledger.decided(
            NOON + 2 * MINUTE, strategy_version="2", order_type="market", limit_price=None, analysis_decision_id="HELD",
        )
        self.ledger.checked(decision, reference_price=("100.5, 12 s old", True))
        self.ledger.traded(
            decision, NOON + 2 * MINUTE, "POSITION", planned_entry=None, actual_entry=Decimal("100.4"), actual_qty=10,
        )

    def _fail(self) -> None:
        refused = self.ledger.decided(
            NOON + 3 * MINUTE, "failed", status_reason="order value 30000 is over 20000", analysis_decision_id="LIMIT",
        )
        self.ledger.checked(refused, trading_state=("ACTIVE", True), max_order_notional=("30000", False))
        at_broker = self.ledger.decided(
            NOON + 4 * MINUTE, "failed", status_reason="the broker refused the order", analysis_decision_id="BROKER",
        )
        trade = self.ledger.traded(
            at_broker, NOON + 4 * MINUTE, "CANCELLED", exit_reason="REJECTED", exit_date=NOON + HOUR,
        )
        self.ledger.ordered(
            at_broker, trade, NOON + 4 * MINUTE, filled_qty=0, filled_avg_price=None, filled_at=None,
            order_status="rejected", attempt={
                "status": "rejected", "http_status_code": 403, "error_code": "40310000",
                "error_message": "insufficient buying power: 1500.25 left",
            },
        )
        self.ledger.decided(
            NOON + DAY, "failed", strategy_name="congressional", status_reason="stop 90.5 above 88",
            analysis_decision_id="WORDS", symbol="MSFT",
        )


@pytest.fixture(scope="module")
def books(clones: Any) -> Iterator[Books]:
    database = clones.create()
    with TradingDB(config=database) as db:
        yield Books(db)
    clones.drop(database)


def read(report: Report | None) -> dict[str, Any]:
    """The report as a program reads it."""
    assert report is not None
    found: dict[str, Any] = json.loads(as_json(report))
    return found


def test_a_symbol_report_counts_data_decisions_and_trades_of_the_symbol_only(books: Books) -> None:
    summary = read(symbol_report(books.db, "NVDA", WEEK))["summary"]
    assert summary == {
        "quiver_trades": 2, "decisions": 5, "decisions_executed": 3, "decisions_failed": 2, "decisions_cancelled": 0,
        "decisions_pending": 0, "success_rate": "60", "executions": 3, "trades_closed": 2, "realised_pnl": "-10.000000",
        "trades_open": 1,
    }


def test_a_symbol_report_shows_data_with_the_run_that_brought_it(books: Books) -> None:
    newest, oldest = read(symbol_report(books.db, "NVDA", WEEK))["quiver_trades"]
    runs = {row["id"]: row["run_id"] for row in books.db.query("data_ingestion_runs")}
    assert (newest["side"], newest["run_id"]) == ("sell", runs[books.second_run])
    assert (oldest["available_at"], oldest["run_id"]) == (BEFORE.isoformat(), runs[books.first_run])


def test_a_symbol_report_shows_why_a_decision_was_made_and_what_it_rests_on(books: Books) -> None:
    (won,) = [
        row for row in read(symbol_report(books.db, "NVDA", WEEK))["decisions"] if row["analysis_decision_id"] == "WON"
    ]
    assert (won["signal_strength"], won["trigger_event"]) == ("0.8", "disclosure")
    assert won["primary_quiver_trade_id"] == books.disclosed
    assert won["primary_run_id"] is not None


def test_a_symbol_report_breaks_failures_down_by_what_refused_them(books: Books) -> None:
    found = read(symbol_report(books.db, "NVDA", WEEK))["failures"]
    assert {row["reason"]: row["decisions"] for row in found} == {
        "max_order_notional": 1, "broker: insufficient buying power: # left": 1,
    }


def test_data_that_became_known_after_the_period_is_not_in_it(books: Books) -> None:
    before = Period(date(2025, 1, 14), date(2025, 1, 14))
    assert read(symbol_report(books.db, "NVDA", before))["summary"]["quiver_trades"] == 1


def test_failures_are_grouped_by_reason_and_code_with_examples(books: Books) -> None:
    rows = {row["reason"]: row for row in read(failure_analysis(books.db, WEEK))["reasons"]}
    assert {reason: (row["code"], row["failures"], row["examples"]) for reason, row in rows.items()} == {
        "max_order_notional": (None, 1, "LIMIT"),
        "broker: insufficient buying power: # left": ("40310000", 1, "BROKER"),
        "stop # above #": (None, 1, "WORDS"),
    }


def test_failures_are_grouped_by_the_weekday_and_hour_of_new_york(books: Books) -> None:
    found = read(failure_analysis(books.db, WEEK))
    assert found["weekdays"] == [{"weekday": "Wednesday", "failures": 2}, {"weekday": "Thursday", "failures": 1}]
    assert found["hours"] == [{"hour": "12:00", "failures": 3}]


def test_failures_have_their_share_of_the_decisions_of_a_symbol_and_a_strategy(books: Books) -> None:
    found = read(failure_analysis(books.db, WEEK))
    assert {row["symbol"]: (row["failures"], row["decisions"], row["share"]) for row in found["symbols"]} == {
        "NVDA": (2, 5, "40"), "MSFT": (1, 1, "100"),
    }
    assert {(row["strategy_name"], row["failures"], row["decisions"]) for row in found["strategies"]} == {
        ("n8n_analysis", 2, 4), ("congressional", 1, 1),
    }
    assert found["summary"]["failure_rate"] == "50"


def performance(books: Books, version: str, part: str) -> dict[str, Any]:
    rows = read(performance_of(books.db, WEEK, "n8n_analysis"))[part]
    (row,) = [row for row in rows if row["strategy_version"] == version]
    return dict(row)


def test_a_signal_is_measured_by_what_its_trades_brought(books: Books) -> None:
    found = performance(books, "1", "signals")
    assert {key: found[key] for key in ("closed", "estimates", "win_rate", "profit_factor", "pnl", "drawdown")} == {
        "closed": 2, "estimates": 1, "win_rate": "50.000000", "profit_factor": "0.666667", "pnl": "-10.000000",
        "drawdown": "30.000000",
    }


def test_execution_is_measured_apart_from_the_signal(books: Books) -> None:
    found = performance(books, "1", "execution")
    # 10 at 101 and 5 at 102 instead of 100, of 10, 10 and the 10 that were refused.
    assert Decimal(found["slippage"]) == 20
    assert Decimal(found["slippage_bps"]) == pytest.approx(Decimal("133.333333"))
    assert Decimal(found["fill_rate"]) == 50
    assert found["fill_seconds"] == 600
    assert Decimal(performance(books, "1", "signals")["pnl_at_decision_price"]) == 10


def test_a_market_order_is_held_against_the_price_it_was_checked_with(books: Books) -> None:
    assert Decimal(performance(books, "2", "execution")["slippage"]) == -1


def test_a_version_without_an_ended_trade_has_no_rates(books: Books) -> None:
    found = performance(books, "2", "signals")
    assert (found["closed"], found["win_rate"], found["profit_factor"]) == (0, None, None)


def test_a_split_changes_neither_slippage_nor_the_fill_rate(db: TradingDB) -> None:
    ledger = Ledger(db)
    ledger.traded(ledger.decided(), actual_entry=Decimal("10.1"), actual_qty=100, split_ratio=10)
    (found,) = read(performance_of(db, WEEK))["execution"]
    assert (Decimal(found["slippage"]), Decimal(found["fill_rate"])) == (10, 100)


def test_what_became_of_decisions_is_counted_by_version(books: Books) -> None:
    found = performance(books, "1", "decisions")
    assert [found[key] for key in ("decisions", "executed", "failed", "cancelled", "pending")] == [4, 2, 2, 0, 0]


def test_the_profits_of_months_add_up(books: Books) -> None:
    (month,) = read(performance_of(books.db, WEEK))["months"]
    assert (month["month"], month["closed"], month["pnl"], month["total"]) == ("2025-01", 2, "-10.000000", "-10.000000")


def test_what_came_later_was_not_known(books: Books) -> None:
    found = read(known_at(books.db, "NVDA", NOON + 2 * MINUTE))
    assert [row["quiver_trade_id"] for row in found["quiver_trades"]] == [books.disclosed]
    assert {row["analysis_decision_id"]: row["stood"] for row in found["decisions"]} == {
        "WON": "executed", "LOST": "executed", "HELD": "pending",
    }
    assert {row["stood"] for row in found["trades"]} == {"under way"}
    assert len(found["runs"]) == 1


def test_a_record_that_was_corrected_since_is_marked(db: TradingDB) -> None:
    ledger = Ledger(db)
    ledger.disclosed(ledger.run(), updated_at=NOON + DAY)
    marks = [
        [row["changed_since"] for row in read(known_at(db, "NVDA", at))["quiver_trades"]]
        for at in (NOON + HOUR, NOON + 2 * DAY)
    ]
    assert marks == [[True], [False]]


def test_the_origin_of_a_disclosed_trade_is_its_run_and_its_calls(books: Books) -> None:
    found = read(origin(books.db, books.disclosed))
    runs = {row["id"]: row["run_id"] for row in books.db.query("data_ingestion_runs")}
    assert found["quiver_trade"]["run_id"] == runs[books.first_run]
    assert [(row["run_id"], row["operation"]) for row in found["runs"]] == [
        (runs[books.first_run], "created"), (runs[books.second_run], "skipped"),
    ]
    assert [row["analysis_decision_id"] for row in found["decisions"]] == ["WON"]


def test_a_disclosed_trade_that_is_not_there_has_no_origin(books: Books) -> None:
    assert origin(books.db, 10**9) is None


@pytest.mark.parametrize("report", [
    lambda db: symbol_report(db, "NVDA", EMPTY), lambda db: failure_analysis(db, EMPTY),
    lambda db: performance_of(db, EMPTY), lambda db: performance_of(db, WEEK, "no such strategy"),
    lambda db: known_at(db, "NOSUCH", NOON),
], ids=["symbol", "failures", "performance", "unknown strategy", "unknown symbol"])
def test_an_empty_period_says_so_in_every_part(books: Books, report: Any) -> None:
    tables = [section for section in report(books.db).sections if hasattr(section, "rows") and section.key != "runs"]
    assert tables
    assert all(not section.rows and section.empty.endswith(".") for section in tables)


def test_the_longest_name_a_disclosure_can_have_fits_the_index(db: TradingDB) -> None:
    ledger = Ledger(db)
    widest = [chr(0x1F300 + number) for number in range(500)]  # four bytes each, and none like another
    ledger.disclosed(ledger.run(), person_name="".join(widest), symbol="".join(widest[:60]))
    assert len(read(symbol_report(db, "".join(widest[:60]), WEEK))["quiver_trades"]) == 1


def test_a_short_that_is_sold_lower_than_decided_has_cost_something(db: TradingDB) -> None:
    ledger = Ledger(db)
    ledger.traded(ledger.decided(side="sell"), side="sell", actual_entry=99)
    (found,) = read(performance_of(db, WEEK))["execution"]
    assert Decimal(found["slippage"]) == 10


def test_a_drawdown_is_the_deepest_fall_although_it_was_made_good(db: TradingDB) -> None:
    ledger = Ledger(db)
    for days, pnl in enumerate((50, -30, -40, 100, -20)):
        ledger.traded(ledger.decided(), actual_pnl=pnl, exit_date=NOON + days * DAY)
    (found,) = read(performance_of(db, WEEK))["signals"]
    assert Decimal(found["drawdown"]) == 70


def test_what_is_written_while_a_report_is_made_is_not_in_it(db: TradingDB, database: dict[str, Any]) -> None:
    class Interrupted(TradingDB):
        def execute_query(self, *args: Any) -> list[dict[str, Any]]:
            rows = super().execute_query(*args)
            Ledger(db).decided(analysis_decision_id="LATER")
            return rows

    with Interrupted(config=database) as reading:
        assert read(symbol_report(reading, "NVDA", WEEK))["decisions"] == []
    assert read(symbol_report(db, "NVDA", WEEK))["decisions"] != []
