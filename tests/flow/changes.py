"""What the tests of CANCEL and AMEND share: decisions, rows, and eyes on the broker's live entries."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from alpaca_client import Broker, Reply, Request
from clock import ManualClock
from db_layer import TradingDB
from order_executor import OrderExecutor
from tests.flow.world import START, World, swing

POINT_AT = """
UPDATE analysis_decision SET existing_order_id = %(order_id)s, existing_trade_journal_id = %(journal_id)s
WHERE "Analysis_Id" = %(name)s
"""
REUSE = """
UPDATE analysis_decision SET "Decision" = %(text)s, executed = false, "Date_time" = %(at)s
WHERE "Analysis_Id" = %(name)s
"""
BUSINESS = (
    "analysis_decision", "trade_journal", "order_execution", "trade_decisions", "trade_executions", "risk_checks",
    "alerts",
)


class Killed(BaseException):
    """The process ends here."""


class MarketClock(ManualClock):
    """Waiting passes for the market too."""

    def __init__(self, world: World) -> None:
        super().__init__(world.clock.now())
        self.world = world

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.world.market.set_time(self.now())


class Watched(Broker):
    """Looks at the broker's live entries after each call, and lets something happen around messages."""

    def __init__(self, world: World, around: Callable[[Request, Callable[[], Reply]], Reply] | None = None) -> None:
        super().__init__(world.settings.alpaca, clock=world.clock)
        self.world = world
        self.around = around or (lambda _, send: send())

    def send(self, request: Request) -> Reply:
        reply = self.around(request, lambda: Broker.send(self, request))
        assert len(live_entries(self.world)) <= 1
        return reply

    def get_order(self, order_id: str) -> Any:
        heard = super().get_order(order_id)
        assert len(live_entries(self.world)) <= 1
        return heard


def cancel(symbol: str = "NVDA") -> dict[str, Any]:
    """A decision to cancel."""
    return {"symbol": symbol, "primary_action": "CANCEL"}


def amend(symbol: str = "NVDA", **changes: Any) -> dict[str, Any]:
    """A decision to amend an order to the contract's example, with changes."""
    return swing(symbol, **{"limit_price": 130, **changes}) | {"primary_action": "AMEND"}


def point(
    world: World, decision: dict[str, Any], order_id: str | None = None, journal_id: int | None = None,
    **row: Any,
) -> str:
    """Write a row that points at an order or a trade, and return its Analysis_Id."""
    name = world.decide(decision, **row)
    world.db.execute_update(POINT_AT, {"order_id": order_id, "journal_id": journal_id, "name": name})
    return name


def reuse(world: World, name: str, decision: dict[str, Any]) -> None:
    """Turn a row that was carried out into another decision, as n8n does."""
    at = world.clock.now().replace(tzinfo=None)
    world.db.execute_update(REUSE, {"name": name, "text": json.dumps(decision), "at": at})


def placed(world: World, decision: dict[str, Any] | None = None) -> dict[str, Any]:
    """Place an entry and return its row."""
    name = world.decide(decision or swing())
    world.execute()
    return world.one("order_execution", analysis_decision_id=name)


def partly_filled(world: World, shares: str = "20") -> dict[str, Any]:
    """Place the example's entry, fill this many shares of it, and return its row as it was before."""
    world.market.set_liquidity("NVDA", shares)
    entry = placed(world)
    world.price("NVDA", "133.50")
    world.price("NVDA", "135")
    return entry


def live_entries(world: World) -> list[Decimal]:
    """The shares of the buys that work at the broker."""
    return [order.qty for order in list(world.market.state.live.values()) if order.side == "buy"]


def deleted(world: World) -> int:
    """How many cancels arrived at the broker."""
    return sum(seen["method"] == "DELETE" for seen in world.market.requests)


def executor(world: World, broker: Broker, db: TradingDB | None = None) -> OrderExecutor:
    """An executor that talks through this broker."""
    return OrderExecutor(db=db or world.programs, broker=broker, clock=world.clock, settings=world.settings)


def two_executors(world: World, database: dict[str, Any]) -> list[str]:
    """Run two executors at the same time and return their results; what goes wrong in one is the test's."""
    start = threading.Barrier(2)

    def run() -> list[str]:
        with TradingDB(config=database) as db:
            worker = executor(world, Watched(world), db)
            start.wait(5)
            return [str(result) for result in worker.run().elements()]

    with ThreadPoolExecutor(2) as pool:
        works = [pool.submit(run) for _ in range(2)]
    return [result for work in works for result in work.result()]


def halt(world: World, state: str = "HALTED") -> None:
    """Turn the kill switch."""
    world.db.insert("trading_control", {"state": state, "reason": "test", "changed_by": "test", "changed_at": START})


def in_order(world: World, table: str) -> list[dict[str, Any]]:
    """The rows of a table as they were written, one after the other."""
    return sorted(world.db.query(table), key=lambda row: row.get("id", 0))


def books(world: World) -> dict[str, Any]:
    """Everything but the record of calls."""
    return {table: in_order(world, table) for table in BUSINESS}


class Mortal:
    """Counts the moments at which a process may end, and ends it at one of them."""

    def __init__(self, last: int) -> None:
        self.left = last

    def moment(self) -> None:
        """Live on, or end here."""
        self.left -= 1
        if self.left < 0:
            raise Killed


class MortalDB(TradingDB):
    """May end before and after each transaction."""

    mortal: Mortal

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.mortal.moment()
        with super().transaction():
            yield
        self.mortal.moment()


class MortalBroker(Watched):
    """May end before and after each message and each look at an order."""

    mortal: Mortal

    def send(self, request: Request) -> Reply:
        self.mortal.moment()
        reply = super().send(request)
        self.mortal.moment()
        return reply

    def get_order(self, order_id: str) -> Any:
        self.mortal.moment()
        return super().get_order(order_id)
