"""The programs take turns on an account: the second one waits, and says who is there when it has waited enough."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import order_executor
import order_monitor
import position_monitor
import session_locks
from alpaca_client import Broker
from db_layer import DatabaseError, TradingDB
from session_locks import LockTakenError, hold_account
from tests.flow.world import World, swing

END = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %(name)s"
PROGRAMS = [order_executor.OrderExecutor, order_monitor.OrderMonitor, position_monitor.PositionMonitor]


@pytest.fixture
def someone(database: dict[str, Any]) -> Iterator[TradingDB]:
    """Another process at work on the same account."""
    with TradingDB(config=database, application_name="someone") as someone:
        yield someone


class Reached(Broker):
    """Calls back whenever the account is asked for, which is the first thing a pass does."""

    def account(self) -> Any:
        self.reached()
        return super().account()


def worker(world: World, kind: Any, db: TradingDB, reached: Any) -> Any:
    broker = Reached(world.settings.alpaca, clock=world.clock)
    broker.reached = reached
    return kind(db=db, broker=broker, clock=world.clock, settings=world.settings)


@pytest.mark.parametrize("kind", PROGRAMS)
def test_no_program_works_beside_another(
    world: World, someone: TradingDB, monkeypatch: pytest.MonkeyPatch, kind: Any,
) -> None:
    world.decide(swing())
    monkeypatch.setattr(session_locks, "PASS_WAIT_SECONDS", 0.05)
    with hold_account(someone), pytest.raises(LockTakenError, match=r"^someone "):
        world._worker(kind).run()
    assert world.market.requests == []


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_pass_holds_the_account_from_its_first_call_on(world: World, someone: TradingDB, kind: Any) -> None:
    tried = []

    def reached() -> None:
        with pytest.raises(LockTakenError), hold_account(someone, wait_seconds=0):
            pass
        tried.append(True)

    worker(world, kind, world.db, reached).run()
    assert tried == [True]
    with hold_account(someone, wait_seconds=0):
        pass


def test_a_preview_waits_for_nobody(world: World, someone: TradingDB) -> None:
    world.decide(swing())
    with hold_account(someone):
        assert "would be sent" in world.preview()[0]


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_pass_whose_lock_is_lost_sends_nothing_more(
    world: World, someone: TradingDB, database: dict[str, Any], kind: Any,
) -> None:
    world.open_position()
    world.decide(swing(qty=1))
    world.market.cancel(world.one("order_execution", order_type="TAKE_PROFIT")["alpaca_order_id"])
    world.market.step()
    messages = len(world.posted())
    with TradingDB(config=database, application_name="doomed") as doomed:
        work = worker(world, kind, doomed, lambda: someone.execute_query(END, {"name": "doomed"}))
        with pytest.raises(DatabaseError, match="and with it the lock") as lost:
            work.run()
    assert lost.value.lost_connection
    assert len(world.posted()) == messages


def test_two_executors_at_once_both_finish_and_place_one_order(world: World, database: dict[str, Any]) -> None:
    world.decide(swing())

    def run() -> dict[str, int]:
        with TradingDB(config=database) as db:
            broker = Broker(world.settings.alpaca, clock=world.clock)
            executor = order_executor.OrderExecutor(db=db, broker=broker, clock=world.clock, settings=world.settings)
            return {str(result): count for result, count in executor.run().items()}

    with ThreadPoolExecutor(2) as pool:
        works = [pool.submit(run) for _ in range(2)]
    assert sorted(str(work.result()) for work in works) == ["{'placed': 1}", "{}"]
    assert len(world.posted()) == 1


def test_the_programs_of_these_tests_work_under_the_role_that_is_meant_for_them(world: World) -> None:
    assert world.programs.execute_query("SELECT current_user AS role") == [{"role": "trading_app"}]
    world.open_position()
    with pytest.raises(DatabaseError, match="permission denied"):
        world.programs.execute_update("DELETE FROM order_fill")
