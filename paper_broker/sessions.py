"""When the market is open."""

from __future__ import annotations

import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple, Protocol

from paper_broker.values import NEW_YORK, eastern_date

_FIRST, _LAST = date(2005, 1, 1), date(2040, 12, 31)
_REGULAR_CLOSE = time(16, 0)


class Session(NamedTuple):
    """One trading day: the regular hours, and the extended hours around them, all in UTC."""

    day: date
    open: datetime
    close: datetime
    early: datetime
    late: datetime


class Calendar(Protocol):
    """Answers every question about trading hours."""

    always_open: bool

    def at(self, moment: datetime) -> Session | None:
        """The session whose regular hours hold `moment`."""

    def extended_at(self, moment: datetime) -> bool:
        """Whether extended or regular hours are running at `moment`, the last instant included."""

    def ending_after(self, moment: datetime, *, extended: bool = False) -> Session:
        """The first session whose close (extended: late close) is after `moment`."""

    def next_open(self, moment: datetime) -> datetime:
        """The first regular open after `moment`."""

    def between(self, start: date, end: date) -> list[Session]:
        """Every session from `start` to `end`, both included."""


def eastern(day: date, clock: time) -> datetime:
    """A wall-clock time in New York as UTC."""
    return datetime.combine(day, clock, NEW_YORK).astimezone(UTC)


def boundaries(calendar: Calendar, after: datetime, until: datetime) -> Iterator[tuple[datetime, bool]]:
    """Every regular open (True) and close (False) later than `after` and not later than `until`."""
    for session in calendar.between(eastern_date(after) - timedelta(days=1), eastern_date(until)):
        if after < session.open <= until:
            yield session.open, True
        if after < session.close <= until:
            yield session.close, False


class AlwaysOpen:
    """A market without nights: every day is a session from midnight to midnight, New York time."""

    always_open = True

    def at(self, moment: datetime) -> Session | None:
        return self._session(eastern_date(moment))

    def extended_at(self, moment: datetime) -> bool:
        return True

    def ending_after(self, moment: datetime, *, extended: bool = False) -> Session:
        return self._session(eastern_date(moment))

    def next_open(self, moment: datetime) -> datetime:
        return self._session(eastern_date(moment)).close

    def between(self, start: date, end: date) -> list[Session]:
        return [self._session(start + timedelta(days=n)) for n in range((end - start).days + 1)]

    @staticmethod
    def _session(day: date) -> Session:
        start, end = eastern(day, time(0)), eastern(day + timedelta(days=1), time(0))
        return Session(day, start, end, start, end)


class NewYork:
    """The New York Stock Exchange, holidays and half days included, 2005 to 2040.

    Raises ValueError for a time after the last known session.
    """

    always_open = False

    def __init__(self) -> None:
        self._sessions = _nyse()
        self._days = [session.day for session in self._sessions]
        self._opens = [session.open for session in self._sessions]
        self._closes = [session.close for session in self._sessions]
        self._lates = [session.late for session in self._sessions]

    def at(self, moment: datetime) -> Session | None:
        session = self.ending_after(moment)
        return session if session.open <= moment else None

    def extended_at(self, moment: datetime) -> bool:
        return self._session(bisect_left(self._lates, moment)).early <= moment

    def ending_after(self, moment: datetime, *, extended: bool = False) -> Session:
        return self._session(bisect_right(self._lates if extended else self._closes, moment))

    def next_open(self, moment: datetime) -> datetime:
        return self._session(bisect_right(self._opens, moment)).open

    def _session(self, index: int) -> Session:
        if index >= len(self._sessions):
            raise ValueError(f"no trading sessions are known after {_LAST}")
        return self._sessions[index]

    def between(self, start: date, end: date) -> list[Session]:
        return list(self._sessions[bisect_left(self._days, start) : bisect_right(self._days, end)])


@lru_cache(maxsize=1)
def _nyse() -> tuple[Session, ...]:
    with warnings.catch_warnings():
        # The calendar library still uses what the newest pandas has deprecated, which is not our concern.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Imported here because it brings pandas along, which a market without nights never needs.
        from exchange_calendars import get_calendar

        calendar = get_calendar("XNYS", start=str(_FIRST), end=str(_LAST))
    found = []
    for label, opens, closes in zip(calendar.sessions, calendar.opens, calendar.closes, strict=True):
        day = label.date()
        close = closes.to_pydatetime().astimezone(UTC)
        half_day = close < eastern(day, _REGULAR_CLOSE)
        late = eastern(day, time(17, 0) if half_day else time(20, 0))
        found.append(
            Session(day, opens.to_pydatetime().astimezone(UTC), close, eastern(day, time(4, 0)), late)
        )
    return tuple(found)
