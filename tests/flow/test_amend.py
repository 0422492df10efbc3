"""What the executor does with decisions to amend: never two orders at once, never more than was intended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from alpaca_client import Reply, Request
from order_executor import OrderExecutor
from tests.flow.changes import (
    Watched,
    amend,
    books,
    cancel,
    deleted,
    halt,
    in_order,
    live_entries,
    partly_filled,
    placed,
    point,
    reuse,
)
from tests.flow.world import START, SharedClock, World, executor, swing


def test_an_amend_replaces_the_order_and_ends_the_old_trade_as_amended(world: World) -> None:
    old = placed(world)
    name = point(world, amend(qty=30), old["alpaca_order_id"])
    assert world.execute() == {"placed": 1}
    assert live_entries(world) == [30]
    first, second = in_order(world, "trade_journal")
    assert (first["status"], first["exit_reason"]) == ("CANCELLED", "AMENDED")
    assert (second["status"], second["planned_qty"], second["planned_entry"]) == ("ORDERED", 30, 130)
    new = world.one("order_execution", trade_journal_id=second["id"])
    row = world.analysis(name)
    assert (row["executed"], row["Remarks"]) == (True, None)
    assert (row["existing_order_id"], row["existing_trade_journal_id"]) == (new["alpaca_order_id"], second["id"])


def test_an_amend_has_its_decision_checks_and_client_id_of_its_own(world: World) -> None:
    old = placed(world)
    point(world, amend(qty=30), old["alpaca_order_id"])
    world.execute()
    first, second = in_order(world, "trade_decisions")
    assert (first["status"], first["status_reason"]) == ("cancelled", "amended before any fill, as A2 decided")
    assert (second["action"], second["status"], second["quantity"]) == ("amend", "pending", 30)
    assert second["target_order_id"] == old["id"]
    checks = [world.db.query("risk_checks", {"trade_decision_id": decision["id"]}) for decision in (first, second)]
    assert [check["check_name"] for check in checks[1]] == [check["check_name"] for check in checks[0]]
    one, two = (order["client_order_id"] for order in world.posted())
    assert one != two
    assert two.startswith(f"tm-{second['source_bytes_sha256'][:12]}-")
    world.price("NVDA", "130")
    world.monitor()
    assert [decision["status"] for decision in in_order(world, "trade_decisions")] == ["cancelled", "executed"]
    assert world.one("trade_journal", status="POSITION")["actual_qty"] == 30


def test_the_old_order_has_ended_before_the_new_one_is_sent(world: World) -> None:
    old = placed(world)
    world.clock = SharedClock(world)
    world.market.behave(cancel_delay_seconds="4")
    point(world, amend(), old["alpaca_order_id"])
    executor(world, Watched(world)).run()
    assert len(world.posted()) == 2
    assert live_entries(world) == [45]


def test_what_the_old_order_filled_is_not_ordered_again(world: World) -> None:
    old = partly_filled(world)
    point(world, amend(qty=30, limit_price=131), old["alpaca_order_id"])
    executor(world, Watched(world)).run()
    assert [order["qty"] for order in world.posted()] == ["45", "10"]
    assert live_entries(world) == [10]
    world.monitor()
    first, second = in_order(world, "trade_journal")
    assert (first["status"], first["exit_reason"], first["actual_qty"]) == ("POSITION", None, 20)
    assert (second["status"], second["planned_qty"]) == ("ORDERED", 10)
    assert world.one("trade_decisions", action="new_trade")["status"] == "executed"
    reason = world.one("trade_decisions", action="amend")["status_reason"]
    assert reason == f"replaces the order of {first['trade_id']}, 20 of 45 shares were filled before"
    world.price("NVDA", "130")
    world.monitor()
    amended = world.one("trade_decisions", action="amend")
    assert (amended["status"], amended["status_reason"]) == ("executed", reason)


def test_shares_filled_while_the_cancel_was_on_its_way_are_not_ordered_again(world: World) -> None:
    old = placed(world)
    world.market.set_liquidity("NVDA", "15")
    point(world, amend(), old["alpaca_order_id"])

    def around(request: Request, send: Callable[[], Reply]) -> Reply:
        if request.method == "DELETE":
            world.price("NVDA", "133.50")
            world.price("NVDA", "135")
        return send()

    executor(world, Watched(world, around)).run()
    assert [order["qty"] for order in world.posted()] == ["45", "30"]


@pytest.mark.parametrize("qty", [20, 10])
def test_an_amend_to_no_more_than_was_filled_sends_nothing_new(world: World, qty: int) -> None:
    old = partly_filled(world)
    name = point(world, amend(qty=qty), old["alpaca_order_id"])
    assert world.execute() == {"refused": 1}
    assert live_entries(world) == []
    assert len(world.posted()) == 1
    decision = world.one("trade_decisions", action="amend")
    assert decision["status"] == "failed"
    assert "they are the amended quantity already" in world.analysis(name)["Remarks"]
    assert world.db.query("alerts") == []
    world.monitor()
    assert world.one("trade_journal")["status"] == "POSITION"


def test_an_order_that_fills_before_its_cancel_is_not_replaced(world: World) -> None:
    old = placed(world)
    world.market.behave(cancel_loses_to_fill=True)
    name = point(world, amend(), old["alpaca_order_id"])
    assert world.execute() == {"refused": 1}
    assert "could not be amended: it is already filled" in world.analysis(name)["Remarks"]
    assert len(world.posted()) == 1
    world.monitor()
    assert world.one("trade_journal")["status"] == "POSITION"
    assert world.one("trade_decisions", action="amend")["status"] == "failed"
    assert [alert for alert in world.db.query("alerts") if alert["kind"] == "amended_without_order"] == []


REFUSED = {
    "over a limit": (amend(qty=200), {}, "dollars is over MAX_ORDER_NOTIONAL"),
    "on the deny list": (amend(), {"SYMBOL_DENYLIST": "NVDA"}, "is on SYMBOL_DENYLIST"),
    "into a sell": (
        amend(side="sell", stop_loss=140, take_profit=120), {"ALLOW_SHORT": "true"},
        "an AMEND cannot turn the buy of",
    ),
    "that cannot be read": (amend(stop_loss=140), {}, "the stop 140 must be at least 0.01 below"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_amend_that_is_refused_cancels_nothing(world: World, kind: str) -> None:
    decision, environ, words = REFUSED[kind]
    old = placed(world)
    world.configure(**environ)
    name = point(world, decision, old["alpaca_order_id"])
    assert world.execute() == {"refused": 1}
    assert words in world.analysis(name)["Remarks"]
    assert (deleted(world), live_entries(world)) == (0, [45])
    assert world.one("trade_journal")["status"] == "ORDERED"


def test_an_amend_that_is_too_old_cancels_nothing(world: World) -> None:
    old = placed(world, swing(time_in_force="gtc"))
    world.pass_time(days=5)
    point(world, amend(), old["alpaca_order_id"], at=START)
    assert world.execute() == {"refused": 1}
    assert (deleted(world), live_entries(world)) == (0, [45])


def test_an_amend_to_a_market_order_waits_for_a_price_before_anything_is_cancelled(world: World) -> None:
    old = placed(world)
    point(world, amend(type="market"), old["alpaca_order_id"])
    world.fault("GET", "/v2/stocks/trades/latest", "status", code=500)
    assert world.execute() == {"waiting for a price": 1}
    assert live_entries(world) == [45]
    assert world.execute() == {"placed": 1}
    assert [order["type"] for order in world.posted()] == ["limit", "market"]


@pytest.mark.parametrize("state", ["HALTED", "REDUCING"])
def test_an_amend_is_held_back_whole_while_trading_is_halted(world: World, state: str) -> None:
    old = placed(world)
    name = point(world, amend(), old["alpaca_order_id"])
    halt(world, state)
    assert world.execute() == {"held back": 1}
    assert (deleted(world), live_entries(world)) == (0, [45])
    assert world.analysis(name)["executed"] is None
    halt(world, "ACTIVE")
    assert world.execute() == {"placed": 1}


def test_an_amend_claimed_just_before_a_halt_cancels_nothing_until_it_is_released(world: World) -> None:
    old = placed(world)
    point(world, amend(), old["alpaca_order_id"])

    class Halted(OrderExecutor):
        def handle_amend(self, decision_id: int) -> Any:
            halt(world)
            return super().handle_amend(decision_id)

    broker = Watched(world)
    worker = Halted(db=world.programs, broker=broker, clock=world.clock, settings=world.settings)
    assert {str(result) for result in worker.run()} == {"held back"}
    before = books(world)
    assert world.execute() == {"held back": 1}
    assert (books(world), deleted(world)) == (before, 0)
    halt(world, "ACTIVE")
    assert world.execute() == {"placed": 1}
    assert live_entries(world) == [45]


def test_a_new_order_that_is_refused_after_the_cancel_is_on_the_decision_and_an_alert(world: World) -> None:
    old = placed(world)
    trade_id = world.one("trade_journal")["trade_id"]
    name = point(world, amend(), old["alpaca_order_id"])
    world.fault("POST", "/v2/orders", "status", code=403, body={"code": 40310000, "message": "no buying power"})
    assert world.execute() == {"refused": 1}
    assert live_entries(world) == []
    decision, alert = world.one("trade_decisions", action="amend"), world.one("alerts")
    assert decision["status"] == "failed"
    assert (alert["level"], alert["kind"], alert["subject"]) == ("critical", "amended_without_order", trade_id)
    for words in (decision["status_reason"], alert["message"], world.analysis(name)["Remarks"]):
        assert "no buying power" in words
    first, second = in_order(world, "trade_journal")
    assert (first["exit_reason"], second["exit_reason"]) == ("AMENDED", "REJECTED")
    assert world.execute() == {}


def test_a_new_order_that_is_rejected_after_it_was_taken_is_an_alert_too(world: World) -> None:
    old = placed(world)
    point(world, amend(), old["alpaca_order_id"])
    world.market.behave(reject_next=1)
    assert world.execute() == {"placed": 1}
    world.pass_time(minutes=1)
    world.monitor()
    assert world.one("trade_decisions", action="amend")["status"] == "failed"
    assert world.one("alerts", kind="amended_without_order")["level"] == "critical"


def test_a_new_order_that_never_arrived_is_an_alert_and_is_not_sent_again(world: World) -> None:
    old = placed(world)
    point(world, amend(), old["alpaca_order_id"])
    world.fault("POST", "/v2/orders", "drop", executed=False)
    assert world.execute() == {"unknown outcome": 1}
    for _ in range(3):
        world.pass_time(minutes=5)
        world.monitor()
    assert world.one("trade_decisions", action="amend")["status"] == "failed"
    assert "never received" in world.one("alerts", kind="amended_without_order")["message"]
    world.execute()
    assert len(world.posted()) == 2


def test_a_new_order_whose_answer_is_lost_is_found_again(world: World) -> None:
    old = placed(world)
    name = point(world, amend(), old["alpaca_order_id"])
    world.fault("POST", "/v2/orders", "drop", executed=True)
    assert world.execute() == {"placed": 1}
    assert live_entries(world) == [45]
    assert world.analysis(name)["executed"] is True


def test_the_row_of_an_order_can_be_turned_into_its_amend_again_and_again(world: World) -> None:
    name = placed(world)["analysis_decision_id"]
    for qty in (30, 20):
        reuse(world, name, amend(qty=qty))
        assert world.execute() == {"placed": 1}
        assert live_entries(world) == [qty]
        newest = in_order(world, "order_execution")[-1]
        assert world.analysis(name)["existing_order_id"] == newest["alpaca_order_id"]
    reuse(world, name, cancel())
    assert world.execute() == {"cancelled": 1}
    ends = [trade["exit_reason"] for trade in in_order(world, "trade_journal")]
    assert ends == ["AMENDED", "AMENDED", "CANCELLED"]


def test_an_amend_back_to_terms_that_were_amended_since_is_refused_and_changes_nothing(world: World) -> None:
    name = world.decide(swing())
    world.execute()
    for qty in (30, 25):
        reuse(world, name, amend(qty=qty))
        world.execute()
    marked = world.analysis(name)["existing_order_id"]
    reuse(world, name, amend(qty=30))
    assert world.execute() == {"refused": 1}
    row = world.analysis(name)
    assert row["Remarks"].startswith("REJECTED: duplicate: this row decided the same on ")
    assert (row["existing_order_id"], live_entries(world)) == (marked, [25])


def test_another_trade_in_a_used_row_is_refused_also_when_its_ids_were_cleared(world: World) -> None:
    name = world.decide(swing())
    world.execute()
    reuse(world, name, swing(qty=7))
    world.db.execute_update(
        "UPDATE analysis_decision SET existing_order_id = NULL, existing_trade_journal_id = NULL",
    )
    assert world.execute() == {"refused": 1}
    assert world.analysis(name)["Remarks"].startswith("REJECTED: duplicate: ")
    assert live_entries(world) == [45]


def test_an_amend_set_back_to_unexecuted_is_a_duplicate(world: World) -> None:
    name = placed(world)["analysis_decision_id"]
    reuse(world, name, amend(qty=30))
    world.execute()
    world.db.execute_update("UPDATE analysis_decision SET executed = false")
    assert world.execute() == {"refused": 1}
    assert "REJECTED: duplicate" in world.analysis(name)["Remarks"]
    assert live_entries(world) == [30]
    reuse(world, name, swing())
    assert world.execute() == {"refused": 1}
    assert live_entries(world) == [30]


def test_an_amend_whose_mark_fails_is_marked_by_a_later_pass(world: World) -> None:
    old = placed(world)
    name = point(world, amend(), old["alpaca_order_id"])
    world.execute()
    back = 'UPDATE analysis_decision SET executed = false, existing_order_id = %s WHERE "Analysis_Id" = %s'
    world.db.execute_update(back, [old["alpaca_order_id"], name])
    assert world.execute() == {"marked again": 1}
    new = in_order(world, "order_execution")[-1]
    assert world.analysis(name)["existing_order_id"] == new["alpaca_order_id"]


def test_an_order_that_a_person_replaced_is_amended_under_its_old_id(world: World) -> None:
    old = placed(world)
    world.market.replace(old["alpaca_order_id"], {"limit_price": "131"})
    world.pass_time(minutes=1)
    world.monitor()
    point(world, amend(qty=30), old["alpaca_order_id"])
    executor(world, Watched(world)).run()
    assert live_entries(world) == [30]


def test_a_second_change_of_an_order_waits_for_the_first(world: World) -> None:
    old = placed(world)
    world.market.behave(cancel_hang=True)
    point(world, cancel(), old["alpaca_order_id"])
    name = point(world, amend(), old["alpaca_order_id"])
    assert world.execute() == {"waiting": 2}
    world.market.behave(cancel_hang=False)
    assert world.execute() == {"cancelled": 1, "refused": 1}
    assert "is already cancelled" in world.analysis(name)["Remarks"]
    assert live_entries(world) == []


def test_two_amends_of_one_order_in_one_pass_leave_the_first(world: World) -> None:
    old = placed(world)
    point(world, amend(qty=30), old["alpaca_order_id"])
    point(world, amend(qty=20), old["alpaca_order_id"])
    assert world.execute() == {"placed": 1, "refused": 1}
    assert live_entries(world) == [30]


def test_an_amend_of_an_entry_that_was_never_sent_sends_the_new_one_alone(world: World) -> None:
    world.decide(swing())
    world.execute_with_the_line_down()
    journal = world.one("trade_journal")

    class Late(OrderExecutor):
        def _resume_unsent(self) -> None:
            """The line is down for what was left over."""

    point(world, amend(qty=30), journal_id=journal["id"])
    Late(db=world.programs, broker=Watched(world), clock=world.clock, settings=world.settings).run()
    assert [order["qty"] for order in world.posted()] == ["30"]
    assert deleted(world) == 0
    world.execute()
    assert live_entries(world) == [30]


def test_nothing_more_is_done_about_an_amend_that_went_through(world: World) -> None:
    old = placed(world)
    point(world, amend(), old["alpaca_order_id"])
    world.execute()
    before = books(world)
    assert world.execute() == {}
    assert (books(world), deleted(world), len(world.posted())) == (before, 1, 2)
