"""An amend that is interrupted, delayed or raced goes on from where it was: at most one order, at most one new one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from alpaca_client import Reply, Request
from tests.flow.changes import (
    Mortal,
    MortalBroker,
    MortalDB,
    Watched,
    amend,
    books,
    deleted,
    halt,
    in_order,
    live_entries,
    partly_filled,
    placed,
    point,
    two_executors,
)
from tests.flow.world import Killed, LineGoesDown, World, executor, trend


def test_a_halt_between_cancel_and_replacement_keeps_the_new_order_until_it_is_released(world: World) -> None:
    old = placed(world)
    point(world, amend(), old["alpaca_order_id"])

    def around(request: Request, send: Callable[[], Reply]) -> Reply:
        halt(world)
        return send()

    executor(world, Watched(world, around)).run()
    assert (live_entries(world), len(world.posted())) == ([], 1)
    halt(world, "ACTIVE")
    assert world.execute() == {"placed": 1}
    assert live_entries(world) == [45]


def _kill_before_the_cancel(request: Request, send: Callable[[], Reply]) -> Reply:
    raise Killed


def _kill_after_the_cancel(request: Request, send: Callable[[], Reply]) -> Reply:
    send()
    raise Killed


@pytest.mark.parametrize("around", [_kill_before_the_cancel, _kill_after_the_cancel])
@pytest.mark.parametrize("monitored", [False, True])
def test_an_amend_interrupted_at_its_cancel_is_finished_with_one_new_order(
    world: World, around: Callable[[Request, Callable[[], Reply]], Reply], monitored: bool,
) -> None:
    old = placed(world)
    name = point(world, amend(qty=30), old["alpaca_order_id"])
    with pytest.raises(Killed):
        executor(world, Watched(world, around)).run()
    assert len(world.posted()) == 1
    if monitored:
        world.monitor()
    for _ in range(2):
        executor(world, Watched(world)).run()
    assert [order["qty"] for order in world.posted()] == ["45", "30"]
    assert live_entries(world) == [30]
    assert [trade["exit_reason"] for trade in in_order(world, "trade_journal")] == ["AMENDED", None]
    assert [row["status"] for row in in_order(world, "trade_decisions")] == ["cancelled", "pending"]
    assert world.analysis(name)["executed"] is True


def test_an_amend_interrupted_after_the_cancel_is_confirmed_is_finished_with_one_new_order(world: World) -> None:
    old = placed(world)
    point(world, amend(), old["alpaca_order_id"])

    class Dying(Watched):
        def order_request(self, order: Any) -> Request:
            raise Killed

    with pytest.raises(Killed):
        executor(world, Dying(world)).run()
    assert (live_entries(world), len(world.posted())) == ([], 1)
    assert world.one("order_execution", order_status="intended")["qty"] == 45
    for _ in range(2):
        executor(world, Watched(world)).run()
    assert (live_entries(world), len(world.posted())) == ([45], 2)


def test_shares_filled_while_an_amend_was_interrupted_are_not_ordered_again(world: World) -> None:
    old = placed(world)
    world.market.set_liquidity("NVDA", "15")
    point(world, amend(), old["alpaca_order_id"])
    with pytest.raises(Killed):
        executor(world, Watched(world, _kill_before_the_cancel)).run()
    world.price("NVDA", "133.50")
    world.price("NVDA", "135")
    world.monitor()
    executor(world, Watched(world)).run()
    assert [order["qty"] for order in world.posted() if order.get("limit_price") == "130"] == ["30"]


def test_an_order_that_fills_while_an_amend_is_interrupted_is_not_replaced(world: World) -> None:
    old = placed(world)
    point(world, amend(), old["alpaca_order_id"])
    with pytest.raises(Killed):
        executor(world, Watched(world, _kill_before_the_cancel)).run()
    world.price("NVDA", "133.50")
    world.monitor()
    assert world.execute() == {"refused": 1}
    assert [order for order in world.posted() if order.get("limit_price") == "130"] == []
    assert world.one("trade_decisions", action="amend")["status"] == "failed"


def test_an_amend_whose_cancel_hangs_sends_nothing_and_writes_nothing_until_it_ends(world: World) -> None:
    old = placed(world)
    world.market.behave(cancel_hang=True)
    point(world, amend(), old["alpaca_order_id"])
    assert world.execute() == {"waiting": 1}
    before = books(world)
    assert world.execute() == {"waiting": 1}
    assert (books(world), deleted(world), len(world.posted())) == (before, 1, 1)
    world.market.behave(cancel_hang=False)
    executor(world, Watched(world)).run()
    assert (live_entries(world), deleted(world), len(world.posted())) == ([45], 1, 2)


def test_an_amend_that_has_grown_too_old_after_its_cancel_is_an_alert(world: World) -> None:
    old = placed(world)
    name = point(world, amend(), old["alpaca_order_id"], at=world.clock.now() - timedelta(hours=95))
    with pytest.raises(Killed):
        executor(world, Watched(world, _kill_after_the_cancel)).run()
    world.pass_time(hours=2)
    assert world.execute() == {"refused": 1}
    assert len(world.posted()) == 1
    assert "DECISION_MAX_AGE_HOURS" in world.one("alerts", kind="amended_without_order")["message"]
    assert world.analysis(name)["Remarks"].startswith("REJECTED: the decision is 97.0 hours old")
    assert world.one("trade_journal")["exit_reason"] == "AMENDED"


def test_a_new_order_that_could_not_leave_is_sent_later_or_given_up_with_an_alert(world: World) -> None:
    old = placed(world)
    point(world, amend(), old["alpaca_order_id"])

    down = LineGoesDown(world.settings.alpaca)

    class OneWay(Watched):
        def send(self, request: Request) -> Reply:
            return super().send(request) if request.method == "DELETE" else down.send(request)

    assert {str(result) for result in executor(world, OneWay(world)).run()} == {"not sent"}
    assert (live_entries(world), len(world.posted())) == ([], 1)
    assert {str(result) for result in executor(world, OneWay(world)).run()} == {"not sent", "waiting"}
    world.pass_time(days=5)
    assert world.execute() == {"refused": 1}
    assert world.one("alerts", kind="amended_without_order")["level"] == "critical"
    assert len(world.posted()) == 1


def test_no_new_order_leaves_without_an_approval(world: World) -> None:
    old = placed(world)
    point(world, amend(), old["alpaca_order_id"])
    with pytest.raises(Killed):
        executor(world, Watched(world, _kill_after_the_cancel)).run()
    world.db.execute_update('UPDATE analysis_decision SET "Approve" = false')
    assert world.execute() == {"refused": 1}
    assert (live_entries(world), len(world.posted())) == ([], 1)
    assert world.one("trade_decisions", action="amend")["status"] == "cancelled"
    assert "approval was withdrawn" in world.one("alerts", kind="amended_without_order")["message"]


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.usefixtures("without_turns")
def test_two_executors_at_once_send_one_new_order(world: World, database: dict[str, Any], interrupted: bool) -> None:
    old = placed(world, trend())
    point(world, amend(qty=30), old["alpaca_order_id"])
    if interrupted:
        with pytest.raises(Killed):
            executor(world, Watched(world, _kill_after_the_cancel)).run()
    two_executors(world, database)
    world.execute()
    assert [order["qty"] for order in world.posted()] == ["45", "30"]
    assert live_entries(world) == [Decimal(30)]
    assert world.one("trade_decisions", action="amend")["status"] == "pending"


def test_a_cancel_that_the_broker_answers_with_an_error_is_no_end_of_the_old_order(world: World) -> None:
    old = placed(world)
    point(world, amend(), old["alpaca_order_id"])
    world.fault("DELETE", "/v2/orders/*", "status", code=500)
    assert world.execute() == {"waiting": 1}
    assert (live_entries(world), len(world.posted())) == ([45], 1)
    executor(world, Watched(world)).run()
    assert len(world.posted()) == 2


def test_a_cancel_that_was_done_though_its_answer_was_an_error_is_followed_by_the_new_order(world: World) -> None:
    old = placed(world)
    world.fault("DELETE", "/v2/orders/*", "status", code=504, executed=True)
    point(world, amend(), old["alpaca_order_id"])
    assert {str(result) for result in executor(world, Watched(world)).run()} == {"placed"}


@pytest.mark.parametrize("moment", range(18))
def test_wherever_a_process_ends_an_amend_ends_with_one_order_or_an_alert(
    world: World, database: dict[str, Any], moment: int,
) -> None:
    old = partly_filled(world)
    point(world, amend(qty=30), old["alpaca_order_id"])
    with MortalDB(config=database) as db:
        broker = MortalBroker(world)
        db.mortal = broker.mortal = Mortal(moment)
        with suppress(Killed):  # the last moments come after its end
            executor(world, broker, db).run()
    for _ in range(3):
        executor(world, Watched(world)).run()
        world.pass_time(minutes=1)
        world.monitor()
    new = [order["qty"] for order in world.posted() if order.get("limit_price") == "130"]
    alerts = [alert["subject"] for alert in world.db.query("alerts") if alert["kind"] == "amended_without_order"]
    assert (new, live_entries(world), len(alerts)) in ((["10"], [10], 0), ([], [], 1))
    assert world.one("position_tracking")["qty"] == 20
    assert world.one("trade_decisions", action="amend")["status"] == ("failed" if alerts else "pending")
