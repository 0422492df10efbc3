"""A broker that only shows its book, as a process of its own: `python -m tests.bench.listing_server`.

Its rows are JSON before the first call, so that an answer costs it next to nothing, and comes after 5 ms on purpose.
It says its URL on standard output and ends with its standard input. `/bench/before`, `/bench/after` and `/bench/risen`
open a book and forget the calls seen, `/bench/seen` tells them.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from tests.bench import book
from tests.bench.book import Json

LATENCY_SECONDS = 0.005
PAGE_SIZE = 500
FILLS_PAGE_SIZE = 100
ACCOUNT = {
    "id": "e6fe16f3-64a4-4921-8928-cadf02f92f98", "account_number": "PA0000000001", "status": "ACTIVE",
    "currency": "USD", "cash": "1000000", "equity": "5000000", "last_equity": "5000000", "buying_power": "1000000",
    "portfolio_value": "5000000", "multiplier": "1", "trading_blocked": False, "account_blocked": False,
    "transfers_blocked": False, "trade_suspended_by_user": False, "shorting_enabled": False,
}
CLOCK = {
    "timestamp": book.NOW.isoformat(), "is_open": True, "next_open": "2026-11-23T09:30:00-05:00",
    "next_close": "2026-11-20T16:00:00-05:00",
}
HEADERS = {
    "Content-Type": "application/json; charset=UTF-8", "X-Request-ID": "c1b5b4f9d2c04e7d8d8a1a2b3c4d5e6f",
    "X-RateLimit-Limit": "200", "X-RateLimit-Remaining": "187", "X-RateLimit-Reset": "1795186860",
}


class Listing:
    """Rows in the order of their times, cut into pages."""

    def __init__(self, rows: Sequence[Json], time_name: str) -> None:
        self._rows = [json.dumps(row).encode() for row in rows]
        self._times = [datetime.fromisoformat(row[time_name]) for row in rows]
        self._places = {row["id"]: place for place, row in enumerate(rows)}

    def page(self, ascending: bool, size: int, after: str | None, cursor: str | None) -> bytes:
        """Return up to `size` rows later than `after` that follow the row with the id `cursor`."""
        low, high = 0, len(self._rows)
        if after is not None:
            moment = datetime.fromisoformat(after)
            low = bisect_right(self._times, moment if moment.tzinfo else moment.replace(tzinfo=UTC))
        if ascending:
            low = low if cursor is None else self._places[cursor] + 1
            return _array(self._rows[low:low + size])
        high = high if cursor is None else self._places[cursor]
        return _array(self._rows[max(low, high - size):high][::-1])


class Book:
    """What the broker shows before or after the changes, with prices so many dollars above the entries."""

    def __init__(self, after: bool, rise: int) -> None:
        self._orders = Listing([book.listed(trade, after) for trade in book.TRADES], "submitted_at")
        self._fills = Listing(book.fills(after), "transaction_time")
        self._positions = json.dumps(book.held_positions(after)).encode()
        self._trades = book.latest_trades(rise)

    def answer(self, path: str, query: dict[str, str]) -> bytes | None:
        """Return the body for a path, or None for what this broker does not show."""
        match path:
            case "/v2/account":
                return json.dumps(ACCOUNT).encode()
            case "/v2/clock":
                return json.dumps(CLOCK).encode()
            case "/v2/calendar":
                return json.dumps([{"date": f"{book.NOW:%Y-%m-%d}", "open": "09:30", "close": "16:00"}]).encode()
            case "/v2/positions":
                return self._positions
            case "/v2/orders" if query.get("status") == "all" and query.get("nested") in ("true", "True"):
                size = min(int(query.get("limit", "50")), PAGE_SIZE)
                return self._page(self._orders, query, size, query.get("after_order_id"))
            case "/v2/account/activities" if "FILL" not in query.get("activity_types", "FILL"):
                return b"[]"
            case "/v2/account/activities/FILL":
                size = min(int(query.get("page_size", "100")), FILLS_PAGE_SIZE)
                return self._page(self._fills, query, size, query.get("page_token"))
            case "/v2/stocks/trades/latest":
                asked = set(query["symbols"].split(","))
                found = {symbol: trade for symbol, trade in self._trades.items() if symbol in asked}
                return json.dumps({"trades": found}).encode()
        return None

    def _page(self, rows: Listing, query: dict[str, str], size: int, cursor: str | None) -> bytes:
        return rows.page(query.get("direction") == "asc", size, query.get("after"), cursor)


class Handler(BaseHTTPRequestHandler):
    """One connection, kept alive as the broker keeps it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path.startswith("/bench/"):
            self._say(200, json.dumps(self.server.control(url.path.removeprefix("/bench/"))).encode())
            return
        self._note(url.path)
        body = self.server.book.answer(url.path, dict(parse_qsl(url.query)))
        if body is None:
            self._say(404, b'{"code": 40410000, "message": "this broker only shows its book"}')
        else:
            self._say(200, body)

    def do_POST(self) -> None:
        self._note(urlsplit(self.path).path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._say(403, b'{"code": 40310000, "message": "this broker takes no messages"}')

    def do_DELETE(self) -> None:
        self.do_POST()

    def do_PATCH(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        pass

    def _note(self, path: str) -> None:
        self.server.seen.append(f"{self.command} {path}")
        time.sleep(LATENCY_SECONDS)

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """The books, the one that is open, and the calls seen since it was opened."""

    daemon_threads = True

    def __init__(self) -> None:
        self._books = {"before": Book(False, rise=1), "after": Book(True, rise=1), "risen": Book(False, rise=2)}
        self.book = self._books["before"]
        self.seen: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def control(self, word: str) -> list[str]:
        """Open the book of that name, or just tell the calls seen."""
        if word in self._books:
            self.book, self.seen = self._books[word], []
        return self.seen


def main() -> None:
    """Answer until standard input ends, which it does however the parent ends."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        sys.stdin.read()


def _array(rows: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(rows) + b"]"


if __name__ == "__main__":
    main()
