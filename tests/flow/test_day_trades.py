"""Short positions with their exits turned round, and day trades that are closed before the close."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest

from alpaca_client import BrokerError
from tests.flow.exits import exits, is_flat, member, part, place, refuse, sent, sold, stays_as_it_is, trade
from tests.flow.world import SharedClock, World, swing, trend

SHORT = {"side": "sell", "limit_price": 136, "stop_loss": 145}
DAY_TRADE = trend(strategy="DAYTRADE")


@pytest.fixture
def short_world(world: World) -> World:
    world.configure(ALLOW_SHORT="true", DAYTRADE_FLATTEN_MINUTES_BEFORE_CLOSE="10")
    return world


def test_a_short_has_its_stop_above_and_loses_when_the_price_rises(short_world: World) -> None:
    short_world.open_position(trend(**SHORT), price="136.50")
    stop = member(short_world, "stop")
    assert (stop.side, stop.stop_price, stop.position_intent, stop.time_in_force) == ("buy", 145, "buy_to_close", "gtc")
    short_world.price("NVDA", "146")
    short_world.monitor()
    journal = short_world.one("trade_journal")
    assert (journal["exit_reason"], journal["actual_pnl"]) == ("STOPPED_OUT", 45 * (Decimal("136.50") - 146))
    assert is_flat(short_world)


def test_a_short_swing_has_its_target_below_its_stop(short_world: World) -> None:
    short_world.open_position(swing(**SHORT, take_profit=120), price="136.50")
    short_world.monitor()
    target, stop = member(short_world, "limit"), member(short_world, "stop")
    assert (target.side, target.limit_price, stop.side, stop.stop_price) == ("buy", 120, "buy", 145)
    short_world.price("NVDA", "146")
    short_world.monitor()
    journal = short_world.one("trade_journal")
    assert (journal["exit_reason"], journal["actual_pnl"]) == ("STOPPED_OUT", 45 * (Decimal("136.50") - 146))


@pytest.mark.parametrize("decision", [trend(**SHORT), swing(**SHORT, take_profit=120)])
def test_a_short_filled_in_part_is_protected_in_the_pass_that_sees_it(
    short_world: World, decision: dict[str, Any],
) -> None:
    place(short_world, decision, filled="20", price="136.50")
    short_world.monitor()
    assert (exits(short_world), short_world.one("position_tracking")["side"]) == ([20], "short")


def test_a_short_whose_stop_is_refused_is_bought_back(short_world: World) -> None:
    place(short_world, trend(**SHORT), filled="45", price="136.50")
    refuse(short_world, '"type": "stop"', 2)
    short_world.price("NVDA", "137")
    short_world.monitor()
    trade(short_world, "137")
    short_world.monitor()
    journal = short_world.one("trade_journal")
    assert (journal["exit_reason"], journal["actual_pnl"]) == ("EMERGENCY_EXIT", 45 * (Decimal("136.50") - 137))
    assert is_flat(short_world)


def test_when_both_legs_of_a_short_fill_the_excess_is_sold(short_world: World) -> None:
    short_world.open_position(swing(**SHORT, take_profit=120), price="136.50")
    short_world.market.behave(both_legs_fill=True)
    short_world.price("NVDA", "146")
    short_world.monitor()
    short_world.monitor()
    journal = short_world.one("trade_journal")
    assert (journal["status"], journal["actual_pnl"]) == ("CLOSED", 45 * (Decimal("136.50") - 120 - 146 + 146))
    assert is_flat(short_world)


@pytest.mark.parametrize("held", [0, 10])
def test_a_sell_is_refused_unless_shorts_are_allowed_whatever_is_held(world: World, held: int) -> None:
    if held:
        world.open_position(swing(qty=held))
    posts = len(world.posted())
    name = world.decide(swing(**SHORT, take_profit=120))
    assert world.execute() == {"refused": 1}
    assert "a sell would open a short position" in world.analysis(name)["Remarks"]
    assert len(world.posted()) == posts


@pytest.fixture
def day_world(world: World) -> World:
    world.configure(DAYTRADE_FLATTEN_MINUTES_BEFORE_CLOSE="10")
    return world


def test_a_day_trade_is_closed_shortly_before_the_close(day_world: World) -> None:
    day_world.open_position(DAY_TRADE)
    day_world.pass_time(hours=5, minutes=49)
    day_world.monitor()
    assert exits(day_world) == [45]
    day_world.pass_time(minutes=1)
    day_world.price("NVDA", "137")
    for _ in range(2):
        day_world.monitor()
    journal = day_world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"]) == ("CLOSED", "EOD_EXIT")
    assert journal["actual_pnl"] == 45 * (137 - Decimal("133.50"))
    assert sold(day_world) == 45
    assert is_flat(day_world)


def test_a_half_day_closes_early(day_world: World) -> None:
    day_world.pass_time(days=169)  # the third of July, when trading ends at one
    day_world.open_position(DAY_TRADE)
    day_world.pass_time(hours=1, minutes=51)
    for _ in range(2):
        day_world.monitor()
    assert day_world.one("trade_journal")["exit_reason"] == "EOD_EXIT"


@pytest.mark.parametrize(("minutes", "decision"), [("10", swing()), ("10", trend()), ("0", DAY_TRADE)])
def test_other_trades_and_days_without_the_setting_go_on(world: World, minutes: str, decision: dict[str, Any]) -> None:
    world.configure(DAYTRADE_FLATTEN_MINUTES_BEFORE_CLOSE=minutes)
    world.open_position(decision)
    before = sent(world)
    world.pass_time(hours=5, minutes=55)
    world.monitor()
    assert (sent(world), exits(world)) == (before, [45])


def test_an_unfilled_day_trade_is_given_up_before_the_close(day_world: World) -> None:
    day_world.decide(DAY_TRADE)
    day_world.execute()
    day_world.pass_time(hours=5, minutes=51)
    for _ in range(2):
        day_world.monitor()
    journal = day_world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"], is_flat(day_world)) == ("CANCELLED", "CANCELLED", True)


def test_a_partly_filled_day_trade_is_closed_for_what_it_has(day_world: World) -> None:
    place(day_world, DAY_TRADE)
    day_world.pass_time(hours=5, minutes=51)
    part(day_world, "20")
    day_world.monitor()
    trade(day_world, "133.50")
    day_world.monitor()
    journal = day_world.one("trade_journal")
    assert (journal["exit_reason"], journal["actual_qty"], sold(day_world)) == ("EOD_EXIT", 20, 20)
    assert is_flat(day_world)


def test_a_day_trade_is_closed_beside_a_swing_that_keeps_its_shares_and_exit(day_world: World) -> None:
    day_world.open_position(swing(qty=10))
    day_world.open_position(trend(strategy="DAYTRADE", qty=20))
    day_world.pass_time(hours=5, minutes=51)
    for _ in range(2):
        day_world.monitor()
    assert day_world.one("trade_journal", trade_style="DAYTRADE")["exit_reason"] == "EOD_EXIT"
    assert (exits(day_world), day_world.market.state.shares("NVDA")) == ([10], 10)


def test_a_clock_that_does_not_answer_holds_up_no_protection(day_world: World) -> None:
    day_world.open_position(DAY_TRADE)
    day_world.price("AMD", "135")
    day_world.decide(swing("AMD"), "AMD")
    day_world.execute()
    day_world.price("AMD", "133.50")
    day_world.fault("GET", "/v2/clock", "status", code=500, times=None)
    with suppress(BrokerError):
        day_world.monitor()
    assert [order.remaining for order in day_world.market.state.working_for("AMD")] == [45, 45]


def test_a_stop_that_fills_while_the_day_trade_is_closed_leaves_no_short(day_world: World) -> None:
    day_world.open_position(DAY_TRADE)
    day_world.pass_time(hours=5, minutes=51)
    day_world.market.behave(cancel_loses_to_fill=True)
    for _ in range(2):
        day_world.monitor()
    assert day_world.one("trade_journal")["exit_reason"] == "STOPPED_OUT"
    assert (sold(day_world), is_flat(day_world)) == (45, True)


def test_a_day_trade_waits_until_its_shares_are_free(day_world: World) -> None:
    day_world.clock = SharedClock(day_world)
    day_world.open_position(DAY_TRADE)
    day_world.pass_time(hours=5, minutes=51)
    day_world.market.behave(cancel_delay_seconds=Decimal(2), release_delay_seconds=Decimal(2))
    for _ in range(2):
        day_world.monitor()
    assert (day_world.one("trade_journal")["exit_reason"], day_world.db.query("alerts")) == ("EOD_EXIT", [])


def test_a_day_trade_whose_sale_is_refused_gets_its_stop_back_and_is_tried_again(day_world: World) -> None:
    day_world.open_position(DAY_TRADE)
    day_world.pass_time(hours=5, minutes=51)
    refuse(day_world, '"type": "market"', 1, 403)
    day_world.monitor()
    assert exits(day_world) == [45]
    for _ in range(3):
        day_world.monitor()
    assert day_world.one("trade_journal")["exit_reason"] == "EOD_EXIT"
    assert (sold(day_world), is_flat(day_world)) == (45, True)


def test_a_day_trade_that_could_not_be_sold_by_the_close_is_protected_again(day_world: World) -> None:
    day_world.open_position(DAY_TRADE)
    day_world.market.set_liquidity("NVDA", "0")
    day_world.pass_time(hours=5, minutes=51)
    day_world.monitor()
    assert member(day_world, "market").remaining == 45
    day_world.pass_time(minutes=30)
    day_world.monitor()
    assert (exits(day_world), member(day_world, "stop").time_in_force) == ([45], "gtc")
    assert stays_as_it_is(day_world)


def test_a_short_day_trade_is_bought_back_before_the_close(short_world: World) -> None:
    short_world.open_position(trend(**SHORT, strategy="DAYTRADE"), price="136.50")
    short_world.pass_time(hours=5, minutes=51)
    short_world.price("NVDA", "135")
    for _ in range(2):
        short_world.monitor()
    journal = short_world.one("trade_journal")
    assert (journal["exit_reason"], journal["actual_pnl"]) == ("EOD_EXIT", 45 * Decimal("1.50"))
    assert is_flat(short_world)


def test_a_day_trade_of_a_fraction_is_closed_before_the_close(day_world: World) -> None:
    day_world.open_position(trend(strategy="DAYTRADE", qty=1.5))
    day_world.pass_time(hours=5, minutes=51)
    for _ in range(2):
        day_world.monitor()
    assert (day_world.one("trade_journal")["exit_reason"], is_flat(day_world)) == ("EOD_EXIT", True)


def test_a_day_trade_entered_while_it_is_flattened_is_closed_without_an_alarm(day_world: World) -> None:
    place(day_world, DAY_TRADE)
    day_world.pass_time(hours=5, minutes=51)
    day_world.market.set_liquidity("NVDA", None)
    day_world.market.behave(cancel_loses_to_fill=True)
    for _ in range(4):
        day_world.monitor()
        day_world.pass_time(minutes=1)
    journal = day_world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"], is_flat(day_world)) == ("CLOSED", "EOD_EXIT", True)
    assert day_world.db.query("alerts", {"level": "critical"}) == []
    assert stays_as_it_is(day_world)
