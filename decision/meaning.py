"""Turns a decoded decision into an order to consider; every rule is in docs/decisions-in.md."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache, partial
from typing import TypeVar

from decision.strict_json import DecisionError, JsonObject, read_document, shown
from decision.values import (
    decimals,
    match_word,
    read_date,
    read_level,
    read_pattern,
    read_price,
    read_qty,
    read_symbol,
    read_word,
)

CENT = Decimal("0.01")

T = TypeVar("T")


class Action(StrEnum):
    """What the decider wants done."""

    NEW_TRADE = "NEW_TRADE"
    CANCEL = "CANCEL"
    AMEND = "AMEND"
    NO_ACTION = "NO_ACTION"


class TradeStyle(StrEnum):
    """How the position is protected: SWING by stop and target, the others by a stop alone."""

    SWING = "SWING"
    TREND = "TREND"
    DAYTRADE = "DAYTRADE"


class Side(StrEnum):
    """The side of the entry order."""

    BUY = "buy"
    SELL = "sell"


class OrderType(StrEnum):
    """The type of the entry order."""

    LIMIT = "limit"
    MARKET = "market"


class TimeInForce(StrEnum):
    """How long the entry order rests, in the broker's words."""

    DAY = "day"
    GTC = "gtc"
    OPG = "opg"
    CLS = "cls"
    IOC = "ioc"
    FOK = "fok"


@dataclass(frozen=True, slots=True)
class NewTrade:
    """An entry and its protection, with the digits as decided.

    Shares and US dollars, to be written with format "f" so that no exponent appears. limit_price is None
    exactly for a market order; target_price is None except for SWING.
    """

    style: TradeStyle
    pattern: str | None
    qty: Decimal
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    limit_price: Decimal | None
    stop_price: Decimal
    target_price: Decimal | None


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision; trade is there for NEW_TRADE and AMEND, symbol is "" for NO_ACTION."""

    action: Action
    symbol: str
    analysis_date: date | None
    trade: NewTrade | None


@lru_cache(maxsize=256)  # a pass asks more than once what each of its rows means
def parse_decision(text: str | None, ticker: str | None) -> Decision:
    """Read the exact text of a "Decision" column beside its row's "Ticker".

    Raises DecisionError, and nothing else, for a decision that cannot be used (docs/decisions-in.md).
    """
    document = read_document(text)
    frames = _frames(document.content)
    if _is_no_action(frames):
        return Decision(Action.NO_ACTION, "", None, None)
    if document.fault is not None:
        raise DecisionError(document.fault)
    action = _read(frames, ("primary_action",), partial(read_word, Action))
    if action is None:
        raise DecisionError(f"primary_action is missing: one of {', '.join(Action)}")
    levels = _levels(frames)
    symbol = _symbol(levels, ticker)
    analysis_date = _read(levels, ("analysis_date",), read_date)
    trade = None if action is Action.CANCEL else _new_trade(frames[0], levels)
    return Decision(action, symbol, analysis_date, trade)


def _frames(content: JsonObject) -> list[JsonObject]:
    """The object that carries the decision, then the one around or inside it, if there are two."""
    inner = content.get("decision")
    if not isinstance(inner, dict):
        return [content]
    if "primary_action" in inner or "primary_action" not in content:
        return [inner, content]
    return [content, inner]


def _is_no_action(frames: Sequence[JsonObject]) -> bool:
    words = [word for frame in frames if (word := frame.get("primary_action")) is not None]
    return bool(words) and all(match_word(Action, word) is Action.NO_ACTION for word in words)


def _levels(frames: Sequence[JsonObject]) -> list[JsonObject]:
    """The object that holds the trade, then every other one that might speak about it."""
    items = [item for frame in frames for item in (frame.get("new_trade"), frame)]
    return [item for item in items if isinstance(item, dict)]


def _new_trade(frame: JsonObject, levels: Sequence[JsonObject]) -> NewTrade:
    nested = frame.get("new_trade")
    if nested is not None and not isinstance(nested, dict):
        raise DecisionError(f"new_trade must be an object, not {shown(nested)}")
    style = _needed(levels, ("strategy", "trade_style"), partial(read_word, TradeStyle))
    order_type = _needed(levels, ("type",), partial(read_word, OrderType), OrderType.LIMIT)
    trade = NewTrade(
        style=style,
        pattern=_stated(levels, ("pattern",), read_pattern, None) or None,
        qty=_needed(levels, ("qty",), read_qty),
        side=_needed(levels, ("side", "action"), partial(read_word, Side), Side.BUY),
        order_type=order_type,
        time_in_force=_needed(levels, ("time_in_force",), partial(read_word, TimeInForce), TimeInForce.DAY),
        limit_price=_limit(levels) if order_type is OrderType.LIMIT else None,
        stop_price=_needed(levels, ("stop_loss",), partial(read_level, "stop_price")),
        target_price=_target(levels) if style is TradeStyle.SWING else None,
    )
    check_fraction(trade)
    _check_sides(trade)
    return trade


def _limit(levels: Sequence[JsonObject]) -> Decimal:
    keys = ("limit_price", "entry_price")
    return _needed(levels, keys, read_price, why="a limit order needs its price")


def _target(levels: Sequence[JsonObject]) -> Decimal:
    convert = partial(read_level, "limit_price")
    return _needed(levels, ("take_profit",), convert, why="SWING needs a target")


def check_fraction(trade: NewTrade) -> None:
    """Refuse fractions the broker cannot carry (Alpaca, "Fractional Trading"). Raises DecisionError."""
    if decimals(trade.qty) == 0:
        return
    if trade.style is TradeStyle.SWING:
        raise DecisionError(
            f"qty {trade.qty} is fractional: SWING is protected by an OCO order, which needs whole shares"
        )
    if trade.side is Side.SELL:
        raise DecisionError(f"qty {trade.qty} is fractional: fractions cannot be sold short")
    if trade.time_in_force is not TimeInForce.DAY:
        raise DecisionError(
            f"qty {trade.qty} is fractional: time_in_force must be day, not {trade.time_in_force}"
        )


def _check_sides(trade: NewTrade) -> None:
    """Keep stop, entry and target in order, the stop a cent away (Alpaca, "Orders": base price check)."""
    up, beyond, short_of = (1, "above", "below") if trade.side is Side.BUY else (-1, "below", "above")
    stop, limit, target = trade.stop_price, trade.limit_price, trade.target_price
    if limit is not None and (limit - stop) * up < CENT:
        raise DecisionError(
            f"the stop {stop} must be at least {CENT} {short_of} the limit price {limit} of a {trade.side}"
        )
    if limit is not None and target is not None and (target - limit) * up <= 0:
        raise DecisionError(f"the target {target} must be {beyond} the limit price {limit} of a {trade.side}")
    if target is not None and (target - stop) * up < CENT:
        raise DecisionError(
            f"the stop {stop} must be at least {CENT} {short_of} the target {target} of a {trade.side}"
        )


def _symbol(levels: Sequence[JsonObject], ticker: str | None) -> str:
    in_row = None if ticker is None else read_symbol("Ticker", ticker)
    in_json = _read(levels, ("symbol",), read_symbol)
    if in_row and in_json and in_row != in_json:
        raise DecisionError(f"symbol {in_json} differs from the Ticker {in_row}")
    symbol = in_json or in_row
    if not symbol:
        raise DecisionError("no symbol: neither symbol nor the Ticker names one")
    return symbol


def _needed(
    levels: Sequence[JsonObject],
    keys: Sequence[str],
    convert: Callable[[str, object], T],
    default: T | None = None,
    why: str = "every trade needs it",
) -> T:
    value = _stated(levels, keys, convert, default)
    if value is None:
        raise DecisionError(f"{' or '.join(keys)} is missing: {why}")
    return value


def _stated(
    levels: Sequence[JsonObject], keys: Sequence[str], convert: Callable[[str, object], T], default: T | None
) -> T | None:
    """The value in the object that holds the trade; another object may repeat it but not say otherwise."""
    value = _read(levels[:1], keys, convert)
    if value is None:
        value = default
    elsewhere = _read(levels[1:], keys, convert)
    if value is not None and elsewhere is not None and value != elsewhere:
        raise _contradiction(keys, value, elsewhere)
    return value


def _read(levels: Sequence[JsonObject], keys: Sequence[str], convert: Callable[[str, object], T]) -> T | None:
    """The one value that all given keys agree on; null counts as absent."""
    values = [convert(key, level[key]) for level in levels for key in keys if level.get(key) is not None]
    for other in values[1:]:
        if other != values[0]:
            raise _contradiction(keys, values[0], other)
    return values[0] if values else None


def _contradiction(keys: Sequence[str], one: object, other: object) -> DecisionError:
    return DecisionError(f"{' or '.join(keys)} is given twice with different values: {one} and {other}")
