"""Which order a CANCEL or AMEND is about, and which it must leave alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from alpaca_client import Reply, Request
from tests.flow.changes import Watched, amend, cancel, deleted, in_order, live_entries, placed, point
from tests.flow.world import World, executor, swing


def _filled(world: World, entry: dict[str, Any]) -> None:
    world.price("NVDA", "133.50")
    world.monitor()


def _by_hand(world: World, entry: dict[str, Any]) -> None:
    world.market.cancel(entry["alpaca_order_id"])
    world.pass_time(minutes=1)
    world.monitor()


def _expired(world: World, entry: dict[str, Any]) -> None:
    world.pass_time(hours=9)
    world.monitor()


def _closed(world: World, entry: dict[str, Any]) -> None:
    _filled(world, entry)
    world.price("NVDA", "146")
    world.monitor()


OVER: dict[str, tuple[Callable[[World, dict[str, Any]], None], str]] = {
    "filled": (_filled, "is already filled; the trade is a position with its own stop"),
    "closed": (_closed, "is already filled; the trade is closed"),
    "cancelled": (_by_hand, "is already cancelled"),
    "expired": (_expired, "has already expired"),
}


@pytest.mark.parametrize("decision", [cancel(), amend()], ids=["cancel", "amend"])
@pytest.mark.parametrize("kind", OVER)
def test_an_order_that_is_over_is_left_alone_with_a_remark(world: World, kind: str, decision: dict[str, Any]) -> None:
    happens, words = OVER[kind]
    entry = placed(world)
    happens(world, entry)
    name = point(world, decision, entry["alpaca_order_id"], at=world.clock.now())
    posts, deletes = len(world.posted()), deleted(world)
    before = in_order(world, "trade_journal")
    assert world.execute() == {"refused": 1}
    remark = f"the order of {before[0]['trade_id']} {words}"
    assert world.analysis(name)["Remarks"] == f"REJECTED: {remark}"
    failed = world.one("trade_decisions", analysis_decision_id=name)
    assert (failed["status"], failed["status_reason"], failed["target_order_id"]) == ("failed", remark, entry["id"])
    assert (len(world.posted()), deleted(world), in_order(world, "trade_journal")) == (posts, deletes, before)
    assert world.execute() == {}


@pytest.mark.parametrize("decision", [cancel(), amend()], ids=["cancel", "amend"])
def test_a_row_that_points_at_no_order_is_refused(world: World, decision: dict[str, Any]) -> None:
    placed(world)
    name = point(world, decision, " ")
    assert world.execute() == {"refused": 1}
    assert "neither existing_order_id nor existing_trade_journal_id" in world.analysis(name)["Remarks"]
    assert live_entries(world) == [45]


@pytest.mark.parametrize("decision", [cancel(), amend()], ids=["cancel", "amend"])
def test_an_order_of_somebody_else_is_never_cancelled(world: World, decision: dict[str, Any]) -> None:
    placed(world)
    theirs = world.market.submit({
        "symbol": "NVDA", "qty": "7", "side": "buy", "type": "limit", "limit_price": "100", "time_in_force": "day",
    })
    world.monitor()
    name = point(world, decision, theirs.id)
    assert world.execute() == {"refused": 1}
    assert world.analysis(name)["Remarks"] == f"REJECTED: order {theirs.id} is not an order of ours"
    assert live_entries(world) == [45, 7]
    assert deleted(world) == 0


@pytest.mark.parametrize("decision", [cancel(), amend()], ids=["cancel", "amend"])
@pytest.mark.parametrize(("role", "words"), [("STOP_LOSS", "the stop"), ("TAKE_PROFIT", "the target")])
def test_the_exits_of_a_position_stay(world: World, decision: dict[str, Any], role: str, words: str) -> None:
    world.open_position()
    exit_id = world.one("order_execution", order_type=role)["alpaca_order_id"]
    name = point(world, decision, exit_id)
    assert world.execute() == {"refused": 1}
    assert f"order {exit_id} is {words} of " in world.analysis(name)["Remarks"]
    assert deleted(world) == 0


def test_a_symbol_that_differs_from_the_orders_is_refused(world: World) -> None:
    entry = placed(world)
    name = point(world, cancel("AMD"), entry["alpaca_order_id"], ticker="AMD")
    assert world.execute() == {"refused": 1}
    assert "the decision is about AMD, but NVDA-20250115-" in world.analysis(name)["Remarks"]
    assert live_entries(world) == [45]


def test_ids_of_two_different_trades_are_refused(world: World) -> None:
    first, second = placed(world), placed(world, swing(qty=10))
    name = point(world, cancel(), first["alpaca_order_id"], second["trade_journal_id"])
    assert world.execute() == {"refused": 1}
    assert f"not to existing_trade_journal_id {second['trade_journal_id']}" in world.analysis(name)["Remarks"]
    assert live_entries(world) == [45, 10]


def test_a_journal_id_nobody_knows_is_refused(world: World) -> None:
    name = point(world, cancel(), journal_id=4711)
    assert world.execute() == {"refused": 1}
    assert "existing_trade_journal_id 4711 is no trade of ours" in world.analysis(name)["Remarks"]


def test_a_trade_written_by_hand_without_an_order_is_refused(world: World) -> None:
    journal_id = world.db.insert("trade_journal", {
        "trade_id": "BY-HAND", "symbol": "NVDA", "side": "buy", "trade_style": "TREND", "status": "ORDERED",
        "planned_stop_loss": 1, "planned_qty": 1,
    })
    point(world, cancel(), journal_id=int(journal_id))
    assert world.execute() == {"refused": 1}


def test_an_order_the_broker_does_not_know_any_more_is_refused(world: World) -> None:
    entry = placed(world)
    gone = {"code": 404, "body": {"code": 40410000, "message": "order not found"}, "times": None}
    world.fault("*", f"/v2/orders/{entry['alpaca_order_id']}", "status", **gone)
    name = point(world, cancel(), entry["alpaca_order_id"])
    assert world.execute() == {"refused": 1}
    assert "the broker does not know the order of" in world.analysis(name)["Remarks"]
    assert world.one("trade_journal")["status"] == "ORDERED"
    assert world.execute() == {}


def test_an_order_that_a_person_replaced_is_cancelled_under_its_old_id(world: World) -> None:
    entry = placed(world)
    world.market.replace(entry["alpaca_order_id"], {"limit_price": "131"})
    world.pass_time(minutes=1)
    world.monitor()
    successor = world.one("order_execution", order_status="pending")
    name = point(world, cancel(), entry["alpaca_order_id"])
    assert world.execute() == {"cancelled": 1}
    assert live_entries(world) == []
    assert world.analysis(name)["existing_order_id"] == successor["alpaca_order_id"]
    assert world.one("trade_journal")["status"] == "CANCELLED"


def test_an_order_that_a_person_replaces_at_that_moment_is_cancelled_too(world: World) -> None:
    entry = placed(world)
    point(world, cancel(), entry["alpaca_order_id"])

    def around(request: Request, send: Callable[[], Reply]) -> Reply:
        if request.path.endswith(entry["alpaca_order_id"]):
            world.market.replace(entry["alpaca_order_id"], {"limit_price": "131"})
        return send()

    executor(world, Watched(world, around)).run()
    assert live_entries(world) == []
    assert world.one("trade_decisions", action="cancel")["status"] == "executed"


@pytest.mark.parametrize("decision", [cancel(), amend()], ids=["cancel", "amend"])
def test_another_row_with_an_analysis_id_that_was_carried_out_is_a_duplicate(
    world: World, decision: dict[str, Any],
) -> None:
    world.db.execute_update("ALTER TABLE analysis_decision DROP CONSTRAINT analysis_decision_pkey")
    world.db.execute_update("ALTER TABLE analysis_decision ADD id serial PRIMARY KEY")
    entry = placed(world)
    world.decide(decision, name=entry["analysis_decision_id"])
    world.db.execute_update(
        "UPDATE analysis_decision SET existing_order_id = %s WHERE executed IS NULL", [entry["alpaca_order_id"]],
    )
    assert world.execute() == {"refused": 1}
    assert world.one("trade_decisions", status="failed")["status_reason"].startswith("duplicate: ")
    assert live_entries(world) == [45]


def test_two_rows_that_cancel_one_order_cancel_it_once(world: World) -> None:
    entry = placed(world)
    point(world, cancel(), entry["alpaca_order_id"])
    second = point(world, cancel(), entry["alpaca_order_id"])
    assert world.execute() == {"cancelled": 1, "refused": 1}
    assert "is already cancelled" in world.analysis(second)["Remarks"]
    assert deleted(world) == 1
