"""The roles of sql/roles.sql: each may do its work and nothing else, and what was recorded stays for everybody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from psycopg2 import sql

from analysis_rows import AnalysisRows
from db_layer import DatabaseError, TradingDB
from tests.conftest import create_roles

NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
LOGINS = ["trading_migrate", "trading_app", "trading_reader", "trading_purge", "trading_external"]
RECORDED = [
    "order_fill", "audit.api_payloads", "audit.api_call_logs", "audit.data_ingestion_run_records",
    "audit.quarantined_records", "audit.risk_checks", "audit.trading_control", "audit.audit_log",
    "audit.trade_decision_disclosures",
]
NEVER_DELETED = [
    *RECORDED, "audit.trade_decisions", "audit.trade_executions", "audit.data_ingestion_runs", "audit.job_runs",
    "audit.alerts", "audit.audit_head", "audit.legal_holds",
]
OURS = """
SELECT pg_class.oid::regclass::text AS name, relname, nspname, relowner::regrole::text AS owner
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'r' AND nspname IN ('public', 'audit') AND relname <> 'analysis_decision'
ORDER BY 1
"""
RIGHTS = """
SELECT (SELECT bool_or(has_column_privilege(%(role)s, %(table)s, attnum, 'UPDATE')) FROM pg_attribute
        WHERE attrelid = %(table)s::regclass AND attnum > 0) AS "UPDATE",
       has_table_privilege(%(role)s, %(table)s, 'SELECT') AS "SELECT",
       has_table_privilege(%(role)s, %(table)s, 'INSERT') AS "INSERT",
       has_table_privilege(%(role)s, %(table)s, 'DELETE') AS "DELETE",
       has_table_privilege(%(role)s, %(table)s, 'TRUNCATE') AS "TRUNCATE"
"""
MORE_THAN_A_ROLE = """
SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls AS more FROM pg_roles WHERE rolname = %(name)s
"""
ROLE_SETTINGS = "SELECT unnest(rolconfig) AS setting FROM pg_roles WHERE rolname = %(name)s"
RESUME = """
INSERT INTO audit.trading_control (state, reason, changed_by, changed_at) VALUES ('ACTIVE', 'r', 'n8n', now())
"""
NOCODB_TABLE = 'CREATE TABLE analysis_decision (id serial PRIMARY KEY, "Remarks" text, executed boolean)'
BECOME_SINGLE = """
ALTER ROLE trading_purge RENAME TO somebody;
CREATE ROLE single;
GRANT USAGE ON SCHEMA audit TO single;
GRANT SELECT, UPDATE ON audit.api_payloads TO single;
SET LOCAL ROLE single;
"""
SOME_PAYLOAD = {
    "type": "ApiResponse", "payload": '"\\u0000"', "source": "alpaca", "captured_at": NOW, "sha256": "a" * 64,
    "byte_length": 8,
}
ADD_DECISION = """
INSERT INTO analysis_decision ("Analysis_Id", "Ticker", "Decision", "Approve") VALUES ('A1', 'NVDA', '{}', true)
"""
EMPTY = "UPDATE audit.api_payloads SET payload = NULL, purged_at = now()"
Connect = Callable[[str], TradingDB]


@pytest.fixture
def role(database: dict[str, Any]) -> Iterator[Connect]:
    """Opens connections as the roles."""
    opened: list[TradingDB] = []

    def connect(name: str) -> TradingDB:
        opened.append(TradingDB(config=database | {"user": name}))
        return opened[-1]

    yield connect
    for db in opened:
        db.close()


def rights(db: TradingDB, role: str, table: str) -> set[str]:
    """What a role may do with a table, or with a column of it."""
    (row,) = db.execute_query(RIGHTS, {"role": role, "table": table})
    return {right for right, granted in row.items() if granted}


def test_every_table_of_ours_belongs_to_the_owner_and_is_known_to_the_roles(db: TradingDB) -> None:
    tables = db.execute_query(OURS)
    assert len(tables) == 29
    for table in tables:
        name = table["name"]
        assert table["owner"] == "trading_owner", name
        assert rights(db, "trading_reader", name) == rights(db, "trading_external", name) == {"SELECT"}, name
        recorded = {f"{table['nspname']}.{table['relname']}", table["relname"]} & set(NEVER_DELETED)
        ours = rights(db, "trading_app", name)
        assert {"SELECT"} <= ours <= {"SELECT", "INSERT", "UPDATE"} | (set() if recorded else {"DELETE"}), name
        purged = {"api_payloads": {"UPDATE"}, "alerts": {"INSERT", "UPDATE"}}.get(table["relname"], set())
        assert rights(db, "trading_purge", name) == {"SELECT"} | purged, name


@pytest.mark.parametrize("table", RECORDED)
def test_the_programs_cannot_change_what_was_recorded(db: TradingDB, table: str) -> None:
    assert rights(db, "trading_app", table) <= {"SELECT", "INSERT"}


@pytest.mark.parametrize("name", LOGINS)
def test_no_role_is_more_than_a_role_and_none_but_the_owner_makes_tables(
    db: TradingDB, role: Connect, name: str,
) -> None:
    assert db.execute_query(MORE_THAN_A_ROLE, {"name": name}) == [{"more": False}]
    if name != "trading_migrate":
        for schema in ("public", "audit"):
            with pytest.raises(DatabaseError, match=r"permission denied|read-only"):
                role(name).execute_update(f"CREATE TABLE {schema}.mine (id integer)")


@pytest.mark.parametrize("name", ["trading_app", "trading_reader", "trading_purge", "trading_external"])
def test_a_session_of_a_role_does_not_hang_for_ever(db: TradingDB, name: str) -> None:
    found = db.execute_query(ROLE_SETTINGS, {"name": name})
    names = {row["setting"].partition("=")[0] for row in found}
    assert {"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} <= names


@pytest.mark.parametrize("table", RECORDED)
def test_what_was_recorded_is_not_changed_even_by_those_who_may_do_everything(db: TradingDB, table: str) -> None:
    db.insert("api_payloads", SOME_PAYLOAD)
    db.execute_update("SET session_replication_role = replica")
    column = db.execute_query(
        "SELECT attname FROM pg_attribute WHERE attrelid = %(table)s::regclass AND attnum = 1", {"table": table},
    )[0]["attname"]
    for change in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
        with pytest.raises(DatabaseError, match="is refused: ") as refused:
            db.execute_update(change)
        assert refused.value.sqlstate == "42501", change


@pytest.mark.parametrize("table", NEVER_DELETED)
def test_no_recorded_row_is_deleted_by_its_owner(role: Connect, table: str) -> None:
    for change in (f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
        with pytest.raises(DatabaseError, match="is refused: what was recorded stays as it is"):
            role("trading_migrate").execute_update(change)


def test_only_retention_empties_a_stored_body_and_it_does_nothing_else(db: TradingDB, role: Connect) -> None:
    payload_id = db.insert("api_payloads", SOME_PAYLOAD)
    purge = role("trading_purge")
    refusals = {
        "trading_app": (EMPTY, "permission denied"),
        "trading_migrate": (EMPTY, "only the role trading_purge removes bodies"),
    }
    for name, (change, words) in refusals.items():
        with pytest.raises(DatabaseError, match=words):
            role(name).execute_update(change)
    for change, words in (
        ("UPDATE audit.api_payloads SET payload = '1', purged_at = now()", "may remove a body once"),
        ("UPDATE audit.api_payloads SET payload = NULL", "may remove a body once"),
        (EMPTY + ", sha256 = repeat('b', 64)", "permission denied"),
        ("DELETE FROM audit.api_payloads", "permission denied"),
    ):
        with pytest.raises(DatabaseError, match=words):
            purge.execute_update(change)
    with pytest.raises(DatabaseError, match="change nothing else"):
        db.execute_update(EMPTY + ", sha256 = repeat('b', 64)")
    assert purge.execute_update(EMPTY) == 1
    row = db.get_by_id("api_payloads", payload_id)
    assert row is not None
    assert (row["payload"], row["sha256"], row["byte_length"]) == (None, "a" * 64, 8)
    with pytest.raises(DatabaseError, match="may remove a body once"):
        purge.execute_update(EMPTY)


def test_without_the_roles_the_single_user_may_purge(db: TradingDB) -> None:
    db.insert("api_payloads", SOME_PAYLOAD)
    # The roles belong to the whole server, so that here they can only be called something else for a moment.
    with suppress(RuntimeError), db.transaction():
        db.execute_update(BECOME_SINGLE)
        assert db.execute_update(EMPTY) == 1
        raise RuntimeError  # so that nothing of it stays


def test_n8n_writes_decisions_and_nothing_else(db: TradingDB, role: Connect) -> None:
    external = role("trading_external")
    external.execute_update(ADD_DECISION)
    external.execute_update('UPDATE analysis_decision SET "Approve" = false')
    external.execute_update("DELETE FROM analysis_decision")
    for table in db.execute_query(OURS):
        assert external.execute_query(f"SELECT count(*) AS rows FROM {table['name']}") != []
        with pytest.raises(DatabaseError, match="permission denied"):
            external.execute_update(f"DELETE FROM {table['name']}")
    for change in (
        RESUME, "UPDATE order_execution SET order_status = 'intended'", "CREATE TABLE mine (id integer)",
    ):
        with pytest.raises(DatabaseError, match="permission denied"):
            external.execute_update(change)


def test_a_reader_reads_everything_and_writes_nothing(db: TradingDB, role: Connect) -> None:
    reader = role("trading_reader")
    for name in [*[table["name"] for table in db.execute_query(OURS)], "analysis_decision"]:
        assert reader.execute_query(f"SELECT count(*) AS rows FROM {name}") != []
    reader.execute_update("SET default_transaction_read_only = off")
    for change in (ADD_DECISION, "DELETE FROM position_tracking", "UPDATE audit.alerts SET resolved_at = now()"):
        with pytest.raises(DatabaseError, match="permission denied"):
            reader.execute_update(change)


def test_the_programs_mark_a_decision_and_change_nothing_else_in_it(db: TradingDB, role: Connect) -> None:
    db.execute_update(ADD_DECISION)
    app = role("trading_app")
    assert AnalysisRows(app, ZoneInfo("UTC")).mark_refused("A1", "A1", "why", NOW)
    for change in ('"Approve" = true', '"Decision" = \'{}\'', '"Ticker" = \'AMD\''):
        with pytest.raises(DatabaseError, match="permission denied"):
            app.execute_update(f"UPDATE analysis_decision SET {change}")
    for change in (ADD_DECISION, "DELETE FROM analysis_decision"):
        with pytest.raises(DatabaseError, match="permission denied"):
            app.execute_update(change)


def test_the_plan_of_a_trade_and_of_a_decision_is_written_once(db: TradingDB, role: Connect) -> None:
    app = role("trading_app")
    for table, column in (
        ("trade_journal", "initial_analysis_id"), ("trade_journal", "trade_id"), ("order_execution", "side"),
        ("audit.trade_decisions", "source_bytes"), ("audit.trade_decisions", "decision_rationale"),
        ("audit.trade_executions", "api_request_payload_id"), ("audit.alerts", "first_seen_at"),
    ):
        with pytest.raises(DatabaseError, match="permission denied"):
            app.execute_update(f"UPDATE {table} SET {column} = {column}")


def test_the_roles_may_be_made_again_at_any_time(db: TradingDB, database: dict[str, Any]) -> None:
    before = [rights(db, name, table["name"]) for name in LOGINS for table in db.execute_query(OURS)]
    create_roles(database)
    assert [rights(db, name, table["name"]) for name in LOGINS for table in db.execute_query(OURS)] == before


@pytest.mark.parametrize("schema", ["public", 'pa9idb"Nom'])
def test_a_new_database_is_set_up_by_roles_then_tables_then_nocodb(
    clones: Any, postgres: Any, schema: str,
) -> None:
    clones.execute(sql.SQL("CREATE DATABASE from_nothing TEMPLATE template0 STRATEGY file_copy"))
    database = postgres.connect_params("from_nothing")
    try:
        create_roles(database, schema)
        with TradingDB(config=database | {"user": "trading_migrate"}, schema=schema) as owner:
            owner.create_schema()
        with TradingDB(config=database, schema=schema) as nocodb:
            nocodb.execute_update(NOCODB_TABLE)
        create_roles(database, schema)
        with TradingDB(config=database | {"user": "trading_app"}, schema=schema) as app:
            assert app.query("trade_journal") == []
            app.insert("alerts", {
                "level": "info", "kind": "k", "subject": "s", "message": "m", "first_seen_at": NOW, "last_seen_at": NOW,
            })
            app.execute_update('UPDATE analysis_decision SET "Remarks" = \'r\', executed = true')
    finally:
        clones.drop({"dbname": "from_nothing"})


def test_tables_of_a_single_user_are_handed_over(clones: Any, postgres: Any) -> None:
    clones.execute(sql.SQL("CREATE DATABASE of_one_user TEMPLATE template0 STRATEGY file_copy"))
    database = postgres.connect_params("of_one_user")
    try:
        with TradingDB(config=database) as db:
            db.create_schema(test_mode=True)
            db.execute_update("CREATE TABLE of_nocodb (id integer)")
            create_roles(database)
            assert {row["owner"] for row in db.execute_query(OURS) if row["name"] != "of_nocodb"} == {"trading_owner"}
            assert [row["owner"] for row in db.execute_query(OURS) if row["name"] == "of_nocodb"] == [database["user"]]
        with TradingDB(config=database | {"user": "trading_migrate"}) as owner:
            owner.create_schema()
    finally:
        clones.drop({"dbname": "of_one_user"})
