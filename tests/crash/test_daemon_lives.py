"""Daemons that are killed by the system, again and again, and daemons that take each other's place."""

from __future__ import annotations

import json
import random
import time as system_time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from clock import at_exchange
from config import load_settings
from db_layer import TradingDB
from job_table import due_between, jobs
from market_calendar import MarketCalendar
from order_life import decimal_text
from paper_broker import PaperBroker, Server, SimulatedClock, serve
from tests.crash.lives import FastClock, be_the_daemon, ended, live_a_day, nursery

WEEK = Path(__file__).resolve().parents[2] / "demo" / "week"
DAY = date(2025, 7, 1)
MORNING = datetime(2025, 7, 1, 8, tzinfo=UTC)
RARE = {"RETENTION_DAY": "15", "ORDER_MONITOR_MINUTES": "15", "POSITION_MONITOR_MINUTES": "30"}
AT_START = ("calendar_check", "startup_barrier")
KILLS = 10
SPEED = 2400
PATIENCE_SECONDS = 30
PASS = timedelta(minutes=15)  # what was due so late may not have begun
ADD_DECISION = """
INSERT INTO analysis_decision ("Analysis_Id", "Date_time", "Ticker", "Approve", "Decision")
VALUES (%(id)s, %(at)s, %(symbol)s, true, %(decision)s)
"""
WHAT_BECAME = """
SELECT decision.analysis_decision_id AS id, decision.status, decision.status_reason, journal.status AS trade,
       journal.exit_reason, journal.actual_qty, journal.actual_pnl
FROM audit.trade_decisions decision LEFT JOIN trade_journal journal ON journal.trade_decision_id = decision.id
ORDER BY decision.analysis_decision_id
"""


def row(name: str, symbol: str, **trade: Any) -> dict[str, Any]:
    """A decision of that morning as a replay is told it."""
    decision = {"symbol": symbol, "primary_action": "NEW_TRADE", "new_trade": {"side": "buy", **trade}}
    return {
        "Analysis_Id": name, "Date_time": "2025-07-01T12:00:00", "Ticker": symbol, "Approve": True,
        "Decision": json.dumps(decision),
    }


# One that reaches its target that day, one that is stopped out, one that stays, one that never fills, one refused.
DECISIONS = [
    row("D1", "ACME", strategy="SWING", qty=45, limit_price=139, stop_loss=134, take_profit=141),
    row("D2", "GLOBO", strategy="SWING", qty=80, limit_price=63, stop_loss=60.5, take_profit=69),
    row("D3", "INIT", strategy="TREND", qty=40, limit_price=202, stop_loss=194),
    row("D4", "HOOLI", strategy="TREND", qty=40, limit_price=90, stop_loss=85),
    row("D5", "PIED", strategy="TREND", qty=9000, limit_price=11.9, stop_loss=11),
]


@contextmanager
def market() -> Iterator[Server]:
    with serve(PaperBroker(clock=SimulatedClock(MORNING))) as server:
        server.broker.add_bars((WEEK / "prices.csv").read_text())
        yield server


def end_of(db: TradingDB, server: Server) -> dict[str, Any]:
    """What the day came to in both books, without ids and times."""
    state = server.broker.state
    return {
        "decisions": {row.pop("id"): row for row in db.execute_query(WHAT_BECAME)},
        "shares": {symbol: decimal_text(position.qty) for symbol, position in state.positions.items()},
        "at work": sorted(
            (order.symbol, order.type, order.side, decimal_text(order.remaining), str(order.stop_price))
            for order in state.live.values()
        ),
        "runs": {
            key: status for key, status in runs_of(db).items() if key in due(RARE, MORNING, at_exchange(DAY, time(23)))
        },
    }


def without(end: dict[str, Any], names: set[str], symbols: set[str]) -> dict[str, Any]:
    """The same without what concerns some decisions."""
    return end | {
        "decisions": {name: row for name, row in end["decisions"].items() if name not in names},
        "shares": {symbol: qty for symbol, qty in end["shares"].items() if symbol not in symbols},
        "at work": [order for order in end["at work"] if order[0] not in symbols],
    }


def runs_of(db: TradingDB) -> dict[tuple[str, datetime], str]:
    """The status of each run in the ledger."""
    return {(row["job_name"], row["due_at"]): row["status"] for row in db.query("job_runs")}


def due(environ: dict[str, str], after: datetime, until: datetime) -> set[tuple[str, datetime]]:
    """Every run that is due then by the table."""
    table, calendar = jobs(load_settings(True, environ).schedule), MarketCalendar()
    return {(job.name, moment) for job in table for moment in due_between(job, calendar, after, until)}


def live(database: dict[str, Any], db: TradingDB, kills: list[int]) -> tuple[dict[str, Any], Server]:
    """Live through the day, killed after so many requests to the broker each time; return what it came to."""
    with market() as server:
        pending, lives = list(kills), 0
        while True:
            arguments = (database, server.url, RARE, server.broker.clock.now(), DAY, DECISIONS)
            process = nursery().Process(target=live_a_day, args=arguments)
            until = len(server.requests) + pending.pop(0) if pending else None
            process.start()
            while until is not None and len(server.requests) < until and process.is_alive():
                system_time.sleep(0.001)
            if until is None:
                assert ended(process) == 0
                return end_of(db, server), server
            process.kill()
            assert ended(process) == -9, f"life {lives} ended before it was killed"
            lives += 1


@pytest.mark.timeout(120)
def test_a_day_with_ten_kills_ends_like_an_undisturbed_one(clones: Any) -> None:
    chance = random.Random(20250701)
    kills = [chance.randint(1, 22) for _ in range(KILLS)]
    ends = []
    for case in ([], kills):
        database = clones.create()
        with TradingDB(config=database) as db:
            end, server = live(database, db, case)
        clones.drop(database)
        ends.append(end)
        posted = Counter(
            json.loads(str(seen["body"]))["client_order_id"] for seen in server.requests
            if seen["method"] == "POST" and seen["executed"]
        )
        assert set(posted.values()) == {1}
    assert {name: (row["status"], row["trade"], row["exit_reason"]) for name, row in ends[0]["decisions"].items()} == {
        "D1": ("executed", "CLOSED", "TARGET_HIT"), "D2": ("executed", "CLOSED", "STOPPED_OUT"),
        "D3": ("executed", "POSITION", None), "D4": ("failed", "CANCELLED", "EXPIRED"), "D5": ("failed", None, None),
    }
    calm, disturbed = ends
    # A request that was written down and not sent when the kill came is never sent: the order is lost, and says so.
    lost = {
        name for name, row in disturbed["decisions"].items() if (row["status_reason"] or "").startswith("not_placed")
    }
    if lost:
        symbols = {row["Ticker"] for row in DECISIONS if row["Analysis_Id"] in lost}
        assert not symbols & {order.symbol for order in server.broker.state.orders.values()}
        calm, disturbed = (without(end, lost, symbols) for end in ends)
    assert calm["runs"] == dict.fromkeys(due(RARE, MORNING, at_exchange(DAY, time(23))), "done")
    assert disturbed == calm


def until(happened: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    give_up = system_time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert system_time.monotonic() < give_up
        system_time.sleep(0.02)


@pytest.mark.timeout(120)
def test_a_daemon_works_for_hours_and_the_standby_takes_its_place_when_it_is_killed(
    database: dict[str, Any], db: TradingDB, tmp_path: Path,
) -> None:
    start = at_exchange(DAY, time(9, 42))
    clock = FastClock(start, tmp_path / "began", SPEED)
    environ = {"ALPACA_TIMEOUT_SECONDS": "120", "POSITION_MONITOR_MINUTES": "15"}
    with serve(PaperBroker(clock=clock)) as server:
        server.broker.add_bars((WEEK / "prices.csv").read_text())
        for decision in DECISIONS:
            db.execute_update(ADD_DECISION, {
                "id": decision["Analysis_Id"], "at": datetime(2025, 7, 1, 12), "symbol": decision["Ticker"],
                "decision": decision["Decision"],
            })
        given = (database | {"user": "trading_app"}, server.url, environ, clock)
        first, standby, third = (
            nursery().Process(target=be_the_daemon, args=(*given, waits)) for waits in (False, True, False)
        )
        try:
            first.start()
            until(lambda: len(db.query("job_runs")) == len(AT_START))
            standby.start()
            third.start()
            assert ended(third) == 3
            clock.begin()
            until(lambda: clock.now() > at_exchange(DAY, time(11, 2)))
            assert len(db.query("job_runs", {"job_name": "startup_barrier"})) == 1, "the standby did not wait"
            first.kill()
            killed_at = clock.now()
            until(lambda: clock.now() > at_exchange(DAY, time(12, 42)))
            standby.terminate()
            assert ended(standby) == 0
            stopped_at = clock.now()
        finally:
            for process in (first, standby, third):
                process.kill()
        recorded = runs_of(db)
        assert due(environ, start, stopped_at - PASS) <= recorded.keys()
        assert set(recorded.values()) <= {"done", "skipped", "missed", "failed"}
        assert Counter(recorded.values())["done"] > 20
        barriers = sorted(row["due_at"] for row in db.query("job_runs", {"job_name": "startup_barrier"}))
        assert [moment > killed_at for moment in barriers] == [False, True]
        assert (barriers[1] - killed_at).total_seconds() / SPEED < 5  # of the five minutes of a cycle
        sent = Counter(order.client_order_id for order in server.broker.state.orders.values())
        entries = [name for name in sent if name.startswith("tm-") and name.endswith("-e")]
        assert len(entries) == 4
        assert set(sent.values()) == {1}
