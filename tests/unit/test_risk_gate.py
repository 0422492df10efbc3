"""Pre-trade checks: each check, its boundary, and the order in which they refuse."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from config import Limits
from decision import NewTrade, OrderType, Side, TimeInForce, TradeStyle
from risk_gate import RiskCheck, Situation, check_trade, decision_time

NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
LIMITS = Limits(
    max_order_notional=Decimal(20000), max_order_qty=Decimal(10000), decision_max_age_hours=Decimal(96),
    allow_short=False, symbol_denylist=frozenset({"GME"}), daytrade_flatten_minutes=0,
)
LONG = NewTrade(
    style=TradeStyle.SWING, pattern=None, qty=Decimal(45), side=Side.BUY, order_type=OrderType.LIMIT,
    time_in_force=TimeInForce.DAY, limit_price=Decimal("133.80"), stop_price=Decimal("124.00"),
    target_price=Decimal("145.50"),
)
SHORT = replace(LONG, side=Side.SELL, stop_price=Decimal("145.50"), target_price=Decimal("124.00"))
MARKET = {"order_type": OrderType.MARKET, "limit_price": None}
NAMES = ["decision_age", "symbol_denylist", "side", "max_order_qty", "max_order_notional", "stop_side"]


def checks(
    trade: NewTrade = LONG, symbol: str = "NVDA", limits: Limits = LIMITS, **situation: Any,
) -> list[RiskCheck]:
    known = {"now": NOW, "decided_at": NOW - timedelta(hours=1), "reference_price": Decimal(135)} | situation
    return check_trade(symbol, trade, limits, Situation(**known))


def refusal(*args: Any, **kwargs: Any) -> tuple[str, str | None]:
    last = checks(*args, **kwargs)[-1]
    return last.name, last.refusal


def test_a_good_trade_passes_every_check_in_order() -> None:
    made = checks()
    assert [check.name for check in made] == NAMES
    assert all(check.passed for check in made)


@pytest.mark.parametrize(
    ("age", "passes"),
    [
        (timedelta(0), True),
        (timedelta(hours=96), True),
        (timedelta(hours=96, microseconds=1), False),
        (timedelta(hours=-24), True),
        (timedelta(hours=-24, microseconds=-1), False),
    ],
)
def test_a_decision_is_neither_too_old_nor_from_the_future(age: timedelta, passes: bool) -> None:
    made = checks(decided_at=NOW - age)
    assert made[0].passed is passes
    assert len(made) == (len(NAMES) if passes else 1)


def test_the_age_limit_may_be_a_fraction_of_an_hour() -> None:
    limits = replace(LIMITS, decision_max_age_hours=Decimal("0.5"))
    assert checks(limits=limits, decided_at=NOW - timedelta(minutes=30))[0].passed
    name, words = refusal(limits=limits, decided_at=NOW - timedelta(minutes=31))
    assert name == "decision_age"
    assert words == "the decision is 0.5 hours old; DECISION_MAX_AGE_HOURS=0.5"


def test_a_decision_without_date_is_refused() -> None:
    assert refusal(decided_at=None) == ("decision_age", "the decision has no date, so its age cannot be told")


def test_a_denied_symbol_is_refused() -> None:
    assert refusal(symbol="GME") == ("symbol_denylist", "GME is on SYMBOL_DENYLIST")


def test_a_sell_is_refused_unless_short_positions_are_allowed() -> None:
    assert refusal(SHORT)[0] == "side"
    assert "ALLOW_SHORT is false" in str(refusal(SHORT)[1])
    assert checks(SHORT, limits=replace(LIMITS, allow_short=True))[-1].passed


@pytest.mark.parametrize(
    ("qty", "words"),
    [
        ("10000", None),
        ("10000.000000001", "10000.000000001 shares is over MAX_ORDER_QTY=10000"),
        ("1E+5", "100000 shares is over MAX_ORDER_QTY=10000"),
    ],
)
def test_a_quantity_up_to_the_limit_passes(qty: str, words: str | None) -> None:
    made = checks(replace(LONG, qty=Decimal(qty), limit_price=Decimal("1.5")))
    check = made[NAMES.index("max_order_qty")]
    assert check.refusal == words


@pytest.mark.parametrize(
    ("qty", "price", "words"),
    [
        ("100", "200", None),
        ("100", "200.0001", "20000.01 dollars is over MAX_ORDER_NOTIONAL=20000"),
        ("100.000000001", "200", "20000.0000002 dollars is over MAX_ORDER_NOTIONAL=20000"),
    ],
)
def test_a_notional_up_to_the_limit_passes(qty: str, price: str, words: str | None) -> None:
    made = checks(replace(LONG, qty=Decimal(qty), limit_price=Decimal(price)))
    check = made[NAMES.index("max_order_notional")]
    assert check.refusal == words


@pytest.mark.parametrize(("price", "passes"), [("200", True), ("200.01", False)])
def test_a_market_order_is_held_against_the_last_price(price: str, passes: bool) -> None:
    trade = replace(LONG, qty=Decimal(100), target_price=Decimal(300), **MARKET)
    made = checks(trade, reference_price=Decimal(price))
    assert made[NAMES.index("max_order_notional")].passed is passes


def test_a_market_order_without_a_price_is_refused() -> None:
    name, words = refusal(replace(LONG, **MARKET), reference_price=None)
    assert name == "max_order_notional"
    assert "NVDA has no price now" in str(words)


def test_a_limit_order_needs_no_reference_price() -> None:
    assert all(check.passed for check in checks(reference_price=None))


@pytest.mark.parametrize(
    ("side", "stop", "target", "passes"),
    [
        (Side.BUY, "134.99", "135.01", True),
        (Side.BUY, "135", "145", False),
        (Side.BUY, "136", "145", False),
        (Side.BUY, "124", "135", False),
        (Side.BUY, "124", "134", False),
        (Side.BUY, "124", None, True),
        (Side.SELL, "135.01", "134.99", True),
        (Side.SELL, "135", "124", False),
        (Side.SELL, "134", "124", False),
        (Side.SELL, "145", "135", False),
        (Side.SELL, "145", "136", False),
        (Side.SELL, "145", None, True),
    ],
)
def test_the_last_price_lies_between_stop_and_target_of_a_market_order(
    side: Side, stop: str, target: str | None, passes: bool,
) -> None:
    trade = replace(
        LONG, side=side, stop_price=Decimal(stop), target_price=None if target is None else Decimal(target), **MARKET,
    )
    last = checks(trade, limits=replace(LIMITS, allow_short=True))[-1]
    assert (last.name, last.passed) == ("stop_side", passes)


@pytest.mark.parametrize("first", range(5))
def test_the_first_failure_refuses_and_nothing_is_checked_after_it(first: int) -> None:
    faults = [
        {"decided_at": None}, {"symbol": "GME"}, {"trade": {"side": Side.SELL}}, {"trade": {"qty": Decimal(10001)}},
        {"trade": {"limit_price": Decimal("1e6")}},
    ][first:]
    trade: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for fault in faults:
        trade |= fault.get("trade", {})
        others |= {key: value for key, value in fault.items() if key != "trade"}
    made = checks(replace(LONG, **trade), **others)
    assert [check.name for check in made] == NAMES[: first + 1]
    assert [check.passed for check in made] == [True] * first + [False]


def test_a_decision_is_dated_by_its_row_before_its_json() -> None:
    at = datetime(2025, 1, 15, 14, 0, tzinfo=UTC)
    assert decision_time(at, date(2020, 1, 1), ZoneInfo("UTC")) == at


@pytest.mark.parametrize(
    ("day", "zone", "expected"),
    [
        (date(2025, 1, 15), "UTC", datetime(2025, 1, 15, tzinfo=UTC)),
        (date(2025, 1, 15), "America/New_York", datetime(2025, 1, 15, 5, tzinfo=UTC)),
        (date(2025, 7, 15), "America/New_York", datetime(2025, 7, 15, 4, tzinfo=UTC)),
        (None, "UTC", None),
    ],
)
def test_a_date_in_the_json_means_its_midnight(day: date | None, zone: str, expected: datetime | None) -> None:
    assert decision_time(None, day, ZoneInfo(zone)) == expected
