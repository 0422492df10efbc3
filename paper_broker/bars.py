"""Reading price bars from CSV text or from JSON rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise

from paper_broker.market import Bar
from paper_broker.sessions import Calendar, eastern
from paper_broker.values import eastern_date, is_date, moment, number

COLUMNS = ("timestamp", "symbol", "open", "high", "low", "close", "volume")
TIME_NAMES = ("date", "datetime")
_MINUTE = timedelta(minutes=1)


class BarError(ValueError):
    """A bar that cannot be used; the message names its row and what is wrong with it."""


def read_csv(content: str, calendar: Calendar, symbol: str | None = None) -> list[Bar]:
    """Read bars whose columns are named in the first line; leading # lines are skipped.

    Columns stand in any order and case: timestamp (or date, datetime), symbol, open, high, low, close, volume; others
    are ignored. `symbol` is that of a file without such a column. A timestamp is RFC 3339 and marks the start of
    the bar, or a date, which means that day's whole session. Raises BarError for anything else.
    """
    lines = content.splitlines()
    skipped = 0
    while skipped < len(lines) and (lines[skipped].startswith("#") or not lines[skipped].strip()):
        skipped += 1
    rows = csv.DictReader(lines[skipped:])
    names = [name.strip().lower() for name in rows.fieldnames or ()]
    rows.fieldnames = ["timestamp" if name in TIME_NAMES else name for name in names]
    missing = [name for name in COLUMNS if name not in rows.fieldnames and not (name == "symbol" and symbol)]
    if missing:
        raise BarError(f"line {skipped + 1}: {', '.join(missing)} missing; the header must name {','.join(COLUMNS)}")
    named = ({"symbol": symbol, **row} for row in rows)
    return read_rows(named, calendar, first=skipped + 2)


def read_rows(rows: Iterable[Mapping[str, object]], calendar: Calendar, first: int = 1) -> list[Bar]:
    """Read bars from mappings with the columns of the CSV form; raises BarError."""
    bars = []
    for line, row in enumerate(rows, first):
        try:
            bars.append(_bar(row, calendar))
        except (KeyError, ValueError) as error:
            raise BarError(f"line {line}: {error}") from error
    _set_ends(bars, calendar)
    return bars


def _bar(row: Mapping[str, object], calendar: Calendar) -> Bar:
    raw_time, symbol = str(row["timestamp"]), str(row["symbol"]).strip()
    if not symbol:
        raise ValueError("symbol is empty")
    opens, high, low, close = (number(_stripped(row[name])) for name in COLUMNS[2:6])
    if not 0 < low <= min(opens, close) <= max(opens, close) <= high:
        raise ValueError(f"prices of {symbol} do not fit together: {opens}, {high}, {low}, {close}")
    whole = is_date(raw_time)
    start, end = (
        _session(date.fromisoformat(raw_time.strip()), calendar) if whole else (moment(raw_time),) * 2
    )
    volume = int(number(_stripped(row["volume"])))
    return Bar(symbol, start, end, _fine(opens), _fine(high), _fine(low), _fine(close), volume, whole)


def _stripped(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _fine(price: Decimal) -> Decimal:
    # Adjusted price files carry binary dust behind the fourth decimal, which no exchange quotes.
    return round(price, 4)


def _session(day: date, calendar: Calendar) -> tuple[datetime, datetime]:
    if not calendar.always_open:
        sessions = calendar.between(day, day)
        if not sessions:
            raise ValueError(f"{day} is not a trading day")
        return sessions[0].open, sessions[0].close
    return eastern(day, time(9, 30)), eastern(day, time(16, 0))


def _set_ends(bars: list[Bar], calendar: Calendar) -> None:
    starts: dict[str, list[datetime]] = {}
    for bar in bars:
        if not bar.whole_session:
            starts.setdefault(bar.symbol, []).append(bar.start)
    for symbol, times in starts.items():
        times.sort()
        length = min((b - a for a, b in pairwise(times) if b > a), default=_MINUTE)
        for bar in bars:
            if bar.symbol == symbol and not bar.whole_session:
                bar.end = _end(bar.start, length, calendar)


def _end(start: datetime, length: timedelta, calendar: Calendar) -> datetime:
    session = calendar.at(start)
    end = start + length
    return end if session is None or calendar.always_open else min(end, session.close)


def market_day(bar: Bar) -> date:
    """The New York date a bar belongs to."""
    return eastern_date(bar.start)


def day_start(day: date) -> datetime:
    """The timestamp the data API gives a daily bar: midnight in New York."""
    return eastern(day, time(0)).astimezone(UTC)
