"""TradingDB on a real server: the verbs, the one way to commit, lost connections, and the schema."""

# ruff: noqa: PT012 - what is tested here is a block of several statements

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql

from db_layer import TIMES_UNPREPARED, DatabaseError, TradingDB

NOW = datetime(2025, 1, 15, 14, 45, 0, 123456, tzinfo=UTC)
FILL = {"order_execution_id": 1, "side": "buy", "qty": Decimal("1.5"), "price": Decimal("133.8"), "filled_at": NOW}
NOCODB_SCHEMA = "pa9idbNom3cubse"
COUNT_FILLS = "SELECT count(*) AS fills FROM order_fill"
TABLES = "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY(%(schemas)s)"


def fill(execution_id: str = "e1", **changes: Any) -> dict[str, Any]:
    return FILL | {"execution_id": execution_id} | changes


def backend(db: TradingDB) -> int:
    return int(db.execute_query("SELECT pg_backend_pid() AS pid")[0]["pid"])


@pytest.fixture(autouse=True)
def fills_that_may_change(db: TradingDB) -> None:
    """Let order_fill, a plain table otherwise, stand for any table."""
    db.execute_update("ALTER TABLE order_fill DISABLE TRIGGER recorded_stays")


@pytest.fixture
def other(database: dict[str, Any]) -> Iterator[TradingDB]:
    """A second connection to the same database; it sees only what was committed."""
    with TradingDB(config=database, application_name="other") as other:
        yield other


@pytest.fixture
def kill(other: TradingDB) -> Callable[[TradingDB], None]:
    """Ends the server's side of a connection, and returns when it is gone."""

    def kill(db: TradingDB) -> None:
        other.execute_query("SELECT pg_terminate_backend(%(pid)s, 5000)", {"pid": backend(db)})

    return kill


def fills(db: TradingDB) -> int:
    return int(db.execute_query(COUNT_FILLS)[0]["fills"])


def test_an_inserted_row_comes_back_by_its_id(db: TradingDB) -> None:
    row_id = db.insert("order_fill", fill())
    assert db.get_by_id("order_fill", row_id) == fill() | {"id": row_id, "external_order_id": None}


def test_a_row_that_is_not_there_is_none(db: TradingDB) -> None:
    assert db.get_by_id("order_fill", 4711) is None


def test_update_changes_one_row_and_says_how_many(db: TradingDB) -> None:
    first, second = db.insert("order_fill", fill("e1")), db.insert("order_fill", fill("e2"))
    assert db.update("order_fill", first, {"price": Decimal("1.25"), "side": "sell"}) == 1
    assert db.update("order_fill", 4711, {"price": Decimal(1)}) == 0
    assert [row["price"] for row in db.query("order_fill", {"id": first})] == [Decimal("1.25")]
    assert [row["price"] for row in db.query("order_fill", {"id": second})] == [Decimal("133.8")]


def test_query_takes_every_condition_and_none_means_null(db: TradingDB) -> None:
    for name, party in (("A", None), ("B", None), ("A", "X")):
        key = f"{name}{party}"
        values = {"bioguide_id": key, "name": name, "party": party, "created_at": NOW, "updated_at": NOW}
        db.insert("politician_profiles", values)
    found = db.query("politician_profiles", {"name": "A", "party": None})
    assert [row["bioguide_id"] for row in found] == ["ANone"]
    assert len(db.query("politician_profiles")) == 3


def test_execute_query_returns_what_a_statement_returns(db: TradingDB) -> None:
    assert db.execute_query("SELECT %(a)s + 1 AS b", {"a": 1}) == [{"b": 2}]
    assert db.execute_query("SELECT %s AS a, %s AS b", (1, "x")) == [{"a": 1, "b": "x"}]
    assert db.execute_query("SET work_mem = '8MB'") == []


def test_execute_update_counts_the_rows_it_touched(db: TradingDB) -> None:
    for number in range(3):
        db.insert("order_fill", fill(f"e{number}"))
    assert db.execute_update("UPDATE order_fill SET price = 2 WHERE execution_id <> %(id)s", {"id": "e0"}) == 2


def test_execute_values_writes_all_rows_in_one_statement(db: TradingDB) -> None:
    statement = "INSERT INTO order_fill (order_execution_id, execution_id, side, qty, price, filled_at) VALUES %s"
    rows = [(1, f"e{number}", "buy", Decimal(1), Decimal(2), NOW) for number in range(1000)]
    assert db.execute_values(statement, rows) == 1000
    with pytest.raises(DatabaseError):
        db.execute_values(statement, [*((1, f"f{number}", "buy", 1, 1, NOW) for number in range(500)), rows[0]])
    assert fills(db) == 1000


def test_execute_values_without_rows_does_nothing(db: TradingDB) -> None:
    assert db.execute_values("this is not SQL %s", []) == 0


def test_a_prepared_statement_gives_the_same_rows_each_time(db: TradingDB, kill: Callable[[TradingDB], None]) -> None:
    statement = "SELECT %(a)s::integer + %(b)s::integer AS c, %(a)s::integer %% 2 AS odd"
    assert db.execute_prepared(statement, {"b": 2, "a": 1, "unused": 0}) == [{"c": 3, "odd": 1}]
    assert db.execute_prepared(statement, {"a": 4, "b": 5}) == [{"c": 9, "odd": 0}]
    kill(db)
    assert db.execute_prepared(statement, {"a": 3, "b": 5}) == [{"c": 8, "odd": 1}]


def test_a_statement_prepared_in_a_transaction_that_failed_can_be_used_again(db: TradingDB) -> None:
    statement = "INSERT INTO order_fill SELECT * FROM order_fill WHERE id = %(id)s RETURNING id"
    db.insert("order_fill", fill())
    with pytest.raises(DatabaseError), db.transaction():
        db.execute_prepared(statement, {"id": 1})
    assert db.execute_prepared(statement, {"id": 0}) == []


@pytest.mark.parametrize("table", ["pg_class", "audit.alerts", "order_fill; DROP TABLE order_fill", "", "ORDER_FILL"])
def test_a_table_that_is_not_ours_is_refused(db: TradingDB, table: str) -> None:
    for verb in (
        lambda: db.insert(table, {"a": 1}), lambda: db.update(table, 1, {"a": 1}), lambda: db.query(table),
        lambda: db.get_by_id(table, 1),
    ):
        with pytest.raises(DatabaseError, match="there is no table"):
            verb()


@pytest.mark.parametrize("name", [
    'id"; DROP TABLE order_fill; --', "id = 1 OR true --", "id) VALUES (1); DROP TABLE order_fill; --", "1=1", "ID",
])
def test_a_column_name_cannot_carry_sql(db: TradingDB, name: str) -> None:
    db.insert("order_fill", fill())
    for verb in (
        lambda: db.insert("order_fill", fill("e2") | {name: 1}), lambda: db.update("order_fill", 1, {name: 1}),
        lambda: db.query("order_fill", {name: 1}),
    ):
        with pytest.raises(DatabaseError, match="does not exist"):
            verb()
    assert fills(db) == 1


def test_a_value_cannot_carry_sql(db: TradingDB) -> None:
    hostile = "'; DROP TABLE order_fill; -- \\' %s %(a)s"
    db.insert("order_fill", fill(hostile))
    assert [row["execution_id"] for row in db.query("order_fill", {"execution_id": hostile})] == [hostile]


@pytest.mark.parametrize("text", ["NUL \x00", "half a pair \ud800"])
def test_a_text_that_postgresql_cannot_hold_is_a_database_error(db: TradingDB, text: str) -> None:
    with pytest.raises(DatabaseError, match="does not fit between Python and PostgreSQL"):
        db.insert("order_fill", fill(text))
    assert fills(db) == 0


def test_a_time_that_python_cannot_hold_is_a_database_error(db: TradingDB) -> None:
    with pytest.raises(DatabaseError, match="does not fit between Python and PostgreSQL"):
        db.execute_query("SELECT timestamptz '20250-01-15' AS at")


def test_numbers_are_decimal_to_the_last_digit(db: TradingDB) -> None:
    row_id = db.insert("order_fill", fill(qty=Decimal("0.000000001"), price=Decimal("999999999999.999999")))
    row = db.get_by_id("order_fill", row_id)
    assert row is not None
    assert (str(row["qty"]), str(row["price"])) == ("1E-9", "999999999999.999999")


def test_times_come_back_in_utc_to_the_microsecond(db: TradingDB) -> None:
    tokyo = NOW.astimezone(timezone(timedelta(hours=9)))
    row = db.get_by_id("order_fill", db.insert("order_fill", fill(filled_at=tokyo)))
    assert row is not None
    assert (row["filled_at"], row["filled_at"].utcoffset()) == (NOW, timedelta(0))


@pytest.mark.parametrize("kind", ["json", "jsonb"])
def test_fractions_in_json_are_decimal(db: TradingDB, kind: str) -> None:
    text = '{"price": 133.80000000000000001, "qty": 45, "deep": [{"x": 0.1}]}'
    value = db.execute_query(f"SELECT %(text)s::{kind} AS value", {"text": text})[0]["value"]
    assert value == {"price": Decimal("133.80000000000000001"), "qty": 45, "deep": [{"x": Decimal("0.1")}]}


def test_outside_a_transaction_every_write_commits_by_itself(db: TradingDB, other: TradingDB) -> None:
    row_id = db.insert("order_fill", fill())
    assert fills(other) == 1
    db.update("order_fill", row_id, {"side": "sell"})
    assert [row["side"] for row in other.query("order_fill")] == ["sell"]
    db.execute_update("DELETE FROM order_fill")
    assert fills(other) == 0


def test_a_transaction_is_seen_by_others_when_it_ends(db: TradingDB, other: TradingDB) -> None:
    with db.transaction():
        db.insert("order_fill", fill("e1"))
        db.insert("order_fill", fill("e2"))
        assert (fills(db), fills(other)) == (2, 0)
    assert fills(other) == 2


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_any_exception_rolls_a_transaction_back(
    db: TradingDB, other: TradingDB, error: type[BaseException],
) -> None:
    with pytest.raises(error), db.transaction():
        db.insert("order_fill", fill())
        raise error
    assert fills(db) == fills(other) == 0


def test_a_failed_statement_rolls_its_transaction_back_and_names_its_constraint(db: TradingDB) -> None:
    with pytest.raises(DatabaseError) as failed, db.transaction():
        db.insert("order_fill", fill())
        db.insert("order_fill", fill())
    assert (failed.value.sqlstate, failed.value.constraint) == ("23505", "order_fill_execution_id_key")
    assert len(str(failed.value).splitlines()) == 1
    assert fills(db) == 0


def test_a_failure_swallowed_inside_a_transaction_is_no_success(db: TradingDB) -> None:
    with pytest.raises(DatabaseError, match="rolled back because a statement in it had failed"), db.transaction():
        db.insert("order_fill", fill())
        with pytest.raises(DatabaseError):
            db.execute_query("SELECT 1 / 0")
    assert fills(db) == 0
    db.insert("order_fill", fill())


def test_a_commit_that_a_deferred_constraint_refuses_is_an_error(db: TradingDB) -> None:
    db.execute_update("CREATE TABLE twin (id integer UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(DatabaseError, match="twin_id_key"), db.transaction():
        db.execute_update("INSERT INTO twin VALUES (1), (1)")
    assert db.execute_query("SELECT * FROM twin") == []


def test_a_transaction_inside_a_transaction_is_refused_and_undoes_both(db: TradingDB) -> None:
    with pytest.raises(DatabaseError, match="already open"), db.transaction():
        db.insert("order_fill", fill())
        with db.transaction():
            pass
    assert fills(db) == 0


def test_connect_inside_a_transaction_changes_nothing(db: TradingDB, other: TradingDB) -> None:
    with pytest.raises(RuntimeError), db.transaction():
        db.insert("order_fill", fill())
        db.connect()
        db.insert("order_fill", fill("e2"))
        raise RuntimeError
    assert fills(other) == 0


def test_a_connection_lost_between_units_of_work_is_opened_again(
    db: TradingDB, kill: Callable[[TradingDB], None],
) -> None:
    before = backend(db)
    kill(db)
    db.insert("order_fill", fill())
    assert backend(db) != before
    kill(db)
    with db.transaction():
        db.insert("order_fill", fill("e2"))
    assert fills(db) == 2


def test_a_connection_lost_inside_a_transaction_surfaces_and_nothing_is_kept(
    db: TradingDB, other: TradingDB, kill: Callable[[TradingDB], None],
) -> None:
    with pytest.raises(DatabaseError), db.transaction():
        db.insert("order_fill", fill("e1"))
        kill(db)
        db.insert("order_fill", fill("e2"))
    assert fills(other) == 0
    db.insert("order_fill", fill("e3"))
    assert fills(other) == 1


def test_a_lost_connection_swallowed_inside_a_transaction_is_no_success(
    db: TradingDB, other: TradingDB, kill: Callable[[TradingDB], None],
) -> None:
    with pytest.raises(DatabaseError), db.transaction():
        db.insert("order_fill", fill("e1"))
        kill(db)
        for name in ("e2", "e3"):
            with pytest.raises(DatabaseError):
                db.insert("order_fill", fill(name))
        db_connect_is_no_way_out(db)
    assert fills(other) == 0


def db_connect_is_no_way_out(db: TradingDB) -> None:
    db.connect()
    with pytest.raises(DatabaseError):
        db.insert("order_fill", fill("e4"))


def test_a_connection_lost_before_commit_surfaces(
    db: TradingDB, other: TradingDB, kill: Callable[[TradingDB], None],
) -> None:
    with pytest.raises(DatabaseError), db.transaction():
        db.insert("order_fill", fill())
        kill(db)
    assert fills(other) == 0


def test_a_closed_database_opens_again_when_it_is_used(db: TradingDB) -> None:
    db.close()
    db.close()
    assert fills(db) == 0


def test_the_session_is_set_up_for_the_work(database: dict[str, Any]) -> None:
    names = {
        "application_name": "order_monitor", "TimeZone": "UTC", "statement_timeout": "1min", "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "30s", "search_path": "public, audit",
    }
    with TradingDB(config=database, application_name="order_monitor") as db:
        for name, value in names.items():
            assert db.execute_query("SELECT current_setting(%(name)s) AS value", {"name": name}) == [{"value": value}]


def test_nothing_is_left_in_a_transaction_by_any_verb(db: TradingDB, clones: Any, database: dict[str, Any]) -> None:
    works = [
        lambda: db.insert("order_fill", fill()), lambda: db.update("order_fill", 1, {"side": "sell"}),
        lambda: db.query("order_fill"), lambda: db.get_by_id("order_fill", 1),
        lambda: db.execute_query("SELECT 1"), lambda: db.execute_update("DELETE FROM order_fill"),
        lambda: db.execute_values("INSERT INTO order_fill (id) VALUES %s", []), db.create_schema,
        lambda: db.execute_prepared("SELECT %(a)s::integer", {"a": 1}),
    ]
    fails = [
        lambda: db.insert("order_fill", {"qty": -1}), lambda: db.update("order_fill", 1, {"nothing": 1}),
        lambda: db.query("order_fill", {"nothing": 1}), lambda: db.get_by_id("order_fill", "one"),
        lambda: db.execute_query("SELEKT"), lambda: db.execute_update("UPDATE nothing SET a = 1"),
        lambda: db.execute_values("INSERT INTO order_fill (id) VALUES %s", [("x",)]),
        lambda: db.execute_prepared("SELECT %(a)s::nothing", {"a": 1}),
    ]
    for work in works:
        work()
        assert clones.left_in_transaction(database) == []
    for failure in fails:
        with pytest.raises(DatabaseError):
            failure()
        assert clones.left_in_transaction(database) == []


def test_an_unreachable_server_is_one_line(tmp_path: Any) -> None:
    with pytest.raises(DatabaseError, match=r"^could not connect to PostgreSQL: ") as failed:
        TradingDB(config={"host": str(tmp_path), "port": 5432, "dbname": "x", "user": "y"}).connect()
    assert len(str(failed.value).splitlines()) == 1


def test_a_database_that_does_not_exist_is_one_line(database: dict[str, Any]) -> None:
    with pytest.raises(DatabaseError, match=r"^could not connect to PostgreSQL: .*does not exist$"):
        TradingDB(config=database | {"dbname": "nowhere"}).connect()


@contextmanager
def empty_database(clones: Any, postgres: Any) -> Iterator[dict[str, Any]]:
    clones.execute(sql.SQL("CREATE DATABASE fresh TEMPLATE template0 STRATEGY file_copy"))
    try:
        yield postgres.connect_params("fresh")
    finally:
        clones.drop({"dbname": "fresh"})


@pytest.fixture
def fresh(clones: Any, postgres: Any) -> Iterator[dict[str, Any]]:
    """A database without any of our tables."""
    with empty_database(clones, postgres) as fresh:
        yield fresh


def schemas_with_tables(db: TradingDB) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in db.execute_query(TABLES, {"schemas": ["public", "audit", NOCODB_SCHEMA]}):
        found.setdefault(row["schemaname"], set()).add(row["tablename"])
    return found


def test_another_schema_works_from_end_to_end(fresh: dict[str, Any]) -> None:
    with TradingDB(config=fresh, schema=NOCODB_SCHEMA) as db:
        db.create_schema(test_mode=True)
        row_id = db.insert("order_fill", fill())
        assert db.get_by_id("order_fill", row_id) == fill() | {"id": row_id, "external_order_id": None}
        assert db.execute_query("SHOW search_path") == [{"search_path": f'"{NOCODB_SCHEMA}", audit'}]
        tables = schemas_with_tables(db)
    assert tables.keys() == {NOCODB_SCHEMA, "audit"}
    assert {"analysis_decision", "trade_journal"} <= tables[NOCODB_SCHEMA]


def test_the_schema_can_be_created_again_and_keeps_its_rows(db: TradingDB) -> None:
    db.insert("order_fill", fill())
    db.create_schema()
    db.create_schema(test_mode=True)
    assert fills(db) == 1


def test_analysis_decision_is_created_in_test_mode_only(fresh: dict[str, Any]) -> None:
    with TradingDB(config=fresh) as db:
        db.create_schema()
        assert "analysis_decision" not in schemas_with_tables(db)["public"]
        db.create_schema(test_mode=True)
        assert "analysis_decision" in schemas_with_tables(db)["public"]


def test_two_programs_may_create_the_schema_at_once(fresh: dict[str, Any]) -> None:
    def create(_number: int) -> set[str]:
        with TradingDB(config=fresh, schema=NOCODB_SCHEMA) as db:
            db.create_schema(test_mode=True)
            return schemas_with_tables(db)[NOCODB_SCHEMA]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(create, range(2))
    assert first == second != set()


def test_a_schema_that_could_not_be_created_leaves_nothing_behind(fresh: dict[str, Any]) -> None:
    with TradingDB(config=fresh) as db:
        db.execute_update("CREATE TABLE order_fill (id bigint)")
        with pytest.raises(DatabaseError):
            db.create_schema()
        assert schemas_with_tables(db) == {"public": {"order_fill"}}


def test_an_owner_of_the_tables_needs_no_right_to_create_schemas(db: TradingDB, database: dict[str, Any]) -> None:
    with TradingDB(config=database | {"user": "trading_migrate"}) as owner:
        with pytest.raises(DatabaseError, match="permission denied"):
            owner.execute_update("CREATE SCHEMA anything")
        owner.create_schema()
        owner.insert("order_fill", fill())


def test_a_foreign_session_setting_of_the_server_does_not_change_times(db: TradingDB, database: dict[str, Any]) -> None:
    name = sql.Identifier(database["dbname"])
    db.execute_update(sql.SQL("ALTER DATABASE {} SET timezone = 'Asia/Tokyo'").format(name))
    db.execute_update(sql.SQL("ALTER DATABASE {} SET search_path = ''").format(name))
    with TradingDB(config=database) as later:
        later.insert("order_fill", fill())
        assert later.query("order_fill")[0]["filled_at"].utcoffset() == timedelta(0)


def test_rows_of_others_are_seen_at_once(db: TradingDB, database: dict[str, Any]) -> None:
    fills(db)
    with psycopg2.connect(**database) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO blocked_assets (symbol, reason, blocked_at, expires_at) VALUES ('X', 'y', %s, %s)",
                       (NOW, NOW))
    connection.close()
    assert len(db.query("blocked_assets")) == 1


@pytest.mark.parametrize(("kind", "values"), [
    ("text", ["plain", "a,b", '"quoted"', "back\\slash", "{braces}", "NULL", "", " x ", "two\nlines", "%s", None]),
    ("numeric", [Decimal("1.50"), Decimal("1E-9"), None]),
    ("bigint", [1, -2, None]),
    ("boolean", [True, False, None]),
    ("timestamptz", [datetime(2025, 1, 15, 15, 0, 0, 123456, tzinfo=UTC), None]),
    ("date", [date(2025, 1, 15)]),
    ("text", []),
])
def test_a_list_arrives_as_it_was(db: TradingDB, kind: str, values: list[Any]) -> None:
    rows = db.execute_query(f"SELECT value FROM unnest(%(values)s::{kind}[]) AS value", {"values": values})
    assert [row["value"] for row in rows] == values


def test_a_prepared_statement_is_prepared_anew_after_its_table_got_a_column(db: TradingDB) -> None:
    statement = "SELECT * FROM job_runs WHERE id = %(id)s"
    for _ in range(TIMES_UNPREPARED + 1):
        assert db.execute_prepared(statement, {"id": 1}) == []
    db.execute_update("ALTER TABLE audit.job_runs ADD extra integer")
    with pytest.raises(DatabaseError, match="cached plan"):
        db.execute_prepared(statement, {"id": 1})
    assert db.execute_prepared(statement, {"id": 1}) == []


def test_a_transaction_without_a_statement_asks_nothing_of_the_server(db: TradingDB) -> None:
    with db.transaction():
        pass
    with pytest.raises(KeyError), db.transaction():
        raise KeyError
    assert db.execute_query("SELECT 1 AS one FROM pg_stat_activity WHERE state LIKE 'idle in%'") == []


def test_what_goes_later_is_done_before_the_next_statement_of_its_transaction(db: TradingDB) -> None:
    note = "INSERT INTO job_runs (job_name, status, due_at) VALUES (%(name)s, 'done', now())"
    with db.transaction():
        db.execute_later(note, {"name": "100 % {of} it"})
        assert [row["job_name"] for row in db.query("job_runs")] == ["100 % {of} it"]
        db.execute_later(note, {"name": "with the commit"})
    assert [row["job_name"] for row in db.query("job_runs")] == ["100 % {of} it", "with the commit"]
    db.execute_later(note, {"name": "without a transaction"})
    assert len(db.query("job_runs")) == 3


def test_what_fails_later_undoes_its_transaction(db: TradingDB) -> None:
    with pytest.raises(DatabaseError, match="invalid input syntax"), db.transaction():
        db.insert("job_runs", {"job_name": "kept?", "status": "done", "due_at": datetime.now(UTC)})
        db.execute_later("SELECT %(number)s::integer", {"number": "none"})
    assert db.query("job_runs") == []


def test_what_was_to_go_later_is_gone_with_its_transaction(db: TradingDB) -> None:
    with pytest.raises(KeyError), db.transaction():
        db.execute_later("INSERT INTO job_runs (job_name, status) VALUES (%(name)s, 'done')", {"name": "never"})
        raise KeyError
    assert db.query("job_runs") == []


def test_a_statement_that_takes_too_long_is_no_lost_connection(db: TradingDB) -> None:
    db.execute_update("SET statement_timeout = '20ms'")
    with pytest.raises(DatabaseError, match="statement timeout") as caught:
        db.execute_query("SELECT pg_sleep(5)")
    assert not caught.value.lost_connection
    assert db.is_connected()
