"""What a report consists of, whatever it is written as: facts and tables with typed values, and words about them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from clock import MARKET_ZONE
from log_setup import printable

ZONE_WORDS = "Days and times are US Eastern (New York)."
ROWS_FOR_PEOPLE = 20
LONGEST_WORDS = 300


class Kind(StrEnum):
    """What a value is, which says how people read it."""

    TEXT = "text"
    COUNT = "count"
    DOLLARS = "dollars"
    PRICE = "price"
    SHARES = "shares"
    PERCENT = "percent"
    RATIO = "ratio"
    SECONDS = "seconds"
    TIME = "time"
    DAY = "day"
    FLAG = "flag"


RIGHT = frozenset({
    Kind.COUNT, Kind.DOLLARS, Kind.PRICE, Kind.SHARES, Kind.PERCENT, Kind.RATIO, Kind.SECONDS,
})


@dataclass(frozen=True)
class Column:
    """A column of a table: the key of its rows, its heading, and whether only programs and pages show it (`detail`)."""

    key: str
    heading: str
    kind: Kind = Kind.TEXT
    detail: bool = False


@dataclass(frozen=True)
class Fact:
    """One value with its name; `remark` is said behind it to people."""

    key: str
    label: str
    value: Any
    kind: Kind = Kind.COUNT
    remark: str = ""


@dataclass(frozen=True)
class Facts:
    """Single values under a title."""

    key: str
    title: str
    facts: Sequence[Fact]


@dataclass(frozen=True)
class Chart:
    """A picture of a table's rows for pages: `bars` or a `line` of the values of one column over another's labels."""

    title: str
    form: str
    label: str
    value: str
    kind: Kind = Kind.COUNT


@dataclass(frozen=True)
class Table:
    """Rows under a title; `empty` says so where there are none, `note` what the columns mean."""

    key: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    empty: str
    note: str = ""
    charts: Sequence[Chart] = ()


@dataclass(frozen=True)
class Report:
    """An answer: its name for programs, its title and notes for people, and its parts."""

    name: str
    title: str
    sections: Sequence[Facts | Table]
    notes: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


def shown(value: Any, kind: Kind) -> str:
    """Return a value as people read it: times in US Eastern, control characters escaped, None as nothing."""
    if value is None:
        return ""
    write = WRITERS.get(kind)
    return write(value) if write else printable(str(value), LONGEST_WORDS)


def plain(value: Any) -> Any:
    """Return a value as programs read it: exact digits as text, times in UTC, whole numbers and truths as they are."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value


def _time(value: datetime) -> str:
    return f"{value.astimezone(MARKET_ZONE):%Y-%m-%d %H:%M}"


def _trimmed(value: Decimal) -> str:
    whole, _, rest = f"{value:,f}".partition(".")
    return whole + (f".{rest.rstrip('0')}" if rest.rstrip("0") else "")


def _price(value: Decimal) -> str:
    whole, _, rest = f"{value:,f}".partition(".")
    return f"{whole}.{rest.rstrip('0'):0<2}"


def _duration(value: Decimal | float) -> str:
    seconds = float(value)
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(timedelta(seconds=seconds).total_seconds() / 60), 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min"


WRITERS: Mapping[Kind, Callable[[Any], str]] = {
    Kind.COUNT: lambda value: f"{value:,}",
    Kind.DOLLARS: lambda value: f"{value:,.2f}",
    Kind.PRICE: _price,
    Kind.SHARES: _trimmed,
    Kind.PERCENT: lambda value: f"{value:.1f} %",
    Kind.RATIO: lambda value: f"{value:.2f}",
    Kind.SECONDS: _duration,
    Kind.TIME: _time,
    Kind.DAY: str,
    Kind.FLAG: lambda value: "yes" if value else "",
}
