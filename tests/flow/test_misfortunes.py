"""Odd brokers and unlucky moments: one order never harms the rest, and no share stays without a stop."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.flow.exits import exits, forget, live_exits, member, remember, stays_as_it_is
from tests.flow.odd_broker import each_order, monitor_oddly
from tests.flow.world import World, swing, trend

NO_POSITION = {"code": 40410000, "message": "position does not exist"}


def test_a_position_closed_by_hand_gets_no_exit_that_would_open_a_short(world: World) -> None:
    world.open_position(trend())
    world.market.cancel(world.one("order_execution", order_type="STOP_LOSS")["alpaca_order_id"])
    world.market.step()
    world.market.foreign_close("NVDA")
    world.pass_time(minutes=5)
    world.monitor()
    assert not world.market.state.live
    assert world.one("alerts", kind="broker_mismatch")["level"] == "critical"


def test_a_stop_moved_by_hand_is_followed(world: World) -> None:
    world.open_position(trend())
    world.monitor()
    stop = world.one("order_execution", order_type="STOP_LOSS")
    world.market.replace(stop["alpaca_order_id"], {"stop_price": "128"})
    world.pass_time(minutes=5)
    world.monitor()
    followed = world.one("order_execution", order_type="STOP_LOSS", order_status="pending")
    assert followed["stop_price"] == 128
    assert followed["alpaca_order_id"] != stop["alpaca_order_id"]
    assert world.one("trade_journal")["current_stop_loss"] == 128
    assert live_exits(world) == [45]
    world.price("NVDA", "127")
    world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "STOPPED_OUT"


def test_another_decisions_resting_entry_gives_way_to_a_stop(world: World) -> None:
    world.decide(trend())
    world.decide(trend(limit_price=125, stop_loss=110, time_in_force="gtc", qty=10))
    world.execute()
    world.price("NVDA", "133.50")
    world.monitor()
    assert live_exits(world) == [45]
    world.monitor()
    assert world.one("trade_journal", status="CANCELLED")["planned_qty"] == 10


def test_missing_executions_do_not_delay_protection(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    world.fault("GET", "/v2/account/activities/FILL", "status", code=500, times=None)
    world.monitor()
    assert live_exits(world) == [45, 45]


def test_an_order_that_cannot_be_looked_up_does_not_delay_the_protection_of_others(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("AMD", "99")
    world.fault("POST", "/v2/orders", "drop", executed=False)
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500, times=None)
    world.decide(trend("AMD", limit_price=100, stop_loss=90), "AMD")
    assert world.execute() == {"unknown outcome": 1}
    world.price("NVDA", "133.50")
    world.monitor()
    assert live_exits(world) == [45, 45]


def test_a_mismatch_that_went_away_is_no_longer_an_open_alert(world: World) -> None:
    world.decide(trend())
    world.execute()
    world.price("NVDA", "133.50")
    world.market.step()
    world.fault("GET", "/v2/positions/NVDA", "status", code=404, body=NO_POSITION, times=6)
    world.monitor()
    assert world.one("alerts")["resolved_at"] is None
    world.monitor()
    assert world.one("alerts")["resolved_at"] is not None
    assert live_exits(world) == [45]


def test_a_trade_somebody_wrote_by_hand_does_not_stop_the_monitor(world: World) -> None:
    world.db.insert("trade_journal", {
        "trade_id": "BY-HAND", "symbol": "NVDA", "side": "buy", "trade_style": "TREND", "status": "POSITION",
        "planned_stop_loss": 1, "planned_qty": 1,
    })
    world.open_position()
    assert live_exits(world) == [45, 45]
    assert world.one("alerts")["subject"] == "BY-HAND"


def test_a_price_beyond_the_stop_closes_a_swing_by_its_stop(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    world.price("NVDA", "120")
    world.monitor()
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"]) == ("CLOSED", "STOPPED_OUT")
    assert world.one("alerts", kind="target_not_placed")["level"] == "warning"


@pytest.mark.parametrize("word", ["canceled", "replaced"])
def test_a_stop_that_fills_in_parts_is_followed_to_its_end(world: World, word: str) -> None:
    world.market.behave(tp_status_on_stop=word)
    world.open_position()
    world.market.set_liquidity("NVDA", "20")
    posts = len(world.posted())
    for price in ("123", "122.50", "122"):
        world.price("NVDA", price)
        world.monitor()
    assert len(world.posted()) == posts
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"]) == ("CLOSED", "STOPPED_OUT")
    assert journal["actual_pnl"] == 20 * Decimal(123) + 20 * Decimal("122.50") + 5 * 122 - 45 * Decimal("133.50")


def test_a_partly_filled_target_leaves_the_rest_tracked(world: World) -> None:
    world.open_position()
    world.market.set_liquidity("NVDA", "20")
    world.price("NVDA", "146")
    world.monitor()
    assert world.one("position_tracking")["qty"] == 25
    world.value()
    assert world.one("position_tracking")["unrealized_pnl"] == 25 * (146 - Decimal("133.50"))


def test_an_order_that_makes_no_sense_hides_neither_the_others_nor_its_own_executions(world: World) -> None:
    for symbol in ("AAA", "BBB"):
        world.price(symbol, "133")
        world.decide(swing(symbol), symbol)
    world.execute()
    first = world.one("order_execution", id=1)["alpaca_order_id"]

    def forget_price(order: dict[str, Any]) -> None:
        if order["id"] == first:
            order["filled_avg_price"] = None

    events = {str(event): count for event, count in monitor_oddly(world, each_order(forget_price)).items() if count}
    assert events["positions opened"] == 2
    assert events["orders left alone because the broker did not answer"] == 1
    assert live_exits(world) == [45, 45, 45, 45]


def test_a_fill_after_the_end_of_its_trade_is_a_critical_alert(world: World) -> None:
    world.decide(swing(limit_price=130))
    world.decide(swing(limit_price=125))
    world.execute()
    entry = world.db.query("order_execution")[0]
    world.market.cancel(entry["alpaca_order_id"])
    world.pass_time(minutes=1)
    world.monitor()
    late = {"status": "canceled", "filled_qty": "20", "filled_avg_price": "130"}
    world.fault("GET", "/v2/orders", "edit", set=late)
    world.monitor()
    alert = next(alert for alert in world.db.query("alerts", {"kind": "late_fill"}) if "20 shares" in alert["message"])
    assert alert["level"] == "critical"


def test_a_late_fill_of_a_cancelled_remainder_is_protected(world: World) -> None:
    world.market.set_liquidity("NVDA", "20")
    world.open_position(trend())
    entry = world.one("order_execution", order_type="ENTRY")
    assert (entry["order_status"], entry["filled_qty"]) == ("cancelled", 20)
    world.market.foreign_fill("NVDA", "buy", "5", "133.50")

    def fill_late(order: dict[str, Any]) -> None:
        if order["id"] == entry["alpaca_order_id"]:
            order["filled_qty"] = "25"

    monitor_oddly(world, each_order(fill_late))
    assert live_exits(world) == [25]


@pytest.mark.parametrize("fills_lag", [True, False])
def test_what_a_second_exit_took_too_much_is_brought_back(world: World, fills_lag: bool) -> None:
    world.open_position()
    stop = world.one("order_execution", order_type="STOP_LOSS")["alpaca_order_id"]
    world.market.behave(both_legs_fill=True)
    world.price("NVDA", "123")
    world.market.step()
    behind = {"filled_qty": "0", "status": "held", "filled_avg_price": None, "filled_at": None}

    def lag(_: str, answer: Any) -> Any:
        if not isinstance(answer, list):
            return answer
        for order in answer:
            for leg in order.get("legs") or []:
                leg |= behind if leg["id"] == stop else {}
        return [row for row in answer if not (fills_lag and row.get("order_id") == stop)]

    monitor_oddly(world, lag)
    for _ in range(3):
        world.monitor()
    assert {alert["level"] for alert in world.db.query("alerts")} == {"critical"}
    journal = world.one("trade_journal")
    assert (journal["status"], journal["pnl_is_estimate"]) == ("CLOSED", False)
    assert world.market.state.positions == {}


@pytest.mark.parametrize("answer", [{"filled_avg_price": "1e13"}, {"status": "replaced", "replaced_by": "self"}])
def test_one_order_nobody_can_store_keeps_no_other_from_its_stop(world: World, answer: dict[str, Any]) -> None:
    for symbol in ("AAA", "BBB"):
        world.price(symbol, "133")
        world.decide(swing(symbol), symbol)
    world.execute()
    first, second = (row["alpaca_order_id"] for row in world.db.query("order_execution"))
    odd = answer | ({"replaced_by": second} if "replaced_by" in answer else {})

    def spoil(order: dict[str, Any]) -> None:
        if order["id"] == first:
            order |= odd | ({"filled_qty": "0", "filled_avg_price": None} if "replaced_by" in odd else {})

    monitor_oddly(world, each_order(spoil))
    assert "BBB" in [row["symbol"] for row in world.db.query("position_tracking")]
    assert live_exits(world)[-2:] == [45, 45]


def test_a_change_the_database_refuses_is_an_alert_and_the_others_are_written(world: World) -> None:
    for symbol in ("AAA", "BBB"):
        world.price(symbol, "133")
        world.decide(swing(symbol), symbol)
    world.execute()
    first = world.db.query("order_execution")[0]
    world.db.execute_update(f"ALTER TABLE order_execution ADD CHECK (id <> {first['id']} OR filled_qty = 0)")
    world.monitor()
    assert [row["symbol"] for row in world.db.query("position_tracking")] == ["BBB"]
    assert world.one("alerts", kind="order_not_recorded")["level"] == "critical"


def test_an_alert_about_a_trade_that_could_not_be_attended_to_ends_when_it_can(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    world.db.execute_update("ALTER TABLE position_tracking ADD CONSTRAINT guard CHECK (qty = 0)")
    world.monitor()
    assert world.one("alerts", kind="not_attended_to")["resolved_at"] is None
    world.db.execute_update("ALTER TABLE position_tracking DROP CONSTRAINT guard")
    world.monitor()
    assert world.one("alerts", kind="not_attended_to")["resolved_at"] is not None
    assert live_exits(world) == [45, 45]


def parent(world: World) -> Any:
    """The order at the broker that protects the position, the target where it is an OCO."""
    kinds = [order.type for order in world.market.state.live.values() if order.side == "sell"]
    return member(world, "limit" if "limit" in kinds else "stop")


@pytest.mark.parametrize("decision", [swing(), trend()])
def test_an_exit_that_the_broker_does_not_know_twice_is_replaced(world: World, decision: dict[str, Any]) -> None:
    world.open_position(decision)
    world.monitor()
    forget(world, parent(world))
    posts = len(world.posted())
    world.pass_time(minutes=5)
    world.monitor()
    assert (world.one("alerts", kind="order_lost")["level"], len(world.posted())) == ("critical", posts)
    world.pass_time(minutes=5)
    world.monitor()
    assert (exits(world), len(world.posted())) == ([45], posts + 1)
    assert stays_as_it_is(world)
    assert world.one("alerts", kind="order_lost")["resolved_at"] is not None


@pytest.mark.parametrize("decision", [swing(), trend()])
def test_an_exit_that_turns_up_after_it_was_replaced_leaves_one(world: World, decision: dict[str, Any]) -> None:
    world.open_position(decision)
    world.monitor()
    lost = forget(world, parent(world))
    for _ in range(2):
        world.pass_time(minutes=5)
        world.monitor()
    remember(lost)
    for _ in range(2):
        world.pass_time(minutes=5)
        world.monitor()
    assert exits(world) == [45]
    assert stays_as_it_is(world)


def test_an_exit_that_the_broker_knows_again_at_the_second_look_stays(world: World) -> None:
    world.open_position(trend())
    world.monitor()
    lost = forget(world, parent(world))
    world.pass_time(minutes=5)
    world.monitor()
    remember(lost)
    assert stays_as_it_is(world)
    assert exits(world) == [45]
    assert world.one("alerts", kind="order_lost")["resolved_at"] is not None


def test_where_the_broker_does_not_know_the_entry_either_nothing_is_placed(world: World) -> None:
    world.open_position(trend())
    world.monitor()
    for order in list(world.market.state.orders.values()):
        forget(world, order)
    assert stays_as_it_is(world)
    assert world.one("alerts", kind="order_lost")["resolved_at"] is None


def test_an_entry_that_the_broker_does_not_know_any_more_is_an_alert_and_still_counts(world: World) -> None:
    world.decide(swing(limit_price=130, time_in_force="gtc"))
    world.execute()
    for order in list(world.market.state.orders.values()):
        forget(world, order)
    assert stays_as_it_is(world)
    assert world.one("alerts", kind="order_lost")["level"] == "critical"
    assert world.one("order_execution")["order_status"] == "pending"
