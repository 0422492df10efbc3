"""Exits that end, shrink or change under our hands, and targets that the broker refused."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from paper_broker.orders import Order
from tests.flow.exits import (
    cancel_by_hand,
    change_by_hand,
    exits,
    groups,
    is_flat,
    member,
    part,
    place,
    refuse,
    sent,
    sold,
    stays_as_it_is,
)
from tests.flow.world import World, swing, trend


def test_an_oco_cancelled_by_hand_is_replaced(world: World) -> None:
    world.open_position()
    cancel_by_hand(world, member(world, "limit"))
    world.monitor()
    assert exits(world) == [45]
    assert {order.order_class for order in groups(world).popitem()[1]} == {"oco"}
    assert stays_as_it_is(world)


@pytest.mark.parametrize("decision", [swing(), trend()])
def test_an_exit_rejected_after_it_was_taken_is_replaced(world: World, decision: dict[str, Any]) -> None:
    world.decide(decision)
    world.execute()
    world.price("NVDA", "133.50")
    world.market.step()
    world.market.behave(reject_next=1)
    world.monitor()
    assert groups(world) != {}
    world.monitor()
    assert exits(world) == [45]
    rejected = world.db.query("order_execution", {"order_status": "rejected"})
    assert rejected != []
    assert stays_as_it_is(world)


def test_a_stop_that_somebody_shrank_is_replaced_by_a_whole_one(world: World) -> None:
    world.open_position(trend())
    change_by_hand(world, member(world, "stop"), qty="20")
    world.monitor()
    assert exits(world) == [45]
    assert stays_as_it_is(world)


def test_an_exit_that_fills_instead_of_being_replaced_leaves_the_rest_protected(world: World) -> None:
    place(world, swing(), filled="20")
    world.monitor()
    part(world, "10")
    world.market.behave(cancel_loses_to_fill=True)
    world.monitor()
    assert (world.market.state.shares("NVDA"), exits(world)) == (10, [10])
    world.monitor()
    assert (world.one("position_tracking")["qty"], exits(world), sold(world)) == (10, [10], 20)


def test_a_target_filled_in_part_and_then_a_stop_leave_nothing(world: World) -> None:
    world.open_position()
    world.monitor()
    target_then_stop(world)
    journal = world.one("trade_journal")
    assert journal["actual_pnl"] == 20 * 146 + 25 * 123 - 45 * Decimal("133.50")
    assert is_flat(world)


def target_then_stop(world: World) -> datetime:
    """Fill a part of the target and later the stop; return when the stop filled, a while before a pass sees it."""
    part(world, "20", "146")
    world.monitor()
    assert (exits(world), world.one("position_tracking")["qty"]) == ([25], 25)
    world.pass_time(minutes=10)
    stopped_at = world.clock.now()
    part(world, "25", "123")
    world.pass_time(minutes=5)
    world.monitor()
    assert world.one("trade_journal")["status"] == "CLOSED"
    return stopped_at


def test_a_trade_ends_with_the_reason_and_at_the_time_of_its_last_exit_fill(world: World) -> None:
    world.open_position()
    world.monitor()
    stopped_at = target_then_stop(world)
    journal = world.one("trade_journal")
    assert (journal["exit_reason"], journal["exit_date"]) == ("STOPPED_OUT", stopped_at)


def test_when_both_legs_fill_the_excess_is_bought_back_and_counted(world: World) -> None:
    world.open_position()
    world.market.behave(both_legs_fill=True)
    world.price("NVDA", "123")
    assert world.market.state.shares("NVDA") == -45
    world.monitor()
    world.price("NVDA", "122")
    world.monitor()
    journal = world.one("trade_journal")
    back = world.one("order_execution", order_type="EXIT")
    assert (journal["status"], back["side"], back["filled_qty"]) == ("CLOSED", "buy", 45)
    spent = 45 * (Decimal("133.50") + back["filled_avg_price"])
    assert journal["actual_pnl"] == 45 * (Decimal("145.50") + 123) - spent
    assert (journal["pnl_is_estimate"], world.one("alerts", kind="too_many_exits")["level"]) == (False, "critical")
    assert is_flat(world)


def test_shares_that_the_exits_took_beyond_what_there_was_are_not_tracked(world: World) -> None:
    world.open_position()
    world.market.behave(both_legs_fill=True, positions_lag="90")
    world.price("NVDA", "123")
    world.monitor()
    assert world.one("alerts", kind="too_many_exits")["message"].endswith("the broker's position does not show it")
    assert world.db.query("position_tracking") == []
    assert world.one("trade_journal")["status"] == "POSITION"


def test_the_excesses_of_two_trades_in_a_symbol_are_both_brought_back(world: World) -> None:
    world.open_position()
    world.open_position(swing(qty=30))
    for order in list(world.market.state.live.values()):
        if order.stop_price:
            world.market.behave(both_legs_fill=True)
            change_by_hand(world, order, stop_price="134")
    for _ in range(3):
        world.monitor()
        world.pass_time(minutes=1)
    assert {trade["status"] for trade in world.db.query("trade_journal")} == {"CLOSED"}
    assert is_flat(world)


def test_an_excess_beside_another_trade_is_brought_back_although_no_order_may_cross_zero(world: World) -> None:
    """The account is short by fewer shares than the excess, because the other trade's shares cover some of it."""
    world.open_position()
    world.open_position(trend(qty=10, stop_loss={"stop_price": 100}))
    world.market.behave(both_legs_fill=True)
    world.price("NVDA", "123")
    assert world.market.state.shares("NVDA") == -35
    for _ in range(3):
        world.monitor()
        world.pass_time(minutes=1)
    status = {row["trade_style"]: row["status"] for row in world.db.query("trade_journal")}
    assert status == {"SWING": "CLOSED", "TREND": "POSITION"}
    assert (world.market.state.shares("NVDA"), exits(world)) == (10, [10])


def test_an_exit_that_fills_instead_of_ending_with_its_trade_is_brought_back_in_the_same_pass(world: World) -> None:
    world.open_position()
    world.monitor()
    world.market.set_liquidity("NVDA", "0")
    world.market.behave(both_legs_fill=True, cancel_loses_to_fill=True)
    world.price("NVDA", "123")
    assert world.market.state.shares("NVDA") == 0
    world.monitor()
    assert world.one("trade_journal")["status"] == "POSITION"
    assert world.posted()[-1]["side"] == "buy"
    world.market.set_liquidity("NVDA", None)
    world.market.step()
    world.monitor()
    assert (world.one("trade_journal")["status"], is_flat(world)) == ("CLOSED", True)


def test_an_excess_that_somebody_brought_back_by_hand_ends_its_trade(world: World) -> None:
    world.open_position()
    world.market.behave(both_legs_fill=True)
    world.price("NVDA", "123")
    world.market.foreign_fill("NVDA", "buy", 45, "123")
    for _ in range(2):
        world.monitor()
        world.pass_time(minutes=5)
        world.value()
    assert (world.one("trade_journal")["status"], is_flat(world)) == ("CLOSED", True)


def test_an_exit_that_fills_after_its_trade_was_closed_is_brought_back(world: World) -> None:
    world.open_position()
    world.monitor()
    stop = member(world, "stop")
    world.price("NVDA", "146")
    world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "TARGET_HIT"
    world.market.matching.execute(stop, Decimal(45), Decimal(123))
    for _ in range(3):
        world.monitor()
    journal, back = world.one("trade_journal"), world.one("order_execution", order_type="EXIT")
    assert (journal["status"], back["side"], is_flat(world)) == ("CLOSED", "buy", True)
    assert journal["actual_pnl"] == 45 * (146 + 123 - Decimal("133.50") - back["filled_avg_price"])
    assert world.one("alerts", kind="late_fill")["level"] == "critical"


MOVES = {
    "plain stop": (trend(), "stop", {"stop_price": "128"}),
    "stop of an OCO": (swing(), "stop", {"stop_price": "128"}),
    "target of an OCO": (swing(), "limit", {"limit_price": "150"}),
}


def move(world: World, kind: str) -> Order:
    """Open a position and let a person change one of its exits."""
    decision, which, terms = MOVES[kind]
    world.open_position(decision)
    return change_by_hand(world, member(world, which), **terms)


FOLLOWED = ["plain stop", "target of an OCO", "stop of an OCO"]


@pytest.mark.parametrize("kind", FOLLOWED)
def test_an_exit_changed_by_hand_is_followed_as_the_one_exit(world: World, kind: str) -> None:
    new = move(world, kind)
    before = sent(world)
    world.monitor()
    assert sent(world) == before
    assert exits(world) == [45]
    row = world.one("order_execution", alpaca_order_id=new.id)
    assert (row["order_status"], row["limit_price"], row["stop_price"]) == ("pending", new.limit_price, new.stop_price)
    tracked, role = world.one("position_tracking"), row["order_type"].lower()
    assert tracked[f"{role}_order_id"] == new.id
    assert world.db.query("external_order") == []
    assert stays_as_it_is(world)


@pytest.mark.parametrize("kind", MOVES)
def test_an_exit_changed_by_hand_gets_no_second_one_beside_it(world: World, kind: str) -> None:
    new = move(world, kind)
    assert stays_as_it_is(world)
    assert exits(world) == [45]
    assert world.market.order(new.id).live


ENDS = {
    "plain stop": ("127", "STOPPED_OUT"), "target of an OCO": ("151", "TARGET_HIT"),
    "stop of an OCO": ("127", "STOPPED_OUT"),
}


@pytest.mark.parametrize("kind", FOLLOWED)
def test_an_exit_changed_by_hand_closes_its_trade_at_its_own_price(world: World, kind: str) -> None:
    move(world, kind)
    world.monitor()
    price, reason = ENDS[kind]
    world.price("NVDA", price)
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"], journal["exit_price"]) == ("CLOSED", reason, Decimal(price))
    assert journal["actual_pnl"] == 45 * (Decimal(price) - Decimal("133.50"))
    assert is_flat(world)


@pytest.mark.parametrize("kind", FOLLOWED)
def test_an_exit_changed_twice_between_two_passes_is_followed_to_the_last(world: World, kind: str) -> None:
    second = move(world, kind)
    name = "limit_price" if second.stop_price is None else "stop_price"
    last = change_by_hand(world, second, **{name: "129" if name == "stop_price" else "152"})
    world.monitor()
    assert exits(world) == [45]
    assert world.one("order_execution", alpaca_order_id=second.id)["order_status"] == "replaced"
    assert world.one("order_execution", alpaca_order_id=last.id)["order_status"] == "pending"
    assert stays_as_it_is(world)


def test_an_oco_is_followed_whose_stop_was_moved_twice_and_its_target_once(world: World) -> None:
    first = move(world, "stop of an OCO")
    target = change_by_hand(world, member(world, "limit"), limit_price="150")
    last = change_by_hand(world, first, stop_price="129")
    world.monitor()
    for order in (target, last):
        assert world.one("order_execution", alpaca_order_id=order.id)["order_status"] == "pending"
    assert world.db.query("external_order") == []
    assert stays_as_it_is(world)


def test_a_leg_changed_by_hand_that_fills_is_counted_once(world: World) -> None:
    move(world, "stop of an OCO")
    world.monitor()
    world.price("NVDA", "127")
    for _ in range(3):
        world.pass_time(minutes=5)
        world.monitor()
        world.value()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["actual_pnl"]) == ("CLOSED", 45 * (127 - Decimal("133.50")))
    assert world.db.query("alerts", {"level": "critical"}) == []


def test_a_stop_moved_by_hand_keeps_its_price_when_it_is_placed_again(world: World) -> None:
    move(world, "plain stop")
    world.monitor()
    cancel_by_hand(world, member(world, "stop"))
    world.monitor()
    assert member(world, "stop").stop_price == 128


def test_a_target_moved_by_hand_keeps_its_price_when_it_is_placed_again(world: World) -> None:
    move(world, "target of an OCO")
    world.monitor()
    cancel_by_hand(world, member(world, "stop"))
    world.monitor()
    assert member(world, "limit").limit_price == 150


def test_an_exit_changed_by_hand_is_renewed_before_the_broker_ends_it(world: World) -> None:
    world.open_position(trend())
    world.pass_time(days=50)
    world.monitor()
    new = change_by_hand(world, member(world, "stop"), stop_price="128")
    world.monitor()
    world.pass_time(days=37)
    world.monitor()
    assert member(world, "stop").expires_at > new.expires_at


def refused_target(world: World) -> None:
    """A position that got a stop alone, because the broker refused its OCO order."""
    refuse(world, '"oco"', 1)
    world.open_position()
    assert (exits(world), member(world, "stop").order_class) == ([45], "simple")
    assert world.one("alerts", kind="target_not_placed")["level"] == "warning"


def test_a_refused_target_is_asked_for_again_on_another_day(world: World) -> None:
    refused_target(world)
    assert stays_as_it_is(world)
    world.pass_time(days=1)
    world.monitor()
    assert exits(world) == [45]
    assert (member(world, "limit").order_class, member(world, "limit").limit_price) == ("oco", Decimal("145.50"))
    assert world.one("alerts", kind="target_not_placed")["resolved_at"] is not None
    assert stays_as_it_is(world)


@pytest.mark.parametrize("price", ["145.50", "150", "124.01"])
def test_a_refused_target_is_not_asked_for_again_while_the_price_is_not_within(world: World, price: str) -> None:
    refused_target(world)
    world.pass_time(days=1)
    world.price("NVDA", price)
    assert stays_as_it_is(world)
    assert exits(world) == [45]


def test_a_target_refused_again_leaves_the_position_with_its_stop(world: World) -> None:
    refused_target(world)
    world.pass_time(days=1)
    refuse(world, '"oco"', 1)
    world.monitor()
    assert (exits(world), member(world, "stop").order_class) == ([45], "simple")
    assert stays_as_it_is(world)
