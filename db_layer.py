"""TradingDB: one PostgreSQL connection, one way to commit, and raw SQL with bound parameters.

Outside `transaction()` each statement commits by itself; inside it they stand or fall together. Rows are dicts,
numeric is Decimal, timestamptz is aware UTC. Identifiers are quoted by the driver and tables come from a closed list.
"""

import json
import logging
import select
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from itertools import count, repeat
from pathlib import Path
from typing import Any, Self, TypeVar

import psycopg2
import psycopg2.extensions
from psycopg2 import sql
from psycopg2.extras import execute_values, register_default_json, register_default_jsonb

from config import get_postgres_config, load_settings
from session_pooling import shares_sessions

Item = TypeVar("Item")
Result = TypeVar("Result")
Row = dict[str, Any]
Parameters = Mapping[str, Any] | Sequence[Any] | None

SQL_FOLDER = Path(__file__).resolve().parent / "sql"
CONNECT_TIMEOUT_SECONDS = 10
ROWS_AT_ONCE = 200
TIMES_UNPREPARED = 1
SESSION_SETTINGS = {
    "TimeZone": "UTC",
    "statement_timeout": "60s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "30s",
    # Else a machine that lost its power would hold its locks for the two hours that are the default.
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    # Else the statements of execute_prepared that take arrays are planned anew each time; others have no plan to keep.
    "plan_cache_mode": "force_generic_plan",
}
TABLES = frozenset({
    "analysis_decision", "trade_journal", "order_execution", "external_order", "order_fill", "position_adjustment",
    "position_tracking", "quiver_trades", "politician_profiles", "committees", "committee_memberships",
    "blocked_assets", "data_ingestion_runs", "data_ingestion_run_records", "quarantined_records", "api_payloads",
    "api_call_logs", "trade_decisions", "trade_executions", "risk_checks", "job_runs", "alerts", "alert_deliveries",
    "trading_control", "limit_raises", "audit_log", "trade_decision_disclosures",
    "audit_head", "audit_pending", "legal_holds",
})

SET_SESSION = """
SELECT set_config(name, value, false) FROM unnest(%(names)s::text[], %(values)s::text[]) AS setting (name, value)
"""
SET_SEARCH_PATH = "SELECT set_config('search_path', quote_ident(%(schema)s) || ', audit', false)"
SCHEMA_EXISTS = "SELECT 1 FROM pg_namespace WHERE nspname = %(schema)s"
SCHEMA_LOCK = "SELECT pg_advisory_xact_lock(hashtext('trading-monitor schema'))"
PING = "SELECT 1"
CONNECTING = "could not connect to PostgreSQL: "
BEGIN = b"BEGIN"
BETWEEN_STATEMENTS = b";\n"
PLAN_IS_STALE = "0A000"  # SQLSTATE; the columns of a table changed after the statement was prepared
SERVER_GONE = ("08", "57P")  # SQLSTATEs; 57014, a statement that took too long, is not among them
NO_DATA = "02000"  # SQLSTATE of rows that should be there and are not
POOLED = (
    "a connection pooler that shares sessions (PgBouncer: pool_mode = transaction) is between this program and "
    "PostgreSQL, and there a lock does not stay with the program that took it; give the address of PostgreSQL itself, "
    "or set the pool to session mode"
)

log = logging.getLogger("db_layer")


class DatabaseError(Exception):
    """The database could not do what was asked; `sqlstate` and `constraint` tell programs why, where known.

    `lost_connection` is true when the server is gone or going, so that nothing more can be asked of it.
    """

    def __init__(
        self, message: str, sqlstate: str | None = None, constraint: str | None = None, lost_connection: bool = False,
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.constraint = constraint
        self.lost_connection = lost_connection or (sqlstate or "").startswith(SERVER_GONE)


class TradingDB:
    """A connection to the trading database that re-opens itself between units of work, never inside one.

    `config` holds psycopg2 keywords and `schema` is where the trading tables are; without `config` both come from
    the settings. Not safe for use by several threads at once. Raises ConfigError.
    """

    def __init__(
        self, test_mode: bool = False, config: Mapping[str, Any] | None = None, schema: str | None = None,
        application_name: str = "trading-monitor",
    ) -> None:
        if config is None:
            settings = load_settings(test_mode)
            config, schema = get_postgres_config(test_mode, settings), schema or settings.postgres.schema
        self._config = dict(config)
        self.schema = schema or "public"
        self._application_name = application_name
        self._connection: psycopg2.extensions.connection | None = None
        self._in_transaction = False
        self._ahead: list[bytes] = []  # what goes to the server together with the next statement
        self._prepared: dict[str, str] = {}
        self._asked: Counter[str] = Counter()
        self._inserts: dict[tuple[str, ...], str] = {}
        self._numbers = count(1)
        self._pins: list[str] = []

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        """Open the connection unless it is open and alive. Raises DatabaseError, also when a pinned one was lost."""
        # Inside a transaction a lost connection must surface, not be replaced by an empty one.
        if self._in_transaction:
            return
        if not self.is_connected():
            self.close()
            if self._pins:
                raise DatabaseError(self._pins[-1], lost_connection=True)
            self._connection = self._open()

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back by the server."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._in_transaction = False
        self._ahead.clear()
        self._prepared.clear()

    def is_connected(self) -> bool:
        """Tell whether the connection is open and alive."""
        return self._connection is not None and _alive(self._connection)

    @contextmanager
    def pinned(self, loss: str) -> Iterator[None]:
        """Keep to the present connection during the block: once it is lost, every use raises DatabaseError(loss)."""
        self._pins.append(loss)
        try:
            yield
        finally:
            self._pins.pop()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the statements of the block one transaction: committed at its end, rolled back on any exception.

        Raises DatabaseError; also when one is open already, because an inner commit would lie.
        """
        if self._in_transaction:
            raise DatabaseError("a transaction is already open on this connection")
        self.connect()
        self._in_transaction, self._ahead = True, [BEGIN]
        try:
            yield
            if self._ahead != [BEGIN]:
                self._commit()
        except BaseException:
            self._roll_back()
            raise
        self._ahead.clear()
        self._in_transaction = False

    def execute_query(self, statement: str | sql.Composable, parameters: Parameters = None) -> list[Row]:
        """Run a statement and return its rows. Raises DatabaseError."""
        self.connect()
        rows, _ = self._run(statement, parameters)
        return rows

    def execute_update(self, statement: str | sql.Composable, parameters: Parameters = None) -> int:
        """Run a statement and return how many rows it touched. Raises DatabaseError."""
        self.connect()
        _, count = self._run(statement, parameters)
        return count

    def execute_prepared(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        """Run a statement with named parameters that is planned once where it comes again; return its rows.

        For what every order needs, where planning costs as much as doing: docs/benchmarks.md. Raises DatabaseError.
        """
        self.connect()
        try:
            rows, _ = self._run(self._call_of(statement), parameters)
        except DatabaseError as error:
            if error.sqlstate == PLAN_IS_STALE:
                self._prepared.clear()
            raise
        return rows

    def execute_later(self, statement: str, parameters: Mapping[str, Any]) -> None:
        """Run a prepared statement, of which nobody needs the rows, on one way with the transaction's next or its end.

        What is wrong with it comes to light there. Raises DatabaseError.
        """
        if not self._in_transaction:
            self.execute_prepared(statement, parameters)
            return
        call = self._call_of(statement)
        with _translated_errors(), self._cursor() as cursor:
            self._ahead.append(cursor.mogrify(call, _with_array_literals(parameters)))

    def execute_values(self, statement: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run one statement whose `VALUES %s` is filled with all rows; return how many rows it touched."""
        if not rows:
            return 0
        self.connect()
        with _translated_errors(), self._cursor() as cursor:
            if self._ahead:
                cursor.execute(BETWEEN_STATEMENTS.join(self._ahead))
                self._ahead.clear()
            execute_values(cursor, statement, rows, page_size=len(rows))
            return int(cursor.rowcount)

    def insert(self, table: str, values: Mapping[str, Any]) -> Any:
        """Insert a row and return its id. Raises DatabaseError."""
        self.connect()
        key, numbered = (table, *values), {f"value_{number}": value for number, value in enumerate(values.values())}
        if key not in self._inserts:
            self._inserts[key] = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING id").format(
                _table(table), sql.SQL(", ").join(map(sql.Identifier, values)),
                sql.SQL(", ").join(map(sql.Placeholder, numbered)),
            ).as_string(self._cursor())
        return self.execute_prepared(self._inserts[key], numbered)[0]["id"]

    def update(self, table: str, row_id: Any, values: Mapping[str, Any]) -> int:
        """Set columns of the row with this id; return 1, or 0 when there is none. Raises DatabaseError."""
        statement = sql.SQL("UPDATE {} SET {} WHERE id = %s").format(
            _table(table), sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in values),
        )
        return self.execute_update(statement, [*values.values(), row_id])

    def get_by_id(self, table: str, row_id: Any) -> Row | None:
        """Return the row with this id, or None. Raises DatabaseError."""
        rows = self.query(table, {"id": row_id})
        return rows[0] if rows else None

    def query(self, table: str, where: Mapping[str, Any] | None = None) -> list[Row]:
        """Return the rows whose columns equal the values of `where` (None: is null). Raises DatabaseError."""
        conditions = [
            sql.SQL("{} IS NOT DISTINCT FROM %s").format(sql.Identifier(name))
            if value is None else sql.SQL("{} = %s").format(sql.Identifier(name))
            for name, value in (where or {}).items()
        ]
        statement = sql.SQL("SELECT * FROM {}").format(_table(table))
        if conditions:
            statement += sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions)
        return self.execute_query(statement, list((where or {}).values()))

    def create_schema(self, test_mode: bool = False) -> None:
        """Create what is missing of the tables in `sql/schema/`; may be run at any time.

        In test mode the `analysis_decision` table is created too; otherwise it belongs to NocoDB. Raises DatabaseError.
        """
        files = sorted((SQL_FOLDER / "schema").glob("*.sql"))
        if test_mode:
            files += sorted((SQL_FOLDER / "test_mode").glob("*.sql"))
        with self.transaction():
            self._run(SCHEMA_LOCK, None)
            # Asked first because CREATE SCHEMA IF NOT EXISTS needs a right that a table owner seldom has.
            if not self._run(SCHEMA_EXISTS, {"schema": self.schema})[0]:
                self._run(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self.schema)), None)
            for file in files:
                self._run(file.read_text(encoding="utf-8"), None)

    def _open(self) -> psycopg2.extensions.connection:
        with _translated_errors(CONNECTING):
            connection = self._connect_once()
            connection.autocommit = True
            # Before anything is set in a session that may belong to others.
            if shares_sessions(connection, lambda: self._connect_once(async_=True)):
                connection.close()
                raise DatabaseError(POOLED)
        with _translated_errors(), connection.cursor() as cursor:
            cursor.execute(SET_SESSION, {"names": list(SESSION_SETTINGS), "values": list(SESSION_SETTINGS.values())})
            cursor.execute(SET_SEARCH_PATH, {"schema": self.schema})
        register_default_json(connection, loads=_loads)
        register_default_jsonb(connection, loads=_loads)
        return connection

    def _connect_once(self, **options: Any) -> psycopg2.extensions.connection:
        connection: psycopg2.extensions.connection = psycopg2.connect(
            **self._config, connect_timeout=CONNECT_TIMEOUT_SECONDS, application_name=self._application_name, **options,
        )
        return connection

    def _cursor(self) -> psycopg2.extensions.cursor:
        if self._connection is None:
            raise DatabaseError("the connection to PostgreSQL is closed", lost_connection=True)
        return self._connection.cursor()

    def _run(self, statement: str | sql.Composable, parameters: Parameters) -> tuple[list[Row], int]:
        with _translated_errors(), self._cursor() as cursor:
            self._send(cursor, statement, parameters)
            if cursor.description is None:
                return [], cursor.rowcount
            names = [column.name for column in cursor.description]
            rows: list[Row] = []
            # Fetched at one go, thousands of rows would hold up the thread that reads the broker's listing meanwhile.
            while some := cursor.fetchmany(ROWS_AT_ONCE):
                rows += map(dict, map(zip, repeat(names), some))
            return rows, cursor.rowcount

    def _send(
        self, cursor: psycopg2.extensions.cursor, statement: str | sql.Composable, parameters: Parameters,
    ) -> None:
        parameters = _with_array_literals(parameters)
        if self._ahead:
            text = BETWEEN_STATEMENTS.join([*self._ahead, cursor.mogrify(statement, parameters)])
            self._ahead.clear()
            cursor.execute(text)
        else:
            cursor.execute(statement, parameters)

    def _call_of(self, statement: str) -> str:
        """Return how a statement is asked for: as it is the first times, and from then on by its plan."""
        self._asked[statement] += 1
        if self._asked[statement] > TIMES_UNPREPARED and statement not in self._prepared:
            self._prepared[statement] = self._prepare(statement)
        return self._prepared.get(statement, statement)

    def _prepare(self, statement: str) -> str:
        name = f"statement_{next(self._numbers)}"
        numbers = _ParameterNumbers()
        self._run(f"PREPARE {name} AS {statement % numbers}", None)
        values = ", ".join(f"%({parameter})s" for parameter in numbers)
        return f"EXECUTE {name} ({values})" if values else f"EXECUTE {name}"

    def _commit(self) -> None:
        with _translated_errors(), self._cursor() as cursor:
            self._send(cursor, "COMMIT", None)
            # PostgreSQL answers COMMIT of a failed transaction with a silent ROLLBACK.
            if cursor.statusmessage != "COMMIT":
                raise DatabaseError("the transaction was rolled back because a statement in it had failed")

    def _roll_back(self) -> None:
        self._in_transaction = False
        not_begun = BEGIN in self._ahead
        self._ahead.clear()
        if not_begun:
            return
        try:
            self._run("ROLLBACK", None)
        except DatabaseError:
            # The connection is gone and the server has rolled back; the cause is already on its way up.
            self.close()


def write_each(
    items: Sequence[Item], write: Callable[[Sequence[Item]], Result], refused: Callable[[Item, DatabaseError], None],
) -> list[Result]:
    """Write all at once, or where the database refuses one by one, and return what the writing returned.

    `refused` is told of each that it does not take. Raises DatabaseError when the connection is lost.
    """
    if not items:
        return []
    try:
        return [write(items)]
    except DatabaseError as error:
        if error.lost_connection:
            raise
        if len(items) == 1:
            refused(items[0], error)
            return []
    return [result for item in items for result in write_each([item], write, refused)]


class _ParameterNumbers(dict[str, str]):
    """Gives `%(name)s` the server's way to say it: $1 for the first name asked for, $2 for the next."""

    def __missing__(self, name: str) -> str:
        self[name] = f"${len(self) + 1}"
        return self[name]


def _with_array_literals(parameters: Parameters) -> Parameters:
    """Write lists as one literal each: of psycopg2's ARRAY[...] the server has to parse every element as SQL."""
    if not isinstance(parameters, Mapping):
        return parameters
    return {
        name: _array_literal(value) if isinstance(value, list) else value for name, value in parameters.items()
    }


def _array_literal(values: Sequence[Any]) -> str:
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        quoted = '"' in value or "\\" in value
        return '"' + (value.replace("\\", "\\\\").replace('"', '\\"') if quoted else value) + '"'
    return f'"{value.isoformat()}"' if isinstance(value, date) else str(value)


def _alive(connection: psycopg2.extensions.connection) -> bool:
    if connection.closed:
        return False
    # A healthy idle connection has nothing to read; a server that went away has said so, or closed the line.
    if not select.select([connection], [], [], 0)[0]:
        return True
    try:
        with connection.cursor() as cursor:
            cursor.execute(PING)
    except psycopg2.Error:
        log.warning("the connection to PostgreSQL was lost")
        return False
    return True


@contextmanager
def _translated_errors(prefix: str = "") -> Iterator[None]:
    try:
        yield
    except psycopg2.Error as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        diagnosis = getattr(error, "diag", None)
        code = getattr(error, "pgcode", None)
        # A server that is there gives a code; a value that psycopg2 itself cannot pass on says nothing about the line.
        lost = code is None and not isinstance(error, psycopg2.ProgrammingError | psycopg2.DataError)
        raise DatabaseError(prefix + lines[0], code, getattr(diagnosis, "constraint_name", None), lost) from error
    except ValueError as error:
        # NUL, half a surrogate pair, a year over 9999: what one side holds and the other cannot.
        raise DatabaseError(f"a value does not fit between Python and PostgreSQL: {error}") from error


def _loads(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def _table(name: str) -> sql.Identifier:
    if name not in TABLES:
        raise DatabaseError(f"there is no table {name!r} in the trading database")
    return sql.Identifier(name)
