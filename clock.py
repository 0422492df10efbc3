"""Where time comes from: every worker is given a clock and asks nothing else for the time."""

import time as system_time
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

MARKET_ZONE = ZoneInfo("America/New_York")


def market_day(moment: datetime) -> date:
    """Return the day it is at the exchange."""
    return moment.astimezone(MARKET_ZONE).date()


def at_exchange(day: date, at: time) -> datetime:
    """Return a time of day at the exchange as aware UTC."""
    return datetime.combine(day, at, MARKET_ZONE).astimezone(UTC)


def midnight(day: date) -> datetime:
    """Return when a US Eastern day begins, in UTC."""
    return at_exchange(day, time())


class Clock(Protocol):
    """The time and the waiting of a worker; `now` is aware UTC."""

    def now(self) -> datetime: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        system_time.sleep(seconds)


class ManualClock:
    """A clock that moves only when told to; waiting moves it instead of blocking.

    Raises ValueError for a time without zone.
    """

    def __init__(self, start: datetime) -> None:
        self.set(start)

    def now(self) -> datetime:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)

    def set(self, moment: datetime) -> None:
        if moment.tzinfo is None:
            raise ValueError(f"a clock needs a time with a zone, got {moment.isoformat()}")
        self._now = moment.astimezone(UTC)
