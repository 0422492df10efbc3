"""The daily summary over books written by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from audit_trail import AlertKind, AlertLevel, raise_alert
from audit_trail.reports import as_json, as_text, daily_summary
from db_layer import TradingDB
from tests.db.ledger import NOON, Ledger

DAY = date(2025, 1, 15)
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def booked(clones: Any) -> Iterator[TradingDB]:
    """A day with one trade closed, one position, one refusal, a failed run, an alert and a switch."""
    database = clones.create()
    with TradingDB(config=database) as db:
        write_day(Ledger(db))
        yield db
    clones.drop(database)


def write_day(ledger: Ledger) -> None:
    yesterday = NOON - timedelta(days=1)
    closed = ledger.decided(yesterday)
    ledger.traded(closed, yesterday, trade_id="NVDA-CLOSED", actual_pnl=Decimal("20.5"), pnl_is_estimate=True)
    held = ledger.decided()
    trade = ledger.traded(held, status="POSITION", trade_id="NVDA-HELD")
    ledger.ordered(held, trade)
    ledger.db.insert("position_tracking", {
        "trade_journal_id": trade, "symbol": "NVDA", "side": "long", "qty": 10, "avg_entry_price": 101,
        "current_price": 99, "cost_basis": 1010, "unrealized_pnl": -20, "last_updated": NOON,
    })
    ledger.decided(NOON + MINUTE, "failed", status_reason="100 dollars too much", analysis_decision_id="REFUSED")
    ledger.run(records_created=7)
    ledger.run(status="failed", error_message="the source did not answer", task_name="insider_daily")
    raise_alert(ledger.db, AlertLevel.CRITICAL, AlertKind.UNPROTECTED_POSITION, "NVDA-HELD", "no stop", NOON)
    ledger.db.insert("trading_control", {
        "state": "HALTED", "reason": "a drill", "changed_by": "somebody@here", "changed_at": NOON,
    })


def summary(db: TradingDB, day: date = DAY) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(as_json(daily_summary(db, day)))
    return found


def test_the_summary_counts_what_the_day_brought(booked: TradingDB) -> None:
    facts = summary(booked)["summary"]
    assert {name: facts[name] for name in (
        "trading_state", "decisions", "decisions_executed", "decisions_failed", "orders_written", "trades_closed",
        "realised_pnl", "positions_open", "unrealised_pnl", "runs_completed", "runs_failed", "critical_alerts_open",
    )} == {
        "trading_state": "HALTED", "decisions": 2, "decisions_executed": 1, "decisions_failed": 1, "orders_written": 1,
        "trades_closed": 1, "realised_pnl": "20.500000", "positions_open": 1, "unrealised_pnl": "-20.000000",
        "runs_completed": 1, "runs_failed": 1, "critical_alerts_open": 1,
    }


def test_a_failed_decision_comes_first_with_its_reason(booked: TradingDB) -> None:
    first = summary(booked)["decisions"][0]
    assert (first["analysis_decision_id"], first["status_reason"]) == ("REFUSED", "100 dollars too much")


def test_what_a_person_should_look_at_is_listed_with_the_most_urgent_first(booked: TradingDB) -> None:
    found = [(row["level"], row["kind"], row["subject"]) for row in summary(booked)["attention"]]
    assert found == [
        ("critical", "unprotected_position", "NVDA-HELD"), ("warning", "run failed", "insider_daily"),
        ("info", "kill switch", "HALTED"),
    ]


def test_profit_that_is_an_estimate_is_marked(booked: TradingDB) -> None:
    text = as_text(daily_summary(booked, DAY))
    assert "20.50 (dollars; 1 of the trades with an estimate)" in text
    (line,) = [line for line in text.splitlines() if "NVDA-CLOSED" in line]
    assert "yes" in line.split()


def test_a_day_without_anything_says_so(booked: TradingDB) -> None:
    text = as_text(daily_summary(booked, date(2025, 1, 12)))
    assert "No trade was closed on this day." in text
    assert "No decision was taken up on this day." in text


def test_a_day_is_the_one_of_new_york(db: TradingDB) -> None:
    ledger = Ledger(db)
    for at in (datetime(2025, 1, 15, 4, 59, tzinfo=UTC), datetime(2025, 1, 15, 5, 0, tzinfo=UTC),
               datetime(2025, 1, 16, 4, 59, tzinfo=UTC), datetime(2025, 1, 16, 5, 0, tzinfo=UTC)):
        ledger.decided(at)
    assert [summary(db, DAY + timedelta(days=days))["summary"]["decisions"] for days in (-1, 0, 1)] == [1, 2, 1]


def test_every_line_fits_a_terminal_of_80_columns(booked: TradingDB) -> None:
    assert max(map(len, as_text(daily_summary(booked, DAY)).splitlines())) <= 80
