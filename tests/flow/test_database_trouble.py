"""Whatever happens to the database in the middle of the work: nothing is sent twice and nothing is lost."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import embedded_postgres
from alpaca_client import Broker, Reply, Request
from db_layer import DatabaseError, TradingDB
from order_executor import OrderExecutor
from order_monitor import OrderMonitor
from paper_broker import PaperBroker, SimulatedClock, serve
from tests.conftest import SocketPostgresql, create_roles
from tests.flow.database_line import breaking_line
from tests.flow.world import START, World, swing

# Functions and triggers stand for what goes wrong inside the server.
DIES = """
CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$
"""
DISK_FULL = """
CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$
"""
TROUBLE = "CREATE TRIGGER trouble BEFORE {event} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION trouble()"
NO_ROOM_FOR_ORDERS = """
CREATE TRIGGER trouble BEFORE INSERT ON audit.api_payloads FOR EACH ROW
WHEN (NEW.payload ->> 'method' = 'POST') EXECUTE FUNCTION trouble()
"""
OVER = "DROP FUNCTION trouble() CASCADE"
IDLE = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'impatient' AND state LIKE 'idle in transaction%%'"
# Where each transaction of an order writes, and the orders that have reached the broker when it fails and in the end.
TRANSACTIONS = pytest.mark.parametrize(("event", "table", "then", "finally_"), [
    ("INSERT", "audit.trade_decisions", 0, 1),
    ("INSERT", "audit.trade_executions", 0, 1),
    ("UPDATE", "audit.trade_executions", 1, 1),
], ids=["Tx1", "Tx2", "Tx3"])


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="line-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def own_server() -> Iterator[SocketPostgresql]:
    """A server that may be stopped; what it has committed is on its disk."""
    binaries = {name: str(embedded_postgres.binary(name)) for name in ("initdb", "postgres")}
    with DurableServer(**binaries) as server:
        yield server


class DurableServer(SocketPostgresql):
    """Keeps what was committed, also when it is stopped at once."""

    def get_server_commandline(self) -> list[str]:
        return [*super().get_server_commandline(), "-c", "synchronous_commit=on"]

    def restart(self, how: signal.Signals) -> None:
        """Stop it (SIGINT: fast; SIGQUIT: at once, as after a crash) and start it again."""
        os.kill(self.server_pid, how)
        self.child_process.wait(30)
        self.child_process = None
        self.start()


@pytest.fixture
def restartable(own_server: DurableServer) -> Iterator[World]:
    """A world on the server that may be stopped."""
    with TradingDB(config=own_server.connect_params()) as admin:
        admin.execute_update("DROP DATABASE IF EXISTS world WITH (FORCE)")
        admin.execute_update("CREATE DATABASE world")
    database = own_server.connect_params("world")
    with TradingDB(config=database) as db:
        db.create_schema(test_mode=True)
        create_roles(database)
        with (
            TradingDB(config=database | {"user": "trading_app"}) as programs,
            serve(PaperBroker(clock=SimulatedClock(START))) as server,
        ):
            yield World(db, server, programs)


class After(Broker):
    """Something happens once an order has reached the broker, before its answer is heard."""

    def send(self, request: Request) -> Reply:
        reply = super().send(request)
        if request.method == "POST":
            self.happens()
        return reply


def pass_of(world: World, kind: Any, db: TradingDB, happens: Callable[[], None] = lambda: None) -> Any:
    """Run one pass on another connection, with something that happens after each order."""
    broker = After(world.settings.alpaca, clock=world.clock)
    broker.happens = happens
    return kind(db=db, broker=broker, clock=world.clock, settings=world.settings).run()


def settle(world: World) -> None:
    """Let passes go by until everything is known."""
    for _ in range(4):
        world.execute()
        world.monitor()
        world.pass_time(minutes=1)


def check_books(world: World) -> None:
    """The books and the broker agree on every order, and the position is protected."""
    ours = {row["alpaca_order_id"] for row in world.db.query("order_execution") if row["alpaca_order_id"]}
    assert ours == set(world.market.state.orders)
    held = world.market.state.positions.get("NVDA")
    live = {order.qty for order in world.market.state.live.values() if order.side == "sell"}
    assert live == ({held.qty} if held else set())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_restart_of_the_server_between_passes_is_not_noticed(restartable: World, own_server: Any, how: Any) -> None:
    restartable.decide(swing())
    own_server.restart(how)
    assert restartable.execute() == {"placed": 1}
    restartable.price("NVDA", "133.50")
    own_server.restart(how)
    assert restartable.monitor()["positions opened"] == 1
    check_books(restartable)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_restart_in_the_middle_of_a_pass_ends_the_pass_and_the_order_is_found_again(
    restartable: World, own_server: Any, how: Any,
) -> None:
    for symbol in ("NVDA", "AMD"):
        restartable.price(symbol, "135")
        restartable.decide(swing(symbol), symbol)
    with pytest.raises(DatabaseError) as lost:
        pass_of(restartable, OrderExecutor, restartable.programs, lambda: own_server.restart(how))
    assert lost.value.lost_connection
    assert len(restartable.posted()) == 1  # the second one waits for the next pass
    settle(restartable)
    assert [order["symbol"] for order in restartable.posted()] == ["NVDA", "AMD"]
    assert {row["order_status"] for row in restartable.db.query("order_execution")} == {"pending"}
    check_books(restartable)


@TRANSACTIONS
def test_a_session_that_is_ended_within_a_transaction_of_an_order_costs_no_order_and_gives_no_second_one(
    world: World, event: str, table: str, then: int, finally_: int,
) -> None:
    world.decide(swing())
    world.db.execute_update(DIES)
    world.db.execute_update(TROUBLE.format(event=event, table=table))
    with pytest.raises(DatabaseError) as lost:
        world.execute()
    assert lost.value.lost_connection
    assert len(world.posted()) == then
    world.db.execute_update(OVER)
    settle(world)
    assert len(world.posted()) == finally_
    assert world.one("order_execution")["order_status"] == "pending"
    check_books(world)


@pytest.mark.parametrize("transaction", [1, 2, 3])
def test_a_session_that_is_ended_for_idling_in_a_transaction_ends_the_pass(
    world: World, database: dict[str, Any], transaction: int,
) -> None:
    world.decide(swing())
    left = [transaction]

    class Slow:
        """A clock that takes as long as the server has patience, in one transaction."""

        def now(self) -> Any:
            if world.db.execute_query(IDLE):
                left[0] -= 1
                while not left[0] and world.db.execute_query(IDLE):
                    pass
            return world.clock.now()

        def sleep(self, seconds: float) -> None:
            world.clock.sleep(seconds)

    keywords = database | {"user": "trading_app"}
    with TradingDB(config=keywords, application_name="impatient") as impatient:
        impatient.execute_update("SET idle_in_transaction_session_timeout = '300ms'")
        worker = OrderExecutor(
            db=impatient, broker=Broker(world.settings.alpaca), clock=Slow(), settings=world.settings,
        )
        with pytest.raises(DatabaseError) as lost:
            worker.run()
    assert lost.value.lost_connection
    settle(world)
    assert len(world.posted()) == 1
    check_books(world)


def test_what_cannot_be_written_down_is_not_sent(world: World) -> None:
    world.decide(swing())
    world.db.execute_update(DISK_FULL)
    world.db.execute_update(NO_ROOM_FOR_ORDERS)
    world.execute()
    assert world.posted() == []
    assert "No space left" in world.one("alerts", kind="decision_left_alone")["message"]
    world.db.execute_update(OVER)
    assert world.execute() == {"placed": 1}
    check_books(world)


@TRANSACTIONS
def test_a_full_disk_costs_no_order_and_gives_no_second_one(
    world: World, event: str, table: str, then: int, finally_: int,
) -> None:
    world.decide(swing())
    world.db.execute_update(DISK_FULL)
    for full in ("audit.alerts", table):
        name = f"{event} OR INSERT" if full == "audit.alerts" and event != "INSERT" else event
        world.db.execute_update(TROUBLE.format(event=name, table=full))
    with pytest.raises(DatabaseError, match="No space left") as full_disk:
        world.execute()
    assert full_disk.value.sqlstate == "53100"
    assert len(world.posted()) == then
    world.db.execute_update(OVER)
    settle(world)
    assert len(world.posted()) == finally_
    check_books(world)


def test_a_stop_that_cannot_be_written_down_is_placed_by_the_next_pass(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    world.db.execute_update(DISK_FULL)
    world.db.execute_update(NO_ROOM_FOR_ORDERS)
    world.monitor()
    assert len(world.posted()) == 1
    assert world.db.query("alerts", {"level": "critical", "resolved_at": None}) != []
    world.db.execute_update(OVER)
    world.monitor()
    check_books(world)
    assert world.db.query("alerts", {"level": "critical", "resolved_at": None}) == []


# How many orders have reached the broker in the end: a request that was committed counts as sent, whoever was told.
@pytest.mark.parametrize(("commit", "arrives", "orders"), [
    (1, False, 1), (1, True, 1), (2, False, 1), (2, True, 0), (3, False, 1), (3, True, 1),
])
def test_an_entry_is_placed_once_whether_a_commit_that_was_not_answered_happened_or_not(
    world: World, database: dict[str, Any], folder: Path, commit: int, arrives: bool, orders: int,
) -> None:
    world.decide(swing())
    with breaking_line(database | {"user": "trading_app"}, folder, commit, arrives) as line:
        with TradingDB(config=line.keywords) as db, pytest.raises(DatabaseError) as lost:
            pass_of(world, OrderExecutor, db)
        assert line.broken
    assert lost.value.lost_connection
    settle(world)
    assert len(world.posted()) == orders
    status = {1: ("ORDERED", None), 0: ("CANCELLED", "CANCELLED")}[orders]
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"]) == status
    check_books(world)


@pytest.mark.parametrize("arrives", [False, True])
def test_a_position_has_one_exit_whichever_commit_of_the_pass_was_not_answered(
    world: World, database: dict[str, Any], folder: Path, arrives: bool,
) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    breaks = 0
    for commit in range(1, 20):
        home = folder / str(commit)
        home.mkdir()
        with breaking_line(database | {"user": "trading_app"}, home, commit, arrives) as line:
            with TradingDB(config=line.keywords) as db, suppress(DatabaseError):
                pass_of(world, OrderMonitor, db)
            if not line.broken:
                break
            breaks += 1
        settle(world)
        check_books(world)
        # From the start again: the exit is gone, and the next pass places another.
        for order in list(world.market.state.live):
            world.market.cancel(order)
        world.market.step()
    assert breaks >= 3
    settle(world)
    check_books(world)
