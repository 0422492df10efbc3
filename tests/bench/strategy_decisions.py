"""Measures what a strategy's run costs us: signals of 100 symbols out of a year's disclosures, and their decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import median
from time import perf_counter
from typing import Any

from broker_answers import DailyBar
from config import load_settings
from db_layer import TradingDB
from decision import NewTrade
from strategies import STRATEGIES, Signal
from strategies.plan import Plan, Planned
from strategies.sizing import Room, levels_of, size
from strategies.snapshot import load_snapshot
from strategies.written import write_plan
from tests.bench.monitor_pass import Measure

NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
SIGNALS, MEMBERS, ROUNDS = 100, 5, 6  # the first round is not timed
HISTORY = 40_000  # disclosures that are too old to count

ADD_DISCLOSURES = """
INSERT INTO quiver_trades (
    natural_key, trade_key, lot, source, symbol, asset_type, tradable, person_name, person_id, transaction_type, side,
    transaction_date, disclosure_date, amount_low, available_at, created_at, updated_at)
SELECT %(name)s || number, %(name)s || number, 0, 'quiverquant_congress',
       chr(65 + number %% %(symbols)s / 26) || chr(65 + number %% %(symbols)s %% 26), 'stock', true,
       'Member ' || number / %(symbols)s, 'M' || number / %(symbols)s, 'Purchase', 'buy', %(at)s::date - 20,
       %(at)s::date, 50001, %(at)s, %(at)s, %(at)s
FROM generate_series(0, %(count)s - 1) AS number
"""


def measure(parameters: Mapping[str, Any]) -> list[Measure]:
    """Measure on a database of its own tables. Raises DatabaseError."""
    strategy = STRATEGIES["congressional"]
    found, written = [], []
    with TradingDB(config=parameters) as db:
        db.create_schema()
        _disclose(db, "history", HISTORY, NOW - timedelta(days=60))
        for number in range(ROUNDS):
            now = NOW + timedelta(minutes=number)
            _disclose(db, f"round {number} ", SIGNALS * MEMBERS, now)
            started = perf_counter()
            signals = strategy.signals(load_snapshot(db, strategy, now))
            found.append(perf_counter() - started)
            plan = Plan(strategy, now, list(_planned(signals)))
            started = perf_counter()
            with db.transaction():
                ids = write_plan(db, plan, now)
            written.append((perf_counter() - started) / SIGNALS)
            assert len(ids) == SIGNALS
    return [
        Measure("a decision at p50, ms", median(written[1:]) * 1000, 5, 2),
        Measure("the slowest run's decisions, ms each", max(written[1:]) * 1000, 100, 2),
        Measure("snapshot and signals, ms", median(found[1:]) * 1000, None, 1),
    ]


def _disclose(db: TradingDB, name: str, count: int, at: datetime) -> None:
    db.execute_update(ADD_DISCLOSURES, {"name": name, "count": count, "at": at, "symbols": SIGNALS})


def _planned(signals: list[Signal]) -> Iterator[Planned]:
    equity, last = Decimal(1_000_000), Decimal(100)
    levels = levels_of(last, [DailyBar(NOW.date(), Decimal(101), Decimal(95))])
    for signal in signals:
        trade = size(signal.strength, levels, equity, load_settings(True, {}).limits, Room(equity, 1), "bench")
        assert isinstance(trade, NewTrade)
        yield Planned(signal, trade, levels, last, equity)
