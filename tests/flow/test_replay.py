"""Five trading days lived through by the daemon's jobs, and a checker that sees when books and broker part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest

from alpaca_client import Broker
from clock import at_exchange
from config import load_settings
from db_layer import TradingDB
from paper_broker import PaperBroker, Server, SimulatedClock, serve
from paper_market import PaperMarket
from replay import BUNDLED, Day, Replay, _read
from replay_checks import breaches
from tests.crash.harness import UNGUARDED
from tests.property.books import Books

FIRST, LAST = date(2025, 6, 30), date(2025, 7, 7)
RARE = {"ORDER_MONITOR_MINUTES": "60", "POSITION_MONITOR_MINUTES": "60"}
Lived = tuple[TradingDB, Server, dict[str, Any], list[Day]]


@pytest.fixture(scope="module")
def lived(clones: Any) -> Iterator[Lived]:
    """The bundled week and the Monday after it, with a holiday and a half day in between."""
    bars, decisions = _read(BUNDLED)
    database, start = clones.create(), at_exchange(FIRST, time())
    with serve(PaperBroker(clock=SimulatedClock(start))) as server, TradingDB(config=database) as db:
        market = PaperMarket(server.url)
        for content in bars:
            market.add_bars(content)
        with closing(Replay(load_settings(True, RARE), db, market, start, decisions)) as replay:
            days = list(replay.run(FIRST, LAST))
        yield db, server, database, days
    clones.drop(database)


def test_five_trading_days_go_by_with_every_job_done_and_the_books_right(lived: Lived) -> None:
    days = lived[3]
    assert [day.market for day in days] == [
        *["09:30-16:00"] * 3, "09:30-13:00", "closed", "closed", "closed", "09:30-16:00",
    ]
    assert [day.runs for day in days] == [47, 46, 45, 39, 24, 24, 24, 45]  # with two at the start
    assert [(day.not_done, day.alerts, day.breaches) for day in days] == [(0, 0, ())] * 8
    assert [(day.entries, day.fills, day.closed, day.pnl) for day in days if day.entries] == [
        (2, 2, 0, Decimal(0)), (2, 2, 1, Decimal("-232")), (1, 2, 1, Decimal("306")), (1, 1, 0, Decimal(0)),
        (1, 2, 1, Decimal("71.4")),
    ]


def test_the_independent_books_of_the_tests_agree(lived: Lived) -> None:
    _, server, database, _ = lived
    with closing(Books(database, server.broker)) as books:
        books.check_always()
        books.check_at_rest()


def test_nothing_outside_this_machine_is_asked_whatever_is_configured(lived: Lived) -> None:
    db, server, _, _ = lived
    given = {"QUIVER_BASE_URL": "https://api.quiverquant.com", "ALPACA_BASE_URL": "https://paper-api.alpaca.markets",
             "ALPACA_ACCOUNT_NUMBER": "PA3REAL00001"}
    settings = replace(load_settings(True, given), metrics_file="trading.prom")
    with closing(Replay(settings, db, PaperMarket(server.url), server.broker.clock.now())) as replay:
        (parts,) = {id(work.parts): work.parts for work in replay.runner._lanes.values()}.values()
    assert parts.settings.data.quiver_base_url == ""
    assert parts.settings.alpaca.base_url == server.url
    assert parts.settings.metrics_file == ""
    assert parts.settings.alpaca.account_number == ""


TAMPERED = {
    "an order's row is gone": ("DELETE FROM order_execution WHERE order_type = 'STOP_LOSS'", "0 rows, at the broker"),
    "an order never came": (
        "UPDATE order_execution SET alpaca_order_id = 'nobody''s ' || id WHERE order_type = 'STOP_LOSS'",
        "1 rows, not at the broker",
    ),
    "a status is old": ("UPDATE order_execution SET broker_status = 'x' WHERE order_status = 'filled'", "('x', "),
    "fills differ": ("UPDATE order_execution SET filled_qty = 1 WHERE order_status = 'filled'", "('filled', "),
    "an execution is missing": ("DELETE FROM order_fill", "not in the books"),
    "a price is wrong": ("UPDATE order_fill SET price = price + 1", "only in the books"),
    "shares are wrong": ("UPDATE position_tracking SET qty = qty + 1", "tracked"),
    "a position is not tracked": ("DELETE FROM position_tracking", "POSITION with None shares tracked"),
    "a stop is too small": ("UPDATE position_tracking SET qty = qty * 2", "and has stops over"),
    "a profit is wrong": ("UPDATE trade_journal SET actual_pnl = actual_pnl + 0.01 WHERE status = 'CLOSED'", "made"),
    "an order is in doubt": ("UPDATE order_execution SET order_status = 'unknown'", "unknown outcome"),
    "a decision is lost": (
        "UPDATE audit.trade_decisions SET status = 'pending', failed_at = NULL WHERE status = 'failed'", "is pending",
    ),
    "a request has no end": ("UPDATE audit.trade_executions SET status = 'submitted'", "has no answer"),
    "a run has no row": ("DELETE FROM audit.job_runs", "has no row"),
    "a run has no end": ("UPDATE audit.job_runs SET status = 'running'", "has no end"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_the_checker_sees_it_when(lived: Lived, name: str) -> None:
    db, server, _, _ = lived
    statement, words = TAMPERED[name]
    due = [("order_executor", datetime(2025, 7, 7, 13, 45, tzinfo=UTC))]

    settings = load_settings(True, {"ALPACA_BASE_URL": server.url})
    with closing(Broker(settings.alpaca)) as broker:
        assert breaches(db, broker, due) == []
        with suppress(RolledBackError), db.transaction():
            db.execute_update(UNGUARDED)
            assert db.execute_update(statement) > 0
            found = breaches(db, broker, due)
            raise RolledBackError
        assert any(words in breach for breach in found), found
        assert breaches(db, broker, due) == []


class RolledBackError(Exception):
    """Nothing of this is kept."""
