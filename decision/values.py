"""Turns one JSON value into one value of ours, or says what is wrong with it.

Every reader takes the key, for the message, and the value; each raises DecisionError.
"""

import re
from datetime import date
from decimal import Context, Decimal
from enum import StrEnum
from typing import TypeVar

from decision.strict_json import DecisionError, Number, shown

MAX_QTY = Decimal(999_999_999)
MAX_PRICE = Decimal(1_000_000)
MAX_PATTERN = 100

_SYMBOL = re.compile(r"[A-Z][A-Z0-9]{0,9}(\.[A-Z0-9]{1,4})?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_NUMBER = re.compile(r"-?[0-9]{1,10}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?")
_BLANKS = " \t\r\n"
_EXACT = Context(prec=60)

W = TypeVar("W", bound=StrEnum)


def match_word(words: type[W], value: object) -> W | None:
    """Find the word that equals value but for the case of ASCII letters."""
    if not isinstance(value, str) or not value.isascii():
        return None
    return next((word for word in words if word.lower() == value.lower()), None)


def read_word(words: type[W], key: str, value: object) -> W:
    """One of our words, in any case of ASCII letters."""
    word = match_word(words, value)
    if word is None:
        raise DecisionError(f"{key} must be one of {', '.join(words)}, not {shown(value)}")
    return word


def read_symbol(key: str, value: object) -> str:
    """The symbol without blanks and exchange suffix, in capitals; "" when nothing is left."""
    if not isinstance(value, str):
        raise DecisionError(f"{key} must be text, not {shown(value)}")
    symbol = value.partition(":")[0].strip(_BLANKS)
    if symbol and not (symbol.isascii() and _SYMBOL.fullmatch(symbol.upper())):
        raise DecisionError(f"{key} must be a stock symbol such as NVDA or BRK.B, not {shown(value)}")
    return symbol.upper()


def read_pattern(key: str, value: object) -> str:
    """The name of the chart pattern, kept as it is."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_PATTERN:
        raise DecisionError(
            f"{key} must be printable text of at most {MAX_PATTERN} characters, not {shown(value)}"
        )
    return value


def read_date(key: str, value: object) -> date:
    """A calendar date, YYYY-MM-DD."""
    if isinstance(value, str) and _DATE.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise DecisionError(f"{key} must be a date such as 2025-01-15, not {shown(value)}")


def read_level(inner: str, key: str, value: object) -> Decimal:
    """A stop or target: a plain number, or an object with the price under its own key."""
    if not isinstance(value, dict):
        return read_price(key, value)
    if value.get(inner) is None:
        raise DecisionError(f"{key}.{inner} is missing")
    return read_price(f"{key}.{inner}", value[inner])


def read_price(key: str, value: object) -> Decimal:
    """A price in US dollars on the broker's grid (Alpaca, "Orders": sub-penny increments)."""
    price = _positive(key, value, MAX_PRICE)
    if decimals(price) > (2 if price >= 1 else 4):
        raise DecisionError(
            f"{key} {shown(value)} has too many decimals: at most 2 from 1 dollar up, at most 4 below"
        )
    return price


def read_qty(key: str, value: object) -> Decimal:
    """A number of shares, perhaps fractional (Alpaca, "Fractional Trading": at most 9 decimals)."""
    qty = _positive(key, value, MAX_QTY)
    if decimals(qty) > 9:
        raise DecisionError(f"{key} must have at most 9 decimals, not {shown(value)}")
    return qty


def _positive(key: str, value: object, most: Decimal) -> Decimal:
    if not isinstance(value, Number):
        text = "text: " if isinstance(value, str) else ""
        raise DecisionError(f"{key} must be a number, not {text}{shown(value)}")
    number = Decimal(value.text) if _NUMBER.fullmatch(value.text) else Decimal(0)
    if not 0 < number <= most:
        raise DecisionError(f"{key} must be above 0, at most {most}, in plain digits, not {shown(value)}")
    # An exponent is written out, because the broker and the log want 100 where the JSON said 1E+2.
    return Decimal(f"{number:f}")


def decimals(number: Decimal) -> int:
    """How many decimals a number needs; trailing zeros do not count."""
    return len(f"{number.normalize(_EXACT):f}".partition(".")[2])
