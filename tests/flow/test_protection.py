"""Each position has exactly one exit group over exactly the shares held, whatever the broker does."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.flow.exits import (
    CRASHES,
    REFUSALS,
    cancel_by_hand,
    exits,
    groups,
    is_flat,
    member,
    monitor_until_it_dies,
    monitor_with_the_line_down,
    part,
    place,
    refuse,
    rival,
    sent,
    sold,
    stays_as_it_is,
    trade,
)
from tests.flow.world import SharedClock, World, swing, trend


@pytest.mark.parametrize("code", REFUSALS)
def test_a_stop_that_is_refused_once_is_placed_at_the_second_attempt(world: World, code: int) -> None:
    refuse(world, '"type": "stop"', 1, code)
    world.open_position(trend())
    assert exits(world) == [45]
    assert world.one("trade_journal")["status"] == "POSITION"
    assert world.db.query("alerts", {"level": "critical"}) == []


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("decision", [swing(), trend()])
def test_a_position_whose_stop_is_refused_again_is_closed_at_market(
    world: World, decision: dict[str, Any], code: int,
) -> None:
    refuse(world, "stop", 3 if "take_profit" in decision["new_trade"] else 2, code)
    world.open_position(decision)
    world.price("NVDA", "132")
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"]) == ("CLOSED", "EMERGENCY_EXIT")
    assert journal["actual_pnl"] == 45 * (journal["exit_price"] - Decimal("133.50"))
    assert world.one("alerts", kind="emergency_exit")["level"] == "critical"
    assert is_flat(world)
    assert sold(world) == 45


def test_an_entry_placed_later_does_not_keep_a_position_from_being_closed(world: World) -> None:
    refuse(world, '"type": "stop"', 2)
    refuse(world, '"type": "market"', 1)
    world.open_position(trend())
    world.decide(trend(limit_price=130, time_in_force="gtc"))
    world.execute()
    world.monitor()
    world.monitor()
    assert is_flat(world)
    assert world.one("alerts", kind="entry_gave_way")["level"] == "warning"


def test_where_not_even_closing_is_taken_each_pass_tries_that_once(world: World) -> None:
    refuse(world, '"side": "sell"', 6)
    world.open_position()
    assert [body.get("order_class", body["type"]) for body in world.posted()] == [
        "limit", "oco", "stop", "stop", "market",
    ]
    for _ in range(2):
        world.pass_time(minutes=1)
        world.monitor()
    assert [body["type"] for body in world.posted()[5:]] == ["market", "market"]
    for _ in range(2):
        world.pass_time(minutes=1)
        world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "EMERGENCY_EXIT"
    assert is_flat(world)


def test_an_emergency_exit_takes_the_rest_of_the_entry_with_it(world: World) -> None:
    place(world, swing(), filled="20")
    refuse(world, "stop", 3)
    world.price("NVDA", "133")
    world.monitor()
    trade(world, "133")
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"], journal["actual_qty"]) == ("CLOSED", "EMERGENCY_EXIT", 20)
    assert journal["actual_pnl"] == 20 * (133 - Decimal("133.50"))
    assert world.one("order_execution", order_type="ENTRY")["order_status"] == "cancelled"
    assert is_flat(world)


def test_an_emergency_exit_of_one_trade_leaves_the_other_its_shares_and_exit(world: World) -> None:
    world.open_position(swing(qty=10))
    refuse(world, "stop", 3)
    world.open_position(swing(qty=20), price="133.40")
    world.market.step()
    world.monitor()
    assert sorted(row["status"] for row in world.db.query("trade_journal")) == ["CLOSED", "POSITION"]
    assert (exits(world), world.market.state.shares("NVDA")) == ([10], 10)


def test_a_price_through_the_stop_of_a_trend_closes_it_by_its_stop(world: World) -> None:
    world.decide(trend())
    world.execute()
    world.price("NVDA", "133.50")
    world.price("NVDA", "120")
    world.monitor()
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["exit_reason"], journal["actual_pnl"]) == ("STOPPED_OUT", 45 * (120 - Decimal("133.50")))


def test_a_price_beyond_the_target_closes_a_swing_by_its_target(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    world.price("NVDA", "150")
    world.monitor()
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["exit_reason"], journal["exit_price"]) == ("TARGET_HIT", 150)


def test_an_emergency_exit_at_night_waits_for_the_open_and_is_sent_once(world: World) -> None:
    world.open_position(trend())
    world.pass_time(hours=8)
    cancel_by_hand(world, member(world, "stop"))
    refuse(world, '"type": "stop"', 2)
    world.monitor()
    assert stays_as_it_is(world)
    assert [order.type for (order,) in groups(world).values()] == ["market"]
    world.pass_time(hours=16)
    world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "EMERGENCY_EXIT"
    assert is_flat(world)


def test_an_exit_at_market_that_fills_in_part_leaves_the_rest_under_one_exit(world: World) -> None:
    world.open_position(trend())
    cancel_by_hand(world, member(world, "stop"))
    refuse(world, '"type": "stop"', 2)
    world.market.set_liquidity("NVDA", "0")
    world.monitor()
    part(world, "20", "133")
    world.monitor()
    assert (exits(world), world.one("position_tracking")["qty"]) == ([25], 25)
    world.pass_time(hours=8)
    world.monitor()
    assert (exits(world), member(world, "stop").qty) == ([25], 25)
    assert stays_as_it_is(world)


def test_somebody_elses_order_that_forbids_every_exit_is_an_alert_until_it_is_gone(world: World) -> None:
    foreign = rival(world, "stop", "160")
    world.open_position(trend(qty=1.5))
    world.monitor()
    assert (exits(world), foreign.live) == ([], True)
    assert world.one("alerts", kind="unprotected_position")["level"] == "critical"
    cancel_by_hand(world, foreign)
    world.monitor()
    assert (exits(world), member(world, "stop").qty) == ([Decimal("1.5")], Decimal("1.5"))
    assert world.one("alerts", kind="unprotected_position")["resolved_at"] is not None


SHORT = {"side": "sell", "limit_price": 136, "stop_loss": 145}


@pytest.mark.parametrize(("kind", "price", "changes", "stop"), [
    ("limit", "100", {}, "123"), ("stop", "160", {}, "123"), ("limit", "170", SHORT, "146"),
])
def test_beside_somebody_elses_resting_order_the_stop_is_part_of_an_oco(
    world: World, kind: str, price: str, changes: dict[str, Any], stop: str,
) -> None:
    world.configure(ALLOW_SHORT="true")
    foreign = rival(world, kind, price, "sell" if changes else "buy")
    world.open_position(trend(**changes), price="136.50" if changes else "133.50")
    world.monitor()
    far = (Decimal("68.25"),) if changes else (Decimal(267),)
    assert (*[order.limit_price for order in groups(world).popitem()[1] if order.type == "limit"],) == far
    assert stays_as_it_is(world)
    cancel_by_hand(world, foreign)
    assert stays_as_it_is(world)
    assert world.db.query("alerts", {"level": "critical"}) == []
    world.price("NVDA", stop)
    world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "STOPPED_OUT"
    assert is_flat(world)


def test_a_price_beyond_the_stop_closes_a_trend_beside_somebody_elses_order_with_a_limit(world: World) -> None:
    foreign = rival(world)
    world.decide(trend())
    world.execute()
    world.price("NVDA", "133.50")
    world.price("NVDA", "120")
    world.monitor()
    world.monitor()
    assert (world.posted()[-1]["type"], world.posted()[-1]["limit_price"]) == ("limit", "100.01")
    assert world.one("trade_journal")["exit_reason"] == "EMERGENCY_EXIT"
    assert (world.market.state.positions, foreign.live) == ({}, True)


def test_a_fraction_beside_somebody_elses_order_is_closed_with_a_limit(world: World) -> None:
    rival(world)
    world.open_position(trend(qty=1.5))
    world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "EMERGENCY_EXIT"
    assert world.market.state.positions == {}


@pytest.mark.parametrize("decision", [swing(), trend()])
def test_an_exit_that_never_left_is_not_sent_once_its_shares_are_gone(world: World, decision: dict[str, Any]) -> None:
    world.decide(decision)
    world.execute()
    world.price("NVDA", "133.50")
    monitor_with_the_line_down(world)
    world.market.foreign_close("NVDA")
    world.pass_time(minutes=5)
    world.monitor()
    assert {row["order_status"] for row in world.db.query("order_execution")} == {"filled", "cancelled"}
    assert world.one("alerts", kind="broker_mismatch")["level"] == "critical"
    assert (stays_as_it_is(world), is_flat(world), len(world.posted())) == (True, True, 1)
    world.value()
    assert world.one("trade_journal")["exit_reason"] == "MANUAL_EXIT"


def test_an_exit_that_never_left_is_sent_for_the_shares_that_are_still_there(world: World) -> None:
    world.decide(trend())
    world.execute()
    world.price("NVDA", "133.50")
    monitor_with_the_line_down(world)
    world.market.foreign_fill("NVDA", "sell", "20")
    world.pass_time(minutes=5)
    world.monitor()
    assert exits(world) == [25]
    assert stays_as_it_is(world)


def test_shares_brought_back_by_hand_are_not_brought_back_again(world: World) -> None:
    world.open_position()
    world.market.behave(both_legs_fill=True)
    world.price("NVDA", "123")
    world.market.step()
    monitor_with_the_line_down(world)
    assert world.market.state.shares("NVDA") == -45
    assert world.one("order_execution", order_type="EXIT")["order_status"] == "intended"
    world.market.foreign_fill("NVDA", "buy", "45")
    world.pass_time(minutes=5)
    world.monitor()
    assert world.one("order_execution", order_type="EXIT")["order_status"] == "cancelled"
    assert (stays_as_it_is(world), is_flat(world)) == (True, True)


@pytest.mark.parametrize("decision", [swing(), trend()])
def test_what_a_sale_by_hand_left_is_protected_at_once(world: World, decision: dict[str, Any]) -> None:
    world.open_position(decision)
    cancel_by_hand(world, member(world, "stop"))
    world.market.foreign_fill("NVDA", "sell", "20")
    world.monitor()
    assert exits(world) == [25]
    assert "the broker has 25" in world.one("alerts", kind="broker_mismatch")["message"]
    assert stays_as_it_is(world)
    assert world.one("alerts", kind="broker_mismatch")["resolved_at"] is None
    world.value()
    assert stays_as_it_is(world)
    assert world.one("alerts", kind="broker_mismatch")["resolved_at"] is not None
    world.price("NVDA", "123")
    world.monitor()
    assert world.one("trade_journal")["status"] == "CLOSED"
    assert is_flat(world)


def test_two_trades_share_what_is_left_of_their_shares(world: World) -> None:
    for qty in (10, 20):
        world.open_position(swing(qty=qty))
    world.monitor()
    for members in groups(world).copy().values():
        cancel_by_hand(world, members[0])
    world.market.foreign_fill("NVDA", "sell", "5")
    world.monitor()
    assert exits(world) == [10, 15]
    assert stays_as_it_is(world)


@pytest.mark.parametrize("moment", CRASHES)
@pytest.mark.parametrize("reason", ["EMERGENCY_EXIT", "EOD_EXIT"])
def test_a_market_exit_interrupted_by_a_crash_is_carried_out_once(world: World, reason: str, moment: str) -> None:
    world.configure(DAYTRADE_FLATTEN_MINUTES_BEFORE_CLOSE="10")
    world.open_position(trend(strategy="DAYTRADE"))
    if reason == "EOD_EXIT":
        world.pass_time(hours=5, minutes=51)
    else:
        cancel_by_hand(world, member(world, "stop"))
        refuse(world, '"type": "stop"', 2)
    monitor_until_it_dies(world, '"type": "market"', moment)
    for _ in range(5):
        world.pass_time(minutes=1)
        world.monitor()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"], journal["actual_pnl"]) == ("CLOSED", reason, 0)
    assert len([order for order in world.market.state.orders.values() if order.type == "market"]) == 1
    assert is_flat(world)


@pytest.mark.parametrize("moment", CRASHES)
@pytest.mark.parametrize("decision", [swing(), trend()])
def test_a_crash_while_an_exit_is_placed_leaves_one_in_the_end(
    world: World, decision: dict[str, Any], moment: str,
) -> None:
    world.open_position(decision)
    cancel_by_hand(world, member(world, "stop"))
    monitor_until_it_dies(world, "stop_price", moment)
    for _ in range(5):
        world.pass_time(minutes=1)
        world.monitor()
    assert (exits(world), len(world.db.query("order_execution", {"order_type": "STOP_LOSS"}))) == ([45], 2)
    assert stays_as_it_is(world)


@pytest.mark.parametrize("decision", [swing(), trend()])
def test_shares_that_a_foreign_order_reserves_are_an_alert_and_the_others_get_their_exit(
    world: World, decision: dict[str, Any],
) -> None:
    world.open_position(decision)
    world.monitor()
    cancel_by_hand(world, member(world, "stop"))
    foreign = world.market.submit({
        "symbol": "NVDA", "qty": "30", "side": "sell", "type": "limit", "limit_price": "160", "time_in_force": "gtc",
    }, source="app")
    world.monitor()
    assert exits(world) == [15, 30]
    assert stays_as_it_is(world)
    alert = world.one("alerts", kind="unprotected_position")
    assert (alert["level"], alert["resolved_at"]) == ("critical", None)
    assert "only 15 are free" in alert["message"]
    cancel_by_hand(world, foreign)
    world.monitor()
    assert exits(world) == [45]
    assert world.one("alerts", kind="unprotected_position")["resolved_at"] is not None


def test_shares_that_are_free_a_moment_after_the_cancel_are_waited_for(world: World) -> None:
    world.clock = SharedClock(world)
    place(world, swing(), filled="20")
    world.monitor()
    part(world, "10")
    world.market.behave(cancel_delay_seconds=Decimal(1), release_delay_seconds=Decimal(1))
    world.monitor()
    assert (exits(world), world.db.query("alerts")) == ([30], [])


def test_positions_that_lag_behind_the_fill_for_a_moment_are_waited_for(world: World) -> None:
    world.clock = SharedClock(world)
    world.market.behave(positions_lag=Decimal(2))
    world.open_position()
    assert (exits(world), world.db.query("alerts")) == ([45], [])


def test_positions_that_lag_for_long_are_an_alert_and_no_order_until_they_are_there(world: World) -> None:
    world.market.behave(positions_lag=Decimal(300))
    world.open_position()
    assert (exits(world), len(world.posted())) == ([], 1)
    assert world.one("alerts", kind="broker_mismatch")["level"] == "critical"
    world.pass_time(minutes=6)
    world.monitor()
    assert exits(world) == [45]
    assert world.one("alerts", kind="broker_mismatch")["resolved_at"] is not None


def test_an_exit_cancelled_by_hand_is_replaced_for_its_own_trade_only(world: World) -> None:
    for qty in (10, 20):
        world.open_position(swing(qty=qty))
    world.monitor()
    cancel_by_hand(world, next(order for (order, *_) in groups(world).values() if order.remaining == 10))
    posts = len(world.posted())
    world.monitor()
    assert ([order["qty"] for order in world.posted()[posts:]], exits(world)) == (["10"], [10, 20])
    assert stays_as_it_is(world)


def test_a_target_hit_of_one_trade_leaves_the_growing_entry_of_another_protected(world: World) -> None:
    world.open_position(swing(qty=10, take_profit=140))
    place(world, swing(qty=30), filled="20")
    world.monitor()
    assert exits(world) == [10, 20]
    part(world, "10", "141")
    world.monitor()
    assert (exits(world), world.market.state.shares("NVDA")) == ([20], 20)
    part(world, "10", "133")
    world.monitor()
    assert (exits(world), world.one("position_tracking")["qty"]) == ([30], 30)


def test_a_second_trend_that_the_resting_stop_forbids_leaves_the_first_as_it_is(world: World) -> None:
    world.open_position(trend(qty=10))
    world.decide(trend(qty=20))
    assert world.execute() == {"refused": 1}
    assert "wash trade" in world.one("trade_decisions", status="failed")["status_reason"]
    assert exits(world) == [10]
    assert stays_as_it_is(world)


@pytest.mark.parametrize("decision", [swing(), trend()])
def test_an_exit_survives_the_night(world: World, decision: dict[str, Any]) -> None:
    world.open_position(decision)
    before = sent(world)
    for hours in (8, 8, 8):
        world.pass_time(hours=hours)
        world.monitor()
    assert (sent(world), exits(world)) == (before, [45])


@pytest.mark.parametrize("decision", [swing(), trend()])
def test_an_exit_is_renewed_before_the_broker_ends_it_after_ninety_days(world: World, decision: dict[str, Any]) -> None:
    world.open_position(decision)
    world.pass_time(days=79)
    assert stays_as_it_is(world)
    world.pass_time(days=3)
    world.monitor()
    assert exits(world) == [45]
    assert member(world, "stop").expires_at > datetime(2025, 6, 1, tzinfo=UTC)
    assert stays_as_it_is(world)
    assert world.db.query("order_execution", {"order_status": "expired"}) == []


@pytest.mark.parametrize("decision", [swing(), trend()])
def test_an_exit_that_expired_while_nobody_looked_is_replaced(world: World, decision: dict[str, Any]) -> None:
    world.open_position(decision)
    world.pass_time(days=95)
    assert exits(world) == []
    world.monitor()
    assert exits(world) == [45]
    assert world.db.query("order_execution", {"order_status": "expired"}) != []
    assert stays_as_it_is(world)


def test_a_fraction_is_armed_again_for_each_session(world: World) -> None:
    world.open_position(trend(qty=1.5))
    for _ in range(2):
        stop = member(world, "stop")
        assert (stop.type, stop.time_in_force, stop.qty) == ("stop", "day", Decimal("1.5"))
        world.pass_time(hours=8)
        assert groups(world) == {}
        world.monitor()
        assert exits(world) == [Decimal("1.5")]
        assert stays_as_it_is(world)
        world.pass_time(hours=15, minutes=45)
    world.price("NVDA", "123")
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["exit_reason"], journal["actual_pnl"]) == ("STOPPED_OUT", Decimal("-15.75"))
    assert is_flat(world)
    assert world.db.query("alerts") == []


def test_a_swing_that_a_split_left_with_a_fraction_gets_a_stop_for_the_session(world: World) -> None:
    world.open_position()
    world.pass_time(hours=14)  # the market is closed
    world.market.split("NVDA", "1/2")
    world.value()
    world.monitor()
    stop = member(world, "stop")
    assert (exits(world), stop.time_in_force, stop.stop_price) == ([Decimal("22.5")], "day", 248)
    assert stays_as_it_is(world)


def test_an_entry_that_rested_through_a_split_is_protected_beside_shares_of_somebody_elses(world: World) -> None:
    world.market.foreign_fill("NVDA", "buy", Decimal(10))
    world.decide(trend(limit_price=130, time_in_force="gtc"))
    world.execute()
    world.pass_time(hours=14)
    world.market.split("NVDA", "2")
    for _ in range(2):
        world.monitor()
        world.value()
        world.pass_time(hours=10)
        world.price("NVDA", "65")
    world.monitor()
    assert world.market.state.shares("NVDA") == 20 + 90
    assert exits(world) == [90]


def test_a_fraction_whose_stop_is_refused_is_closed_at_market(world: World) -> None:
    refuse(world, '"type": "stop"', 2)
    world.open_position(trend(qty=1.5))
    world.price("NVDA", "133")
    world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "EMERGENCY_EXIT"
    assert is_flat(world)


@pytest.mark.parametrize("decision", [swing(), trend()])
def test_exits_that_are_taken_and_then_rejected_are_an_alert_and_in_the_end_a_close_at_market(
    world: World, decision: dict[str, Any],
) -> None:
    world.decide(decision)
    world.execute()
    world.price("NVDA", "133.50")
    world.market.behave(reject_next=2)
    for _ in range(3):
        world.monitor()
    assert world.one("alerts", kind="unprotected_position")["level"] == "critical"
    world.monitor()
    world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "EMERGENCY_EXIT"
    assert is_flat(world)


def test_a_stop_is_not_taken_away_while_the_broker_shows_no_shares(world: World) -> None:
    world.configure(DAYTRADE_FLATTEN_MINUTES_BEFORE_CLOSE="30")
    world.open_position(trend(strategy="DAYTRADE"))
    shares = world.market.state.positions.pop("NVDA")
    world.pass_time(hours=5, minutes=40)
    world.monitor()
    world.market.state.positions["NVDA"] = shares
    assert exits(world) == [45]
    assert world.one("alerts", kind="broker_mismatch")["level"] == "critical"


def test_a_close_is_for_no_more_shares_than_the_broker_shows(world: World) -> None:
    world.configure(DAYTRADE_FLATTEN_MINUTES_BEFORE_CLOSE="30")
    world.open_position(trend(strategy="DAYTRADE"))
    world.market.state.positions["NVDA"].qty = Decimal(40)
    world.pass_time(hours=5, minutes=40)
    world.monitor()
    assert (world.posted()[-1]["type"], world.posted()[-1]["qty"]) == ("market", "40")
    assert world.one("alerts", kind="broker_mismatch")["level"] == "critical"
