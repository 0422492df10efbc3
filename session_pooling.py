"""Tells whether a connection pooler shares the server's sessions between its clients (transaction or statement mode).

There a session lock does not stay with the program that took it, so two programs could both believe they are alone.
A pooler that keeps one session for each client does no harm.
"""

import select
from collections.abc import Callable
from time import monotonic

from psycopg2.extensions import POLL_OK, POLL_READ, connection

ROUNDS = 3
PATIENCE_SECONDS = 3.0
PID = "SELECT pg_backend_pid()"


def shares_sessions(first: connection, connect: Callable[[], connection]) -> bool:
    """Tell whether the sessions behind a fresh autocommit connection are shared; `connect` opens another, asynchronous.

    Costs one query where nothing is in between. Raises psycopg2.Error.
    """
    known = _pid(first)
    # A pooler answers a new client itself, and cannot know yet which server process will work for it.
    if known == first.info.backend_pid:
        return False
    second = connect()
    try:
        return any(_changes_hands(first, known, second) for _ in range(ROUNDS))
    finally:
        second.close()


def _changes_hands(first: connection, known: int, second: connection) -> bool:
    """Tell whether the second client gets the first one's server while that one rests, or the first one another."""
    others = _answer(second, "BEGIN; " + PID)
    if others is None:  # no server is free, though the first client rests: each keeps its own
        return False
    moved = others == known or _pid(first) != known
    _answer(second, "ROLLBACK; " + PID)
    return moved


def _pid(connection: connection) -> int:
    with connection.cursor() as cursor:
        cursor.execute(PID)
        return int(cursor.fetchone()[0])  # type: ignore[index]


def _answer(asynchronous: connection, statement: str) -> int | None:
    """Return the number a statement gives, or None when it does not come in time."""
    deadline = monotonic() + PATIENCE_SECONDS
    if not _ready(asynchronous, deadline):
        return None
    with asynchronous.cursor() as cursor:
        cursor.execute(statement)
        return int(cursor.fetchone()[0]) if _ready(asynchronous, deadline) else None  # type: ignore[index]


def _ready(asynchronous: connection, deadline: float) -> bool:
    while (state := asynchronous.poll()) != POLL_OK:
        wanted = ([asynchronous], []) if state == POLL_READ else ([], [asynchronous])
        if not any(select.select(*wanted, [], max(0.0, deadline - monotonic()))):
            return False
    return True
