"""Limits that a person raised for a while: upwards only, ten times the setting at most, a week at the longest."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from decimal import Decimal

from config import Limits
from db_layer import TradingDB
from environment import ConfigError
from order_life import decimal_text

LONGEST_RAISE = timedelta(days=7)
MOST_TIMES = 10
# One says when, not how much; the other lets less pass when it is higher.
NOT_RAISABLE = frozenset({"daytrade_flatten_minutes", "duplicate_window_minutes"})
# The settings' names with the fields that hold them.
RAISABLE: Mapping[str, str] = {
    field.name.upper(): field.name for field in fields(Limits)
    if field.type in (Decimal, int) and field.name not in NOT_RAISABLE
}

READ_RAISES = """
SELECT * FROM (
    SELECT DISTINCT ON (limit_name) limit_name, limit_value, reason, changed_by, expires_at FROM audit.limit_raises
    WHERE changed_at <= %(now)s ORDER BY limit_name, id DESC
) latest WHERE expires_at > %(now)s
"""
WRITE_RAISE = """
INSERT INTO audit.limit_raises (limit_name, limit_value, reason, changed_by, changed_at, expires_at)
VALUES (%(name)s, %(value)s, %(reason)s, %(changed_by)s, %(now)s, %(expires_at)s)
"""


@dataclass(frozen=True)
class LimitRaise:
    """A raise that has not expired: the setting's name, and its value until then in the limit's unit."""

    name: str
    value: Decimal
    reason: str
    changed_by: str
    expires_at: datetime


def limits_in_force(db: TradingDB, limits: Limits, now: datetime) -> Limits:
    """Return the limits with the latest raise of each, unless it has expired; what is no raise changes nothing.

    Raises DatabaseError.
    """
    raised = {}
    for change in current_raises(db, now):
        field = RAISABLE.get(change.name)
        if field is not None:
            present = getattr(limits, field)
            raised[field] = type(present)(min(max(change.value, present), present * MOST_TIMES))
    return replace(limits, **raised)


def current_raises(db: TradingDB, now: datetime) -> list[LimitRaise]:
    """Return the latest raise of each limit unless it has expired: an earlier one never comes back.

    Raises DatabaseError.
    """
    return [
        LimitRaise(row["limit_name"], row["limit_value"], row["reason"], row["changed_by"], row["expires_at"])
        for row in db.execute_query(READ_RAISES, {"now": now})
    ]


def raise_limit(
    db: TradingDB, limits: Limits, name: str, value: Decimal, lasting: timedelta, reason: str, changed_by: str,
    now: datetime,
) -> LimitRaise:
    """Raise a limit for a while and return the raise; the setting's own value takes raises back.

    Raises ConfigError for one that is not allowed, and DatabaseError.
    """
    if name not in RAISABLE:
        raise ConfigError(f"{name} is no limit that can be raised; these are: {', '.join(sorted(RAISABLE))}")
    present = getattr(limits, RAISABLE[name])
    if not present <= value <= present * MOST_TIMES:
        highest = decimal_text(Decimal(present * MOST_TIMES))
        raise ConfigError(f"{name} is {present} and can be raised to at most {highest}, not to {decimal_text(value)}")
    if value != (value.to_integral_value() if isinstance(present, int) else round(value, 6)):
        what = "a whole number" if isinstance(present, int) else "a number of at most six decimals"
        raise ConfigError(f"{name} must be {what}, not {decimal_text(value)}")
    if not timedelta(0) < lasting <= LONGEST_RAISE:
        most = LONGEST_RAISE // timedelta(hours=1)
        raise ConfigError(f"a limit can be raised for more than 0 and at most {most} hours")
    change = LimitRaise(name, value, reason, changed_by, now + lasting)
    db.execute_update(WRITE_RAISE, vars(change) | {"now": now})
    return change
