"""The pre-trade risk gate: an order passes every check in order; the first that fails refuses it or makes it wait.

Every order that opens something comes through here, whoever decided it. Source: docs/architecture.md, risk gate.
"""

from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from broker_answers import number
from config import Limits
from db_layer import TradingDB
from decision import NewTrade, TradeStyle
from risk_checks import (
    BLOCKS,
    DAY_TRADES,
    Account,
    Proposal,
    RiskCheck,
    Situation,
    check_account,
    check_asset,
    check_at_most,
    check_buying_power,
    check_daily_loss,
    check_day_trades,
    check_denylist,
    check_duplicate,
    check_exposure,
    check_flatten_window,
    check_fraction,
    check_opposite,
    check_pace,
    check_price_collar,
    check_reference_price,
    check_settled,
    check_side,
    check_stop_side,
    check_trading_state,
    check_unpriced,
    price_of,
)

FURTHEST_AHEAD = timedelta(hours=24)

RECORD_CHECKS = """
INSERT INTO audit.risk_checks (trade_decision_id, check_name, limit_value, observed_value, passed, checked_at)
SELECT %(trade_decision_id)s, made.name, made.limit_value, made.observed, made.passed, %(now)s
FROM unnest(%(names)s::text[], %(limits)s::text[], %(observed)s::text[], %(passed)s::boolean[])
     AS made (name, limit_value, observed, passed)
"""


def read_account(answer: Mapping[str, Any]) -> Account:
    """Return what the gate needs of the broker's account answer."""
    status, count = answer.get("status"), number(answer.get("daytrade_count"))
    restricted = answer.get("pattern_day_trader") is True
    return Account(
        status if isinstance(status, str) else None,
        tuple(name for name in BLOCKS if answer.get(name) is True),
        number(answer.get("buying_power")), number(answer.get("equity")),
        max(int(count or 0), DAY_TRADES if restricted else 0),
    )


def decision_time(decided_at: datetime | None, analysis_date: date | None, zone: ZoneInfo) -> datetime | None:
    """Return when a decision was made: its row's time, else midnight of the date in its JSON, else None."""
    if decided_at is not None or analysis_date is None:
        return decided_at
    return datetime.combine(analysis_date, time(), zone)


def check_trade(
    symbol: str, trade: NewTrade, decided_at: datetime | None, limits: Limits, facts: Situation,
) -> list[RiskCheck]:
    """Return the checks made, in order; the last one carries the refusal if there is any."""
    made: list[RiskCheck] = []
    for check in _checks(symbol, trade, decided_at, limits, facts):
        made.append(check)
        if not check.passed:
            break
    return made


def record_checks(db: TradingDB, trade_decision_id: int, checks: list[RiskCheck], now: datetime) -> None:
    """Write the checks of a decision. Raises DatabaseError."""
    db.execute_later(RECORD_CHECKS, {
        "trade_decision_id": trade_decision_id, "names": [check.name for check in checks],
        "limits": [check.limit for check in checks], "observed": [check.observed for check in checks],
        "passed": [check.passed for check in checks], "now": now,
    })


def check_age(limits: Limits, decided_at: datetime | None, now: datetime) -> RiskCheck:
    """Check that a decision is neither older than DECISION_MAX_AGE_HOURS nor dated more than a day ahead."""
    limit = f"DECISION_MAX_AGE_HOURS={limits.decision_max_age_hours}"
    if decided_at is None:
        return RiskCheck("decision_age", limit, "no date", "the decision has no date, so its age cannot be told")
    age = now - decided_at
    observed = f"{age.total_seconds() / 3600:.1f} hours"
    refusal = None
    if age > timedelta(hours=float(limits.decision_max_age_hours)):
        refusal = f"the decision is {observed} old; {limit}"
    elif -age > FURTHEST_AHEAD:
        refusal = f"the decision is dated {decided_at:%Y-%m-%d %H:%M} UTC, more than a day ahead of now"
    return RiskCheck("decision_age", limit, observed, refusal)


def why_not_any_more(symbol: str, qty: Decimal, limit_price: Decimal | None, limits: Limits) -> str | None:
    """Say which limit on the order alone forbids one that was checked before, or None; its exposure counts already."""
    checks = [check_denylist(symbol, limits), check_at_most("max_order_qty", limits.max_order_qty, qty, "shares")]
    if limit_price is not None:
        notional = qty * limit_price
        checks.append(check_at_most("max_order_notional", limits.max_order_notional, notional, "dollars"))
    return next((check.refusal for check in checks if check.refusal is not None), None)


def _checks(
    symbol: str, trade: NewTrade, decided_at: datetime | None, limits: Limits, facts: Situation,
) -> Iterator[RiskCheck]:
    yield check_age(limits, decided_at, facts.now)
    yield check_trading_state(facts)
    yield check_daily_loss(limits, facts)
    yield check_account(facts.account)
    yield check_denylist(symbol, limits)
    yield check_asset(symbol, facts)
    yield check_side(symbol, trade, limits, facts.asset)
    yield check_fraction(symbol, trade, facts)
    yield check_settled(symbol, facts)
    yield check_at_most("max_order_qty", limits.max_order_qty, trade.qty, "shares")
    yield check_reference_price(symbol, trade, facts)
    price = price_of(trade, facts.last_trade)
    if price is None:
        yield check_unpriced(symbol, limits)
        return
    order = Proposal(symbol, trade, limits, facts, price)
    yield check_at_most("max_order_notional", limits.max_order_notional, trade.qty * price, "dollars")
    yield check_price_collar(order)
    yield check_stop_side(order)
    yield from check_exposure(order)
    yield from check_pace(order)
    yield check_duplicate(order)
    yield check_opposite(order)
    yield check_buying_power(order)
    if trade.style is TradeStyle.DAYTRADE:
        yield check_day_trades(facts.account)
        yield check_flatten_window(limits, facts)
