"""The kill switch: `audit.trading_control` says whether entries may be sent; the latest row is in force.

Nothing is remembered between two looks, so a change holds before the very next message, in every process, for ever.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from audit_trail import AlertKind, AlertLevel, raise_alert
from db_layer import TradingDB

READ_CONTROL = "SELECT state, reason, changed_by, changed_at FROM audit.trading_control ORDER BY id DESC LIMIT 1"
WRITE_CONTROL = """
INSERT INTO audit.trading_control (state, reason, changed_by, changed_at)
VALUES (%(state)s, %(reason)s, %(changed_by)s, %(now)s)
"""


class TradingState(StrEnum):
    """ACTIVE: everything is done; REDUCING: exits only, resting entries are cancelled; HALTED: no new entries."""

    ACTIVE = "ACTIVE"
    REDUCING = "REDUCING"
    HALTED = "HALTED"


@dataclass(frozen=True)
class Control:
    """The state in force, and why, by whom and since when; a database that nobody has switched is ACTIVE."""

    state: TradingState = TradingState.ACTIVE
    reason: str = "never switched"
    changed_by: str | None = None
    changed_at: datetime | None = None


def current_control(db: TradingDB) -> Control:
    """Return what is in force now. Raises DatabaseError."""
    rows = db.execute_query(READ_CONTROL)
    if not rows:
        return Control()
    return Control(TradingState(rows[0]["state"]), rows[0]["reason"], rows[0]["changed_by"], rows[0]["changed_at"])


def change_control(db: TradingDB, state: TradingState, reason: str, changed_by: str, now: datetime) -> None:
    """Switch, and raise an alert that says so. Raises DatabaseError."""
    db.execute_update(WRITE_CONTROL, {"state": state, "reason": reason, "changed_by": changed_by, "now": now})
    message = f"trading is {state} since {now:%Y-%m-%d %H:%M} UTC, by {changed_by}: {reason}"
    raise_alert(db, AlertLevel.WARNING, AlertKind.TRADING_CONTROL, state, message, now)


def entries_allowed(db: TradingDB) -> bool:
    """Say whether new entries may be sent now. Raises DatabaseError."""
    return current_control(db).state is TradingState.ACTIVE
