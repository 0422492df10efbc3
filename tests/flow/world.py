"""One world for the flow tests: a real database, the paper broker over HTTP, and one clock for both."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from alpaca_client import Broker, Reply, Request
from clock import ManualClock
from config import load_settings
from db_layer import TradingDB
from order_executor import OrderExecutor
from order_monitor import OrderMonitor
from paper_broker import Server
from position_monitor import PositionMonitor

START = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)  # a Wednesday, 10:00 in New York
# For worlds that are about something else than the limits.
GENEROUS = {
    "MAX_ORDER_NOTIONAL": "10000000", "MAX_SYMBOL_EXPOSURE": "1000000000", "MAX_GROSS_EXPOSURE": "1000000000",
    "MAX_OPEN_POSITIONS": "1000", "MAX_ORDERS_PER_DAY": "10000", "MAX_SYMBOL_ORDERS_PER_DAY": "10000",
    "MAX_ORDERS_PER_MINUTE": "10000", "DUPLICATE_WINDOW_MINUTES": "0", "MAX_DAILY_LOSS": "1000000000",
    "PRICE_COLLAR_PCT": "1000",
}
ADD_ROW = """
INSERT INTO analysis_decision ("Analysis_Id", "Date_time", "Ticker", "Decision", "Approve", executed)
VALUES (%(id)s, %(at)s, %(ticker)s, %(text)s, %(approve)s, %(executed)s)
"""


def swing(symbol: str = "NVDA", **changes: Any) -> dict[str, Any]:
    """The contract's example decision, with changes to its new_trade."""
    trade = {
        "strategy": "SWING", "pattern": "PATTERN_1", "qty": 45, "side": "buy", "type": "limit",
        "time_in_force": "day", "limit_price": 133.80, "stop_loss": {"stop_price": 124.00},
        "take_profit": {"limit_price": 145.50}, "reward_risk_ratio": 2.15,
    }
    return {
        "symbol": symbol, "analysis_date": "2025-01-15", "support": 100.1, "primary_action": "NEW_TRADE",
        "new_trade": trade | changes,
    }


def trend(symbol: str = "NVDA", **changes: Any) -> dict[str, Any]:
    """The same trade with a stop only."""
    decision = swing(symbol, **{"strategy": "TREND", **changes})
    decision["new_trade"].pop("take_profit")
    return decision


class Killed(BaseException):
    """The end of a process, which no handler of errors may outlive."""


class SharedClock(ManualClock):
    """A clock whose waiting the broker notices too."""

    def __init__(self, world: World) -> None:
        super().__init__(world.clock.now())
        self._world = world

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._world.market.set_time(self.now())


class LineGoesDown(Broker):
    """Answers reads; the line is gone when a message should leave."""

    def send(self, request: Request) -> Reply:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
            return Broker(replace(self._settings, base_url=nowhere)).send(request)


class World:
    """What the tests move and look at."""

    def __init__(self, db: TradingDB, server: Server, programs: TradingDB | None = None) -> None:
        self.db = db
        self.programs = programs or db  # what the programs work with, under the role that is meant for them
        self.server = server
        self.market = server.broker
        self.clock = ManualClock(START)
        self.configure()
        self._rows = 0
        self._opened = ExitStack()
        self.price("NVDA", "135")

    def configure(self, **environ: str) -> None:
        """Use other settings from now on."""
        self.settings = load_settings(True, {"ALPACA_BASE_URL": self.server.url} | environ)

    def decide(
        self, decision: Mapping[str, Any] | str | None, ticker: str | None = "NVDA:NASDAQ", approve: bool | None = True,
        at: datetime | None = None, name: str | None = None, executed: bool | None = None,
    ) -> str:
        """Write a decision row and return its Analysis_Id."""
        self._rows += 1
        name = name or f"A{self._rows}"
        moment = at or self.clock.now() - timedelta(minutes=30) + timedelta(seconds=self._rows)
        self.db.execute_update(ADD_ROW, {
            "id": name, "at": moment.replace(tzinfo=None), "ticker": ticker, "approve": approve, "executed": executed,
            "text": decision if isinstance(decision, str | None) else json.dumps(decision),
        })
        return name

    def execute(self) -> dict[str, int]:
        """One pass of the executor."""
        return _counts(self._worker(OrderExecutor).run())

    def execute_with_the_line_down(self) -> dict[str, int]:
        """One pass of the executor that reaches the broker for everything but its orders."""
        return _counts(self._worker(OrderExecutor, LineGoesDown).run())

    def monitor(self) -> dict[str, int]:
        """One pass of the order monitor."""
        return _counts(self._worker(OrderMonitor).run())

    def value(self) -> Any:
        """One pass of the position monitor."""
        return self._worker(PositionMonitor).run()

    def preview(self) -> list[str]:
        """What the executor would do."""
        return self._worker(OrderExecutor).preview()

    def price(self, symbol: str, price: str) -> None:
        """Trade at this price from now on."""
        self.market.set_price(symbol, Decimal(price))

    def pass_time(self, **duration: float) -> None:
        """Let time go by for everybody."""
        self.clock.set(self.clock.now() + timedelta(**duration))
        self.market.set_time(self.clock.now())

    def fault(self, method: str, path: str, kind: str, **details: Any) -> None:
        """Ask the broker for a misfortune of its next matching request."""
        from paper_broker.faults import read_fault

        if kind == "hang":  # the only one that is worth losing patience over, however slow the machine
            self.settings = replace(self.settings, alpaca=replace(self.settings.alpaca, timeout_seconds=1))
        self.market.faults.append(read_fault({"method": method, "path": path, "kind": kind, **details}))

    def requests(self, method: str, path: str = "/v2/orders") -> list[dict[str, Any]]:
        """What arrived at the broker, counted there."""
        return [seen for seen in self.market.requests if seen["method"] == method and seen["path"] == path]

    def posted(self) -> list[dict[str, Any]]:
        """The bodies of all orders that arrived at the broker."""
        return [json.loads(seen["body"]) for seen in self.requests("POST")]

    def one(self, table: str, **where: Any) -> dict[str, Any]:
        """The only row of a table that fits."""
        rows = self.db.query(table, where)
        assert len(rows) == 1, rows
        return rows[0]

    def analysis(self, name: str) -> dict[str, Any]:
        """A row of analysis_decision."""
        return self.one("analysis_decision", Analysis_Id=name)

    def open_position(self, decision: Mapping[str, Any] | None = None, price: str = "133.50") -> str:
        """Carry a decision as far as a protected position and return its Analysis_Id."""
        name = self.decide(decision or swing())
        self.execute()
        self.price("NVDA", price)
        self.monitor()
        return name

    def close(self) -> None:
        """Close the connections to the broker."""
        self._opened.close()

    def _worker(self, kind: type[Any], door: type[Broker] = Broker) -> Any:
        broker = self._opened.enter_context(door(self.settings.alpaca, clock=self.clock))
        return kind(db=self.programs, broker=broker, clock=self.clock, settings=self.settings)


def _counts(found: Counter[Any]) -> dict[str, int]:
    return {str(name): count for name, count in found.items() if count}


def executor(world: World, broker: Broker, db: TradingDB | None = None) -> OrderExecutor:
    """An executor that talks through this broker."""
    return OrderExecutor(db=db or world.programs, broker=broker, clock=world.clock, settings=world.settings)
