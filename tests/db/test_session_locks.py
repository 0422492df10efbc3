"""Session locks: who holds what, who is told about whom, and when a lock is free again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest

from db_layer import DatabaseError, TradingDB
from session_locks import LockTakenError, hold_account, hold_daemon

HELD = "SELECT count(*) AS held FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
END = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %(name)s"
WAITING = """
SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
SETTINGS = "SELECT current_setting('lock_timeout') AS lock, current_setting('statement_timeout') AS statement"
Hold = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def monitor(database: dict[str, Any]) -> Iterator[TradingDB]:
    """Another program's connection."""
    with TradingDB(config=database, application_name="order_monitor") as monitor:
        yield monitor


def held(db: TradingDB) -> int:
    return int(db.execute_query(HELD)[0]["held"])


@pytest.mark.parametrize("hold", [hold_account, hold_daemon])
def test_what_one_program_holds_no_other_gets(hold: Hold, db: TradingDB, monitor: TradingDB) -> None:
    with hold(monitor), pytest.raises(LockTakenError), hold(db, wait_seconds=0):
        pytest.fail("both hold it")
    with hold(db, wait_seconds=0):
        pass


@pytest.mark.parametrize(("hold", "doing"), [
    (hold_account, "is at work on this account, also after 0.05 seconds"),
    (hold_daemon, "runs as the daemon of this account, also after 0.05 seconds"),
])
def test_who_comes_too_late_is_told_who_is_there(
    hold: Hold, doing: str, db: TradingDB, monitor: TradingDB,
) -> None:
    pid = monitor.execute_query("SELECT pg_backend_pid() AS pid")[0]["pid"]
    since = r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    words = rf"^order_monitor \(connected as process {pid} {since}\) {doing}; nothing was done; run this again"
    with hold(monitor), pytest.raises(LockTakenError, match=words) as refused, hold(db, wait_seconds=0.05):
        pytest.fail("both hold it")
    assert refused.value.sqlstate == "55P03"
    assert not refused.value.lost_connection


def test_a_pass_waits_for_another_one_to_end(db: TradingDB, monitor: TradingDB, database: dict[str, Any]) -> None:
    order: list[str] = []

    def second() -> None:
        with hold_account(db, wait_seconds=30):
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with hold_account(monitor):
            waiting = pool.submit(second)
            with TradingDB(config=database) as watcher:
                while not watcher.execute_query(WAITING):
                    assert not waiting.done()
            order.append("first")
        waiting.result(30)
    assert order == ["first", "second"]


def test_having_waited_changes_nothing_about_the_session(db: TradingDB, monitor: TradingDB) -> None:
    before = db.execute_query(SETTINGS)
    with hold_account(monitor), pytest.raises(LockTakenError), hold_account(db, wait_seconds=0.05):
        pass
    assert db.execute_query(SETTINGS) == before


def test_the_daemon_and_a_pass_do_not_keep_each_other_out(db: TradingDB, monitor: TradingDB) -> None:
    with hold_daemon(monitor), hold_account(db, wait_seconds=0):
        assert held(db) == 1
    with hold_daemon(monitor), hold_account(monitor, wait_seconds=0):
        assert held(monitor) == 2


def test_accounts_in_two_schemas_do_not_keep_each_other_out(db: TradingDB, database: dict[str, Any]) -> None:
    db.execute_update("CREATE SCHEMA elsewhere")
    with (
        TradingDB(config=database, schema="elsewhere") as other, hold_account(db), hold_account(other, wait_seconds=0),
    ):
        assert held(db) == held(other) == 1


def test_a_hold_inside_a_hold_ends_with_the_outer_one(db: TradingDB, monitor: TradingDB) -> None:
    with hold_account(db):
        with hold_account(db, wait_seconds=0):
            pass
        with pytest.raises(LockTakenError), hold_account(monitor, wait_seconds=0):
            pytest.fail("both hold it")
    with hold_account(monitor, wait_seconds=0):
        pass


def test_nothing_is_held_after_the_block_however_it_ends(db: TradingDB) -> None:
    with hold_account(db):
        assert held(db) == 1
    assert held(db) == 0
    with pytest.raises(DatabaseError), hold_account(db), db.transaction():
        db.execute_query("SELECT 1 / 0")
    assert held(db) == 0


def test_a_holder_that_dies_frees_the_account(db: TradingDB, monitor: TradingDB) -> None:
    hold = hold_account(monitor)
    hold.__enter__()
    db.execute_query(END, {"name": "order_monitor"})
    with hold_account(db, wait_seconds=0):
        pass
    hold.__exit__(None, None, None)


@pytest.mark.parametrize("hold", [hold_account, hold_daemon])
def test_a_connection_lost_while_it_holds_a_lock_is_not_replaced(
    hold: Hold, db: TradingDB, monitor: TradingDB,
) -> None:
    with hold(monitor):
        db.execute_query(END, {"name": "order_monitor"})
        with pytest.raises(DatabaseError, match="and with it the lock"), monitor.transaction():
            pytest.fail("went on without its lock")
        with pytest.raises(DatabaseError, match="and with it the lock") as lost:
            monitor.execute_query("SELECT 1")
    assert lost.value.lost_connection
    with hold(monitor):
        assert held(monitor) == 1


def test_a_connection_lost_inside_a_transaction_takes_the_lock_with_it(db: TradingDB, monitor: TradingDB) -> None:
    def lose_it() -> None:
        with monitor.transaction():
            monitor.execute_query("SELECT 1")
            db.execute_query(END, {"name": "order_monitor"})

    with hold_account(monitor):
        with pytest.raises(DatabaseError):
            lose_it()
        with pytest.raises(DatabaseError, match="and with it the lock"):
            monitor.execute_query("SELECT 1")
