"""Alerts: what a person should know, one open row for one matter."""

import logging
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from db_layer import TradingDB

RAISE_ALERT = """
INSERT INTO audit.alerts (level, kind, subject, message, first_seen_at, last_seen_at)
VALUES (%(level)s, %(kind)s, %(subject)s, %(message)s, %(now)s, %(now)s)
ON CONFLICT (kind, subject) WHERE resolved_at IS NULL
DO UPDATE SET level = EXCLUDED.level, message = EXCLUDED.message, last_seen_at = EXCLUDED.last_seen_at,
              occurrences = alerts.occurrences + 1
"""

RESOLVE_ALERTS = """
UPDATE audit.alerts SET resolved_at = %(now)s
WHERE kind = ANY(%(kinds)s) AND subject = ANY(%(subjects)s) AND resolved_at IS NULL
"""


log = logging.getLogger("alerts")


class AlertLevel(StrEnum):
    """How urgent it is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


LOG_LEVELS = {
    AlertLevel.INFO: logging.INFO, AlertLevel.WARNING: logging.WARNING, AlertLevel.CRITICAL: logging.ERROR,
}


def raise_alert(
    db: TradingDB, level: AlertLevel, kind: str, subject: str, message: str, now: datetime,
) -> None:
    """Open an alert, or count one more sighting of an open one, and log it. Raises DatabaseError."""
    db.execute_update(
        RAISE_ALERT, {"level": str(level), "kind": kind, "subject": subject, "message": message, "now": now},
    )
    log.log(LOG_LEVELS[level], message, extra={"kind": kind, "subject": subject})


def resolve_alerts(db: TradingDB, kinds: Sequence[str], subjects: Sequence[str], now: datetime) -> None:
    """Close the open alerts of these kinds about these subjects. Raises DatabaseError."""
    if kinds and subjects:
        db.execute_update(RESOLVE_ALERTS, {"kinds": list(kinds), "subjects": list(subjects), "now": now})
