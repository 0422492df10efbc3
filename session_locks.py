"""One at a time: session locks of PostgreSQL keep programs from working on one account together.

A pass holds the account, a daemon also holds its own place, and a task that fetches data holds its name. All belong to
the connection that does the work, so the server gives them back whenever that ends, however it ends. Each is per
database and schema.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from db_layer import DatabaseError, Row, TradingDB

PASS_WAIT_SECONDS = 60  # a pass that waits for the broker's minute and for a cancel ends within that
LOCK_NOT_AVAILABLE = "55P03"
LOST = (
    "the connection to PostgreSQL was lost, and with it the lock that keeps other programs off this work; "
    "this run ends here, and the next one goes on from what was committed"
)

# Two numbers are a space of their own, apart from the locks of one number.
TAKE_IF_FREE = "SELECT pg_try_advisory_lock(%(place)s, hashtext(%(name)s)) AS taken"
WAIT_AT_MOST = "SELECT set_config('lock_timeout', %(wait)s, true), set_config('statement_timeout', '0', true)"
TAKE = "SELECT pg_advisory_lock(%(place)s, hashtext(%(name)s))"
GIVE_BACK = "SELECT pg_advisory_unlock(%(place)s, hashtext(%(name)s))"
HOLDER = """
SELECT activity.application_name AS program, activity.pid, activity.backend_start AS since
FROM pg_locks lock JOIN pg_stat_activity activity ON activity.pid = lock.pid
WHERE lock.locktype = 'advisory' AND lock.objsubid = 2 AND lock.granted
  AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND lock.classid::bigint = %(place)s AND lock.objid::bigint = hashtext(%(name)s)::bigint & 4294967295
"""

log = logging.getLogger("session_locks")


class Place(IntEnum):
    """What only one process does at a time; the numbers name the locks."""

    ACCOUNT = 0x746D61
    DAEMON = 0x746D64
    TASK = 0x746D74


WORK = {
    Place.ACCOUNT: "is at work on this account", Place.DAEMON: "runs as the daemon of this account",
    Place.TASK: "does the same task",
}


class LockTakenError(DatabaseError):
    """Another process holds the lock; the message names it."""


@contextmanager
def hold_account(db: TradingDB, wait_seconds: float | None = None) -> Iterator[None]:
    """Keep every other process from working on the account during the block; one that does is waited for.

    Waits PASS_WAIT_SECONDS unless told otherwise. May be nested. Raises LockTakenError, and DatabaseError from every
    use of a connection that was lost, because the lock was lost with it.
    """
    with _hold(db, Place.ACCOUNT, PASS_WAIT_SECONDS if wait_seconds is None else wait_seconds):
        yield


@contextmanager
def hold_daemon(db: TradingDB, wait_seconds: float = 0) -> Iterator[None]:
    """Be the only daemon during the block; passes of other processes take their turns with its own all the same.

    Raises LockTakenError when another daemon still runs after that many seconds, and DatabaseError like `hold_account`.
    """
    with _hold(db, Place.DAEMON, wait_seconds):
        yield


@contextmanager
def hold_task(db: TradingDB, task_name: str) -> Iterator[None]:
    """Be the only process that does this task during the block.

    Raises LockTakenError at once when another one does, and DatabaseError like `hold_account`.
    """
    with _hold(db, Place.TASK, 0, f"{db.schema} {task_name}"):
        yield


@contextmanager
def _hold(db: TradingDB, place: Place, wait_seconds: float, name: str | None = None) -> Iterator[None]:
    key = {"place": int(place), "name": name or db.schema}
    db.connect()
    with db.pinned(LOST):
        if not db.execute_query(TAKE_IF_FREE, key)[0]["taken"]:
            _wait(db, place, key, wait_seconds)
        try:
            yield
        finally:
            # What was lost with its connection cannot be given back.
            if db.is_connected():
                db.execute_query(GIVE_BACK, key)


def _wait(db: TradingDB, place: Place, key: Row, wait_seconds: float) -> None:
    holder = _holder(db, key)
    if wait_seconds > 0:
        log.info("waiting for another program", extra={"holder": holder, "seconds": wait_seconds})
        try:
            # The lock outlives the transaction, the settings that bound the waiting do not.
            with db.transaction():
                db.execute_query(WAIT_AT_MOST, {"wait": f"{max(1, round(wait_seconds * 1000))}ms"})
                db.execute_query(TAKE, key)
            return
        except DatabaseError as error:
            if error.sqlstate != LOCK_NOT_AVAILABLE:
                raise
    waited = f", also after {wait_seconds:g} seconds" if wait_seconds > 0 else ""
    words = f"{holder} {WORK[place]}{waited}; nothing was done; run this again when it has ended"
    raise LockTakenError(words, LOCK_NOT_AVAILABLE)


def _holder(db: TradingDB, key: Row) -> str:
    rows = db.execute_query(HOLDER, key)
    if not rows:
        return "another program"
    since = f" since {rows[0]['since']:%Y-%m-%d %H:%M:%S} UTC" if rows[0]["since"] else ""
    return f"{rows[0]['program'] or 'a program without a name'} (connected as process {rows[0]['pid']}{since})"
