"""Counts and times statements where they leave the program: at psycopg2's cursors, whoever makes them."""

from __future__ import annotations

from functools import cache
from time import perf_counter
from typing import Any, NamedTuple

from psycopg2.extensions import connection, cursor

from db_layer import BETWEEN_STATEMENTS

NOT_COUNTED = ("BEGIN", "COMMIT", "ROLLBACK")
TURNS = ("SELECT PG_TRY_ADVISORY_LOCK(", "SELECT PG_ADVISORY_UNLOCK(")  # one of each a pass, whatever it finds


class Statement(NamedTuple):
    """A statement in one line, and how long its execution took."""

    text: str
    seconds: float


def counting_connection(statements: list[Statement]) -> type[connection]:
    """Return a `connection_factory` for psycopg2 that appends each statement to the list.

    What opens and ends a transaction or a pass is left out. Statements that go on one way count each.
    """
    def note(text: str, started: float) -> None:
        for statement in text.split(BETWEEN_STATEMENTS.decode()):
            line = " ".join(statement.split())
            if line.upper() not in NOT_COUNTED and not line.upper().startswith(TURNS):
                statements.append(Statement(line, perf_counter() - started))

    @cache
    def counting(factory: Any) -> Any:
        class CountingCursor(factory):
            def execute(self, query: Any, *args: Any) -> Any:
                started = perf_counter()
                try:
                    return super().execute(query, *args)
                finally:
                    note(query if isinstance(query, str) else self.mogrify(query).decode(), started)

            def copy_expert(self, sql: Any, *args: Any, **options: Any) -> Any:
                started = perf_counter()
                try:
                    return super().copy_expert(sql, *args, **options)
                finally:
                    note(str(sql), started)

        return CountingCursor

    class CountingConnection(connection):
        def cursor(self, *args: Any, cursor_factory: Any = None, **options: Any) -> Any:
            factory = counting(cursor_factory or self.cursor_factory or cursor)
            return super().cursor(*args, cursor_factory=factory, **options)

    return CountingConnection
