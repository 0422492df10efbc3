"""Pre-trade checks: a decision is held against the limits and what is known; each check is a row of `risk_checks`."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from config import Limits
from db_layer import TradingDB
from decision import NewTrade, Side
from order_life import decimal_text

FURTHEST_AHEAD = timedelta(hours=24)

RECORD_CHECKS = """
INSERT INTO audit.risk_checks (trade_decision_id, check_name, limit_value, observed_value, passed, checked_at)
VALUES %s
"""


@dataclass(frozen=True)
class RiskCheck:
    """One check: the limit in force, what was found, and, where it failed, the reason for a person."""

    name: str
    limit: str
    observed: str
    refusal: str | None = None

    @property
    def passed(self) -> bool:
        return self.refusal is None


@dataclass(frozen=True)
class Situation:
    """What the checks look at beside the decision; the reference price is in dollars, None when nobody has one."""

    now: datetime
    decided_at: datetime | None
    reference_price: Decimal | None


def decision_time(decided_at: datetime | None, analysis_date: date | None, zone: ZoneInfo) -> datetime | None:
    """Return when a decision was made: its row's time, else midnight of the date in its JSON, else None."""
    if decided_at is not None or analysis_date is None:
        return decided_at
    return datetime.combine(analysis_date, time(), zone)


def check_trade(symbol: str, trade: NewTrade, limits: Limits, situation: Situation) -> list[RiskCheck]:
    """Return the checks made, in order; the last one carries the refusal if there is any."""
    made: list[RiskCheck] = []
    for check in _checks(symbol, trade, limits, situation):
        made.append(check)
        if not check.passed:
            break
    return made


def record_checks(db: TradingDB, trade_decision_id: int, checks: list[RiskCheck], now: datetime) -> None:
    """Write the checks of a decision. Raises DatabaseError."""
    db.execute_values(RECORD_CHECKS, [
        (trade_decision_id, check.name, check.limit, check.observed, check.passed, now) for check in checks
    ])


def _checks(symbol: str, trade: NewTrade, limits: Limits, situation: Situation) -> Iterator[RiskCheck]:
    yield check_age(limits, situation)
    denied = f"{symbol} is on SYMBOL_DENYLIST" if symbol in limits.symbol_denylist else None
    yield RiskCheck("symbol_denylist", ",".join(sorted(limits.symbol_denylist)), symbol, denied)
    short = trade.side is Side.SELL and not limits.allow_short
    yield RiskCheck(
        "side", f"ALLOW_SHORT={str(limits.allow_short).lower()}", trade.side,
        "a sell would open a short position, and ALLOW_SHORT is false" if short else None,
    )
    yield _at_most("max_order_qty", "MAX_ORDER_QTY", limits.max_order_qty, trade.qty, "shares")
    price = trade.limit_price if trade.limit_price is not None else situation.reference_price
    if price is None:
        yield RiskCheck(
            "max_order_notional", str(limits.max_order_notional), "no price",
            f"{symbol} has no price now, so a market order cannot be held against MAX_ORDER_NOTIONAL",
        )
        return
    yield _at_most("max_order_notional", "MAX_ORDER_NOTIONAL", limits.max_order_notional, trade.qty * price, "dollars")
    yield _stop_beyond_market(trade, situation.reference_price)


def check_age(limits: Limits, situation: Situation) -> RiskCheck:
    """Check that a decision is neither older than DECISION_MAX_AGE_HOURS nor dated more than a day ahead."""
    limit = f"DECISION_MAX_AGE_HOURS={limits.decision_max_age_hours}"
    decided_at = situation.decided_at
    if decided_at is None:
        return RiskCheck("decision_age", limit, "no date", "the decision has no date, so its age cannot be told")
    age = situation.now - decided_at
    observed = f"{age.total_seconds() / 3600:.1f} hours"
    refusal = None
    if age > timedelta(hours=float(limits.decision_max_age_hours)):
        refusal = f"the decision is {observed} old; {limit}"
    elif -age > FURTHEST_AHEAD:
        refusal = f"the decision is dated {decided_at:%Y-%m-%d %H:%M} UTC, more than a day ahead of now"
    return RiskCheck("decision_age", limit, observed, refusal)


def _at_most(name: str, variable: str, limit: Decimal, observed: Decimal, unit: str) -> RiskCheck:
    refusal = f"{decimal_text(observed)} {unit} is over {variable}={decimal_text(limit)}" if observed > limit else None
    return RiskCheck(name, decimal_text(limit), decimal_text(observed), refusal)


def _stop_beyond_market(trade: NewTrade, price: Decimal | None) -> RiskCheck:
    """A market order has no limit to hold the stop against, so the last price takes its place."""
    observed = "limit order" if trade.limit_price is not None else f"price {price}"
    refusal = None
    if trade.limit_price is None and price is not None:
        buy = trade.side is Side.BUY
        if (trade.stop_price >= price) if buy else (trade.stop_price <= price):
            refusal = f"the stop {trade.stop_price} is on the wrong side of the price {price} for a {trade.side}"
        elif trade.target_price is not None and (trade.target_price <= price if buy else trade.target_price >= price):
            refusal = f"the target {trade.target_price} is on the wrong side of the price {price} for a {trade.side}"
    return RiskCheck("stop_side", f"stop {trade.stop_price}", observed, refusal)
