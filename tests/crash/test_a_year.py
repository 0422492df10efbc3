"""A year of the daemon with a broker that misbehaves every day: `make soak`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import pytest

from clock import MARKET_ZONE, at_exchange
from config import load_settings
from db_layer import TradingDB
from job_runner import Cycle
from market_calendar import Session, bundled_session
from paper_broker import PaperBroker, SimulatedClock, serve
from paper_broker.faults import read_fault
from paper_market import PaperMarket
from replay import Replay
from tests.flow.world import GENEROUS
from tests.property.books import Books

FIRST, LAST = date(2025, 1, 2), date(2025, 12, 31)
SYMBOLS = ("ACME", "GLOBO", "INIT", "PIED", "HOOLI", "UMBRA")
HALF_HOUR = timedelta(minutes=30)
CALM = timedelta(hours=1)  # before the close; what went wrong before is settled by the evening
MISFORTUNES = (
    {"kind": "status", "code": 503}, {"kind": "status", "code": 504, "executed": True}, {"kind": "status", "code": 429},
    {"kind": "drop"}, {"kind": "drop", "executed": True}, {"kind": "garbled"}, {"kind": "garbled", "executed": False},
    {"kind": "empty"},
)
REQUESTS = (("POST", "/v2/orders"), ("DELETE", "/v2/orders/*"), ("GET", "/v2/*"), ("GET", "/v2/stocks/*"))
BEHAVIOUR = (
    {"cancel_delay_seconds": "5"}, {"release_delay_seconds": "30"}, {"positions_lag": "20"}, {"activities_lag": "90"},
    {"reject_next": 1}, {"both_legs_fill": True}, {"cancel_loses_to_fill": True},
)
NORMAL = {
    "cancel_delay_seconds": "0", "release_delay_seconds": "0", "positions_lag": "0", "activities_lag": "0",
    "reject_next": 0,
}


def sessions() -> Iterator[tuple[date, Session]]:
    for number in range((LAST - FIRST).days + 1):
        day = FIRST + timedelta(days=number)
        session = bundled_session(day)
        if session is not None:
            yield day, session


def invent(chance: random.Random) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Return a year of half-hour bars, and the decisions of somebody who trades by the last close."""
    bars, decisions = [], []
    price = {symbol: 40.0 + 30 * number for number, symbol in enumerate(SYMBOLS)}
    for day, session in sessions():
        for number in range(chance.randint(1, 3)):
            symbol = chance.choice(SYMBOLS)
            decisions.append(decide(chance, f"Y-{day}-{number}", symbol, price[symbol], day))
        at = session.opens
        while at < session.closes:
            for symbol in SYMBOLS:
                opens = price[symbol]
                price[symbol] = min(400.0, max(15.0, opens * (1 + chance.gauss(0, 0.006))))
                high, low = max(opens, price[symbol]) * 1.002, min(opens, price[symbol]) * 0.998
                bars.append({
                    "timestamp": at.isoformat(), "symbol": symbol, "open": f"{opens:.2f}", "high": f"{high:.2f}",
                    "low": f"{low:.2f}", "close": f"{price[symbol]:.2f}", "volume": "50000",
                })
            at += HALF_HOUR
    return bars, decisions


def decide(chance: random.Random, name: str, symbol: str, price: float, day: date) -> dict[str, Any]:
    style = chance.choice(["SWING", "TREND", "DAYTRADE"])
    limit = round(price * chance.choice([0.97, 0.995, 1.01]), 2)
    trade: dict[str, Any] = {
        "strategy": style, "qty": chance.randint(1, 60), "side": "buy", "limit_price": limit,
        "time_in_force": chance.choice(["day", "gtc"]), "stop_loss": round(limit * 0.96, 2),
    }
    if style == "SWING":
        trade["take_profit"] = round(limit * 1.05, 2)
    if chance.random() < 0.2:
        del trade["limit_price"]
        trade |= {"type": "market", "time_in_force": "day"}
    decision = {"symbol": symbol, "primary_action": "NEW_TRADE", "new_trade": trade}
    return {
        "Analysis_Id": name, "Date_time": f"{day}T12:00:00", "Ticker": symbol, "Approve": True,
        "Decision": json.dumps(decision),
    }


class Mischief:
    """Lets something go wrong after a run now and then, until the afternoon."""

    def __init__(self, market: PaperBroker, chance: random.Random) -> None:
        self._market = market
        self._chance = chance
        self.done = 0

    def __call__(self, cycle: Cycle) -> None:
        local = cycle.ended.astimezone(MARKET_ZONE)
        session = bundled_session(local.date())
        if session is None or cycle.ended >= session.closes - CALM:
            self._market.faults.clear()
            self._market.behave(**NORMAL)
        elif self._chance.random() < 0.1:
            method, path = self._chance.choice(REQUESTS)
            wish = {"method": method, "path": path, **self._chance.choice(MISFORTUNES)}
            self._market.faults.append(read_fault(wish))
            self.done += 1
        elif self._chance.random() < 0.05:
            self._market.behave(**self._chance.choice(BEHAVIOUR))
            self.done += 1


@pytest.mark.soak
@pytest.mark.no_cover
def test_a_year_with_a_broker_that_misbehaves_every_day(clones: Any) -> None:
    chance = random.Random(2025)
    bars, decisions = invent(chance)
    environ = GENEROUS | {"DAYTRADE_FLATTEN_MINUTES_BEFORE_CLOSE": "15"}
    database, start = clones.create(), at_exchange(FIRST, time())
    engine = PaperBroker(clock=SimulatedClock(start), cash=Decimal(10**7))
    with serve(engine) as server, TradingDB(config=database) as db, closing(Books(database, engine)) as books:
        market = PaperMarket(server.url)
        market.add_bars(json.dumps(bars).encode())
        with closing(Replay(load_settings(True, environ), db, market, start, decisions)) as replay:
            mischief = Mischief(engine, chance)
            replay.runner.listeners.append(mischief)
            for day in replay.run(FIRST, LAST):
                assert not day.breaches, f"{day.day}: {day.breaches}"
                books.check_always()
        assert mischief.done > 500
        assert len(db.query("trade_journal", {"status": "CLOSED"})) > 100
    clones.drop(database)
