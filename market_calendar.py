"""When the market is open: the bundled calendar of the NYSE, and the broker's word where it was asked.

The broker's word wins for its days; without it, or while the broker is out of reach, the bundled calendar holds.
"""

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from alpaca_client import Broker, BrokerError
from audit_trail import AlertKind, AlertLevel, raise_alert
from clock import MARKET_ZONE, market_day
from db_layer import TradingDB
from pass_log import PassLog

# No market is closed for longer at a stretch, so an answer without a session in that many days makes no sense.
DAYS_ASKED = 14


@dataclass(frozen=True)
class Session:
    """The regular hours of one trading day; aware UTC."""

    opens: datetime
    closes: datetime


class MarketCalendar:
    """The sessions by day at the exchange; the daemon's only source for whether a day is a trading day."""

    def __init__(self) -> None:
        self._said: dict[date, Session | None] = {}
        self.version = 0  # grows with each change of the broker's word

    def session(self, day: date) -> Session | None:
        """Return the session of a day, or None when the market is closed."""
        return self._said[day] if day in self._said else bundled_session(day)

    def compare(self, db: TradingDB, broker: Broker, found: PassLog, now: datetime) -> None:
        """Ask the broker for the days to come, follow its word, and raise an alert for each day that differs.

        Raises DatabaseError, and BrokerError when there was no sensible answer; then nothing changes.
        """
        today = market_day(now)
        days = [today + timedelta(days=number) for number in range(DAYS_ASKED)]
        with found.reading("calendar"):
            hours = broker.sessions(days[0], days[-1])
            if not hours:
                raise BrokerError(f"the broker's calendar shows no trading day in {DAYS_ASKED} days")
        said = {day: Session(*hours[day]) if day in hours else None for day in days}
        if said != self._said:
            self._said = said
            self.version += 1
        different = [day for day in days if said[day] != bundled_session(day)]
        for day in different:
            words = (
                f"{day} is {_shown(said[day])} by the broker's calendar and {_shown(bundled_session(day))} by the "
                "bundled one; the broker's word is followed"
            )
            raise_alert(db, AlertLevel.WARNING, AlertKind.CALENDAR_DIFFERS, day.isoformat(), words, now)
        found.resolve_others((AlertKind.CALENDAR_DIFFERS,), _names(different))


def bundled_session(day: date) -> Session | None:
    """Return the session of a day by the bundled calendar, or None when the market is closed."""
    return _bundled_year(day.year).get(day)


@lru_cache(maxsize=4)
def _bundled_year(year: int) -> dict[date, Session]:
    with warnings.catch_warnings():
        # The calendar library still uses what the newest pandas has deprecated, which is not our concern.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Imported here because it brings pandas along, for which a program would wait longer than for all the rest.
        from exchange_calendars import get_calendar

        calendar = get_calendar("XNYS", start=f"{year}-01-01", end=f"{year}-12-31")
    return {
        label.date(): Session(opens.to_pydatetime().astimezone(UTC), closes.to_pydatetime().astimezone(UTC))
        for label, opens, closes in zip(calendar.sessions, calendar.opens, calendar.closes, strict=True)
    }


def _shown(session: Session | None) -> str:
    if session is None:
        return "closed"
    opens, closes = (moment.astimezone(MARKET_ZONE) for moment in (session.opens, session.closes))
    return f"open {opens:%H:%M}-{closes:%H:%M}"


def _names(days: Collection[date]) -> list[str]:
    return [day.isoformat() for day in days]
