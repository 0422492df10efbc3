"""What the broker does to an order after it took it, and what the books make of it: words, ends, successors, fills."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from alpaca.trading.enums import OrderStatus as BrokerWord

from paper_broker.listing import list_activities, list_orders
from paper_broker.orders import Order
from tests.flow.exits import ORDERS, cancel_by_hand, change_by_hand, exits, member, part, place, stays_as_it_is, trade
from tests.flow.world import World, swing, trend

FINAL = {"filled", "canceled", "expired", "rejected", "replaced"}
LIVE_WORDS = sorted({word.value for word in BrokerWord} - FINAL - {"partially_filled"})
FILLS = "/v2/account/activities/FILL"


Alter = Callable[[dict[str, Any]], dict[str, Any] | None]


def monitor_through(world: World, path: str, alter: Alter) -> None:
    """One pass of the order monitor to which the broker lists altered rows; None leaves a row out."""
    world.market.step()
    wanted = {"status": "all", "nested": "true", "direction": "asc", "limit": "500"}
    rows = list_orders(world.market.state, wanted) if path == ORDERS else list_activities(world.market.state, {}, [])
    altered = [row for row in map(alter, rows) if row is not None]
    world.fault("GET", path, "status", code=200, body=altered, times=None)
    world.monitor()
    world.market.faults.clear()


def fill_late(world: World, order: Order, qty: int, price: str) -> None:
    """Let an order fill although it had ended, as an execution does that the broker hears of late."""
    world.market.matching.execute(order, Decimal(qty), Decimal(price))
    if order.remaining:
        order.status = "canceled"


def entries(world: World) -> list[dict[str, Any]]:
    """The rows of the entries, oldest first."""
    return sorted(world.db.query("order_execution", {"order_type": "ENTRY"}), key=lambda row: row["id"])


def test_no_word_of_an_order_that_may_still_work_ends_anything(world: World) -> None:
    world.decide(swing())
    world.execute()
    for word in LIVE_WORDS:
        world.fault("GET", "/v2/orders", "edit", set={"status": word})
        world.monitor()
        order = world.one("order_execution")
        assert (order["order_status"], order["broker_status"]) == ("pending", word)
    assert world.one("trade_journal")["status"] == "ORDERED"
    assert world.db.query("alerts") == []


@pytest.mark.parametrize("word", ["pending_cancel", "done_for_day", "suspended", "calculated", "pondering"])
def test_a_word_about_a_stop_that_works_brings_no_second_one(world: World, word: str) -> None:
    world.open_position(trend())

    posts = len(world.posted())
    for _ in range(2):
        monitor_through(world, ORDERS, lambda row: row | {"status": word} if row["type"] == "stop" else row)
    stop = world.one("order_execution", order_type="STOP_LOSS")
    assert (stop["order_status"], stop["broker_status"]) == ("pending", word)
    assert len(world.posted()) == posts
    assert [alert["kind"] for alert in world.db.query("alerts")] == ["unknown_broker_status"] * (word == "pondering")


def test_a_day_entry_that_expires_partly_filled_leaves_a_protected_position(world: World) -> None:
    place(world, swing(), filled="20")
    world.pass_time(hours=8)
    world.monitor()
    entry, journal = world.one("order_execution", order_type="ENTRY"), world.one("trade_journal")
    assert (entry["order_status"], entry["broker_status"], entry["filled_qty"]) == ("expired", "expired", 20)
    assert (journal["status"], journal["actual_qty"], exits(world)) == ("POSITION", 20, [20])
    assert world.one("trade_decisions")["status"] == "executed"
    assert stays_as_it_is(world)


def test_a_cancel_by_hand_of_a_partly_filled_entry_leaves_a_protected_position(world: World) -> None:
    entry = place(world, swing(), filled="20")
    cancel_by_hand(world, entry)
    world.monitor()
    assert world.one("order_execution", order_type="ENTRY")["order_status"] == "cancelled"
    assert (world.one("trade_journal")["status"], exits(world)) == ("POSITION", [20])


def test_an_entry_that_fills_instead_of_being_cancelled_is_protected_whole(world: World) -> None:
    place(world, trend(), filled="20")
    world.market.behave(cancel_loses_to_fill=True)
    world.monitor()
    entry = world.one("order_execution", order_type="ENTRY")
    assert (entry["order_status"], entry["filled_qty"]) == ("filled", 45)
    assert (exits(world), world.one("position_tracking")["qty"]) == ([45], 45)


def test_an_entry_whose_cancel_hangs_keeps_the_books_open_and_the_stop_beside_it_in_an_oco(world: World) -> None:
    place(world, trend(), filled="20")
    world.market.behave(cancel_hang=True)
    for _ in range(2):
        world.monitor()
    entry = world.one("order_execution", order_type="ENTRY")
    assert (entry["order_status"], entry["broker_status"]) == ("partially_filled", "pending_cancel")
    assert (exits(world), world.one("trade_journal")["status"]) == ([20], "POSITION")
    world.market.behave(cancel_hang=False)
    world.monitor()
    assert (exits(world), world.one("order_execution", order_type="ENTRY")["order_status"]) == ([20], "cancelled")
    assert world.db.query("alerts", {"level": "critical"}) == []
    assert world.market.state.shares("NVDA") == 20


def test_an_exit_whose_cancel_hangs_is_never_joined_by_a_second_one(world: World) -> None:
    place(world, swing(), filled="20")
    world.monitor()
    world.market.behave(cancel_hang=True)
    part(world, "10", "133.40")
    for _ in range(2):
        world.monitor()
        assert exits(world) == [20]
    assert world.one("alerts", kind="unprotected_position")["level"] == "critical"
    world.market.behave(cancel_hang=False)
    world.monitor()
    assert exits(world) == [30]
    assert world.one("alerts", kind="unprotected_position")["resolved_at"] is not None


def test_an_exit_whose_cancel_by_hand_hangs_is_the_exit_until_it_ends(world: World) -> None:
    world.open_position()
    world.monitor()
    world.market.behave(cancel_hang=True)
    cancel_by_hand(world, member(world, "limit"))
    assert stays_as_it_is(world)
    assert exits(world) == [45]
    world.market.behave(cancel_hang=False)
    world.monitor()
    assert exits(world) == [45]
    assert {order.status for order in world.market.state.live.values()} == {"pending_new", "held"}


def test_an_entry_changed_by_hand_before_it_fills_is_followed(world: World) -> None:
    entry = place(world, swing())
    world.monitor()
    second = change_by_hand(world, entry, limit_price="134")
    world.monitor()
    newest = change_by_hand(world, change_by_hand(world, second, limit_price="134.50"), limit_price="135")
    world.monitor()
    rows = entries(world)
    assert [row["order_status"] for row in rows] == ["replaced", "replaced", "replaced", "pending"]
    assert (rows[-1]["alpaca_order_id"], rows[-1]["limit_price"]) == (newest.id, 135)
    assert world.one("trade_journal")["status"] == "ORDERED"
    trade(world, "134.90")
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["actual_entry"], exits(world)) == ("POSITION", Decimal("134.90"), [45])
    assert world.db.query("external_order") == []


@pytest.mark.parametrize("qty", [None, "30"])
def test_an_entry_changed_by_hand_after_some_fills_is_the_sum_of_both(world: World, qty: str | None) -> None:
    entry = place(world, swing(), filled="20")
    change_by_hand(world, entry, limit_price="134", **({"qty": qty} if qty else {}))
    world.monitor()
    assert (exits(world), world.one("position_tracking")["qty"]) == ([20], 20)
    trade(world, "133.90")
    world.monitor()
    whole = int(qty or 45)
    rows = entries(world)
    assert [(row["order_status"], row["filled_qty"]) for row in rows] == [("replaced", 20), ("filled", whole - 20)]
    journal = world.one("trade_journal")
    spent = 20 * Decimal("133.50") + (whole - 20) * Decimal("133.90")
    assert (journal["actual_qty"], journal["actual_entry"]) == (whole, round(spent / whole, 6))
    assert exits(world) == [whole]
    trade(world, "146")
    world.monitor()
    assert world.one("trade_journal")["actual_pnl"] == 146 * whole - spent


def test_an_entry_that_fills_instead_of_being_changed_is_one_position(world: World) -> None:
    entry = place(world, swing())
    world.monitor()
    world.market.behave(replace_loses_to_fill=True)
    change_by_hand(world, entry, limit_price="134")
    for _ in range(2):
        world.monitor()
    assert (world.one("position_tracking")["qty"], exits(world)) == (45, [45])
    entries = world.db.query("order_execution", {"order_type": "ENTRY"})
    assert sorted(entry["order_status"] for entry in entries) == ["filled", "rejected"]


def test_a_successor_that_one_listing_leaves_out_is_followed_at_the_next(world: World) -> None:
    entry = place(world, swing())
    world.monitor()
    new = change_by_hand(world, entry, limit_price="134")
    monitor_through(world, ORDERS, lambda row: None if row["id"] == new.id else row)
    world.monitor()
    assert world.market.order(new.id).live
    trade(world, "133.90")
    world.monitor()
    assert (world.one("trade_journal")["status"], exits(world)) == ("POSITION", [45])


def _only(listed: list[str], row: dict[str, Any]) -> dict[str, Any] | None:
    return row if row["id"] in listed else None


def _dearer(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"filled_avg_price": "140"} if row["filled_avg_price"] else row


def test_executions_that_are_listed_out_of_order_are_one_row_each(world: World) -> None:
    place(world, swing(), filled="15")
    part(world, "15", "133.40")
    part(world, "15", "133.30")
    first, second, third = (fill.id for fill in world.market.state.activities)
    known = []
    for listed in ([third], [first], [third, first], [second], [third, second, first]):
        monitor_through(world, FILLS, partial(_only, listed))
        known.append([row["execution_id"] for row in world.db.query("order_fill")])
    assert known == [[third], [third, first], [third, first], [third, first, second], [third, first, second]]
    trade(world, "146")
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["actual_pnl"], journal["pnl_is_estimate"]) == (45 * 146 - 15 * Decimal("400.20"), False)


def test_where_an_order_says_less_than_its_executions_they_are_believed(world: World) -> None:
    place(world, swing(), filled="45")

    monitor_through(
        world, ORDERS, lambda row: row | {"filled_qty": "40", "status": "partially_filled", "filled_at": None},
    )
    assert (world.one("position_tracking")["qty"], exits(world)) == (45, [45])
    assert world.one("order_execution", order_type="ENTRY")["filled_qty"] == 45
    world.monitor()
    assert world.one("order_execution", order_type="ENTRY")["order_status"] == "filled"
    assert exits(world) == [45]


def test_profit_comes_from_the_executions_where_an_order_claims_another_price(world: World) -> None:
    place(world, swing(), filled="45")

    monitor_through(world, ORDERS, _dearer)
    trade(world, "146")
    monitor_through(world, ORDERS, _dearer)
    journal = world.one("trade_journal")
    assert (journal["actual_pnl"], journal["pnl_is_estimate"]) == (Decimal("562.50"), False)


def test_a_fill_after_an_entry_was_cancelled_takes_the_trade_up_again(world: World) -> None:
    entry = place(world, swing())
    cancel_by_hand(world, entry)
    world.monitor()
    assert (world.one("trade_journal")["status"], world.one("trade_decisions")["status"]) == ("CANCELLED", "cancelled")
    fill_late(world, entry, 20, "133.50")
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"], journal["actual_qty"]) == ("POSITION", None, 20)
    assert (exits(world), world.one("trade_decisions")["status"]) == ([20], "executed")
    assert world.one("alerts", kind="late_fill")["level"] == "critical"
    trade(world, "146")
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"], journal["actual_pnl"]) == ("CLOSED", "TARGET_HIT", 250)
    assert world.market.state.positions == {}


@pytest.mark.parametrize("end", ["TARGET_HIT", "STOPPED_OUT"])
def test_a_fill_after_a_trade_was_closed_takes_it_up_again(world: World, end: str) -> None:
    entry = place(world, swing(), filled="20")
    cancel_by_hand(world, entry)
    world.monitor()
    price = Decimal(146 if end == "TARGET_HIT" else 120)
    trade(world, str(price))
    world.monitor()
    assert world.one("trade_journal")["exit_reason"] == end
    trade(world, "134")
    fill_late(world, entry, 5, "133")
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["actual_pnl"], exits(world)) == ("POSITION", None, [5])
    assert world.one("position_tracking")["qty"] == 5
    trade(world, str(price))
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"]) == ("CLOSED", end)
    assert journal["actual_pnl"] == 25 * price - 20 * Decimal("133.50") - 5 * 133
    assert world.market.state.positions == {}


def arrive_late(world: World) -> Order:
    """An entry that the books gave up as not placed, and that reaches the broker all the same."""
    world.fault("POST", "/v2/orders", "drop", executed=False)
    world.decide(swing())
    world.execute()
    for _ in range(3):
        world.pass_time(minutes=5)
        world.monitor()
    assert world.one("trade_decisions")["status_reason"].startswith("not_placed")
    order = world.market.submit(json.loads(world.requests("POST")[0]["body"]))
    world.market.step()
    return order


def test_an_order_that_arrives_after_it_was_given_up_is_cancelled(world: World) -> None:
    order = arrive_late(world)
    world.monitor()
    world.pass_time(minutes=1)
    world.monitor()
    assert (order.status, world.market.state.positions) == ("canceled", {})
    journal, row = world.one("trade_journal"), world.one("order_execution")
    assert (journal["status"], row["order_status"], row["alpaca_order_id"]) == ("CANCELLED", "cancelled", order.id)
    assert world.one("trade_decisions")["status"] == "failed"
    assert stays_as_it_is(world)


def test_an_order_that_was_sent_days_after_its_claim_is_watched_from_when_it_was_given_up(world: World) -> None:
    world.configure(DECISION_MAX_AGE_HOURS="200")
    name = world.decide(swing())
    world.execute_with_the_line_down()
    world.pass_time(days=6)
    world.fault("POST", "/v2/orders", "drop", executed=False)
    world.execute()
    for _ in range(3):
        world.pass_time(minutes=5)
        world.monitor()
    assert world.one("trade_decisions")["status_reason"].startswith("not_placed")
    world.price("AMD", "135")
    world.decide(swing("AMD"), "AMD")
    world.execute()
    order = world.market.submit(json.loads(world.requests("POST")[0]["body"]))
    for _ in range(2):
        world.market.step()
        world.monitor()
    assert (order.status, world.analysis(name)["existing_order_id"]) == ("canceled", order.id)


def test_an_order_that_arrives_after_it_was_given_up_and_fills_becomes_a_protected_position(world: World) -> None:
    order = arrive_late(world)
    world.price("NVDA", "133.50")
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["actual_qty"], exits(world)) == ("POSITION", 45, [45])
    assert world.one("trade_decisions")["status"] == "executed"
    assert world.one("alerts", kind="late_fill")["level"] == "critical"
    assert world.one("analysis_decision")["existing_order_id"] == order.id
    assert stays_as_it_is(world)


def test_an_order_that_arrives_late_and_fills_while_it_is_cancelled_becomes_a_protected_position(world: World) -> None:
    arrive_late(world)
    world.market.behave(cancel_loses_to_fill=True)
    for _ in range(2):
        world.monitor()
    assert (world.one("trade_journal")["status"], exits(world)) == ("POSITION", [45])


def test_a_late_fill_that_is_heard_from_a_cancel_is_a_critical_alert(world: World) -> None:
    arrive_late(world)
    world.market.behave(cancel_loses_to_fill=True)
    for _ in range(2):
        world.monitor()
    assert world.one("alerts", kind="late_fill")["level"] == "critical"
