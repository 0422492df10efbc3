"""How numbers and times are read from the wire and written to it."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import ROUND_DOWN, Decimal
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
ZERO = Decimal(0)
CENT = Decimal("0.01")
NANO = Decimal("0.000000001")

_NUMBER = re.compile(r"[+-]?\d{1,18}(\.\d{1,40})?([eE][+-]?\d{1,2})?", re.ASCII)
_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}(?::\d{2})?)(?:\.(\d{1,9}))?(Z|[+-]\d{2}:?\d{2})", re.ASCII
)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def number(raw: object) -> Decimal:
    """Read a JSON number or numeric string exactly; ValueError for all else, booleans and NaN too."""
    if isinstance(raw, bool) or not isinstance(raw, str | int | Decimal):
        raise ValueError(f"not a number: {raw!r}")
    if not _NUMBER.fullmatch(str(raw)):
        raise ValueError(f"not a number: {raw!r}")
    return Decimal(str(raw))


def cut(value: Decimal) -> Decimal:
    """Drop what is beyond nine decimals, the broker's finest share fraction."""
    return value.quantize(NANO, rounding=ROUND_DOWN)


def tick(price: Decimal) -> Decimal:
    """The step in which a price may be quoted: a cent from one dollar up, a hundredth of a cent below it."""
    return CENT if price >= 1 else Decimal("0.0001")


def text(value: Decimal) -> str:
    """Write a decimal as the trading API does: plain digits, at most nine decimals, no trailing zeros."""
    if value.as_tuple().exponent not in (0, -1, -2):
        value = round(value, 9)
    plain = format(value, "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain in ("-0", "") else plain


def optional_text(value: Decimal | None) -> str | None:
    return None if value is None else text(value)


def stamp(moment: datetime) -> str:
    """Write a moment as RFC 3339 in UTC with microseconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def optional_stamp(moment: datetime | None) -> str | None:
    return None if moment is None else stamp(moment)


def moment(raw: str) -> datetime:
    """Read RFC 3339 (nanoseconds are cut to microseconds) or a date, which means its midnight in UTC.

    Raises ValueError for anything else, a missing offset included.
    """
    raw = raw.strip()
    if _DATE.fullmatch(raw):
        return datetime.fromisoformat(raw).replace(tzinfo=UTC)
    # A plus sign that was not percent-encoded in a query arrives as a blank.
    found = _TIME.fullmatch(re.sub(r"(?<=\d) (?=\d{2}:?\d{2}$)", "+", raw))
    if found is None:
        raise ValueError(f"not an RFC 3339 time: {raw!r}")
    day, clock, fraction, offset = found.groups()
    micro = (fraction or "0").ljust(6, "0")[:6]
    seconds = clock if clock.count(":") == 2 else clock + ":00"
    return datetime.fromisoformat(f"{day}T{seconds}.{micro}{offset}").astimezone(UTC)


def is_date(raw: str) -> bool:
    return _DATE.fullmatch(raw.strip()) is not None


def eastern_date(at: datetime) -> date:
    """The calendar day in New York at a moment."""
    return at.astimezone(NEW_YORK).date()
