"""The only door to the broker: alpaca-py's plain client, and one verb for each thing the workers ask or say.

A message that changes something (submit, cancel) is classed as accepted, refused, not sent or unknown and never
repeated here. A read either gives a complete, well-formed answer or raises BrokerError. No call leaves while the
broker's last answer says that the minute's requests are used up.
Source: Alpaca's API reference; what an answer proves is explained in docs/architecture.md.
"""

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol, Self, cast

from alpaca.common.rest import RESTClient

from broker_answers import (
    Asset,
    BrokerError,
    Holding,
    Json,
    JsonObject,
    LastTrade,
    MarketHours,
    Position,
    checked_asset,
    checked_day,
    checked_fill,
    checked_hours,
    checked_order,
    checked_position,
    checked_session,
    checked_split,
    has_id,
    holdings_by_symbol,
    last_trades,
    number,
    readable,
    rows_with_ids,
    same_order,
)
from broker_line import TOO_MANY_REQUESTS, Extract, Line, Outcome, Reply, Request, tame
from clock import Clock, SystemClock, at_exchange
from config import AlpacaSettings, load_settings

if TYPE_CHECKING:
    from alpaca.data.historical.stock import StockHistoricalDataClient
    from alpaca.trading.client import TradingClient

__all__ = [
    "Asset", "Broker", "BrokerError", "Exchange", "Holding", "JsonObject", "LastTrade", "Listing", "MarketHours",
    "Outcome", "Position", "Reply", "Request", "get_data_client", "get_trading_client", "number", "same_order",
]

PAGE_SIZE = 500
ACTIVITIES_PAGE_SIZE = 100
MAX_PAGES = 400
NOT_FOUND = "40410000"  # a 404 without this code comes from a gateway, which knows nothing of orders

Exchange = tuple[Request, Reply]
IsNews = Callable[[JsonObject], bool]


class Recorder(Protocol):
    """Is told reads with their answers before these are used."""

    def __call__(self, exchanges: Sequence[Exchange]) -> None: ...


class Listing:
    """Orders that are being read: legs under their parents, oldest first."""

    def __init__(
        self, pages: Iterator[list[JsonObject]], heard: list[Exchange], reader: ThreadPoolExecutor, record: Recorder,
    ) -> None:
        self._pages: SimpleQueue[tuple[int, list[JsonObject]] | None] = SimpleQueue()
        self._heard = heard
        self._record = record
        self._end = reader.submit(self._read, pages)

    def _read(self, pages: Iterator[list[JsonObject]]) -> None:
        try:
            for page in pages:
                self._pages.put((len(self._heard) - 1, page))
        finally:
            self._pages.put(None)

    def orders(self, is_news: IsNews | None = None) -> list[JsonObject]:
        """Return the orders, when the last page has come.

        `is_news` is shown each row as it came; what it turns down is neither returned nor recorded. A row that makes no
        sense is left out, as if it had not been listed. Raises BrokerError.
        """
        news: set[str] = set()
        orders: list[JsonObject] = []
        for place, page in iter(self._pages.get, None):
            if is_news is not None:
                page = list(filter(is_news, page))
                news.update(row["id"] for row in page)
                self._heard[place] = _extracted(self._heard[place], news)
            orders += readable(checked_order, page)
        try:
            self._end.result()
        except BrokerError:
            self._record([(request, replace(reply, extract=None)) for request, reply in self._heard])
            raise
        self._record(self._heard)
        return orders


def _extracted(exchange: Exchange, news: Container[str]) -> Exchange:
    """Let go of a page's rows but for the orders whose ids are `news`, and those that have no id."""
    request, reply = exchange
    kept = [row for row in reply.parsed if not has_id(row) or row["id"] in news]
    extract = Extract(len(reply.parsed), json.dumps(kept, default=str))
    return request, replace(reply, parsed=None, extract=extract)


def get_trading_client(settings: AlpacaSettings | None = None) -> "TradingClient":
    """Return alpaca-py's trading client with raw answers, no retries, a total timeout and no proxy.

    Settings default to the environment's. Raises ConfigError.
    """
    # Here, because its models bring pandas along, for which a program would wait longer than for all the rest.
    from alpaca.trading.client import TradingClient

    settings = settings or load_settings().alpaca
    client = TradingClient(
        settings.api_key, settings.secret_key, paper=settings.paper, raw_data=True, url_override=settings.base_url,
    )
    return cast("TradingClient", tame(client, settings.timeout_seconds))


def get_data_client(settings: AlpacaSettings | None = None) -> "StockHistoricalDataClient":
    """Return alpaca-py's market-data client with raw answers, no retries, a total timeout and no proxy.

    Settings default to the environment's. Raises ConfigError.
    """
    from alpaca.data.historical.stock import StockHistoricalDataClient

    settings = settings or load_settings().alpaca
    client = StockHistoricalDataClient(
        settings.api_key, settings.secret_key, raw_data=True, url_override=settings.data_url,
    )
    return cast("StockHistoricalDataClient", tame(client, settings.timeout_seconds))


class Broker:
    """The verbs the workers need; `recorder` is told every read with its answer before the answer is used.

    The clock is what waiting for the broker's limit of requests goes by; the trading and the data API each have a
    limit of their own.
    """

    def __init__(self, settings: AlpacaSettings, recorder: Recorder | None = None, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self._settings = settings
        self._trading = _line(settings, settings.base_url, "ALPACA_BASE_URL", clock)
        self._data = _line(settings, settings.data_url, "ALPACA_DATA_URL", clock)
        self._recorder = recorder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the broker; a later call opens one again."""
        self._trading.close()
        self._data.close()

    def record_with(self, recorder: Recorder | None) -> None:
        """Tell this recorder, or nobody, of every read from now on."""
        self._recorder = recorder

    @property
    def timeout_seconds(self) -> float:
        """How long a call may take from its first byte to its last."""
        return self._settings.timeout_seconds

    def wait_for_room(self) -> None:
        """Wait until the broker takes another request; usually returns at once, after a minute at the latest.

        For a message that must not grow old between being written down and being sent.
        """
        self._trading.wait_for_room()

    def order_request(self, order: Mapping[str, Json]) -> Request:
        """Return the request that would place this order; decimals must be strings already."""
        return Request("POST", "/v2/orders", {}, json.dumps(order, allow_nan=False))

    def cancel_request(self, order_id: str) -> Request:
        """Return the request that would cancel the order."""
        return Request("DELETE", f"/v2/orders/{order_id}", {})

    def send(self, request: Request) -> Reply:
        """Send a message once and say what its answer proves; never raises for anything the line or broker does.

        Waits first while there is no room; call `wait_for_room` before the message is written down to keep it fresh.
        """
        return self._trading.call(request)

    def find_order(self, client_order_id: str) -> JsonObject | None:
        """Return the order with this client order id, legs included, or None when the broker knows none."""
        found = self._read_one("/v2/orders:by_client_order_id", {"client_order_id": client_order_id})
        if found is None:
            return None
        order = checked_order(found)
        # The look-up by client id does not promise the legs; the look-up by id does.
        return self.get_order(order["id"]) or order

    def get_order(self, order_id: str) -> JsonObject | None:
        """Return the order with its legs, or None when the broker knows none."""
        order = self._read_one(f"/v2/orders/{order_id}", {"nested": "true"})
        return checked_order(order) if order is not None else None

    def list_orders(self, after: datetime, is_news: IsNews | None = None) -> list[JsonObject]:
        """Return the orders submitted after this moment in any state; see start_listing. Raises BrokerError."""
        with self.start_listing(after) as listing:
            return listing.orders(is_news)

    def list_open_orders(self) -> list[JsonObject]:
        """Return every order that works on the account, whoever placed it, legs under their parents.

        Raises BrokerError, also when one of them makes no sense.
        """
        wanted = {"status": "open", "nested": "true", "direction": "asc", "limit": str(PAGE_SIZE)}
        pages = self._pages("/v2/orders", wanted, {}, "after_order_id", PAGE_SIZE)
        return [checked_order(row) for page in pages for row in page]

    @contextmanager
    def start_listing(self, after: datetime) -> Iterator[Listing]:
        """Begin to read the orders submitted after this moment in any state, while the caller does something else.

        Pages by the id of the last order, since orders may share a submission time. Nothing else may be asked of the
        broker before the listing is over.
        """
        wanted = {"status": "all", "nested": "true", "direction": "asc", "limit": str(PAGE_SIZE)}
        start = {"after": after.isoformat()}
        heard: list[Exchange] = []
        pages = self._pages("/v2/orders", wanted, start, "after_order_id", PAGE_SIZE, heard)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="listing") as reader:
            yield Listing(pages, heard, reader, self._record)

    def fill_pages(self, after: datetime) -> Iterator[list[JsonObject]]:
        """Yield the fill activities since this moment page by page, newest first, without rows that make no sense.

        Whoever stops early saves the rest; only the end of the last page proves that there are no more. Raises
        BrokerError, also after pages that were good.
        """
        for page in self._activity_pages("/v2/account/activities/FILL", {"direction": "desc"}, after):
            yield readable(checked_fill, page)

    def list_splits(self, after: datetime) -> list[JsonObject]:
        """Return the stock splits booked since this moment, oldest first, without rows that make no sense.

        Each has id, symbol, qty (the shares added, negative where the split took some) and date as the broker wrote
        it. Raises BrokerError.
        """
        wanted = {"activity_types": "SPLIT", "direction": "asc"}
        pages = self._activity_pages("/v2/account/activities", wanted, after)
        return [split for page in pages for split in readable(checked_split, page)]

    def position(self, symbol: str) -> Position:
        """Return the shares the account holds, and which of them no order reserves. Raises BrokerError."""
        position = self._read_one(f"/v2/positions/{symbol}", {})
        return checked_position(position) if position is not None else Position(Decimal(0), Decimal(0))

    def list_positions(self) -> dict[str, Decimal]:
        """Return the shares the account holds by symbol, negative for a short position; what is missing is flat.

        Raises BrokerError when any part of the answer makes no sense.
        """
        return {symbol: holding.qty for symbol, holding in self.list_holdings().items()}

    def list_holdings(self) -> dict[str, Holding]:
        """Return list_positions with the price of a share of each. Raises BrokerError."""
        return holdings_by_symbol(self._read_list("/v2/positions", {}))

    def asset(self, symbol: str) -> Asset | None:
        """Return what may be done with a symbol, or None when the broker does not know it. Raises BrokerError."""
        asset = self._read_one(f"/v2/assets/{symbol}", {})
        return checked_asset(asset) if asset is not None else None

    def market_hours(self) -> MarketHours:
        """Return whether the market is open, and when it opens and closes next. Raises BrokerError."""
        return checked_hours(self._read_one("/v2/clock", {}) or {})

    def trading_days(self, first: date, last: date) -> list[date]:
        """Return the days between these two, both included, on which the market is open. Raises BrokerError."""
        days = {checked_day(row) for row in self._calendar(first, last)}
        return sorted(day for day in days if first <= day <= last)

    def sessions(self, first: date, last: date) -> dict[date, tuple[datetime, datetime]]:
        """Return open and close of each trading day between these two, both included; aware UTC. Raises BrokerError."""
        rows = map(checked_session, self._calendar(first, last))
        return {
            day: (at_exchange(day, opens), at_exchange(day, closes))
            for day, opens, closes in rows if first <= day <= last
        }

    def account(self) -> JsonObject:
        """Return the account. Raises BrokerError; also when it is not the pinned one (ALPACA_ACCOUNT_NUMBER)."""
        account = self._read_one("/v2/account", {})
        if account is None:
            raise BrokerError("the broker does not know the account of these keys")
        number = self._settings.account_number
        if number and account.get("account_number") != number:
            raise BrokerError(f"the keys belong to another account than ALPACA_ACCOUNT_NUMBER={number}")
        return account

    def latest_prices(self, symbols: Iterable[str]) -> dict[str, Decimal]:
        """Return the prices of latest_trades that make sense, in dollars. Raises BrokerError."""
        return {symbol: trade.price for symbol, trade in self.latest_trades(symbols).items() if trade is not None}

    def latest_trades(self, symbols: Iterable[str]) -> dict[str, LastTrade | None]:
        """Return the last trade of each symbol, None where it makes no sense; symbols without one are absent.

        One call for all symbols. Raises BrokerError.
        """
        wanted = sorted(set(symbols))
        if not wanted:
            return {}
        params = {"symbols": ",".join(wanted), "feed": self._settings.data_feed}
        answer = self._read(self._data, Request("GET", "/v2/stocks/trades/latest", params))
        return last_trades(answer, wanted)

    def _calendar(self, first: date, last: date) -> list[Json]:
        return self._read_list("/v2/calendar", {"start": first.isoformat(), "end": last.isoformat()})

    def _activity_pages(self, path: str, wanted: Mapping[str, str], after: datetime) -> Iterator[list[JsonObject]]:
        wanted = {**wanted, "after": after.isoformat(), "page_size": str(ACTIVITIES_PAGE_SIZE)}
        return self._pages(path, wanted, {}, "page_token", ACTIVITIES_PAGE_SIZE)

    def _pages(
        self, path: str, wanted: Mapping[str, str], start: Mapping[str, str], cursor: str, size: int,
        heard: list[Exchange] | None = None,
    ) -> Iterator[list[JsonObject]]:
        """Yield the rows of each page that were on none before; the cursor takes the place of `start` after the first.

        A full page without anything new, or a listing without an end, is a BrokerError. Exchanges are put into `heard`
        for the caller to record, or recorded at once without it.
        """
        known: set[str] = set()
        place = start
        for _ in range(MAX_PAGES):
            page = self._read_list(path, {**wanted, **place}, heard)
            rows = rows_with_ids(page)
            fresh = {row["id"]: row for row in rows if row["id"] not in known}
            yield list(fresh.values())
            if len(page) < size:
                return
            if not fresh:
                break
            known |= fresh.keys()
            place = {cursor: rows[-1]["id"]}
        raise BrokerError(f"the listing of {path} did not come to an end; nothing was concluded from it")

    def _read_one(self, path: str, params: Mapping[str, str]) -> JsonObject | None:
        answer = self._read(self._trading, Request("GET", path, params), absent=NOT_FOUND)
        if answer is not None and not isinstance(answer, dict):
            raise BrokerError(f"GET {path} gave no JSON object")
        return answer

    def _read_list(
        self, path: str, params: Mapping[str, str], heard: list[Exchange] | None = None,
    ) -> list[Json]:
        answer = self._read(self._trading, Request("GET", path, params), heard=heard)
        if not isinstance(answer, list):
            raise BrokerError(f"GET {path} gave no JSON list")
        return answer

    def _read(
        self, line: Line, request: Request, absent: str | None = None, heard: list[Exchange] | None = None,
    ) -> Json:
        exchanges: list[Exchange] = [] if heard is None else heard
        reply = line.call(request)
        exchanges.append((request, reply))
        if reply.http_status == TOO_MANY_REQUESTS:
            # The line lets this one go when the broker has room again.
            reply = line.call(request)
            exchanges.append((request, reply))
        if heard is None:
            self._record(exchanges)
        body = reply.parsed
        if reply.http_status == 404 and reply.error_code == absent:
            return None
        if reply.http_status != 200 or body is None:
            what = f"HTTP {reply.http_status}, " if reply.http_status else ""
            advice = "; check ALPACA_API_KEY and ALPACA_SECRET_KEY" if reply.http_status == 401 else ""
            words = f"{what}{reply.error_message or 'not JSON'}{advice}"
            raise BrokerError(f"{request.method} {request.path} failed: {words}")
        return body

    def _record(self, exchanges: Sequence[Exchange]) -> None:
        if self._recorder is not None and exchanges:
            self._recorder(exchanges)


def _line(settings: AlpacaSettings, url: str, name: str, clock: Clock) -> Line:
    """A line of alpaca-py's plain client, which knows addresses, keys and errors, and no models of what is answered."""
    client = RESTClient(url, settings.api_key, settings.secret_key, raw_data=True)
    return Line(tame(client, settings.timeout_seconds), f"{url} ({name})", settings, clock)
