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
              occurrences = alerts.occurrences + 1,
              acknowledged_at = CASE WHEN alerts.message = EXCLUDED.message THEN alerts.acknowledged_at END
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


class AlertKind(StrEnum):
    """What sort of matter it is (`alerts.kind`)."""

    ACCOUNT_BLOCKED = "account_blocked"
    AMENDED_WITHOUT_ORDER = "amended_without_order"
    API_ERROR_RATE = "api_error_rate"
    BROKER_MISMATCH = "broker_mismatch"
    CALENDAR_DIFFERS = "calendar_differs"
    CHAIN_FAULT = "chain_fault"
    CHANNEL_FAILING = "channel_failing"
    DAILY_LOSS = "daily_loss"
    DECISION_EDITED = "decision_edited"
    DECISION_LEFT_ALONE = "decision_left_alone"
    DECISION_ROW_NOT_MARKED = "decision_row_not_marked"
    EMERGENCY_EXIT = "emergency_exit"
    ENTRY_GAVE_WAY = "entry_gave_way"
    EXECUTION_NOT_RECORDED = "execution_not_recorded"
    EXTERNAL_ORDER = "external_order"
    EXTERNAL_POSITION = "external_position"
    FAILURE_RATE = "failure_rate"
    JOB_FAILED = "job_failed"
    JOB_MISSED = "job_missed"
    LATE_FILL = "late_fill"
    LATE_ORDER = "late_order"
    NOT_ATTENDED_TO = "not_attended_to"
    NOT_FLATTENED = "not_flattened"
    NO_RECORDS_FETCHED = "no_records_fetched"
    ODD_EXECUTION = "odd_execution"
    ORDER_CHANGED_BY_BROKER = "order_changed_by_broker"
    ORDER_LOST = "order_lost"
    ORDER_MISMATCH = "order_mismatch"
    ORDER_NOT_RECORDED = "order_not_recorded"
    ORDER_NOT_SETTLED = "order_not_settled"
    ORDER_WITHOUT_DECISION = "order_without_decision"
    POSITION_MISMATCH = "position_mismatch"
    POSITION_VANISHED = "position_vanished"
    PURGE = "purge"
    READ_FAILED = "read_failed"
    RUN_FAILED = "run_failed"
    RUN_OVERDUE = "run_overdue"
    SPLIT = "split"
    TARGET_NOT_PLACED = "target_not_placed"
    TOO_MANY_EXITS = "too_many_exits"
    TRADE_WITHOUT_ORDER = "trade_without_order"
    TRADING_CONTROL = "trading_control"
    UNKNOWN_BROKER_STATUS = "unknown_broker_status"
    UNKNOWN_ORDER = "unknown_order"
    UNPROTECTED_POSITION = "unprotected_position"


LOG_LEVELS = {
    AlertLevel.INFO: logging.INFO, AlertLevel.WARNING: logging.WARNING, AlertLevel.CRITICAL: logging.ERROR,
}


def raise_alert(
    db: TradingDB, level: AlertLevel, kind: AlertKind, subject: str, message: str, now: datetime, quiet: bool = False,
) -> None:
    """Open an alert, or count one more sighting of an open one, and log it unless its cause is told anyway (`quiet`).

    Who acknowledged an open alert took note of its message: another one has to be acknowledged anew.
    Raises DatabaseError.
    """
    db.execute_update(
        RAISE_ALERT, {"level": str(level), "kind": str(kind), "subject": subject, "message": message, "now": now},
    )
    if not quiet:
        log.log(LOG_LEVELS[level], message, extra={"kind": str(kind), "subject": subject})


def resolve_alerts(db: TradingDB, kinds: Sequence[AlertKind], subjects: Sequence[str], now: datetime) -> None:
    """Close the open alerts of these kinds about these subjects. Raises DatabaseError."""
    if kinds and subjects:
        db.execute_prepared(RESOLVE_ALERTS, {
            "kinds": [str(kind) for kind in kinds], "subjects": list(subjects), "now": now,
        })
