"""What a pass of a monitor did and found: counted events, and alerts raised and ended."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import cached_property

from alpaca_client import BrokerError
from audit_trail import AlertLevel, raise_alert, resolve_alerts
from clock import Clock
from db_layer import DatabaseError, TradingDB

UNIQUE_VIOLATION = "23505"
OPEN_ALERTS = "SELECT kind, subject FROM audit.alerts WHERE resolved_at IS NULL"

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

    @cached_property
    def _open(self) -> set[tuple[str, str]]:
        return {(row["kind"], row["subject"]) for row in self._db.execute_query(OPEN_ALERTS)}

    def is_open(self, kind: str, subject: str) -> bool:
        """Tell whether this alert was open when the pass began."""
        return (kind, subject) in self._open

    def alert(self, level: AlertLevel, kind: str, subject: str, message: str) -> None:
        """Raise an alert and count it as a problem. Raises DatabaseError."""
        self.events[Event.PROBLEM] += 1
        self.last_words[subject] = message
        raise_alert(self._db, level, kind, subject, message, self._clock.now())

    def critical(self, kind: str, subject: str, message: str) -> None:
        """Raise a critical alert."""
        self.alert(AlertLevel.CRITICAL, kind, subject, message)

    def resolve(self, kinds: Sequence[str], subjects: Sequence[str]) -> None:
        """End those of these alerts that were open when the pass began. Raises DatabaseError."""
        over = [(kind, subject) for kind in kinds for subject in subjects if self.is_open(kind, subject)]
        if over:
            found = {kind for kind, _ in over}, {subject for _, subject in over}
            resolve_alerts(self._db, sorted(found[0]), sorted(found[1]), self._clock.now())

    def tolerate(self, subject: str, work: Callable[[], object]) -> None:
        """Do one piece of work so that its failure does not stop the others; a lost database goes up."""
        try:
            work()
            self.resolve(("not_attended_to",), (subject,))
        except BrokerError as error:
            self.events[Event.UNREACHED] += 1
            log.error("not attended to in this pass", extra={"subject": subject, "error": error})
        except DatabaseError as error:
            if error.lost_connection:
                raise
            if error.sqlstate == UNIQUE_VIOLATION:
                log.warning("another process is at work on this trade", extra={"subject": subject})
                return
            self.critical("not_attended_to", subject, f"{subject} was not attended to: {error}")
        except Exception as error:  # a mistake of ours about one trade must not leave the others naked
            log.exception("a piece of work failed", extra={"subject": subject})
            self.critical("not_attended_to", subject, f"{subject} was not attended to: {type(error).__name__}: {error}")
