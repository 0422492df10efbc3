"""The floor of a monitor's pass: the same listing by plain requests, and one bulk update of the rows that changed."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg2
import requests

from tests.bench import book
from tests.bench.book import Fate, Json

PAGE_SIZE = 500
WORDS = {
    "accepted": "pending", "held": "pending", "new": "pending", "filled": "filled", "canceled": "cancelled",
    "expired": "expired",
}
UPDATE = """
UPDATE order_execution orders
SET order_status = change.status, broker_status = change.word, filled_qty = change.qty,
    filled_avg_price = change.price, filled_at = change.filled_at, updated_at = %(now)s
FROM unnest(%(ids)s::text[], %(statuses)s::text[], %(words)s::text[], %(qtys)s::numeric[], %(prices)s::numeric[],
            %(moments)s::timestamptz[]) AS change (id, status, word, qty, price, filled_at)
WHERE orders.alpaca_order_id = change.id
"""


class Floor:
    """A bare session and a bare connection."""

    def __init__(self, url: str, parameters: dict[str, Any]) -> None:
        self._url = url
        self._session = requests.Session()
        self._connection = psycopg2.connect(**parameters)
        changed = [trade for trade in book.TRADES if trade.fate is not Fate.RESTS]
        self._changed = {
            trade.broker_id(order) for trade in changed for order in (("exit", "leg") if trade.held else ("entry",))
        }

    def close(self) -> None:
        self._connection.close()
        self._session.close()

    def run(self) -> int:
        """Fetch the listing, update the rows that changed between the passes, and return how many those were."""
        orders = [member for order in self._listing() for member in (order, *(order["legs"] or ()))]
        changed = [order for order in orders if order["id"] in self._changed]
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(UPDATE, {
                "ids": [order["id"] for order in changed], "words": [order["status"] for order in changed],
                "statuses": [WORDS[order["status"]] for order in changed],
                "qtys": [Decimal(order["filled_qty"]) for order in changed],
                "prices": [order["filled_avg_price"] for order in changed],
                "moments": [order["filled_at"] for order in changed], "now": book.NOW,
            })
            return int(cursor.rowcount)

    def _listing(self) -> list[Json]:
        params = {
            "status": "all", "nested": "true", "direction": "asc", "limit": str(PAGE_SIZE),
            "after": (book.SUBMITTED - timedelta(hours=1)).isoformat(),
        }
        orders: list[Json] = []
        while True:
            answer = self._session.get(f"{self._url}/v2/orders", params=params, timeout=10)
            page = json.loads(answer.content, parse_float=Decimal)
            orders += page
            if len(page) < PAGE_SIZE:
                return orders
            params = {name: value for name, value in params.items() if name != "after"}
            params["after_order_id"] = page[-1]["id"]
