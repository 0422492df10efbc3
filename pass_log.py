"""What a pass of a monitor did and found: counted events, and alerts raised and ended."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import cached_property

from alpaca_client import BrokerError
from audit_trail import AlertKind, AlertLevel, raise_alert, resolve_alerts
from clock import Clock
from db_layer import DatabaseError, TradingDB

UNIQUE_VIOLATION = "23505"
OPEN_ALERTS = "SELECT kind, subject, occurrences FROM audit.alerts WHERE resolved_at IS NULL"
# What ends with its trade; that shares vanished does not.
ALERTS_OF_TRADE = (
    AlertKind.UNPROTECTED_POSITION, AlertKind.BROKER_MISMATCH, AlertKind.TARGET_NOT_PLACED, AlertKind.TOO_MANY_EXITS,
    AlertKind.EMERGENCY_EXIT, AlertKind.NOT_ATTENDED_TO, AlertKind.READ_FAILED, AlertKind.NOT_FLATTENED,
)
FAILURES_BEFORE_CRITICAL = 3  # a failure or two are an ordinary day of a broker

log = logging.getLogger("pass")


class Event(StrEnum):
    """What a pass did."""

    CHANGED = "orders changed"
    OPENED = "positions opened"
    PROTECTED = "exits placed"
    CLOSED = "trades closed"
    ENDED_UNFILLED = "entries ended unfilled"
    CANCELLED = "leftover orders cancelled"
    WITHDRAWN = "resting entries cancelled"
    ADJUSTED = "positions adjusted"
    PROBLEM = "problems (rows of audit.alerts)"
    UNREACHED = "orders left alone because the broker did not answer"


class PassLog:
    """The events and alerts of one pass; a failure in one place is kept from stopping the others."""

    def __init__(self, db: TradingDB, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self.events: Counter[Event] = Counter()
        self.last_words: dict[str, str] = {}  # what was last said in an alert of this pass, by subject
        self.failures: dict[str, Exception] = {}  # why work that was tolerated could not be done, by subject

    @cached_property
    def _open(self) -> dict[tuple[str, str], int]:
        rows = self._db.execute_prepared(OPEN_ALERTS, {})
        return {(row["kind"], row["subject"]): row["occurrences"] for row in rows}

    def is_open(self, kind: AlertKind, subject: str) -> bool:
        """Tell whether this alert was open when the pass began."""
        return (kind, subject) in self._open

    def open_subjects(self, kinds: Sequence[AlertKind]) -> set[str]:
        """Return what the alerts of these kinds were about that were open when the pass began."""
        return {subject for kind, subject in self._open if kind in kinds}

    def alert(self, level: AlertLevel, kind: AlertKind, subject: str, message: str) -> None:
        """Raise an alert and count it as a problem. Raises DatabaseError."""
        self.events[Event.PROBLEM] += 1
        self.last_words[subject] = message
        raise_alert(self._db, level, kind, subject, message, self._clock.now())

    def critical(self, kind: AlertKind, subject: str, message: str) -> None:
        """Raise a critical alert."""
        self.alert(AlertLevel.CRITICAL, kind, subject, message)

    def resolve(self, kinds: Sequence[AlertKind], subjects: Sequence[str]) -> None:
        """End those of these alerts that were open when the pass began. Raises DatabaseError."""
        if self._open and any(kind in kinds and subject in subjects for kind, subject in self._open):
            resolve_alerts(self._db, kinds, subjects, self._clock.now())

    def resolve_others(self, kinds: Sequence[AlertKind], subjects: Collection[str]) -> None:
        """End the open alerts of these kinds about anything but these subjects. Raises DatabaseError."""
        self.resolve(kinds, list(self.open_subjects(kinds).difference(subjects)))

    def resolve_failures(self, subjects: Sequence[str]) -> None:
        """End the alerts that these could not be read or attended to. Raises DatabaseError."""
        self.resolve((AlertKind.READ_FAILED, AlertKind.NOT_ATTENDED_TO), subjects)

    @contextmanager
    def reading(self, subject: str) -> Iterator[None]:
        """Raise an alert when the broker fails inside, critical from the third pass on, or end it.

        The BrokerError goes on to the caller.
        """
        try:
            yield
        except BrokerError as error:
            seen = self._open.get((AlertKind.READ_FAILED, subject), 0)
            level = AlertLevel.WARNING if seen + 1 < FAILURES_BEFORE_CRITICAL else AlertLevel.CRITICAL
            self.events[Event.PROBLEM] += 1
            # The error goes on, to the program's last line or to a line of the log.
            raise_alert(
                self._db, level, AlertKind.READ_FAILED, subject, f"{subject}: {error}", self._clock.now(), quiet=True,
            )
            raise
        self.resolve((AlertKind.READ_FAILED,), (subject,))

    def tolerate(self, subject: str, work: Callable[[], object]) -> None:
        """Do one piece of work so that its failure, kept in `failures`, does not stop the others.

        A lost database goes up.
        """
        try:
            with self.reading(subject):
                work()
            self.resolve((AlertKind.NOT_ATTENDED_TO,), (subject,))
        except BrokerError as error:
            self.failures[subject] = error
            self.events[Event.UNREACHED] += 1
            log.error("not attended to in this pass", extra={"subject": subject, "error": error})
        except DatabaseError as error:
            if error.lost_connection:
                raise
            self.failures[subject] = error
            if error.sqlstate == UNIQUE_VIOLATION:
                log.warning("another process is at work on this trade", extra={"subject": subject})
                return
            self._not_attended(subject, str(error))
        except Exception as error:  # a mistake of ours about one trade must not leave the others naked
            self.failures[subject] = error
            log.exception("a piece of work failed", extra={"subject": subject})
            self._not_attended(subject, f"{type(error).__name__}: {error}")

    def _not_attended(self, subject: str, why: str) -> None:
        self.critical(AlertKind.NOT_ATTENDED_TO, subject, f"{subject} was not attended to: {why}")
