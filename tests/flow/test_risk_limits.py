"""The risk gate in passes of the programs: what is refused, what waits, what counts for the next order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from alpaca_client import BrokerError
from daily_loss import day_pnl
from db_layer import TradingDB
from kill_switch import TradingState, change_control, current_control
from tests.flow.changes import amend, cancel, partly_filled, placed, point
from tests.flow.world import START, World, swing, trend

WAITING_FOR_A_LOCK = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
SWITCH = {"reason": "test", "changed_by": "test", "changed_at": START}


def refused(world: World, name: str) -> str:
    """Carry out and expect that just this decision is refused with no order sent; return its remark."""
    before = len(world.posted())
    assert world.execute() == {"refused": 1}
    assert len(world.posted()) == before
    row = world.analysis(name)
    assert row["executed"] is True
    assert row["Remarks"].startswith("REJECTED: ")
    return str(row["Remarks"])


def last_check(world: World, name: str) -> dict[str, Any]:
    decision = world.one("trade_decisions", analysis_decision_id=name)
    return world.db.query("risk_checks", {"trade_decision_id": decision["id"]})[-1]


def market(world: World, **prices: str) -> None:
    for symbol, price in prices.items():
        world.price(symbol, price)


def test_every_check_of_a_placed_order_is_a_row_with_limit_and_value(world: World) -> None:
    world.decide(swing())
    world.execute()
    rows = world.db.query("risk_checks")
    assert all(row["passed"] for row in rows)
    assert {row["check_name"]: (row["limit_value"], row["observed_value"]) for row in rows} == {
        "decision_age": ("DECISION_MAX_AGE_HOURS=96", "0.5 hours"),
        "trading_state": ("ACTIVE", "ACTIVE"),
        "max_daily_loss": ("2000", "0"),
        "account": ("ACTIVE, not blocked", "ACTIVE"),
        "symbol_denylist": ("", "NVDA"),
        "asset": ("active, tradable", "active, tradable"),
        "side": ("ALLOW_SHORT=false", "buy"),
        "fraction": ("fractions", "45"),
        "unknown_orders": ("0", "0"),
        "max_order_qty": ("10000", "45"),
        "reference_price": ("any age", "135, 0 minutes old"),
        "max_order_notional": ("20000", "6021"),
        "price_collar": ("PRICE_COLLAR_PCT=5: 141.75", "133.8"),
        "stop_side": ("stop 124.0", "price 135"),
        "max_symbol_exposure": ("25000", "6021"),
        "max_gross_exposure": ("100000", "6021"),
        "max_open_positions": ("20", "1"),
        "max_orders_per_day": ("50", "1"),
        "max_symbol_orders_per_day": ("10", "1"),
        "max_orders_per_minute": ("60", "1"),
        "duplicate_order": ("10 minutes", "0 alike"),
        "opposite_order": ("none", "none"),
        "buying_power": ("200000", "6141.42"),
    }


@pytest.mark.parametrize("flag", ["trading_blocked", "account_blocked"])
def test_entries_wait_while_the_account_is_blocked(world: World, flag: str) -> None:
    world.market.set_account(**{flag: True})
    world.decide(swing())
    assert world.execute() == {"held back": 1}
    world.market.set_account(**{flag: False})
    assert world.execute() == {"placed": 1}


@pytest.mark.parametrize("worker", ["execute", "monitor", "value"])
def test_a_blocked_account_is_an_alert_until_it_may_trade_again(world: World, worker: str) -> None:
    world.market.set_account(account_blocked=True)
    getattr(world, worker)()
    alert = world.one("alerts", kind="account_blocked")
    assert (alert["level"], "(account_blocked); settle it with the broker" in alert["message"]) == ("critical", True)
    world.market.set_account(account_blocked=False)
    getattr(world, worker)()
    assert world.one("alerts", kind="account_blocked")["resolved_at"] is not None


def test_an_account_answer_that_says_nothing_burns_no_decision(world: World) -> None:
    world.decide(swing())
    world.fault("GET", "/v2/account", "status", code=200, body={})
    assert world.execute() == {"broker did not answer": 1}
    assert world.execute() == {"placed": 1}


def test_a_price_that_makes_no_sense_does_not_switch_the_collar_off(world: World) -> None:
    name = world.decide(swing(limit_price=1338, qty=10, take_profit=1455))
    world.fault("GET", "/v2/stocks/trades/latest", "status", code=200, body={"trades": {"NVDA": {"p": None}}})
    assert world.execute() == {"waiting for a price": 1}
    assert "above the last price 135" in refused(world, name)


def test_a_day_trade_is_not_bought_just_before_it_would_be_sold(world: World) -> None:
    world.configure(DAYTRADE_FLATTEN_MINUTES_BEFORE_CLOSE="15")
    world.pass_time(hours=5, minutes=50)
    world.price("NVDA", "135")
    world.decide(trend(strategy="DAYTRADE", limit_price=136))
    assert world.execute() == {"waiting": 1}


def test_an_amend_whose_rest_cannot_be_ordered_leaves_the_old_order(world: World) -> None:
    world.market.set_liquidity("NVDA", "3.2")
    old = placed(world, trend(qty=10.5))
    world.price("NVDA", "133.50")
    world.price("NVDA", "135")
    name = point(world, amend(strategy="TREND", qty=12, time_in_force="gtc"), old["alpaca_order_id"])
    assert "the rest cannot be ordered: qty 8.8 is fractional" in refused(world, name)
    assert world.market.order(old["alpaca_order_id"]).live


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"tradable": False}, "NVDA cannot be traded at the broker now (active, not tradable)"),
        ({"status": "inactive"}, "NVDA cannot be traded at the broker now (inactive, tradable)"),
    ],
)
def test_a_symbol_that_is_halted_is_refused_with_the_reason(world: World, flags: dict[str, Any], words: str) -> None:
    world.market.define_asset("NVDA", **flags)
    assert words in refused(world, world.decide(swing()))


def test_a_symbol_the_broker_does_not_know_is_refused(world: World) -> None:
    assert "the broker does not know NOPE" in refused(world, world.decide(swing("NOPE"), "NOPE"))


def test_a_symbol_the_broker_gives_no_answer_about_waits_and_others_do_not(world: World) -> None:
    market(world, AMD="135")
    name = world.decide(swing())
    world.decide(swing("AMD"), "AMD")
    world.fault("GET", "/v2/assets/NVDA", "status", code=500)
    assert world.execute() == {"broker did not answer": 1, "placed": 1}
    assert world.analysis(name)["executed"] is None
    assert world.execute() == {"placed": 1}


def test_no_entry_is_sent_while_the_broker_does_not_say_what_it_holds(world: World) -> None:
    world.decide(swing())
    world.fault("GET", "/v2/positions", "status", code=500)
    assert world.execute() == {"broker did not answer": 1}
    assert world.execute() == {"placed": 1}


def test_a_fraction_of_what_comes_in_whole_shares_is_refused(world: World) -> None:
    world.market.define_asset("NVDA", fractionable=False)
    name = world.decide(trend(qty=1.5))
    assert "trades in whole shares only, and qty is 1.5" in refused(world, name)
    world.decide(trend(qty=2))
    assert world.execute() == {"placed": 1}


@pytest.mark.parametrize(("limit", "result"), [(141.75, "placed"), (141.76, "refused"), (125, "placed")])
def test_a_buy_may_be_patient_but_not_pay_more_than_the_collar(world: World, limit: float, result: str) -> None:
    world.decide(swing(limit_price=limit, take_profit=150))
    assert world.execute() == {result: 1}


def stale(world: World, age: timedelta) -> None:
    at = (world.clock.now() - age).isoformat()
    world.fault("GET", "/v2/stocks/trades/latest", "edit", set={"trades": {"NVDA": {"t": at, "p": 135}}}, times=None)


def test_a_market_order_needs_a_fresh_price_within_the_session(world: World) -> None:
    stale(world, timedelta(minutes=16))
    name = world.decide(trend(type="market", stop_loss=120))
    assert "16 minutes old" in refused(world, name)
    world.decide(trend(limit_price=133))
    assert world.execute() == {"placed": 1}


def test_outside_the_session_limit_orders_go_out_and_market_orders_wait_for_it(world: World) -> None:
    world.pass_time(hours=8)
    world.decide(trend(limit_price=133))
    name = world.decide(trend(type="market", stop_loss=120))
    assert world.execute() == {"placed": 1, "waiting": 1}
    assert world.analysis(name)["executed"] is None
    world.clock.set(START + timedelta(days=1))
    world.market.set_time(world.clock.now())
    assert world.execute() == {"placed": 1}


def test_orders_of_the_same_pass_count_for_the_next_one(world: World) -> None:
    world.decide(trend(limit_price=130, qty=100))
    world.decide(trend(limit_price=130, qty=92))  # 24960 dollars together
    last = world.decide(trend(limit_price=130, qty=1))
    assert world.execute() == {"placed": 2, "refused": 1}
    assert "25090 dollars in NVDA, with 130 for this order, are over MAX_SYMBOL_EXPOSURE=25000" in (
        world.analysis(last)["Remarks"]
    )


def test_orders_of_earlier_passes_and_positions_count_at_their_last_price(world: World) -> None:
    world.open_position(swing(qty=100, limit_price=135, take_profit=150))
    world.price("NVDA", "140")
    world.value()
    world.decide(trend(limit_price=133, qty=82))  # 14000 and 10906 dollars
    assert world.execute() == {"placed": 1}
    assert "25039 dollars in NVDA" in refused(world, world.decide(trend(limit_price=133, qty=1)))


def test_a_market_order_at_work_counts_at_what_it_was_checked_with(world: World) -> None:
    world.market.set_liquidity("NVDA", "1")
    world.decide(trend(type="market", qty=100, stop_loss=120))
    world.execute()
    world.market.set_account(cash="1000000")
    assert "dollars in NVDA" in refused(world, world.decide(trend(limit_price=133, qty=87)))
    assert last_check(world, "A2")["observed_value"] == "25071"


def test_the_gross_exposure_and_the_number_of_positions_are_bounded(world: World) -> None:
    world.configure(MAX_GROSS_EXPOSURE="12000", MAX_OPEN_POSITIONS="2")
    market(world, AMD="135", KO="135", PEP="135")
    world.decide(swing(), "NVDA")
    gross = world.decide(swing("AMD"), "AMD")
    world.decide(swing("KO", qty=10), "KO")
    third = world.decide(swing("PEP", qty=10), "PEP")
    assert world.execute() == {"placed": 2, "refused": 2}
    assert "12042 dollars in all symbols" in world.analysis(gross)["Remarks"]
    assert "3 symbols with a position or an order" in world.analysis(third)["Remarks"]
    assert "MAX_OPEN_POSITIONS=2" in world.analysis(third)["Remarks"]


def test_an_order_that_the_broker_refused_binds_nothing(world: World) -> None:
    world.configure(MAX_SYMBOL_EXPOSURE="6021")
    world.fault("POST", "/v2/orders", "status", code=403, body={"code": 40310000, "message": "no"})
    world.decide(swing())
    world.decide(swing(qty=44))
    assert world.execute() == {"refused": 1, "placed": 1}


def test_an_order_that_never_left_binds_its_exposure(world: World) -> None:
    world.configure(MAX_SYMBOL_EXPOSURE="7000")
    world.decide(swing())
    world.decide(swing(qty=44))
    assert world.execute_with_the_line_down() == {"not sent": 1, "refused": 1}


def test_an_unknown_order_counts_fully_and_makes_its_symbol_wait_until_it_is_known(world: World) -> None:
    market(world, AMD="135")
    world.configure(MAX_GROSS_EXPOSURE="7000", ALPACA_TIMEOUT_SECONDS="1")
    world.fault("POST", "/v2/orders", "status", code=504)
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500)
    world.decide(swing())
    waiting = world.decide(swing(qty=5))
    other = world.decide(swing("AMD", qty=10), "AMD")
    assert world.execute() == {"unknown outcome": 1, "waiting": 1, "refused": 1}
    assert world.analysis(waiting)["executed"] is None
    assert "7359 dollars in all symbols" in world.analysis(other)["Remarks"]
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500)
    assert world.execute() == {"waiting": 2}
    assert len(world.posted()) == 1
    for _ in range(3):
        world.pass_time(seconds=30)
        result = world.execute()
    assert result == {}
    assert world.one("order_execution", analysis_decision_id="A1")["order_status"] == "cancelled"
    assert world.analysis(waiting)["existing_order_id"] is not None


def test_an_exit_of_unknown_outcome_makes_its_symbol_wait_and_no_other(world: World) -> None:
    market(world, AMD="135")
    world.decide(swing())
    world.execute()
    market(world, NVDA="133.50")
    world.fault("POST", "/v2/orders", "status", code=504)
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500, times=2)
    world.monitor()
    waiting = world.decide(swing(qty=5))
    world.decide(swing("AMD", qty=10), "AMD")
    assert world.execute() == {"waiting": 1, "placed": 1}
    assert world.analysis(waiting)["executed"] is None
    for _ in range(3):
        world.pass_time(seconds=30)
        world.monitor()
    assert world.execute() == {"placed": 1}


def test_shares_of_other_people_count(world: World) -> None:
    world.market.foreign_fill("NVDA", "buy", "150", "130")
    name = world.decide(swing())
    assert "26271 dollars in NVDA" in refused(world, name)  # 150 at the last price of 135, and 6021


def test_an_entry_that_has_just_filled_does_not_count_as_other_peoples_shares_too(world: World) -> None:
    world.configure(MAX_SYMBOL_EXPOSURE="13000")
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    world.decide(swing(qty=44))
    assert world.execute() == {"placed": 1}
    assert world.one("order_execution", analysis_decision_id="A1")["order_status"] == "filled"
    assert world.db.query("external_order") == []


def test_an_amend_may_use_the_room_of_the_order_it_replaces(world: World) -> None:
    world.configure(MAX_SYMBOL_EXPOSURE="7000", MAX_GROSS_EXPOSURE="7000")
    world.decide(swing())
    world.execute()
    old = world.one("order_execution")
    point(world, amend(qty=52), old["alpaca_order_id"])
    assert world.execute() == {"placed": 1}
    assert [order["qty"] for order in world.posted()] == ["45", "52"]


@pytest.mark.parametrize("limit", ["MAX_SYMBOL_EXPOSURE", "MAX_GROSS_EXPOSURE"])
def test_what_an_amended_order_has_filled_counts_before_it_is_a_position(world: World, limit: str) -> None:
    world.configure(**{limit: "7000"})
    old = partly_filled(world, "40")
    name = point(world, amend(qty=80, limit_price=134), old["alpaca_order_id"])
    remark = refused(world, name)
    assert "10712 dollars in" in remark  # 40 at 133.80 and 40 at 134
    assert f"{limit}=7000" in remark
    assert world.market.order(old["alpaca_order_id"]).live


def test_an_amend_over_a_limit_cancels_nothing(world: World) -> None:
    world.configure(MAX_SYMBOL_EXPOSURE="7000")
    world.decide(swing())
    world.execute()
    old = world.one("order_execution")
    name = point(world, amend(qty=54), old["alpaca_order_id"])
    assert "MAX_SYMBOL_EXPOSURE=7000" in refused(world, name)
    assert world.market.order(old["alpaca_order_id"]).live


def test_a_cancelled_order_makes_room_for_the_next_decision_of_the_pass(world: World) -> None:
    world.configure(MAX_SYMBOL_EXPOSURE="7000")
    world.decide(swing())
    world.execute()
    point(world, cancel(), world.one("order_execution")["alpaca_order_id"])
    world.decide(swing(qty=44))
    assert world.execute() == {"cancelled": 1, "placed": 1}


def test_orders_of_the_day_are_bounded_until_midnight_in_new_york(world: World) -> None:
    world.configure(MAX_ORDERS_PER_DAY="2")
    for qty in (1, 2):
        world.decide(swing(qty=qty))
    assert world.execute() == {"placed": 2}
    words = "3 orders today, this one included, are over MAX_ORDERS_PER_DAY=2"
    assert words in refused(world, world.decide(swing(qty=3)))
    world.clock.set(START + timedelta(hours=13, minutes=59))
    refused(world, world.decide(swing(qty=4)))
    world.clock.set(START + timedelta(hours=14))
    world.decide(swing(qty=5))
    assert world.execute() == {"placed": 1}


def test_repeated_orders_in_one_symbol_are_bounded(world: World) -> None:
    world.configure(MAX_SYMBOL_ORDERS_PER_DAY="2")
    market(world, AMD="135")
    for qty in (1, 2):
        world.decide(swing(qty=qty))
    assert world.execute() == {"placed": 2}
    assert "3 orders in NVDA today" in refused(world, world.decide(swing(qty=3)))
    world.decide(swing("AMD"), "AMD")
    assert world.execute() == {"placed": 1}


def test_a_burst_of_orders_waits_for_the_next_minute(world: World) -> None:
    world.configure(MAX_ORDERS_PER_MINUTE="2")
    for qty in (1, 2, 3):
        world.decide(swing(qty=qty))
    assert world.execute() == {"placed": 2, "waiting": 1}
    world.pass_time(seconds=61)
    assert world.execute() == {"placed": 1}


def test_the_same_order_by_another_decision_is_refused_for_a_while(world: World) -> None:
    first = world.decide(swing())
    again = world.decide(swing())
    assert world.execute() == {"placed": 1, "refused": 1}
    assert f"{first} ordered the same at 15:00 UTC" in world.analysis(again)["Remarks"]
    world.pass_time(minutes=10)
    world.decide(swing())
    assert world.execute() == {"placed": 1}


def test_a_short_against_a_working_buy_is_refused(world: World) -> None:
    world.configure(ALLOW_SHORT="true")
    world.decide(swing())
    world.execute()
    name = world.decide(swing(side="sell", limit_price=140, stop_loss=150, take_profit=120, qty=10))
    assert "a buy order in NVDA is at work" in refused(world, name)


def test_an_order_beyond_the_buying_power_is_refused(world: World) -> None:
    world.market.set_account(cash="6141.41", multiplier="1")
    assert "is over the account's buying power of 6141.41" in refused(world, world.decide(swing()))
    world.market.set_account(cash="6141.42")
    world.pass_time(minutes=10)
    world.decide(swing())
    world.decide(swing(qty=1))
    assert world.execute() == {"placed": 1, "refused": 1}


def lose(world: World, price: str) -> None:
    """Hold 100 NVDA bought at 135 and value them at this price."""
    world.open_position(swing(qty=100, limit_price=135, stop_loss=100, take_profit=150), price="135")
    world.price("NVDA", price)


@pytest.mark.parametrize(("price", "state"), [("115", None), ("114.99", "REDUCING")])
def test_the_position_monitor_ends_a_day_that_has_lost_too_much_once(
    world: World, price: str, state: str | None,
) -> None:
    lose(world, price)
    world.value()
    switched = [row["state"] for row in world.db.query("trading_control")]
    assert switched == ([state] if state else [])
    world.value()
    assert len(world.db.query("trading_control")) == len(switched)
    if state:
        row = world.one("trading_control")
        assert row["changed_by"] == "daily loss limit"
        assert row["reason"] == "2001 dollars were lost today, more than MAX_DAILY_LOSS=2000"


def test_what_was_lost_for_good_ends_the_day_although_there_are_no_prices(world: World) -> None:
    market(world, AMD="135")
    world.open_position(swing(qty=100, limit_price=135, stop_loss=115, take_profit=150), price="135")
    world.decide(swing("AMD", qty=10, limit_price=136), "AMD")
    world.execute()
    world.monitor()
    world.price("NVDA", "114")
    world.monitor()
    world.fault("GET", "/v2/stocks/trades/latest", "status", code=500, times=None)
    with pytest.raises(BrokerError):
        world.value()
    assert world.one("trading_control")["state"] == "REDUCING"


def test_the_executor_holds_entries_back_on_such_a_day_and_after_it(world: World) -> None:
    world.configure(MAX_DAILY_LOSS="100000")
    lose(world, "114.99")
    world.value()
    world.configure()
    name = world.decide(swing("NVDA", limit_price=114, stop_loss=100, take_profit=130))
    assert world.preview() == [
        f"{name}: buy 45 NVDA at 114: would be held back, 2001 dollars were lost today, more than MAX_DAILY_LOSS=2000",
    ]
    assert world.db.query("trading_control") == []
    assert world.execute() == {"held back": 1}
    assert world.one("trading_control")["state"] == "REDUCING"
    world.pass_time(days=1)
    assert world.execute() == {"held back": 1}
    world.db.insert("trading_control", SWITCH | {"state": "ACTIVE"})
    assert world.execute() == {"placed": 1}


def test_the_loss_of_trades_closed_today_counts_and_that_of_yesterday_does_not(world: World) -> None:
    world.configure(MAX_DAILY_LOSS="900")
    world.open_position(swing(qty=100, limit_price=135, stop_loss=126), price="135")
    world.price("NVDA", "125")
    world.monitor()
    closed = world.one("trade_journal")
    assert (closed["status"], closed["actual_pnl"]) == ("CLOSED", Decimal(-1000))
    world.decide(swing(limit_price=124, stop_loss=110))
    assert world.execute() == {"held back": 1}
    world.db.insert("trading_control", SWITCH | {"state": "ACTIVE"})
    world.pass_time(days=1)
    assert world.execute() == {"placed": 1}


def test_only_todays_change_of_a_position_counts(world: World) -> None:
    world.configure(MAX_DAILY_LOSS="900")
    lose(world, "127")
    world.value()
    world.pass_time(days=1)
    world.price("NVDA", "118.01")
    world.value()
    assert world.db.query("trading_control") == []  # 800 dollars yesterday, 899 today
    world.price("NVDA", "117.99")
    world.value()
    assert world.one("trading_control")["reason"].startswith("901 dollars were lost today")


def held_over_night(world: World, at: str = "135", **changes: Any) -> None:
    """Hold 45 NVDA bought at 133.50, valued at this price, and come to the next day."""
    world.open_position(trend(**{"stop_loss": 60} | changes))
    world.price("NVDA", at)
    world.value()
    world.pass_time(days=1)


def test_a_split_is_no_loss_and_its_shares_count_at_their_new_price(world: World) -> None:
    market(world, AMD="120")
    held_over_night(world)
    world.market.split("NVDA", "10")
    world.price("NVDA", "13.50")
    world.configure(MAX_GROSS_EXPOSURE="7255")  # 450 at 13.50, and 1180
    world.decide(swing("AMD", qty=10, limit_price=118, stop_loss=110, take_profit=130), "AMD")
    assert world.execute() == {"placed": 1}
    world.value()
    assert day_pnl(world.db, world.clock.now()) == 0
    assert world.db.query("trading_control") == []


def test_a_reverse_split_hides_no_loss(world: World) -> None:
    held_over_night(world)
    world.market.split("NVDA", "0.2")
    world.price("NVDA", "675")
    world.value()
    world.price("NVDA", "350")
    world.value()
    assert world.one("trading_control")["reason"].startswith("2925 dollars were lost today")


def test_shares_that_come_bring_no_loss_of_the_shares_that_were_there(world: World) -> None:
    world.market.set_liquidity("NVDA", "20")
    world.decide(swing(time_in_force="gtc"))
    world.execute()
    world.price("NVDA", "133.50")
    world.price("NVDA", "140")
    world.monitor()
    world.value()
    world.pass_time(days=1)
    world.market.set_liquidity("NVDA", "1000")
    world.price("NVDA", "133.50")
    world.monitor()
    assert world.one("position_tracking")["qty"] == 45
    assert day_pnl(world.db, world.clock.now()) == 0
    world.value()
    assert day_pnl(world.db, world.clock.now()) == -130  # 20 shares from 140 to 133.50, and 25 bought there


def test_shares_that_came_are_valued_although_the_price_is_the_same(world: World) -> None:
    world.market.set_liquidity("NVDA", "20")
    world.decide(swing())
    world.execute()
    world.price("NVDA", "130")
    world.monitor()
    world.value()
    world.price("NVDA", "130")
    world.monitor()
    world.value()
    position = world.one("position_tracking")
    assert (position["qty"], position["market_value"]) == (40, 5200)


@pytest.mark.parametrize(("yesterday", "today", "change"), [("150", "140", -450), ("128", "126", -90)])
def test_of_a_trade_closed_today_only_todays_change_counts(
    world: World, yesterday: str, today: str, change: int,
) -> None:
    held_over_night(world, yesterday)
    world.price("NVDA", today)
    world.market.foreign_close("NVDA")
    world.value()
    assert world.one("trade_journal")["status"] == "CLOSED"
    assert day_pnl(world.db, world.clock.now()) == change
    world.pass_time(days=1)
    assert day_pnl(world.db, world.clock.now()) == 0


def test_shares_sold_out_of_a_position_count_on_the_day_they_are_sold(world: World) -> None:
    held_over_night(world, "140")
    world.price("NVDA", "130")
    world.market.cancel(next(iter(world.market.state.live)))
    world.market.foreign_fill("NVDA", "sell", "20", "130")
    world.value()
    assert world.one("position_tracking")["qty"] == 25
    assert day_pnl(world.db, world.clock.now()) == -450  # all 45 came down from 140 to 130
    world.pass_time(days=1)
    world.price("NVDA", "131")
    world.value()
    assert day_pnl(world.db, world.clock.now()) == 25


def test_a_state_that_somebody_set_is_left_alone(world: World) -> None:
    lose(world, "100.50")
    world.db.insert("trading_control", SWITCH | {"state": "HALTED"})
    world.value()
    assert world.one("trading_control")["state"] == "HALTED"


def test_a_switch_that_is_being_made_is_not_overruled_by_the_days_loss(
    world: World, database: dict[str, Any],
) -> None:
    lose(world, "114.99")
    with TradingDB(config=database | {"user": "trading_app"}) as person, ThreadPoolExecutor(1) as pool:
        with person.transaction():
            change_control(person, TradingState.HALTED, "drill", "tester@here", world.clock.now(), flatten=True)
            work = pool.submit(world.value)
            while not work.done() and not world.db.execute_query(WAITING_FOR_A_LOCK):
                pass
        work.result()
    assert current_control(world.db).flatten


def test_a_dry_run_counts_what_would_be_sent_before(world: World) -> None:
    world.configure(MAX_SYMBOL_EXPOSURE="7000")
    world.decide(swing(), name="FIRST")
    world.decide(swing(qty=44), name="SECOND")
    first, second = world.preview()
    assert first == "FIRST: buy 45 NVDA at 133.8: would be sent"
    assert second.startswith("SECOND: would be refused: 11908.2 dollars in NVDA")


def test_the_gate_asks_once_a_pass(world: World) -> None:
    market(world, AMD="135")
    for qty in (1, 2, 3, 4):
        world.decide(swing(qty=qty))
    world.decide(swing("AMD"), "AMD")
    world.execute()
    asked = [seen["path"] for seen in world.market.requests if seen["method"] == "GET"]
    assert sorted(asked) == [
        "/v2/account", "/v2/assets/AMD", "/v2/assets/NVDA", "/v2/positions", "/v2/stocks/trades/latest",
    ]
