"""Processes that sleep, lag or work at the same time: nothing is sent twice, and no share is lost sight of."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import protection
from alpaca_client import Broker
from db_layer import TradingDB
from order_executor import OrderExecutor
from order_monitor import OrderMonitor
from protection import Protection
from tests.flow.exits import live_exits
from tests.flow.world import World, executor, swing


class Interrupted(Broker):
    """Does something else between the request's commit and its first byte."""

    def __init__(self, world: World, meanwhile: Callable[[], object]) -> None:
        super().__init__(world.settings.alpaca)
        self.meanwhile = meanwhile

    def send(self, request: Any) -> Any:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return super().send(request)


def test_a_process_that_slept_too_long_does_not_send(world: World) -> None:
    world.decide(swing())
    clock, woken = world.clock, []

    class Waking:
        """A clock that jumps an hour once the request is committed."""

        def now(self) -> Any:
            submitted = world.db.query("trade_executions", {"status": "submitted"})
            if submitted and not woken:
                woken.append(True)
                world.pass_time(hours=1)
            return clock.now()

        def sleep(self, seconds: float) -> None:
            clock.sleep(seconds)

    broker = Broker(world.settings.alpaca)
    worker = OrderExecutor(db=world.programs, broker=broker, clock=Waking(), settings=world.settings)
    assert {str(result) for result in worker.run()} == {"not sent"}
    assert world.posted() == []
    assert world.one("order_execution")["order_status"] == "intended"


def test_an_order_taken_after_it_was_given_up_is_a_critical_alert(world: World) -> None:
    world.decide(swing())

    def meanwhile() -> None:
        for _ in range(3):
            world.monitor()
            world.pass_time(minutes=5)

    executor(world, Interrupted(world, meanwhile)).run()
    assert world.one("trade_journal")["status"] == "CANCELLED"
    assert (world.one("alerts", kind="late_order")["level"]) == "critical"


@pytest.mark.usefixtures("without_turns")
def test_two_executors_that_resume_one_intent_send_one_order(world: World, database: dict[str, Any]) -> None:
    world.decide(swing())
    world.execute_with_the_line_down()
    start = threading.Barrier(2)

    def resume() -> None:
        with TradingDB(config=database) as db:
            worker = executor(world, Broker(world.settings.alpaca), db)
            start.wait(5)
            worker.run()

    _together(resume, resume)
    assert len(world.posted()) == 1


@pytest.mark.usefixtures("without_turns")
def test_two_rows_with_one_analysis_id_and_two_executors_give_one_order(
    world: World, database: dict[str, Any],
) -> None:
    world.db.execute_update("ALTER TABLE analysis_decision DROP CONSTRAINT analysis_decision_pkey")
    world.db.execute_update("ALTER TABLE analysis_decision ADD id serial PRIMARY KEY")
    for _ in range(2):
        world.decide(swing(), name="SAME")
    start = threading.Barrier(2)

    def run() -> None:
        with TradingDB(config=database) as db:
            worker = executor(world, Broker(world.settings.alpaca), db)
            start.wait(5)
            worker.run()

    _together(run, run)
    world.execute()
    assert len(world.posted()) == 1


@pytest.mark.usefixtures("without_turns")
def test_two_monitors_at_once_place_one_exit(world: World, database: dict[str, Any]) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    start = threading.Barrier(2)

    def run() -> None:
        with TradingDB(config=database) as db:
            broker = Broker(world.settings.alpaca)
            worker = OrderMonitor(db=db, broker=broker, clock=world.clock, settings=world.settings)
            start.wait(5)
            worker.run()

    _together(run, run)
    world.monitor()
    assert live_exits(world) == [45, 45]


@pytest.mark.usefixtures("without_turns")
@pytest.mark.parametrize("late", [
    (OrderMonitor, "_attend_to"), (protection, "reload"), (Protection, "_look_afresh"),
], ids=lambda late: late[1].strip("_"))
def test_an_exit_that_another_monitor_placed_meanwhile_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch, late: tuple[Any, str],
) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    goes_on, others = getattr(*late), [world.monitor]

    def let_another_go_first(*arguments: Any) -> Any:
        if others:
            others.pop()()
        return goes_on(*arguments)

    monkeypatch.setattr(*late, let_another_go_first)
    world.monitor()
    world.monitor()
    assert live_exits(world) == [45, 45]
    assert [alert["kind"] for alert in world.db.query("alerts") if alert["resolved_at"] is None] == []


def test_a_slow_listing_takes_no_filled_shares_back(world: World) -> None:
    world.market.set_liquidity("NVDA", "20")
    world.decide(swing(qty=100))
    world.execute()
    world.price("NVDA", "133.50")
    world.monitor()

    class Slow(Broker):
        def list_orders(self, after: Any, news: Any = None) -> Any:
            world.market.set_liquidity("NVDA", "5")
            world.price("NVDA", "133.50")
            heard = super().list_orders(after, news)
            world.market.set_liquidity("NVDA", "15")
            world.price("NVDA", "133.50")
            world.monitor()
            return heard

    broker = Slow(world.settings.alpaca)
    OrderMonitor(db=world.programs, broker=broker, clock=world.clock, settings=world.settings).run()
    held = world.market.position("NVDA").qty
    assert world.one("order_execution", order_type="ENTRY")["filled_qty"] == held
    world.monitor()
    assert live_exits(world) == [held, held]


def _together(*works: Callable[[], None]) -> None:
    """Run pieces of work at the same time; what goes wrong in one is the test's."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - it is reported below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
