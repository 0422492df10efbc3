"""The risk gate: each check just inside and just outside its limit, and the order in which they refuse."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from broker_answers import Asset, Holding, LastTrade, MarketHours
from config import load_settings
from decision import NewTrade, OrderType, Side, TimeInForce, TradeStyle
from exposure import Book, OpenEntry, day_start
from order_life import OrderStatus
from risk_checks import Account, Hold, RiskCheck, Situation
from risk_gate import check_trade, decision_time, read_account

PROJECT = Path(__file__).resolve().parents[2]
NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
LIMITS = load_settings(True, {"SYMBOL_DENYLIST": "GME"}).limits
LONG = NewTrade(
    style=TradeStyle.SWING, pattern=None, qty=Decimal(45), side=Side.BUY, order_type=OrderType.LIMIT,
    time_in_force=TimeInForce.DAY, limit_price=Decimal("133.80"), stop_price=Decimal("124.00"),
    target_price=Decimal("145.50"),
)
SHORT = replace(LONG, side=Side.SELL, stop_price=Decimal("145.50"), target_price=Decimal("124.00"))
MARKET = {"order_type": OrderType.MARKET, "limit_price": None}
NAMES = [
    "decision_age", "trading_state", "max_daily_loss", "account", "symbol_denylist", "asset", "side", "fraction",
    "unknown_orders", "max_order_qty", "reference_price", "max_order_notional", "price_collar", "stop_side",
    "max_symbol_exposure", "max_gross_exposure", "max_open_positions", "max_orders_per_day",
    "max_symbol_orders_per_day", "max_orders_per_minute", "duplicate_order", "opposite_order", "buying_power",
]
ACCOUNT = Account("ACTIVE", (), Decimal(200_000), Decimal(100_000), 0)
ASSET = Asset("active", "us_equity", tradable=True, fractionable=True, shortable=True)
LAST = LastTrade(Decimal(135), NOW)


def entry(number: int = 1, symbol: str = "NVDA", dollars: str = "1000", **changes: Any) -> OpenEntry:
    """A working entry of another decision, written down an hour ago."""
    known = OpenEntry(
        number, symbol, "buy", Decimal(7), Decimal("130.50"), NOW - timedelta(hours=1), f"{symbol}-{number}", "A7",
        OrderStatus.PENDING, Decimal(0), Decimal(dollars), at_broker=True,
    )
    return replace(known, **changes)


def hours(is_open: bool, minutes: float = 300) -> MarketHours:
    """The market, so many minutes before its next close."""
    return MarketHours(is_open, NOW + timedelta(hours=20), NOW + timedelta(minutes=minutes), NOW)


def book(*entries: OpenEntry, positions: Any = (), holdings: Any = None) -> Book:
    return Book(entries, positions, holdings or {})


def position(symbol: str = "NVDA", side: str = "long", qty: str = "10", dollars: str = "1000") -> dict[str, Any]:
    return {"symbol": symbol, "side": side, "qty": Decimal(qty), "dollars": Decimal(dollars)}


def checks(
    trade: NewTrade = LONG, symbol: str = "NVDA", limits: dict[str, Any] | None = None,
    decided_at: datetime | None = NOW - timedelta(hours=1), **facts: Any,
) -> list[RiskCheck]:
    known = {
        "now": NOW, "state": "ACTIVE", "state_reason": "", "account": ACCOUNT, "asset": ASSET, "last_trade": LAST,
        "book": book(), "day_pnl": Decimal(0),
    }
    return check_trade(symbol, trade, decided_at, replace(LIMITS, **(limits or {})), Situation(**known | facts))


def refusal(*args: Any, **kwargs: Any) -> tuple[str, str | None]:
    last = checks(*args, **kwargs)[-1]
    return last.name, last.refusal


def named(made: list[RiskCheck], name: str) -> RiskCheck:
    return next(check for check in made if check.name == name)


def passes(*args: Any, **kwargs: Any) -> bool:
    made = checks(*args, **kwargs)
    return made[-1].passed and [check.name for check in made] == NAMES


def test_a_good_trade_passes_every_check_in_order() -> None:
    made = checks()
    assert [check.name for check in made] == NAMES
    assert all(check.passed for check in made)


@pytest.mark.parametrize(
    ("age", "in_time"),
    [
        (timedelta(0), True),
        (timedelta(hours=96), True),
        (timedelta(hours=96, microseconds=1), False),
        (timedelta(hours=-24), True),
        (timedelta(hours=-24, microseconds=-1), False),
    ],
)
def test_a_decision_is_neither_too_old_nor_from_the_future(age: timedelta, in_time: bool) -> None:
    made = checks(decided_at=NOW - age)
    assert made[0].passed is in_time
    assert len(made) == (len(NAMES) if in_time else 1)


def test_the_age_limit_may_be_a_fraction_of_an_hour() -> None:
    limits = {"decision_max_age_hours": Decimal("0.5")}
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
    assert passes(SHORT, limits={"allow_short": True})


@pytest.mark.parametrize(
    ("qty", "words"),
    [
        ("10000", None),
        ("10000.000000001", "10000.000000001 shares is over MAX_ORDER_QTY=10000; order less, or raise the limit"),
        ("1E+5", "100000 shares is over MAX_ORDER_QTY=10000; order less, or raise the limit"),
    ],
)
def test_a_quantity_up_to_the_limit_passes(qty: str, words: str | None) -> None:
    made = checks(replace(LONG, qty=Decimal(qty), limit_price=Decimal("1.5")))
    assert named(made, "max_order_qty").refusal == words


@pytest.mark.parametrize(
    ("qty", "price", "words"),
    [
        ("100", "200", None),
        ("100", "200.0001", "20000.01 dollars is over MAX_ORDER_NOTIONAL=20000; order less, or raise the limit"),
        ("100.000000001", "200",
         "20000.0000002 dollars is over MAX_ORDER_NOTIONAL=20000; order less, or raise the limit"),
    ],
)
def test_a_notional_up_to_the_limit_passes(qty: str, price: str, words: str | None) -> None:
    made = checks(replace(LONG, qty=Decimal(qty), limit_price=Decimal(price)))
    assert named(made, "max_order_notional").refusal == words


@pytest.mark.parametrize(("price", "within"), [("200", True), ("200.01", False)])
def test_a_market_order_is_held_against_the_last_price(price: str, within: bool) -> None:
    trade = replace(LONG, qty=Decimal(100), target_price=Decimal(300), **MARKET)
    made = checks(trade, last_trade=LastTrade(Decimal(price), NOW))
    assert named(made, "max_order_notional").passed is within


def test_a_market_order_without_a_price_is_refused() -> None:
    name, words = refusal(replace(LONG, **MARKET), last_trade=None)
    assert name == "max_order_notional"
    assert "NVDA has no price now" in str(words)


def test_a_limit_order_for_what_has_never_traded_passes() -> None:
    assert passes(last_trade=None)


@pytest.mark.parametrize(
    ("trade", "hold"), [(LONG, Hold.UNPRICED), (replace(LONG, **MARKET), Hold.UNPRICED)],
)
def test_without_an_answer_about_prices_every_order_waits(trade: NewTrade, hold: Hold) -> None:
    last = checks(trade, last_trade=None, priced=False)[-1]
    assert (last.name, last.hold, last.refusal) == ("reference_price", hold, "the broker gave no price for NVDA")


MINUTES = [
    (timedelta(minutes=15), True, None), (timedelta(minutes=15, microseconds=1), False, None),
    (timedelta(hours=20), False, Hold.LATER),
]


@pytest.mark.parametrize(("age", "fresh", "hold"), MINUTES)
def test_a_market_order_needs_a_fresh_price(age: timedelta, fresh: bool, hold: Hold | None) -> None:
    last = checks(
        replace(LONG, **MARKET), last_trade=LastTrade(Decimal(135), NOW - age), hours=hours(hold is None),
    )[-1]
    assert last.passed is fresh
    if not fresh:
        assert (last.name, last.hold) == ("reference_price", hold)
        assert ("waits for a price of the session" if hold else "use a limit order") in str(last.refusal)


def test_a_market_order_for_the_opening_auction_goes_by_the_last_close() -> None:
    auction = replace(LONG, time_in_force=TimeInForce.OPG, **MARKET)
    old = LastTrade(Decimal(135), NOW - timedelta(hours=17))
    assert passes(auction, last_trade=old, hours=hours(False))
    assert refusal(auction, last_trade=old, hours=hours(True))[0] == "reference_price"


def test_a_price_without_a_time_is_an_old_one() -> None:
    assert refusal(replace(LONG, **MARKET), last_trade=LastTrade(Decimal(135), None), hours=hours(True))[0] == (
        "reference_price"
    )


def test_a_market_order_waits_while_nobody_knows_whether_the_market_is_open() -> None:
    old = LastTrade(Decimal(135), NOW - timedelta(hours=1))
    assert checks(replace(LONG, **MARKET), last_trade=old)[-1].hold is Hold.UNANSWERED


def test_a_limit_order_goes_by_a_price_of_any_age() -> None:
    assert passes(last_trade=LastTrade(Decimal(135), NOW - timedelta(days=4)))
    assert passes(last_trade=LastTrade(Decimal(135), None))


@pytest.mark.parametrize(
    ("side", "limit", "within"),
    [
        (Side.BUY, "141.75", True), (Side.BUY, "141.76", False), (Side.BUY, "1", True),
        (Side.SELL, "128.25", True), (Side.SELL, "128.24", False), (Side.SELL, "400", True),
    ],
)
def test_a_limit_may_be_patient_but_not_pay_too_much(side: Side, limit: str, within: bool) -> None:
    trade = replace(LONG, side=side, limit_price=Decimal(limit), qty=Decimal(1))
    check = named(checks(trade, limits={"allow_short": True}), "price_collar")
    assert check.passed is within
    if not within:
        assert "PRICE_COLLAR_PCT=5" in str(check.refusal)
        assert "the last price 135" in str(check.refusal)


@pytest.mark.parametrize(
    ("side", "stop", "target", "right"),
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
    side: Side, stop: str, target: str | None, right: bool,
) -> None:
    trade = replace(
        LONG, side=side, stop_price=Decimal(stop), target_price=None if target is None else Decimal(target), **MARKET,
    )
    made = checks(trade, limits={"allow_short": True})
    assert named(made, "stop_side").passed is right
    assert made[-1].passed is right


FAULTS: dict[str, dict[str, Any]] = {
    "decision_age": {"decided_at": None},
    "trading_state": {"state": "REDUCING"},
    "max_daily_loss": {"day_pnl": Decimal(-2001)},
    "account": {"account": replace(ACCOUNT, status="ACCOUNT_CLOSED")},
    "symbol_denylist": {"symbol": "GME"},
    "asset": {"asset": None},
    "side": {"trade": {"side": Side.SELL}},
    "max_order_qty": {"trade": {"qty": Decimal(10001)}},
    "max_order_notional": {"trade": {"limit_price": Decimal("1e6")}},
}


@pytest.mark.parametrize("first", range(len(FAULTS)))
def test_the_first_failure_refuses_and_nothing_is_checked_after_it(first: int) -> None:
    names = list(FAULTS)[first:]
    faults = [FAULTS[name] for name in names]
    trade: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for fault in faults:
        trade |= fault.get("trade", {})
        others |= {key: value for key, value in fault.items() if key != "trade"}
    made = checks(replace(LONG, **trade), **others)
    assert made[-1].name == names[0]
    assert [check.name for check in made] == NAMES[: len(made)]
    assert [check.passed for check in made] == [True] * (len(made) - 1) + [False]


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


@pytest.mark.parametrize("state", ["HALTED", "REDUCING"])
def test_an_entry_is_held_back_and_not_refused_while_trading_is_not_active(state: str) -> None:
    last = checks(state=state, state_reason="drill")[-1]
    assert (last.hold, last.refusal) == (Hold.HALTED, f"trading is {state}: drill")


@pytest.mark.parametrize(("pnl", "within"), [("-2000", True), ("-2000.01", False), ("5000", True)])
def test_an_entry_is_held_back_once_the_day_has_lost_too_much(pnl: str, within: bool) -> None:
    check = named(checks(day_pnl=Decimal(pnl)), "max_daily_loss")
    assert (check.passed, check.hold) == (within, None if within else Hold.HALTED)
    assert within or check.refusal == "2000.01 dollars were lost today, more than MAX_DAILY_LOSS=2000"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": "ACTIVE", "trading_blocked": True}, "trading_blocked"),
        ({"status": "ACTIVE", "account_blocked": True}, "account_blocked"),
        ({"status": "ACTIVE", "trade_suspended_by_user": True}, "trade_suspended_by_user"),
        ({"status": "SUBMITTED"}, "status SUBMITTED"),
        ({"status": "ACTIVE", "trading_blocked": False, "transfers_blocked": True}, None),
    ],
)
def test_an_account_that_may_not_trade_holds_entries_back(answer: dict[str, Any], words: str | None) -> None:
    check = named(checks(account=read_account(answer)), "account")
    assert (check.passed, check.hold) == (words is None, Hold.HALTED if words else None)
    assert words is None or f"({words})" in str(check.refusal)


@pytest.mark.parametrize("answer", [{}, {"status": None}, {"status": 1}])
def test_an_account_answer_without_a_status_makes_entries_wait(answer: dict[str, Any]) -> None:
    last = checks(account=read_account(answer))[-1]
    assert (last.name, last.hold) == ("account", Hold.UNANSWERED)


@pytest.mark.parametrize(
    ("trade", "price", "within"),
    [
        (LONG, "124.01", True), (LONG, "124", False), (LONG, "123", False),
        (SHORT, "145.49", True), (SHORT, "145.50", False), (SHORT, "146", False),
    ],
)
def test_a_stop_that_the_market_has_crossed_refuses_a_limit_order_too(
    trade: NewTrade, price: str, within: bool,
) -> None:
    wide = {"allow_short": True, "price_collar_pct": Decimal(50)}
    check = named(checks(trade, limits=wide, last_trade=LastTrade(Decimal(price), NOW)), "stop_side")
    assert check.passed is within
    assert within or "is on the wrong side of the price" in str(check.refusal)


def test_a_sell_counts_at_the_market_where_that_is_above_its_limit() -> None:
    short = replace(SHORT, qty=Decimal(100), limit_price=Decimal(130), stop_price=Decimal(210))
    room = {"allow_short": True, "price_collar_pct": Decimal(50)}
    at = named(checks(short, limits=room, last_trade=LastTrade(Decimal(200), NOW)), "max_order_notional")
    over = named(checks(short, limits=room, last_trade=LastTrade(Decimal("200.01"), NOW)), "max_order_notional")
    assert (at.passed, over.passed) == (True, False)


@pytest.mark.parametrize(("qty", "words"), [
    ("12", "3.2 shares are filled, and the rest cannot be ordered: qty 8.8 is fractional"), ("12.2", None),
])
def test_what_is_left_of_an_amended_order_must_be_orderable(qty: str, words: str | None) -> None:
    amended = replace(
        LONG, style=TradeStyle.TREND, target_price=None, qty=Decimal(qty), time_in_force=TimeInForce.GTC,
    )
    check = named(checks(amended, replaces=1, entered=Decimal("3.2")), "fraction")
    assert check.passed is (words is None)
    assert words is None or words in str(check.refusal)


@pytest.mark.parametrize(("open_now", "left", "hold"), [
    (True, 15, Hold.LATER), (True, 15.1, None), (False, 15, None), (None, 0, Hold.UNANSWERED),
])
def test_a_day_trade_is_not_opened_when_it_would_be_closed_at_once(
    open_now: bool | None, left: float, hold: Hold | None,
) -> None:
    trade = replace(LONG, style=TradeStyle.DAYTRADE, target_price=None)
    known = None if open_now is None else hours(open_now, left)
    last = checks(trade, limits={"daytrade_flatten_minutes": 15}, hours=known)[-1]
    assert (last.name, last.hold, last.passed) == ("flatten_window", hold, hold is None)
    assert checks(trade, hours=known)[-1].passed
    assert passes(limits={"daytrade_flatten_minutes": 15}, hours=known)


@pytest.mark.parametrize(("ahead", "fresh"), [(timedelta(minutes=15), True), (timedelta(days=2000), False)])
def test_a_price_of_the_future_makes_a_market_order_wait(ahead: timedelta, fresh: bool) -> None:
    last = checks(replace(LONG, **MARKET), last_trade=LastTrade(Decimal(135), NOW + ahead), hours=hours(True))[-1]
    assert (last.passed, last.hold) == (fresh, None if fresh else Hold.UNPRICED)


@pytest.mark.parametrize(
    ("asset", "words"),
    [
        (replace(ASSET, asset_class="crypto"), "NVDA is crypto at the broker, and only shares (us_equity) are traded"),
        (None, "the broker does not know NVDA"),
        (replace(ASSET, status="inactive"), "inactive, tradable"),
        (replace(ASSET, tradable=False), "active, not tradable"),
    ],
)
def test_a_symbol_that_cannot_be_traded_is_refused(asset: Asset | None, words: str) -> None:
    name, reason = refusal(asset=asset)
    assert name == "asset"
    assert words in str(reason)


def test_a_symbol_nobody_answers_about_waits() -> None:
    last = checks(asset=None, unanswered="no answer about NVDA")[-1]
    assert (last.name, last.hold, last.refusal) == ("asset", Hold.UNANSWERED, "no answer about NVDA")


def test_what_cannot_be_borrowed_is_not_sold_short() -> None:
    name, words = refusal(SHORT, limits={"allow_short": True}, asset=replace(ASSET, shortable=False))
    assert (name, "cannot be sold short" in str(words)) == ("side", True)
    assert passes(asset=replace(ASSET, shortable=False))


@pytest.mark.parametrize(
    ("qty", "fractionable", "within"), [("1.5", True, True), ("1.5", False, False), ("2", False, True)],
)
def test_fractions_are_only_ordered_where_there_are_any(qty: str, fractionable: bool, within: bool) -> None:
    trade = replace(LONG, style=TradeStyle.TREND, target_price=None, qty=Decimal(qty))
    assert named(checks(trade, asset=replace(ASSET, fractionable=fractionable)), "fraction").passed is within


def test_an_unknown_order_makes_its_symbol_wait_and_no_other() -> None:
    unknown = book(entry(status=OrderStatus.UNKNOWN))
    last = checks(book=unknown)[-1]
    assert (last.name, last.hold) == ("unknown_orders", Hold.LATER)
    assert "NVDA-1" in str(last.refusal)
    assert passes(symbol="AMD", book=unknown)
    assert passes(book=book(entry(status=OrderStatus.INTENDED)))


# The order itself is worth 6021 dollars.
@pytest.mark.parametrize(
    ("name", "room"),
    [("max_symbol_exposure", {"max_symbol_exposure": Decimal(10021)}),
     ("max_gross_exposure", {"max_gross_exposure": Decimal(10021)})],
)
@pytest.mark.parametrize(
    "known",
    [
        lambda dollars: book(entry(dollars=dollars)),
        lambda dollars: book(entry(dollars=dollars, status=OrderStatus.INTENDED, at_broker=False)),
        lambda dollars: book(positions=[position(dollars=dollars)]),
        lambda dollars: book(holdings={"NVDA": Holding(Decimal(1), Decimal(dollars))}),
        lambda dollars: book(entry(dollars="1000"), positions=[position(dollars=str(Decimal(dollars) - 1000))]),
    ],
    ids=["working", "not sent yet", "held", "held by somebody else", "held and working"],
)
def test_everything_held_or_on_its_way_counts_as_exposure(name: str, room: dict[str, Any], known: Any) -> None:
    assert passes(limits=room, book=known("4000"))
    refused, words = refusal(limits=room, book=known("4000.01"))
    assert refused == name
    assert "10021.01 dollars in" in str(words)
    assert f"{name.upper()}=10021; order less, or raise the limit" in str(words)


def test_other_symbols_count_for_the_gross_exposure_only() -> None:
    room = {"max_symbol_exposure": Decimal(6021), "max_gross_exposure": Decimal(10021)}
    assert passes(limits=room, book=book(entry(symbol="AMD", dollars="4000")))
    assert refusal(limits=room, book=book(entry(symbol="AMD", dollars="4000.01")))[0] == "max_gross_exposure"


def test_the_order_an_amend_replaces_does_not_count_twice() -> None:
    room = {"max_symbol_exposure": Decimal(6021), "max_gross_exposure": Decimal(6021)}
    known = book(entry(dollars="6000"))
    assert refusal(limits=room, book=known)[0] == "max_symbol_exposure"
    assert passes(limits=room, book=known, replaces=1)


def test_shares_that_a_replaced_order_has_filled_are_not_ordered_again() -> None:
    room = {"max_symbol_exposure": Decimal(6021)}
    held = book(entry(dollars="3345"), positions=[position(qty="20", dollars="2676")])
    assert passes(limits=room, book=held, replaces=1, entered=Decimal(20))
    assert not passes(limits=room, book=held, replaces=1, entered=Decimal(19))


@pytest.mark.parametrize(
    "known",
    [
        book(entry(dollars="3345"), positions=[position(qty="20", dollars="2676")]),
        book(entry(dollars="6021", held=Decimal(20), held_dollars=Decimal(2676))),
    ],
    ids=["in a position", "not in a position yet"],
)
@pytest.mark.parametrize("name", ["max_symbol_exposure", "max_gross_exposure"])
def test_shares_that_a_replaced_order_has_filled_stay_at_stake(name: str, known: Book) -> None:
    amended = {"trade": replace(LONG, qty=Decimal(50)), "book": known, "replaces": 1, "entered": Decimal(20)}
    assert passes(limits={name: Decimal(6690)}, **amended)  # 20 shares held and 30 more at 133.80
    refused, words = refusal(limits={name: Decimal("6689.99")}, **amended)
    assert (refused, "6690 dollars in" in str(words)) == (name, True)


def test_a_cancel_frees_no_buying_power_of_shares_that_are_filled() -> None:
    known = book(entry(dollars="6021", held=Decimal(20), held_dollars=Decimal(2676)))
    amended = {"trade": replace(LONG, qty=Decimal(50)), "book": known, "replaces": 1, "entered": Decimal(20)}
    needed = Decimal("4094.28") - 3345  # 30 shares with the buffer; the 25 that rest are given up
    assert passes(account=replace(ACCOUNT, buying_power=needed), **amended)
    short = replace(ACCOUNT, buying_power=needed - Decimal("0.01"))
    assert refusal(account=short, **amended)[0] == "buying_power"


@pytest.mark.parametrize(
    ("holding", "foreign"),
    [("10", "0"), ("25", "1500"), ("0", "0"), ("4", "0"), ("-5", "500")],
)
def test_shares_beyond_ours_are_other_peoples_and_fewer_may_be_a_late_answer(holding: str, foreign: str) -> None:
    known = book(positions=[position()], holdings={"NVDA": Holding(Decimal(holding), Decimal(100))})
    assert known.in_symbol("NVDA") == 1000 + Decimal(foreign)


def test_a_working_order_is_in_doubt_only_while_the_broker_holds_more_than_we_know() -> None:
    assert book(entry(), holdings={"NVDA": Holding(Decimal(7), Decimal(130))}).doubtful() == [1]
    assert book(entry(), positions=[position(qty="7")], holdings={"NVDA": Holding(Decimal(7), None)}).doubtful() == []
    assert book(entry(held=Decimal(7)), holdings={"NVDA": Holding(Decimal(7), None)}).doubtful() == []


def test_positions_are_counted_by_symbol() -> None:
    others = [entry(number, f"S{number}") for number in range(1, 20)]
    assert passes(book=book(*others))
    full = book(*others, positions=[position("AMD")])
    assert refusal(book=full)[0] == "max_open_positions"
    assert passes(symbol="AMD", book=full)
    assert passes(book=book(*others, entry(20, "S20", dollars="0")))


def day_of(count: int, ago: timedelta = timedelta(hours=1), symbol: str = "S") -> Book:
    each = [f"{symbol}{number}" if symbol == "S" else symbol for number in range(count)]
    return book(*(
        entry(number, each[number], "0", created_at=NOW - ago, status=OrderStatus.CANCELLED) for number in range(count)
    ))


def test_orders_of_the_day_are_bounded_and_those_of_yesterday_forgotten() -> None:
    assert passes(book=day_of(49))
    assert refusal(book=day_of(50))[0] == "max_orders_per_day"
    midnight = timedelta(hours=10)  # in New York
    assert refusal(book=day_of(50, midnight))[0] == "max_orders_per_day"
    assert passes(book=day_of(50, midnight + timedelta(microseconds=1)))


def test_orders_of_one_symbol_are_bounded() -> None:
    assert passes(book=day_of(9, symbol="NVDA"))
    assert refusal(book=day_of(10, symbol="NVDA"))[0] == "max_symbol_orders_per_day"
    assert passes(symbol="AMD", book=day_of(10, symbol="NVDA"))
    midnight = timedelta(hours=10)  # in New York
    assert refusal(book=day_of(10, midnight, "NVDA"))[0] == "max_symbol_orders_per_day"
    assert passes(book=day_of(10, midnight + timedelta(microseconds=1), "NVDA"))


def test_a_burst_of_orders_waits() -> None:
    limits = {"max_orders_per_day": 1000}
    assert passes(limits=limits, book=day_of(59, timedelta(minutes=1)))
    last = checks(limits=limits, book=day_of(60, timedelta(minutes=1)))[-1]
    assert (last.name, last.hold) == ("max_orders_per_minute", Hold.LATER)
    assert passes(limits=limits, book=day_of(60, timedelta(minutes=1, microseconds=1)))


ALIKE = {"qty": Decimal(45), "limit_price": Decimal("133.8")}


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({}, True), ({"qty": Decimal(46)}, False), ({"limit_price": Decimal("133.81")}, False),
        ({"limit_price": None}, False), ({"status": OrderStatus.REJECTED}, False),
        ({"status": OrderStatus.FILLED, "filled": True}, True),
        ({"created_at": NOW - timedelta(minutes=10, microseconds=-1)}, True),
        ({"created_at": NOW - timedelta(minutes=10)}, False),
    ],
)
def test_the_same_order_again_is_refused_by_the_name_of_the_first(changes: dict[str, Any], alike: bool) -> None:
    same = entry(**({"created_at": NOW - timedelta(minutes=5)} | ALIKE | changes))
    check = named(checks(book=book(same)), "duplicate_order")
    assert check.passed is not alike
    if alike:
        assert str(check.refusal).startswith("A7 ordered the same at 14:5")
        assert "(NVDA-1)" in str(check.refusal)
    assert passes(limits={"duplicate_window_minutes": 0}, book=book(same))


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (book(entry(side="sell")), "a sell order in NVDA is at work (NVDA-1)"),
        (book(entry(side="sell", status=OrderStatus.CANCELLED)), None),
        (book(entry(side="sell", symbol="AMD")), None),
        (book(positions=[position(side="short")]), "would close the short position of 10 shares in NVDA"),
        (book(holdings={"NVDA": Holding(Decimal(-3), Decimal(135))}), "would close the short position of 3 shares"),
        (book(positions=[position(side="long")]), None),
    ],
)
def test_an_order_against_another_or_against_a_position_is_refused(known: Book, words: str | None) -> None:
    check = named(checks(book=known), "opposite_order")
    assert check.passed is (words is None)
    assert words is None or words in str(check.refusal)


# With its buffer the order needs 6141.42 dollars.
@pytest.mark.parametrize(
    ("power", "known", "replaces", "within"),
    [
        ("6141.42", book(), None, True),
        ("6141.41", book(), None, False),
        ("7141.42", book(entry(at_broker=False)), None, True),
        ("7141.41", book(entry(at_broker=False)), None, False),
        ("6141.42", book(entry()), None, True),
        ("5141.42", book(entry()), 1, True),
        ("5141.41", book(entry()), 1, False),
    ],
)
def test_an_order_needs_buying_power_to_spare(power: str, known: Book, replaces: int | None, within: bool) -> None:
    account = replace(ACCOUNT, buying_power=Decimal(power))
    assert named(checks(account=account, book=known, replaces=replaces), "buying_power").passed is within


def test_an_account_that_does_not_tell_its_buying_power_leaves_that_to_the_broker() -> None:
    assert passes(account=read_account({"status": "ACTIVE"}))


@pytest.mark.parametrize(
    ("answer", "within"),
    [
        ({"daytrade_count": 2, "equity": "24999"}, True),
        ({"daytrade_count": 3, "equity": "24999"}, False),
        ({"daytrade_count": 3, "equity": "25000"}, True),
        ({"pattern_day_trader": True, "equity": "24999"}, False),
        ({"equity": "24999"}, True),
    ],
)
def test_a_day_trade_is_refused_where_the_broker_would_take_no_further_one(
    answer: dict[str, Any], within: bool,
) -> None:
    account = read_account({"status": "ACTIVE", "buying_power": "100000"} | answer)
    trade = replace(LONG, style=TradeStyle.DAYTRADE, target_price=None)
    assert named(checks(trade, account=account), "day_trades").passed is within
    assert passes(account=account)


def test_the_page_for_deciders_quotes_the_refusals_of_limits_as_they_are_worded() -> None:
    page = (PROJECT / "docs" / "decisions-in.md").read_text().partition("The limits say")[2]
    quoted = re.findall(r"^\| `(?!duplicate:)([^`]+)` \|$", page, re.MULTILINE)
    one = replace(LONG, qty=Decimal(1), limit_price=Decimal(130))
    same = entry(trade_name="NVDA-20250115-5477c81304fc-16a36e86f6", decided_by="A1", created_at=NOW)
    worded = [
        refusal(replace(LONG, qty=Decimal(150))),
        refusal(one, book=book(positions=[position(dollars="24960")])),
        refusal(book=day_of(50)),
        refusal(replace(one, limit_price=Decimal(150))),
        refusal(book=book(replace(same, qty=LONG.qty, limit_price=LONG.limit_price))),
        refusal(asset=replace(ASSET, tradable=False)),
    ]
    assert quoted == [words for _, words in worded]


@pytest.mark.parametrize(("now", "began"), [
    ("2025-03-09T04:59", "2025-03-08T05:00"), ("2025-03-09T05:00", "2025-03-09T05:00"),
    ("2025-03-10T03:59", "2025-03-09T05:00"), ("2025-03-10T04:00", "2025-03-10T04:00"),  # a day of 23 hours
    ("2025-11-02T03:59", "2025-11-01T04:00"), ("2025-11-02T06:30", "2025-11-02T04:00"),
    ("2025-11-03T04:59", "2025-11-02T04:00"), ("2025-11-03T05:00", "2025-11-03T05:00"),  # a day of 25 hours
])
def test_a_day_begins_at_midnight_in_new_york_also_when_clocks_change(now: str, began: str) -> None:
    moment, start = (datetime.fromisoformat(f"{text}+00:00") for text in (now, began))
    assert day_start(moment) == start
