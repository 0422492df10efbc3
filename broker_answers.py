"""Whether what the broker sent makes sense: orders, fills, splits, positions, prices, opening hours and pages of them.

Numbers become Decimal and times aware UTC. What makes no sense raises BrokerError. Source: Alpaca's API reference.
"""

import json
import logging
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from clock import MARKET_ZONE

LONGEST_WORD = 128
HIGHEST_NUMBER = Decimal(10) ** 9
HIGHEST_POSITION = Decimal(10) ** 12  # an account may hold far more than an order of ours can be for
LOWEST_EXPONENT = -18
LONGEST_NUMBER = 60

log = logging.getLogger("broker_answers")

Item = TypeVar("Item")
Json = Any
JsonObject = dict[str, Any]

ORDER_NUMBERS = ("qty", "filled_qty", "filled_avg_price", "limit_price", "stop_price")
ORDER_WORDS = ("client_order_id", "symbol", "side", "replaces", "replaced_by")
NOTHING = Decimal(0)
_DECODER = msgspec.json.Decoder(float_hook=Decimal)


class BrokerError(Exception):
    """A read from the broker failed or made no sense; nothing may be concluded from it."""


@dataclass(frozen=True)
class Position:
    """The shares of one symbol on the account, negative for a short position, and those that no order reserves."""

    qty: Decimal
    available: Decimal


@dataclass(frozen=True)
class Holding:
    """The shares of one symbol on the account, negative for a short position, and the price of one where it is said."""

    qty: Decimal
    price: Decimal | None


@dataclass(frozen=True)
class LastTrade:
    """The price of a symbol's last trade in dollars, and when it was; None where the broker does not say."""

    price: Decimal
    at: datetime | None


@dataclass(frozen=True)
class DailyBar:
    """Highest and lowest price of a symbol on one day at the exchange, in dollars."""

    day: date
    high: Decimal
    low: Decimal


@dataclass(frozen=True)
class Asset:
    """What the broker lets anybody do with a symbol; `status` and `asset_class` are its words."""

    status: str
    asset_class: str
    tradable: bool
    fractionable: bool
    shortable: bool


@dataclass(frozen=True)
class MarketHours:
    """Whether the market is open, when it opens and closes next, and the time it is at the broker; aware UTC."""

    is_open: bool
    next_open: datetime
    next_close: datetime
    now: datetime


def read_json(text: str) -> Json:
    """Return JSON text with its numbers as Decimal, or None when it is not JSON."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError, ArithmeticError):
        pass  # half a surrogate pair in one row must not spoil the rows beside it
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError, InvalidOperation):
        return None


def same_order(sent: Mapping[str, Json], heard: Mapping[str, Json]) -> bool:
    """Say whether the broker's order is the one that was sent: client id, symbol, side and quantity are equal."""
    try:
        same_qty = Decimal(str(sent["qty"])) == Decimal(str(heard.get("qty")))
    except (InvalidOperation, KeyError):
        return False
    return same_qty and all(sent.get(name) == heard.get(name) for name in ("client_order_id", "symbol", "side"))


def checked_order(order: Json) -> JsonObject:
    """Check the parts of an order that are acted on, and turn its numbers into Decimal."""
    if not isinstance(order, dict) or not _word(order.get("id")) or not _word(order.get("status")):
        raise BrokerError("the broker sent an order without id or status")
    checked = order | {name: _decimal(order, name) for name in ORDER_NUMBERS}
    checked["filled_qty"] = filled = checked["filled_qty"] or NOTHING
    if filled < 0 or (filled > 0 and not checked["filled_avg_price"]) or (filled == 0 and order["status"] == "filled"):
        raise BrokerError(f"the broker sent order {order['id']} with fills that make no sense")
    for name in ORDER_WORDS:
        if order.get(name) is not None and not _word(order[name]):
            raise BrokerError(f"the broker sent order {order['id']} with a {name} that makes no sense")
    checked["filled_at"] = _moment(order, "filled_at")
    legs = [] if order.get("legs") is None else order["legs"]
    if not isinstance(legs, list):
        raise BrokerError(f"the broker sent order {order['id']} with legs that are no list")
    checked["legs"] = [checked_order(leg) for leg in legs]
    return checked


def checked_fill(fill: Json) -> JsonObject:
    """Check a FILL activity: its order, and quantity, price and time, which must be there."""
    if not isinstance(fill, dict) or not _word(fill.get("id")) or not _word(fill.get("order_id")):
        raise BrokerError("the broker sent a fill without id or order")
    qty, price, at = _decimal(fill, "qty"), _decimal(fill, "price"), _moment(fill, "transaction_time")
    if qty is None or price is None or at is None or qty <= 0 or price <= 0:
        raise BrokerError(f"the broker sent fill {fill['id']} without quantity, price or time")
    return fill | {"qty": qty, "price": price, "transaction_time": at}


def checked_split(split: Json) -> JsonObject:
    """Check a SPLIT activity: `qty` are the shares it added, fewer than none where it took some.

    `at` is when it was booked, or where the broker gives only a day, the beginning of that day in the market.
    """
    if not isinstance(split, dict) or split.get("activity_type") != "SPLIT":
        raise BrokerError("the broker sent something else where a split was asked for")
    qty = _decimal(split, "qty")
    if qty is None or not all(_word(split.get(name)) for name in ("id", "symbol", "date")):
        raise BrokerError("the broker sent a split without id, symbol, quantity or date")
    return split | {"qty": qty, "at": _moment(split, "created_at") or _beginning_of_day(split["date"])}


def _beginning_of_day(day: str) -> datetime:
    try:
        return datetime.fromisoformat(day[:10]).replace(tzinfo=MARKET_ZONE).astimezone(UTC)
    except ValueError as error:
        raise BrokerError(f"the broker sent the day {day[:40]!r}, which is none") from error


def signed_qty(position: Json) -> Decimal:
    """Return the shares of a position, negative for a short one, whether its quantity or only its side says so."""
    qty = _decimal(position, "qty", HIGHEST_POSITION) if isinstance(position, dict) else None
    if qty is None:
        raise BrokerError("the broker sent a position without a quantity")
    return -qty if qty > 0 and position.get("side") == "short" else qty


def checked_position(position: Json) -> Position:
    """Return a position's shares; without a word about reserved ones all are available. Raises BrokerError."""
    qty = signed_qty(position)
    available = _decimal(position, "qty_available", HIGHEST_POSITION)
    return Position(qty, qty if available is None else min(abs(available), abs(qty)).copy_sign(qty))


def holdings_by_symbol(rows: Iterable[Json]) -> dict[str, Holding]:
    """Return every position with its price; one row that makes no sense spoils them all.

    A symbol that is missing here counts as flat, so no row may be left out.
    """
    held: dict[str, Holding] = {}
    for row in rows:
        qty = signed_qty(row)
        symbol = row.get("symbol")
        if not _word(symbol) or symbol in held:
            raise BrokerError(f"the broker sent a position in {str(symbol)[:40]!r}, which is no symbol or came twice")
        price = number(row.get("current_price")) or number(row.get("avg_entry_price"))
        held[symbol] = Holding(qty, price)
    return held


def checked_asset(answer: JsonObject) -> Asset:
    """Check what the broker says of a symbol; a short sale also needs shares that are easy to borrow."""
    flags = [answer.get(name) for name in ("tradable", "fractionable", "shortable")]
    words = [answer.get(name) for name in ("status", "class")]
    if not all(map(_word, words)) or not all(isinstance(flag, bool) for flag in flags):
        raise BrokerError("the broker sent an asset without status, class, tradable, fractionable or shortable")
    tradable, fractionable, shortable = map(bool, flags)
    borrowable = answer.get("borrow_status", "easy_to_borrow") == "easy_to_borrow"
    return Asset(answer["status"], answer["class"], tradable, fractionable, shortable and borrowable)


def checked_hours(answer: JsonObject) -> MarketHours:
    """Check the market clock: open or not, and its three times."""
    is_open, now = answer.get("is_open"), _moment(answer, "timestamp")
    opens, closes = _moment(answer, "next_open"), _moment(answer, "next_close")
    if not isinstance(is_open, bool) or opens is None or closes is None or now is None:
        raise BrokerError("the broker sent a market clock without is_open, next_open, next_close or timestamp")
    return MarketHours(is_open, opens, closes, now)


def checked_day(row: Json) -> date:
    """Return the day of a row of the market calendar. Raises BrokerError."""
    try:
        return date.fromisoformat(row["date"])
    except (TypeError, KeyError, ValueError) as error:
        raise BrokerError("the broker sent a market calendar whose rows have no dates") from error


def checked_bars(answer: Json, wanted: Container[str]) -> tuple[dict[str, list[DailyBar]], str | None]:
    """Return the daily bars of one page by symbol, and the token of the page that follows or None.

    A bar that makes no sense is left out. Raises BrokerError for an answer that is no page of bars.
    """
    found = answer.get("bars") if isinstance(answer, dict) else None
    token = answer.get("next_page_token") if isinstance(answer, dict) else None
    if not isinstance(found, dict | None) or not isinstance(answer, dict) or not isinstance(token, str | None):
        raise BrokerError("the answer of the daily bars is no page of bars")
    bars = {
        symbol: [bar for row in rows if (bar := _daily_bar(row)) is not None]
        for symbol, rows in (found or {}).items() if symbol in wanted and isinstance(rows, list)
    }
    return bars, token or None


def _daily_bar(row: Json) -> DailyBar | None:
    high, low, at = _price(row, "h"), _price(row, "l"), _time_of_trade(row) if isinstance(row, dict) else None
    if high is None or low is None or at is None or low > high:
        return None
    return DailyBar(at.astimezone(MARKET_ZONE).date(), high, low)


def checked_session(row: Json) -> tuple[date, time, time]:
    """Return the day of a row of the market calendar, and its open and close at the exchange. Raises BrokerError."""
    day = checked_day(row)
    try:
        opens, closes = time.fromisoformat(row["open"]), time.fromisoformat(row["close"])
    except (TypeError, KeyError, ValueError) as error:
        raise BrokerError(f"the broker sent a market calendar without the hours of {day}") from error
    if opens.tzinfo or closes.tzinfo or opens >= closes:
        raise BrokerError(f"the broker sent a market calendar in which {day} is open from {opens} to {closes}")
    return day, opens, closes


def last_trades(answer: Json, wanted: Container[str]) -> dict[str, LastTrade | None]:
    """Return the last trades of the wanted symbols, None for a row whose price makes no sense."""
    trades = answer.get("trades") if isinstance(answer, dict) else None
    if not isinstance(trades, dict):
        raise BrokerError("the answer of the latest trades holds no trades")
    prices = {symbol: _price(trade) for symbol, trade in trades.items() if symbol in wanted}
    return {
        symbol: None if price is None else LastTrade(price, _time_of_trade(trades[symbol]))
        for symbol, price in prices.items()
    }


def id_of_json(row: Json) -> str | None:
    """Return the id of a row of a listing, which is what the next page is asked by; None where it has none."""
    return row["id"] if isinstance(row, dict) and _word(row.get("id")) else None


def rows_with_ids(rows: list[Item], id_of: Callable[[Item], str | None] = id_of_json) -> list[Item]:
    """Return the rows of a page that have an id. Raises BrokerError when none of a page has."""
    good = [row for row in rows if id_of(row) is not None]
    if rows and not good:
        raise BrokerError("the broker sent a list whose rows have no ids; nothing was concluded from it")
    if len(good) < len(rows):
        log.warning("rows of the broker without an id were left out", extra={"rows": len(rows) - len(good)})
    return good


def readable(check: Callable[[Json], JsonObject], rows: Iterable[JsonObject]) -> list[JsonObject]:
    """Return the rows that make sense, checked; one that does not must not hide the others."""
    good = []
    for row in rows:
        try:
            good.append(check(row))
        except BrokerError as error:
            log.warning("a row of the broker was left out", extra={"id": row["id"], "error": error})
    return good


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _word(value: Json) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_WORD and value.isprintable()


def number(value: Json) -> Decimal | None:
    """Return shares or dollars as the broker wrote them, or None for nothing and for what is no such number."""
    return _number(value) if isinstance(value, str) or value is None else _number(str(value))


@lru_cache(maxsize=10_000, typed=True)  # a listing says the same few prices and quantities thousands of times
def numbers(*values: str | None) -> tuple[Decimal | None, ...]:
    """Return `number` of each of these."""
    return tuple(map(number, values))


@lru_cache(maxsize=10_000)
def _number(text: str | None, limit: Decimal = HIGHEST_NUMBER) -> Decimal | None:
    # Written out, a number with a huge exponent would fill the memory, and arithmetic on it take for ever.
    if not text or len(text) > LONGEST_NUMBER:
        return None
    try:
        read = Decimal(text)
    except InvalidOperation:
        return None
    return read if read.is_finite() and abs(read) < limit and read.adjusted() >= LOWEST_EXPONENT else None


def _decimal(record: Mapping[str, Json], name: str, limit: Decimal = HIGHEST_NUMBER) -> Decimal | None:
    value = record.get(name)
    read = _number(value if value is None else str(value), limit)
    if read is None and value is not None and value != "":
        raise BrokerError(f"the broker sent {name}={str(value)[:40]!r}, which is no number of shares or dollars")
    return read


def _moment(record: Mapping[str, Json], name: str) -> datetime | None:
    value = record.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(str(value))
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BrokerError(f"the broker sent {name}={str(value)[:40]!r}, which is not a time") from error
    raise BrokerError(f"the broker sent {name}={value}, a time without zone")


def _price(trade: Json, name: str = "p") -> Decimal | None:
    price = trade.get(name) if isinstance(trade, dict) else None
    if not isinstance(price, Decimal | int) or isinstance(price, bool):
        return None
    read = _number(str(price))
    return read if read is not None and read > 0 else None


def _time_of_trade(trade: JsonObject) -> datetime | None:
    try:
        return _moment(trade, "t")
    except BrokerError:
        return None  # a price without a time counts as an old one
