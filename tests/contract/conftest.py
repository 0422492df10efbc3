"""A paper broker on a port of its own, and a client that speaks to it as our programs do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from alpaca.common.exceptions import APIError
from alpaca.data.historical.stock import StockHistoricalDataClient
from alpaca.trading.client import TradingClient

from paper_broker import PaperBroker, Server, SimulatedClock, serve
from paper_broker.store import Store

# A Wednesday with a regular session, ten in the morning in New York.
OPEN = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
NEW_YORK = ZoneInfo("America/New_York")


class Rehearsal:
    """One broker, its HTTP door and the shortcuts the tests share."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.broker = server.broker
        self.api: Any = self._quiet(TradingClient("key", "secret", raw_data=True, url_override=server.url))
        self.typed: Any = self._quiet(TradingClient("key", "secret", url_override=server.url))
        self.data: Any = self._quiet(
            StockHistoricalDataClient("key", "secret", raw_data=True, url_override=server.url)
        )

    @staticmethod
    def _quiet(client: Any) -> Any:
        client._retry = 0
        client._session.trust_env = False
        return client

    def close(self) -> None:
        for client in (self.api, self.typed, self.data):
            client._session.close()

    def order(self, **fields: Any) -> dict[str, Any]:
        """Place an order: ten NVDA, market, day, buy, unless told otherwise; None leaves a field out."""
        usual = {"symbol": "NVDA", "qty": "10", "side": "buy", "type": "market", "time_in_force": "day"}
        body = {name: value for name, value in {**usual, **fields}.items() if value is not None}
        return dict(self.api.post("/orders", body))

    def limit(self, side: str, price: str, **fields: Any) -> dict[str, Any]:
        return self.order(side=side, type="limit", limit_price=price, **fields)

    def stop(self, price: str, **fields: Any) -> dict[str, Any]:
        return self.order(
            **{"side": "sell", "type": "stop", "stop_price": price, "time_in_force": "gtc"} | fields
        )

    def bracket(self, **fields: Any) -> dict[str, Any]:
        """A bought bracket around 133.50 with target 145.50 and stop 124."""
        group = {
            "order_class": "bracket",
            "time_in_force": "gtc",
            "take_profit": {"limit_price": "145.50"},
            "stop_loss": {"stop_price": "124.00"},
        }
        return self.order(**group | fields)

    def oco(self, qty: str = "10", **fields: Any) -> dict[str, Any]:
        """Target 145.50 and stop 124 for shares held."""
        return self.bracket(**{"side": "sell", "type": "limit", "order_class": "oco", "qty": qty} | fields)

    def refused(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        """The HTTP status and body of an order that must be refused."""
        return self.failure(lambda: self.order(**fields))

    @staticmethod
    def failure(call: Any) -> tuple[int, dict[str, Any]]:
        with pytest.raises(APIError) as caught:
            call()
        return caught.value.status_code, caught.value.response.json()

    @staticmethod
    def failure_status(call: Any) -> int:
        """The HTTP status of a call that must fail, whatever its body."""
        with pytest.raises(APIError) as caught:
            call()
        return int(caught.value.status_code)

    def long(self, qty: str = "10", symbol: str = "NVDA") -> None:
        """Hold shares, bought at the market."""
        bought = self.order(symbol=symbol, qty=qty)
        assert self.see(bought)["status"] == "filled"

    def see(self, order: dict[str, Any], **query: Any) -> dict[str, Any]:
        return dict(self.api.get(f"/orders/{order['id']}", query))

    def status(self, order: dict[str, Any]) -> str:
        return str(self.see(order)["status"])

    def rows(self, **query: Any) -> list[dict[str, Any]]:
        return list(self.api.get("/orders", query))

    def position(self, symbol: str = "NVDA") -> dict[str, Any]:
        return dict(self.api.get(f"/positions/{symbol}"))

    def last_trade(self, symbol: str) -> float:
        trades = self.data.get("/stocks/trades/latest", {"symbols": symbol})["trades"]
        return float(trades[symbol]["p"])

    def eastern(self, text: str) -> None:
        """Let time pass until a moment in New York, such as "2025-01-16 09:30"."""
        self.broker.set_time(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK))

    def control(self, method: str, path: str, body: Any = None) -> Any:
        response = self.api._session.request(method, f"{self.server.url}/control/{path}", json=body)
        assert response.status_code == 200, response.text
        return response.json()


@contextmanager
def reloaded(desk: Rehearsal, folder: Path) -> Iterator[Rehearsal]:
    """The same account at a broker that was ended, and started again from its state file."""
    Store(folder / "state.json").save(desk.broker.state)
    with serve(PaperBroker(state=Store(folder / "state.json").load())) as server:
        later = Rehearsal(server)
        yield later
        later.close()


@pytest.fixture
def desk() -> Iterator[Rehearsal]:
    """An open market with NVDA at 133.50 and an account of 100,000 dollars."""
    broker = PaperBroker(clock=SimulatedClock(OPEN), hours="nyse", cash=Decimal("100000"))
    with serve(broker) as server:
        rehearsal = Rehearsal(server)
        rehearsal.broker.set_price("NVDA", "133.50")
        yield rehearsal
        rehearsal.close()
