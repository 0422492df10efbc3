"""The only door to the broker: alpaca-py clients in raw mode, one call per verb, and what each answer proves.

A message that changes something (submit, cancel) is classed as accepted, refused, not sent or unknown and never
repeated here. A read either gives a complete, well-formed answer or raises BrokerError.
Source: Alpaca's API reference; what an answer proves is explained in docs/architecture.md.
"""

import json
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, cast

import requests
import urllib3.exceptions
from alpaca.common.exceptions import APIError
from alpaca.common.rest import RESTClient
from alpaca.data.historical.stock import StockHistoricalDataClient
from alpaca.trading.client import TradingClient
from requests.adapters import HTTPAdapter

from config import AlpacaSettings, load_settings
from log_setup import printable

PAGE_SIZE = 500
FILLS_PAGE_SIZE = 100
MAX_PAGES = 400
READ_CHUNK = 65536
LONGEST_ERROR = 500
LONGEST_WORD = 128
HIGHEST_NUMBER = Decimal(10) ** 9
DUPLICATE_ID_WORDS = "client_order_id must be unique"
KEPT_HEADERS = ("X-Request-ID", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After")

log = logging.getLogger("alpaca_client")

Json = Any
JsonObject = dict[str, Any]


class Outcome(StrEnum):
    """What an answer, or its absence, proves about a message."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Request:
    """A call to the broker; `body` is the exact JSON text that is sent, `path` begins with /v2."""

    method: str
    path: str
    params: Mapping[str, str]
    body: str | None = None


@dataclass(frozen=True)
class Reply:
    """What came back: status and text of the answer, or the transport error in words."""

    outcome: Outcome
    http_status: int | None
    headers: Mapping[str, str]
    text: str
    error: str | None
    duration_ms: int

    def json(self) -> Json:
        """Return the answer with numbers as Decimal, or None when it is not JSON."""
        return _parsed(self.text)

    def order(self) -> JsonObject:
        """Return the order of an accepted answer, its numbers as Decimal. Raises BrokerError when it is none."""
        return _order(self.json())

    @property
    def error_code(self) -> str | None:
        """The broker's code, the HTTP status where it gave none, or the kind of transport error."""
        if self.http_status is None:
            return "transport"
        if self.http_status < 300:
            return None
        body = self.json()
        code = body.get("code") if isinstance(body, dict) else None
        return str(code) if code is not None else f"http_{self.http_status}"

    @property
    def error_message(self) -> str | None:
        """The broker's words, or what happened on the line, in one line."""
        if self.error is not None:
            return self.error
        if self.http_status is not None and self.http_status < 300:
            return None
        body = self.json()
        words = body.get("message") if isinstance(body, dict) else None
        said = printable(" ".join(str(words or self.text).split()), LONGEST_ERROR)
        return said or f"HTTP {self.http_status} without a word"


class BrokerError(Exception):
    """A read from the broker failed or made no sense; nothing may be concluded from it."""


Recorder = Callable[[Request, Reply], None]


def get_trading_client(settings: AlpacaSettings | None = None) -> TradingClient:
    """Return alpaca-py's trading client with raw answers, no retries, a total timeout and no proxy.

    Settings default to the environment's. Raises ConfigError.
    """
    settings = settings or load_settings().alpaca
    client = TradingClient(
        settings.api_key, settings.secret_key, paper=settings.paper, raw_data=True, url_override=settings.base_url,
    )
    return cast(TradingClient, _tamed(client, settings.timeout_seconds))


def get_data_client(settings: AlpacaSettings | None = None) -> StockHistoricalDataClient:
    """Return alpaca-py's market-data client with raw answers, no retries, a total timeout and no proxy.

    Settings default to the environment's. Raises ConfigError.
    """
    settings = settings or load_settings().alpaca
    client = StockHistoricalDataClient(
        settings.api_key, settings.secret_key, raw_data=True, url_override=settings.data_url,
    )
    return cast(StockHistoricalDataClient, _tamed(client, settings.timeout_seconds))


class Broker:
    """The verbs the workers need; `recorder` is told every read with its answer before the answer is used."""

    def __init__(self, settings: AlpacaSettings, recorder: Recorder | None = None) -> None:
        self._settings = settings
        self._trading = get_trading_client(settings)
        self._data = get_data_client(settings)
        self._recorder = recorder

    def record_with(self, recorder: Recorder | None) -> None:
        """Tell this recorder, or nobody, of every read from now on."""
        self._recorder = recorder

    @property
    def timeout_seconds(self) -> float:
        """How long a call may take from its first byte to its last."""
        return self._settings.timeout_seconds

    def order_request(self, order: Mapping[str, Json]) -> Request:
        """Return the request that would place this order; decimals must be strings already."""
        return Request("POST", "/v2/orders", {}, json.dumps(order, allow_nan=False))

    def cancel_request(self, order_id: str) -> Request:
        """Return the request that would cancel the order."""
        return Request("DELETE", f"/v2/orders/{order_id}", {})

    def send(self, request: Request) -> Reply:
        """Send a message once and say what its answer proves; never raises for anything the line or broker does."""
        return self._call(self._trading, request)

    def find_order(self, client_order_id: str) -> JsonObject | None:
        """Return the order with this client order id, legs included, or None when the broker knows none."""
        found = self._read_one("/v2/orders:by_client_order_id", {"client_order_id": client_order_id})
        # The look-up by client id does not promise the legs; the look-up by id does.
        return self.get_order(str(found["id"])) if found else None

    def get_order(self, order_id: str) -> JsonObject | None:
        """Return the order with its legs, or None when the broker knows none."""
        order = self._read_one(f"/v2/orders/{order_id}", {"nested": "true"})
        return _order(order) if order else None

    def list_orders(self, after: datetime) -> list[JsonObject]:
        """Return the orders submitted after this moment in any state, legs under their parents, oldest first.

        Pages by the id of the last order, since orders may share a submission time. A row that makes no sense is
        left out, as if it had not been listed. Raises BrokerError.
        """
        params = {
            "status": "all", "nested": "true", "direction": "asc", "limit": str(PAGE_SIZE), "after": after.isoformat(),
        }
        orders: dict[str, JsonObject] = {}
        for _ in range(MAX_PAGES):
            page = _page(self._read_list("/v2/orders", params))
            fresh = [row for row in page if row["id"] not in orders]
            orders.update((row["id"], row) for row in fresh)
            if len(page) < PAGE_SIZE:
                return _readable(_order, orders.values())
            if not fresh:
                break
            params.pop("after", None)
            params["after_order_id"] = page[-1]["id"]
        raise BrokerError("the listing of orders did not come to an end; nothing was concluded from it")

    def list_fills(self, after: datetime) -> list[JsonObject]:
        """Return the fill activities since this moment, oldest first, without rows that make no sense.

        Raises BrokerError.
        """
        params = {"after": after.isoformat(), "direction": "asc", "page_size": str(FILLS_PAGE_SIZE)}
        fills: dict[str, JsonObject] = {}
        for _ in range(MAX_PAGES):
            page = _page(self._read_list("/v2/account/activities/FILL", params))
            fresh = [row for row in page if row["id"] not in fills]
            fills.update((row["id"], row) for row in fresh)
            if len(page) < FILLS_PAGE_SIZE:
                return _readable(_activity, fills.values())
            if not fresh:
                break
            params["page_token"] = page[-1]["id"]
        raise BrokerError("the listing of fills did not come to an end; nothing was concluded from it")

    def position_qty(self, symbol: str) -> Decimal:
        """Return the shares the account holds, negative for a short position, 0 when flat. Raises BrokerError."""
        position = self._read_one(f"/v2/positions/{symbol}", {})
        qty = _decimal(position, "qty") if position else Decimal(0)
        if qty is None:
            raise BrokerError(f"the broker sent a position in {symbol} without a quantity")
        return qty

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
        """Return the price of the last trade of each symbol, in dollars; symbols without one are absent.

        One call for all symbols. Raises BrokerError.
        """
        wanted = sorted(set(symbols))
        if not wanted:
            return {}
        params = {"symbols": ",".join(wanted), "feed": self._settings.data_feed}
        answer = self._read(self._data, Request("GET", "/v2/stocks/trades/latest", params))
        trades = answer.get("trades") if isinstance(answer, dict) else None
        if not isinstance(trades, dict):
            raise BrokerError("the answer of the latest trades holds no trades")
        prices = {symbol: _price(trade) for symbol, trade in trades.items() if symbol in wanted}
        return {symbol: price for symbol, price in prices.items() if price is not None}

    def _read_one(self, path: str, params: Mapping[str, str]) -> JsonObject | None:
        answer = self._read(self._trading, Request("GET", path, params), absent=404)
        if answer is not None and not isinstance(answer, dict):
            raise BrokerError(f"GET {path} gave no JSON object")
        return answer

    def _read_list(self, path: str, params: Mapping[str, str]) -> list[Json]:
        answer = self._read(self._trading, Request("GET", path, dict(params)))
        if not isinstance(answer, list):
            raise BrokerError(f"GET {path} gave no JSON list")
        return answer

    def _read(self, client: RESTClient, request: Request, absent: int | None = None) -> Json:
        reply = self._call(client, request)
        if self._recorder is not None:
            self._recorder(request, reply)
        body = reply.json()
        if reply.http_status == absent is not None and isinstance(body, dict) and "message" in body:
            return None
        if reply.http_status != 200 or body is None:
            what = f"HTTP {reply.http_status}, " if reply.http_status else ""
            advice = "; check ALPACA_API_KEY and ALPACA_SECRET_KEY" if reply.http_status == 401 else ""
            words = f"{what}{reply.error_message or 'not JSON'}{advice}"
            raise BrokerError(f"{request.method} {request.path} failed: {words}")
        return body

    def _call(self, client: RESTClient, request: Request) -> Reply:
        wire = _wire(client)
        wire.response = None
        started = time.monotonic()
        error: Exception | None = None
        data: Json = json.loads(request.body) if request.body is not None else dict(request.params)
        try:
            getattr(client, request.method.lower())(request.path.removeprefix("/v2"), data)
        except APIError:
            pass  # an HTTP error status; the answer itself is judged below
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as failure:
            error = failure
        except (TypeError, ValueError) as failure:
            if wire.response is None:
                raise
            error = failure if wire.response.status_code < 300 else None
        duration = int((time.monotonic() - started) * 1000)
        return self._reply(request, wire.response, error, duration)

    def _reply(
        self, request: Request, response: requests.Response | None, error: Exception | None, duration_ms: int,
    ) -> Reply:
        if response is None:
            never_left = _never_left(error)
            outcome = Outcome.NOT_SENT if never_left else Outcome.UNKNOWN
            where = f"no connection to {self._settings.base_url} (ALPACA_BASE_URL), " if never_left else ""
            words = printable(self._redacted(f"{where}{type(error).__name__}: {error}"), LONGEST_ERROR)
            return Reply(outcome, None, {}, "", words, duration_ms)
        text = self._redacted(response.content.decode("utf-8", "backslashreplace"))
        headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
        outcome = _judged(request, response.status_code, _parsed(text))
        return Reply(outcome, response.status_code, headers, text, None, duration_ms)

    def _redacted(self, text: str) -> str:
        for secret in (self._settings.secret_key, self._settings.api_key):
            # Inside JSON a slash may come back escaped.
            for spelling in (secret, secret.replace("/", "\\/")):
                text = text.replace(spelling, "[redacted]")
        return text


class _Wire(HTTPAdapter):
    """Keeps the raw answer, and bounds each call as a whole: connecting, waiting and reading."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout = timeout_seconds
        self.response: requests.Response | None = None
        super().__init__(max_retries=0)

    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:
        deadline = time.monotonic() + self._timeout
        options |= {"stream": True, "timeout": (self._timeout, self._timeout)}
        response = super().send(request, **options)
        chunks: list[bytes] = []
        # read1 gives what has arrived; a plain read would wait for a full chunk however slowly it drips in.
        while chunk := response.raw.read1(READ_CHUNK, decode_content=True):
            chunks.append(chunk)
            if time.monotonic() > deadline:
                response.close()
                raise requests.ReadTimeout(f"the answer was not complete after {self._timeout:g} seconds")
        response._content = b"".join(chunks)
        self.response = response
        return response


def _tamed(client: RESTClient, timeout_seconds: float) -> RESTClient:
    # alpaca-py repeats calls, POST included, on 429 and 504, and has no timeout; neither is reachable from outside.
    client._retry = 0
    client._session.trust_env = False
    wire = _Wire(timeout_seconds)
    client._session.mount("https://", wire)
    client._session.mount("http://", wire)
    return client


def _wire(client: RESTClient) -> _Wire:
    return cast(_Wire, client._session.get_adapter("https://"))


def _never_left(error: Exception | None) -> bool:
    """True when the connection was never made, so that not one byte of the request can have arrived."""
    seen: set[int] = set()
    cause: object = error
    while isinstance(cause, BaseException) and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, requests.ConnectTimeout | ssl.SSLCertVerificationError | socket.gaierror):
            return True
        if isinstance(cause, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
            return True
        reason = getattr(cause, "reason", None)
        first = cause.args[0] if cause.args else None
        cause = next(
            (link for link in (reason, first, cause.__cause__, cause.__context__) if isinstance(link, BaseException)),
            None,
        )
    return False


def _judged(request: Request, status: int, body: Json) -> Outcome:
    # 408, 429 and 5xx may come from a gateway after the order went through; a duplicate id means that it did.
    if status in (400, 401, 403, 404, 409, 422) and isinstance(body, dict) and "message" in body:
        duplicate = status in (409, 422) and DUPLICATE_ID_WORDS in str(body["message"])
        return Outcome.UNKNOWN if duplicate else Outcome.REFUSED
    if status == 204 and request.method == "DELETE":
        return Outcome.ACCEPTED
    if status in (200, 201) and (request.method == "GET" or _confirms(request, body)):
        return Outcome.ACCEPTED
    return Outcome.UNKNOWN


def _confirms(request: Request, body: Json) -> bool:
    """True when the answer is the order that was sent: same client id, symbol, side and quantity."""
    try:
        return same_order(json.loads(request.body or "{}"), _order(body))
    except BrokerError:
        return False


def same_order(sent: Mapping[str, Json], heard: Mapping[str, Json]) -> bool:
    """Say whether the broker's order is the one that was sent: client id, symbol, side and quantity are equal."""
    try:
        same_qty = Decimal(str(sent["qty"])) == Decimal(str(heard.get("qty")))
    except (InvalidOperation, KeyError):
        return False
    return same_qty and all(sent.get(name) == heard.get(name) for name in ("client_order_id", "symbol", "side"))


def _page(rows: list[Json]) -> list[JsonObject]:
    if not all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in rows):
        raise BrokerError("the broker sent a list whose rows have no ids; nothing was concluded from it")
    return rows


def _readable(check: Callable[[Json], JsonObject], rows: Iterable[JsonObject]) -> list[JsonObject]:
    """Return the rows that make sense, checked; one that does not must not hide the others."""
    good = []
    for row in rows:
        try:
            good.append(check(row))
        except BrokerError as error:
            log.warning("a row of the broker was left out", extra={"id": row["id"], "error": error})
    return good


def _order(order: Json) -> JsonObject:
    """Check the parts of an order that are acted on, and turn its numbers into Decimal."""
    if not isinstance(order, dict) or not _word(order.get("id")) or not _word(order.get("status")):
        raise BrokerError("the broker sent an order without id or status")
    checked = dict(order)
    for name in ("qty", "filled_qty", "filled_avg_price", "limit_price", "stop_price"):
        checked[name] = _decimal(order, name)
    checked["filled_qty"] = filled = checked["filled_qty"] or Decimal(0)
    if filled < 0 or (filled > 0 and not checked["filled_avg_price"]) or (filled == 0 and order["status"] == "filled"):
        raise BrokerError(f"the broker sent order {order['id']} with fills that make no sense")
    if order.get("client_order_id") is not None and not _word(order["client_order_id"]):
        raise BrokerError(f"the broker sent order {order['id']} with a client order id that makes no sense")
    checked["filled_at"] = _moment(order, "filled_at")
    checked["legs"] = [_order(leg) for leg in order.get("legs") or []]
    return checked


def _word(value: Json) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_WORD and value.isprintable()


def _activity(fill: Json) -> JsonObject:
    if not isinstance(fill, dict) or not fill.get("id") or not fill.get("order_id"):
        raise BrokerError("the broker sent a fill without id or order")
    qty, price, at = _decimal(fill, "qty"), _decimal(fill, "price"), _moment(fill, "transaction_time")
    if qty is None or price is None or at is None or qty <= 0 or price <= 0:
        raise BrokerError(f"the broker sent fill {fill['id']} without quantity, price or time")
    return fill | {"qty": qty, "price": price, "transaction_time": at}


def _decimal(record: Mapping[str, Json], name: str) -> Decimal | None:
    value = record.get(name)
    if value is None or value == "":
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or abs(number) >= HIGHEST_NUMBER:
        raise BrokerError(f"the broker sent {name}={str(value)[:40]!r}, which is no number of shares or dollars")
    return number


def _moment(record: Mapping[str, Json], name: str) -> datetime | None:
    value = record.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise BrokerError(f"the broker sent {name}={str(value)[:40]!r}, which is not a time") from error
    if moment.tzinfo is None:
        raise BrokerError(f"the broker sent {name}={value}, a time without zone")
    return moment


def _price(trade: Json) -> Decimal | None:
    price = trade.get("p") if isinstance(trade, dict) else None
    usable = isinstance(price, Decimal | int) and not isinstance(price, bool) and price > 0
    return Decimal(cast(Decimal, price)) if usable else None


def _parsed(text: str) -> Json:
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
