"""The only door to the broker: alpaca-py's plain client, and one verb for each thing the workers ask or say.

A message that changes something (submit, cancel) is classed as accepted, refused, not sent or unknown and never
repeated here. A read either gives a complete, well-formed answer or raises BrokerError. No call leaves while the
broker's last answer says that the minute's requests are used up.
Source: Alpaca's API reference; what an answer proves is explained in docs/architecture.md.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Self, TypeVar, cast
from urllib.parse import quote

from alpaca.common.rest import RESTClient

from broker_answers import (
    Asset,
    BrokerError,
    DailyBar,
    Holding,
    Json,
    JsonObject,
    LastTrade,
    MarketHours,
    Position,
    checked_asset,
    checked_bars,
    checked_day,
    checked_fill,
    checked_hours,
    checked_order,
    checked_position,
    checked_session,
    checked_split,
    holdings_by_symbol,
    id_of_json,
    last_trades,
    numbers,
    readable,
    rows_with_ids,
    same_order,
)
from broker_line import TOO_MANY_REQUESTS, Line, Outcome, Reply, Request, tame
from clock import Clock, SystemClock, at_exchange
from config import AlpacaSettings, load_settings
from order_listing import Exchange, IsNews, ListedOrder, ListedPage, ListedRow, Listing, Recorder, listed_rows

if TYPE_CHECKING:
    from alpaca.data.historical.stock import StockHistoricalDataClient
    from alpaca.trading.client import TradingClient

__all__ = [
    "Asset", "Broker", "BrokerError", "Exchange", "Holding", "JsonObject", "LastTrade", "ListedOrder", "MarketHours",
    "Outcome", "Position", "Reply", "Request", "get_data_client", "get_trading_client", "numbers", "same_order",
]

Row = TypeVar("Row")

PAGE_SIZE = 500
ACTIVITIES_PAGE_SIZE = 100
BARS_PAGE_SIZE = 10_000
MAX_PAGES = 400
TURN_SECONDS = 0.0005
LISTING = {"nested": "true", "direction": "asc", "limit": str(PAGE_SIZE)}
ORDERS_CURSOR = "after_order_id"
NOT_FOUND = "40410000"  # a 404 without this code comes from a gateway, which knows nothing of orders

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
        self._held_back: list[Exchange] | None = None

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
        pages = self._pages("/v2/orders", {"status": "open", **LISTING}, ORDERS_CURSOR, PAGE_SIZE)
        return [checked_order(row) for page in pages for row in page]

    @contextmanager
    def start_listing(self, after: datetime) -> Iterator[Listing]:
        """Begin to read the orders submitted after this moment in any state, while the caller does something else.

        Pages by the id of the last order, since orders may share a submission time. Nothing else may be asked of the
        broker before the listing is over.
        """
        heard: list[Exchange] = []
        pages = self._listed_pages(after, heard)
        with _quick_turns(), ThreadPoolExecutor(max_workers=1, thread_name_prefix="listing") as reader:
            yield Listing(pages, heard, reader, self._record)

    def fill_pages(self, after: datetime, expected: int = 1) -> Iterator[list[JsonObject]]:
        """Yield the fill activities since this moment page by page, newest first, without rows that make no sense.

        The pages that it takes to hold the `expected` number of fills are read at one go, and yielded as one. Whoever
        stops early saves the rest; only the end of the last page proves that there are no more. Raises BrokerError,
        also after pages that were good.
        """
        pages = self._activity_pages("/v2/account/activities/FILL", {"direction": "desc"}, after)
        at_one_go: list[JsonObject] = []
        failure = None
        with self._recording_together():
            try:
                for page in islice(pages, -(-expected // ACTIVITIES_PAGE_SIZE)):
                    at_one_go += page
            except BrokerError as error:
                failure = error
        yield readable(checked_fill, at_one_go)
        if failure is not None:
            raise failure
        for page in pages:
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
        position = self._read_one(f"/v2/positions/{quote(symbol, safe='')}", {})
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
        asset = self._read_one(f"/v2/assets/{quote(symbol, safe='')}", {})
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

    def daily_bars(self, symbols: Iterable[str], first: date) -> dict[str, list[DailyBar]]:
        """Return the daily bars of each symbol from that day on, oldest first, prices of before a split divided.

        Today's bar is as it stands now. Raises BrokerError.
        """
        wanted = sorted(set(symbols))
        found: dict[str, list[DailyBar]] = {symbol: [] for symbol in wanted}
        if not wanted:
            return found
        params = {
            "symbols": ",".join(wanted), "timeframe": "1Day", "start": first.isoformat(), "adjustment": "split",
            "feed": self._settings.data_feed, "limit": str(BARS_PAGE_SIZE),
        }
        for _ in range(MAX_PAGES):
            bars, token = checked_bars(self._read(self._data, Request("GET", "/v2/stocks/bars", params)), wanted)
            for symbol, rows in bars.items():
                found[symbol] += rows
            if token is None:
                return found
            params["page_token"] = token
        raise BrokerError("the daily bars did not come to an end; nothing was concluded from them")

    def _calendar(self, first: date, last: date) -> list[Json]:
        return self._read_list("/v2/calendar", {"start": first.isoformat(), "end": last.isoformat()})

    def _activity_pages(self, path: str, wanted: Mapping[str, str], after: datetime) -> Iterator[list[JsonObject]]:
        wanted = {**wanted, "after": after.isoformat(), "page_size": str(ACTIVITIES_PAGE_SIZE)}
        return self._pages(path, wanted, "page_token", ACTIVITIES_PAGE_SIZE)

    def _pages(
        self, path: str, wanted: Mapping[str, str], cursor: str, size: int,
    ) -> Iterator[list[JsonObject]]:
        """Yield the rows of each page that were on none before, recording each read."""
        def read(place: Mapping[str, str]) -> list[Json]:
            return self._read_list(path, {**wanted, **place})

        return (fresh for _, fresh in _walk(path, read, id_of_json, {}, cursor, size))

    def _listed_pages(self, after: datetime, heard: list[Exchange]) -> Iterator[ListedPage]:
        """Yield the pages of the listing of orders; the exchanges are put into `heard` for the caller to record."""
        path, wanted = "/v2/orders", {"status": "all", **LISTING}

        def read(place: Mapping[str, str]) -> list[ListedRow]:
            request = Request("GET", path, {**wanted, **place})
            reply = self._ask(self._trading, request, heard)
            rows = listed_rows(reply.text) if reply.http_status == 200 else None
            if rows is None:
                raise _failed(request, reply)
            return rows

        return _walk(path, read, attrgetter("id"), {"after": after.isoformat()}, ORDERS_CURSOR, PAGE_SIZE)

    def _read_one(self, path: str, params: Mapping[str, str]) -> JsonObject | None:
        answer = self._read(self._trading, Request("GET", path, params), absent=NOT_FOUND)
        if answer is not None and not isinstance(answer, dict):
            raise BrokerError(f"GET {path} gave no JSON object")
        return answer

    def _read_list(self, path: str, params: Mapping[str, str]) -> list[Json]:
        answer = self._read(self._trading, Request("GET", path, params))
        if not isinstance(answer, list):
            raise BrokerError(f"GET {path} gave no JSON list")
        return answer

    def _read(self, line: Line, request: Request, absent: str | None = None) -> Json:
        exchanges: list[Exchange] = []
        reply = self._ask(line, request, exchanges)
        self._record(exchanges)
        if reply.http_status == 404 and reply.error_code == absent:
            return None
        if reply.http_status != 200 or reply.parsed is None:
            raise _failed(request, reply)
        return reply.parsed

    def _ask(self, line: Line, request: Request, heard: list[Exchange]) -> Reply:
        reply = line.call(request)
        heard.append((request, reply))
        if reply.http_status == TOO_MANY_REQUESTS:
            # The line lets this one go when the broker has room again.
            reply = line.call(request)
            heard.append((request, reply))
        return reply

    def _record(self, exchanges: Sequence[Exchange]) -> None:
        if self._held_back is not None:
            self._held_back += exchanges
        elif self._recorder is not None and exchanges:
            self._recorder(exchanges)

    @contextmanager
    def _recording_together(self) -> Iterator[None]:
        """Tell the recorder of all reads of the block at its end, when nothing that they said was used yet."""
        heard = self._held_back = []
        try:
            yield
        finally:
            self._held_back = None
            self._record(heard)


def _line(settings: AlpacaSettings, url: str, name: str, clock: Clock) -> Line:
    """A line of alpaca-py's plain client, which knows addresses, keys and errors, and no models of what is answered."""
    client = RESTClient(url, settings.api_key, settings.secret_key, raw_data=True)
    return Line(tame(client, settings.timeout_seconds), f"{url} ({name})", settings, clock)


@contextmanager
def _quick_turns() -> Iterator[None]:
    """Let threads take turns often: else a page that has come waits while the caller is at its rows."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def _walk(
    path: str, read: Callable[[Mapping[str, str]], list[Row]], id_of: Callable[[Row], str | None],
    start: Mapping[str, str], cursor: str, size: int,
) -> Iterator[tuple[list[Row], list[Row]]]:
    """Yield each page with those of its rows that were on none before; the cursor takes the place of `start`.

    A full page without anything new, or a listing without an end, is a BrokerError.
    """
    known: set[str | None] = set()
    place = start
    for _ in range(MAX_PAGES):
        page = read(place)
        rows = rows_with_ids(page, id_of)
        fresh = {id_of(row): row for row in rows if id_of(row) not in known}
        yield page, list(fresh.values())
        if len(page) < size:
            return
        if not fresh:
            break
        known |= fresh.keys()
        place = {cursor: str(id_of(rows[-1]))}
    raise BrokerError(f"the listing of {path} did not come to an end; nothing was concluded from it")


def _failed(request: Request, reply: Reply) -> BrokerError:
    what = f"HTTP {reply.http_status}, " if reply.http_status else ""
    advice = "; check ALPACA_API_KEY and ALPACA_SECRET_KEY" if reply.http_status == 401 else ""
    words = f"{what}{reply.error_message or 'not JSON'}{advice}"
    return BrokerError(f"{request.method} {request.path} failed: {words}")
