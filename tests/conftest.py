"""What every test gets: no settings of the developer's, and a PostgreSQL with a fresh database per test."""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import settings
from psycopg2 import sql
from testing.postgresql import Postgresql

import embedded_postgres

PROJECT = Path(__file__).resolve().parent.parent
# A test must not pass here and fail elsewhere by the luck of the draw: only `make soak` draws at random.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.register_profile(
    "soak", max_examples=1000, stateful_step_count=50, derandomize=False, deadline=None, database=None, print_blob=True,
)
settings.load_profile("repeatable")
MEMORY = Path("/dev/shm")
ROOM_BYTES = 1024**3
TEMPLATE = "test"  # the database that testing.postgresql creates in every server it starts
CREATE_CLONE = "CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy"
DROP_CLONE = "DROP DATABASE {} WITH (FORCE)"
LEFT_IN_TRANSACTION = """
SELECT application_name, state, query FROM pg_stat_activity
WHERE datname = %(database)s AND state LIKE 'idle in transaction%%'
"""


def in_memory() -> str | None:
    """A directory in memory, or None where there is no room: on disk a copy of a database costs five times as much."""
    roomy = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    return str(MEMORY) if roomy else None


class SocketPostgresql(Postgresql):
    """testing.postgresql on a Unix socket, not TCP, under another account where the tests run as root."""

    def initialize_database(self) -> None:
        base, data = Path(self.base_dir), self.get_data_directory()
        for path in (base, *(base / name for name in self.subdirectories)):
            embedded_postgres.give_to_server(path)
        user = f"--username={embedded_postgres.os_user()}"
        # The socket is closed to everybody but the server's account, so that any role may come in by its name.
        options = ("-D", data, user, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        command = embedded_postgres.server_command("initdb", *options, reads=Path(data))
        environment = embedded_postgres.server_environment()
        subprocess.run(command, check=True, capture_output=True, cwd="/", env=environment)

    def get_server_commandline(self) -> list[str]:
        data = self.get_data_directory()
        options = ["-p", str(self.settings["port"]), "-D", data, "-k", self.socket_directory]
        for setting in (
            "listen_addresses=",
            "unix_socket_permissions=0700",
            "fsync=off",
            "full_page_writes=off",
            "synchronous_commit=off",
            "autovacuum=off",
            "wal_level=minimal",
            "max_wal_senders=0",
            "max_wal_size=256MB",
            "shared_buffers=32MB",
            "jit=off",
            "timezone=UTC",
        ):
            options += ["-c", setting]
        # A locale of the developer's that this machine lacks would stop the server.
        return ["env", "LC_ALL=C", *embedded_postgres.server_command("postgres", *options, reads=Path(data))]

    def dsn(self, **parameters: Any) -> dict[str, Any]:
        socket = f"{self.socket_directory}/.s.PGSQL.{self.settings['port']}"
        return {"user": embedded_postgres.os_user(), "unix_sock": socket, "database": TEMPLATE} | parameters

    @property
    def socket_directory(self) -> str:
        return f"{self.base_dir}/tmp"

    def connect_params(self, dbname: str = "postgres") -> dict[str, str | int]:
        """Return the psycopg2 keywords of one of the server's databases."""
        return {
            "host": self.socket_directory,
            "port": int(self.settings["port"]),
            "dbname": dbname,
            "user": embedded_postgres.os_user(),
        }


class Clones:
    """Copies of the template database, by number."""

    def __init__(self, server: SocketPostgresql) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        self._connection = psycopg2.connect(**server.connect_params())
        self._connection.autocommit = True

    def create(self) -> dict[str, str | int]:
        name = f"clone_{next(self._numbers)}"
        self.execute(sql.SQL(CREATE_CLONE).format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
        return self._server.connect_params(name)

    def drop(self, database: dict[str, str | int]) -> None:
        self.execute(sql.SQL(DROP_CLONE).format(sql.Identifier(str(database["dbname"]))))

    def left_in_transaction(self, database: dict[str, str | int]) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(LEFT_IN_TRANSACTION, {"database": database["dbname"]})
            return cursor.fetchall()

    def execute(self, statement: sql.Composable) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)

    def close(self) -> None:
        self._connection.close()


def create_roles(database: Mapping[str, Any], schema: str = "public") -> None:
    """Run sql/roles.sql on a database, as its README says."""
    where = ["-h", str(database["host"]), "-p", str(database["port"]), "-U", str(database["user"])]
    command = [str(embedded_postgres.binary("psql")), *where, "-X", "-q", "-v", f"schema={schema}"]
    command += ["-f", str(PROJECT / "sql" / "roles.sql"), str(database["dbname"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# The lines of a worker would be counted three times: as those of a subprocess, from its start, and in its session.
# Only the last leaves out the tests marked no_cover.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Before workers start: they are no subprocesses to be measured."""
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


def pytest_configure(config: pytest.Config) -> None:
    """In a worker: count no lines before its session starts, which begins to."""
    counting = getattr(config.pluginmanager.getplugin("_cov"), "cov_controller", None)
    if counting is not None and hasattr(config, "workerinput"):
        counting.pause()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that have a timeout of their own, the long ones: else one worker ends with them alone."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Give the root logger its level back: a program that runs inside a test sets its own."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_the_developers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Clear the settings that `.env.example` lists, look for `.env` and `.local` in an empty directory."""
    import config
    import local_broker

    example = PROJECT / ".env.example"
    listed = re.findall(r"^#? ?([A-Z0-9_]+)=", example.read_text(), re.MULTILINE) if example.exists() else []
    ours = ("POSTGRES_", "TEST_POSTGRES_", "ALPACA_", "QUIVER_", "PG")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name in listed or name.startswith(ours)]:
            patch.delenv(name)
        nowhere = tmp_path_factory.mktemp("project")
        patch.setattr(config, "PROJECT_ROOT", nowhere)
        patch.setattr(config, "LOCAL_STATE", nowhere / ".local")
        patch.setattr(local_broker, "FOLDER", nowhere / ".local" / "paper_broker")
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[SocketPostgresql]:
    """A PostgreSQL server for the whole run; its template database has the complete schema."""
    from db_layer import TradingDB

    binaries = {name: str(embedded_postgres.binary(name)) for name in ("initdb", "postgres")}
    with (
        tempfile.TemporaryDirectory(prefix="postgres-", dir=in_memory()) as folder,
        SocketPostgresql(base_dir=folder, **binaries) as server,
    ):
        with TradingDB(config=server.connect_params(TEMPLATE)) as template:
            template.create_schema(test_mode=True)
        create_roles(server.connect_params(TEMPLATE))
        yield server


@pytest.fixture(scope="session")
def clones(postgres: SocketPostgresql) -> Iterator[Clones]:
    clones = Clones(postgres)
    yield clones
    clones.close()


@pytest.fixture
def database(clones: Clones) -> Iterator[dict[str, str | int]]:
    """The psycopg2 keywords of a fresh database with the schema, dropped after the test."""
    database = clones.create()
    yield database
    clones.drop(database)


@pytest.fixture
def db(database: dict[str, str | int], clones: Clones) -> Iterator[Any]:
    """An open TradingDB on the test's database; a test that leaves a transaction open fails."""
    from db_layer import TradingDB

    with TradingDB(config=database) as db:
        yield db
        left = clones.left_in_transaction(database)
    assert left == []
