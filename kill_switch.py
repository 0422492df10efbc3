"""The kill switch: `audit.trading_control` says whether entries may be sent; the latest row is in force.

Nothing is remembered between two looks, so a change holds before the very next message, in every process, for ever.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from audit_trail import AlertKind, AlertLevel, raise_alert, resolve_alerts
from db_layer import TradingDB

READ_CONTROL = """
SELECT state, flatten, reason, changed_by, changed_at FROM audit.trading_control ORDER BY id DESC LIMIT 1
"""
# Whoever lets a switch depend on what was in force before takes this first, and so does whoever switches.
LOCK_CONTROL = "SELECT pg_advisory_xact_lock(hashtext('trading-monitor control'))"
WRITE_CONTROL = """
INSERT INTO audit.trading_control (state, flatten, reason, changed_by, changed_at)
VALUES (%(state)s, %(flatten)s, %(reason)s, %(changed_by)s, %(now)s)
"""


class TradingState(StrEnum):
    """ACTIVE: everything is done; REDUCING: exits only, resting entries are cancelled; HALTED: no new entries."""

    ACTIVE = "ACTIVE"
    REDUCING = "REDUCING"
    HALTED = "HALTED"


@dataclass(frozen=True)
class Control:
    """The state in force, and why, by whom and since when; a database that nobody has switched is ACTIVE.

    `flatten` asks every monitor pass to close everything; it goes with HALTED only.
    """

    state: TradingState = TradingState.ACTIVE
    reason: str = "never switched"
    changed_by: str | None = None
    changed_at: datetime | None = None
    flatten: bool = False

    @property
    def cancels_entries(self) -> bool:
        """Tell whether entries that rest at the broker are to be cancelled."""
        return self.state is TradingState.REDUCING or self.flatten


def current_control(db: TradingDB) -> Control:
    """Return what is in force now. Raises DatabaseError."""
    rows = db.execute_prepared(READ_CONTROL, {})
    return Control(**rows[0] | {"state": TradingState(rows[0]["state"])}) if rows else Control()


def lock_control(db: TradingDB) -> None:
    """Let nobody switch until the open transaction ends; whoever is switching is waited for. Raises DatabaseError."""
    db.execute_query(LOCK_CONTROL)


def change_control(
    db: TradingDB, state: TradingState, reason: str, changed_by: str, now: datetime, flatten: bool = False,
) -> None:
    """Switch, and raise the alert about it. Raises DatabaseError; also for a flatten that is not HALTED."""
    write_control(db, state, reason, changed_by, now, flatten)
    alert_control(db, state, reason, changed_by, now, flatten)


def write_control(
    db: TradingDB, state: TradingState, reason: str, changed_by: str, now: datetime, flatten: bool = False,
) -> None:
    """Switch, and wait for nobody who is at the alerts. Raises DatabaseError, as change_control does."""
    lock_control(db)
    db.execute_update(WRITE_CONTROL, {
        "state": str(state), "flatten": flatten, "reason": reason, "changed_by": changed_by, "now": now,
    })


def alert_control(
    db: TradingDB, state: TradingState, reason: str, changed_by: str, now: datetime, flatten: bool = False,
) -> None:
    """End the alerts about earlier states, and raise one about this; ACTIVE is on record, but no open matter.

    Raises DatabaseError.
    """
    active = state is TradingState.ACTIVE
    wish = ", and everything is to be closed" if flatten else ""
    message = f"trading is {state} since {now:%Y-%m-%d %H:%M} UTC{wish}, by {changed_by}: {reason}"
    raise_alert(db, AlertLevel.INFO if active else AlertLevel.WARNING, AlertKind.TRADING_CONTROL, state, message, now)
    over = [other for other in TradingState if active or other is not state]
    resolve_alerts(db, (AlertKind.TRADING_CONTROL,), over, now)


def entries_allowed(db: TradingDB) -> bool:
    """Say whether new entries may be sent now. Raises DatabaseError."""
    return current_control(db).state is TradingState.ACTIVE
