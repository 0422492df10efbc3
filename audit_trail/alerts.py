"""Alerts: what a person should know, one open row for one matter."""

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

RESOLVE_ALERT = """
UPDATE audit.alerts SET resolved_at = %(now)s
WHERE kind = %(kind)s AND subject = %(subject)s AND resolved_at IS NULL
"""


class AlertLevel(StrEnum):
    """How urgent it is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


def raise_alert(
    db: TradingDB, level: AlertLevel, kind: str, subject: str, message: str, now: datetime,
) -> None:
    """Open an alert, or count one more sighting of an open one. Raises DatabaseError."""
    db.execute_update(
        RAISE_ALERT, {"level": str(level), "kind": kind, "subject": subject, "message": message, "now": now},
    )


def resolve_alert(db: TradingDB, kind: str, subject: str, now: datetime) -> None:
    """Close the open alert of this matter, if there is one. Raises DatabaseError."""
    db.execute_update(RESOLVE_ALERT, {"kind": kind, "subject": subject, "now": now})
