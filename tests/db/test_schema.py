"""The schema against the contract: tables, columns, types, statuses, and the rows it refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from psycopg2 import sql

from audit_trail import AlertLevel
from db_layer import TABLES, DatabaseError, TradingDB
from decision import Side, TradeStyle
from order_life import (
    DECISION_MOVES,
    EXECUTION_OF_ORDER,
    JOURNAL_MOVES,
    ORDER_MOVES,
    DecisionStatus,
    ExecutionStatus,
    ExitReason,
    JournalStatus,
    OrderRole,
    OrderStatus,
)

PROJECT = Path(__file__).resolve().parents[2]
NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
MONEY, SHARES, TIME, ID = "numeric(18,6)", "numeric(18,9)", "timestamp with time zone", "bigint"
TEXT, DAY, WHOLE, TRUTH = "text", "date", "integer", "boolean"

ADDED = {  # beyond the contract
    "public.external_order", "public.position_adjustment", "audit.alert_deliveries", "audit.limit_raises",
    "audit.quarantined_records", "audit.trade_decision_disclosures",
    "audit.audit_head", "audit.audit_pending", "audit.legal_holds",
}
# The contract's section 4: every column it names, by its type.
CONTRACT: dict[str, dict[str, str]] = {
    "public.trade_journal": {
        ID: "id trade_decision_id", WHOLE: "days_open", DAY: "last_review_date", TRUTH: "pnl_is_estimate",
        TEXT: "trade_id symbol side trade_style pattern status initial_analysis_id exit_reason",
        MONEY: "planned_entry planned_stop_loss planned_take_profit actual_entry current_stop_loss exit_price"
               " actual_pnl",
        SHARES: "planned_qty actual_qty", TIME: "exit_date created_at updated_at",
    },
    "public.order_execution": {
        ID: "id trade_journal_id trade_decision_id", SHARES: "qty filled_qty",
        TEXT: "analysis_decision_id alpaca_order_id client_order_id order_type side order_status broker_status"
              " time_in_force",
        MONEY: "limit_price stop_price filled_avg_price", TIME: "filled_at created_at updated_at",
    },
    "public.order_fill": {
        ID: "id order_execution_id", TEXT: "execution_id side", SHARES: "qty", MONEY: "price", TIME: "filled_at",
    },
    "public.position_tracking": {
        ID: "id trade_journal_id", TEXT: "symbol side stop_loss_order_id take_profit_order_id", SHARES: "qty",
        MONEY: "avg_entry_price current_price market_value cost_basis unrealized_pnl", TIME: "last_updated",
    },
    "public.quiver_trades": {ID: "id", TEXT: "symbol"},
    "public.politician_profiles": {ID: "id", TEXT: "name"},
    "public.committees": {ID: "id", TEXT: "name"},
    "public.committee_memberships": {ID: "id"},
    "public.blocked_assets": {TEXT: "symbol reason", TIME: "blocked_at expires_at"},
    "audit.data_ingestion_runs": {
        ID: "id", "uuid": "run_id", TEXT: "task_name data_source status error_message", "jsonb": "error_details",
        TIME: "started_at completed_at failed_at created_at updated_at", DAY: "data_date_start data_date_end",
        WHOLE: "records_fetched records_created records_updated records_skipped",
    },
    "audit.data_ingestion_run_records": {
        ID: "data_ingestion_run_id record_id", TEXT: "record_type operation", TIME: "created_at",
    },
    "audit.api_payloads": {
        ID: "id", TEXT: "type source sha256", "json": "payload", TIME: "captured_at purged_at", WHOLE: "byte_length",
    },
    "audit.api_call_logs": {
        ID: "data_ingestion_run_id api_request_payload_id api_response_payload_id", TEXT: "endpoint",
        WHOLE: "http_status_code duration_ms rate_limit_remaining", TIME: "created_at",
    },
    "audit.trade_decisions": {
        ID: "id primary_quiver_trade_id primary_ingestion_run_id", "uuid": "decision_id",
        TEXT: "strategy_name strategy_version action symbol side order_type analysis_decision_id source_bytes_sha256"
              " status status_reason",
        SHARES: "quantity", MONEY: "limit_price", "jsonb": "decision_rationale",
        TIME: "executed_at failed_at cancelled_at created_at updated_at",
    },
    "audit.trade_executions": {
        ID: "id trade_decision_id api_request_payload_id api_response_payload_id", "uuid": "execution_id",
        WHOLE: "attempt_number http_status_code", "json": "error_details",
        TEXT: "status client_order_id alpaca_order_id error_code error_message",
        SHARES: "filled_quantity", MONEY: "filled_avg_price commission",
        TIME: "submitted_at filled_at rejected_at created_at updated_at",
    },
    "audit.risk_checks": {ID: "id"},
    "audit.job_runs": {ID: "id"},
    "audit.alerts": {ID: "id"},
    "audit.trading_control": {ID: "id"},
    "audit.audit_log": {},
}
ANALYSIS_DECISION = {
    "Analysis_Id": "character varying(255)", "Date_time": "timestamp without time zone", "Ticker": "character varying",
    "Chart": TEXT, "Analysis_Prompt": TEXT, "3_Month_Chart": TEXT, "Analysis": TEXT, "Trade_Type": "character varying",
    "Decision": TEXT, "Approve": TRUTH, "Date": DAY, "Remarks": TEXT, "existing_order_id": "character varying",
    "existing_trade_journal_id": WHOLE, "executed": TRUTH, "execution_time": "timestamp without time zone",
}
COLUMNS = """
SELECT attrelid::regclass::text AS relation, nspname || '.' || relname AS name, attname AS column,
       format_type(atttypid, atttypmod) AS type, attidentity AS identity,
       col_description(attrelid, attnum) AS comment, obj_description(attrelid, 'pg_class') AS table_comment
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'r' AND nspname IN ('public', 'audit') AND attnum > 0 AND NOT attisdropped
ORDER BY 2, attnum
"""
FOREIGN_KEYS = """
SELECT conrelid::regclass::text AS "from", confrelid::regclass::text AS "to" FROM pg_constraint WHERE contype = 'f'
"""
CHECKS = """
SELECT pg_get_constraintdef(oid) AS definition FROM pg_constraint
WHERE contype = 'c' AND conrelid = %(table)s::regclass
"""
UNIQUE = """
SELECT array_agg(attname::text ORDER BY attname) AS columns
FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey)
WHERE indrelid = %(table)s::regclass AND indisunique AND indpred IS NULL
GROUP BY indexrelid
"""
WIDEN = "ALTER TABLE {table} ALTER COLUMN {column} TYPE numeric"
ROWS: dict[str, dict[str, Any]] = {
    "trade_journal": {
        "trade_id": "NVDA-1", "symbol": "NVDA", "side": "buy", "trade_style": "SWING", "status": "ORDERED",
        "trade_decision_id": 1, "planned_stop_loss": 124, "planned_qty": 45, "created_at": NOW, "updated_at": NOW,
    },
    "order_execution": {
        "trade_journal_id": 1, "trade_decision_id": 1, "client_order_id": "c1", "order_type": "ENTRY", "side": "buy",
        "order_status": "intended", "time_in_force": "day", "qty": 45, "created_at": NOW, "updated_at": NOW,
    },
    "order_fill": {
        "order_execution_id": 1, "execution_id": "e1", "side": "buy", "qty": 1, "price": 1, "filled_at": NOW,
    },
    "position_tracking": {
        "trade_journal_id": 1, "symbol": "NVDA", "side": "long", "qty": 1, "avg_entry_price": 1, "cost_basis": 1,
        "last_updated": NOW,
    },
    "trade_decisions": {
        "strategy_name": "s", "strategy_version": "1", "action": "new_trade", "symbol": "NVDA",
        "decision_rationale": "{}", "source_bytes_sha256": "a" * 64, "created_at": NOW, "updated_at": NOW,
    },
    "data_ingestion_runs": {
        "task_name": "t", "data_source": "d", "status": "running", "started_at": NOW, "created_at": NOW,
        "updated_at": NOW,
    },
    "api_payloads": {
        "type": "ApiRequest", "payload": "{}", "source": "alpaca", "captured_at": NOW, "sha256": "a" * 64,
        "byte_length": 2,
    },
    "alerts": {"level": "info", "kind": "k", "subject": "s", "message": "m", "first_seen_at": NOW, "last_seen_at": NOW},
}
IMPOSSIBLE: list[tuple[str, dict[str, Any]]] = [
    ("trade_journal", {"status": "CLOSED"}),
    ("trade_journal", {"status": "CANCELLED"}),
    ("trade_journal", {"status": "POSITION", "exit_reason": "STOPPED_OUT"}),
    ("trade_journal", {"status": "OPEN"}),
    ("trade_journal", {"side": "long"}),
    ("trade_journal", {"trade_style": "SCALP"}),
    ("trade_journal", {"status": "CLOSED", "exit_reason": "BORED"}),
    ("trade_journal", {"planned_qty": 0}),
    ("trade_journal", {"planned_qty": -1}),
    ("trade_journal", {"planned_stop_loss": 0}),
    ("trade_journal", {"planned_stop_loss": None}),
    ("trade_journal", {"actual_qty": -1}),
    ("order_execution", {"order_type": "entry"}),
    ("order_execution", {"order_status": "canceled"}),
    ("order_execution", {"side": "short"}),
    ("order_execution", {"qty": 0}),
    ("order_execution", {"filled_qty": -1}),
    ("order_execution", {"limit_price": 0}),
    ("order_execution", {"stop_price": -1}),
    ("order_execution", {"client_order_id": None}),
    ("order_fill", {"qty": 0}),
    ("order_fill", {"price": 0}),
    ("order_fill", {"side": "sell_short"}),
    ("position_tracking", {"qty": 0}),
    ("position_tracking", {"side": "buy"}),
    ("trade_decisions", {"action": "NEW_TRADE"}),
    ("trade_decisions", {"status": "executed"}),
    ("trade_decisions", {"status": "cancelled"}),
    ("trade_decisions", {"status": "failed", "failed_at": NOW}),
    ("trade_decisions", {"status": "failed", "status_reason": "why"}),
    ("trade_decisions", {"executed_at": NOW}),
    ("trade_decisions", {"source_bytes_sha256": "abc"}),
    ("trade_decisions", {"primary_ingestion_run_id": 4711}),
    ("trade_decisions", {"primary_quiver_trade_id": 4711}),
    ("data_ingestion_runs", {"status": "completed"}),
    ("data_ingestion_runs", {"status": "failed"}),
    ("data_ingestion_runs", {"completed_at": NOW}),
    ("api_payloads", {"type": "Request"}),
    ("api_payloads", {"sha256": "abc"}),
    ("api_payloads", {"byte_length": -1}),
    ("api_payloads", {"payload": "not JSON"}),
    ("alerts", {"level": "urgent"}),
]
REAL: dict[str, dict[str, Any]] = {
    "trade_journal": {"status": "CLOSED", "exit_reason": "TARGET_HIT", "actual_pnl": -12},
    "trade_decisions": {"status": "failed", "failed_at": NOW, "status_reason": "why"},
    "data_ingestion_runs": {"status": "completed", "completed_at": NOW},
    "order_execution": {"limit_price": "133.80", "filled_qty": 0},
}
NO_NUMBERS = [Decimal(word) for word in ("NaN", "Infinity", "-Infinity")]
TRADING = ["trade_journal", "order_execution", "order_fill", "position_tracking"]


def number_columns(table: str) -> list[str]:
    return [name for kind in (MONEY, SHARES) for name in CONTRACT[f"public.{table}"][kind].split()]


@pytest.fixture
def columns(untouched: TradingDB) -> dict[str, dict[str, dict[str, Any]]]:
    """What the catalogue says about each column, by table and column name."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in untouched.execute_query(COLUMNS):
        found.setdefault(row["name"], {})[row["column"]] = row
    return found


def words_of_check(db: TradingDB, table: str, column: str) -> set[str]:
    """The words that the CHECK of a status column admits."""
    found = [
        re.findall(r"'([^']*)'::text", row["definition"]) for row in db.execute_query(CHECKS, {"table": table})
        if re.match(rf"CHECK \(\({column} = ANY", row["definition"])
    ]
    assert len(found) == 1
    return set(found[0])


def test_every_table_of_the_contract_is_there_and_no_other(columns: Mapping[str, Any]) -> None:
    assert columns.keys() == CONTRACT.keys() | {"public.analysis_decision"} | ADDED
    assert {name.partition(".")[2] for name in columns} == TABLES


@pytest.mark.parametrize("table", CONTRACT)
def test_every_column_of_the_contract_has_its_type(columns: dict[str, Any], table: str) -> None:
    expected = {column: kind for kind, names in CONTRACT[table].items() for column in names.split()}
    assert {column: columns[table][column]["type"] for column in expected} == expected


def test_analysis_decision_is_laid_out_as_the_contract_says(columns: dict[str, Any]) -> None:
    assert {name: row["type"] for name, row in columns["public.analysis_decision"].items()} == ANALYSIS_DECISION


def test_every_id_is_an_identity(columns: dict[str, Any]) -> None:
    ids = {name: rows["id"]["identity"] for name, rows in columns.items() if "id" in rows}
    assert set(ids.values()) <= {"d", "a"}
    assert len(ids) >= 16


def test_every_table_and_column_says_what_it_is(columns: dict[str, Any]) -> None:
    ours = {name: rows for name, rows in columns.items() if name != "public.analysis_decision"}
    silent = [
        f"{name}.{column}" for name, rows in ours.items() for column, row in rows.items()
        if not row["comment"] and column != "id"
    ]
    assert silent == []
    assert [name for name, rows in columns.items() if not next(iter(rows.values()))["table_comment"]] == []


def test_money_and_shares_are_never_floating_point_and_times_have_a_zone(columns: dict[str, Any]) -> None:
    ours = {name: rows for name, rows in columns.items() if name != "public.analysis_decision"}
    kinds = {row["type"] for rows in ours.values() for row in rows.values()}
    allowed = {MONEY, SHARES, TIME, ID, TEXT, DAY, WHOLE, TRUTH, "uuid", "json", "jsonb"}
    hashes = {"bytea", "smallint", "bigint[]", "text[]", "bytea[]", "integer[]"}
    assert kinds <= allowed | hashes


def test_trading_tables_carry_no_foreign_keys(untouched: TradingDB) -> None:
    keys = {(row["from"], row["to"]) for row in untouched.execute_query(FOREIGN_KEYS)}
    audit = {name.partition(".")[2] for name in CONTRACT.keys() | ADDED if name.startswith("audit.")}
    assert {origin for origin, _ in keys} <= audit
    assert {target for _, target in keys} <= audit | {"quiver_trades"}
    assert ("trade_executions", "trade_decisions") in keys


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("trade_journal", ["trade_id"]), ("order_execution", ["client_order_id"]), ("order_fill", ["execution_id"]),
        ("position_tracking", ["trade_journal_id"]), ("data_ingestion_runs", ["run_id"]),
        ("data_ingestion_run_records", ["data_ingestion_run_id", "record_id", "record_type"]),
        ("trade_decisions", ["decision_id"]), ("trade_executions", ["execution_id"]),
    ],
)
def test_what_the_contract_calls_unique_is_unique(untouched: TradingDB, table: str, columns: list[str]) -> None:
    assert columns in [row["columns"] for row in untouched.execute_query(UNIQUE, {"table": table})]


@pytest.mark.parametrize(
    ("table", "column", "words", "moves"),
    [
        ("trade_journal", "status", JournalStatus, JOURNAL_MOVES),
        ("trade_journal", "exit_reason", ExitReason, None),
        ("trade_journal", "side", Side, None),
        ("trade_journal", "trade_style", TradeStyle, None),
        ("order_execution", "order_type", OrderRole, None),
        ("order_execution", "order_status", OrderStatus, ORDER_MOVES),
        ("trade_decisions", "status", DecisionStatus, DECISION_MOVES),
        ("trade_executions", "status", ExecutionStatus, None),
        ("alerts", "level", AlertLevel, None),
    ],
)
def test_code_and_database_know_the_same_words(
    untouched: TradingDB, table: str, column: str, words: type[StrEnum], moves: Mapping[StrEnum, Any] | None,
) -> None:
    assert words_of_check(untouched, table, column) == {str(word) for word in words}
    assert moves is None or set(moves) == set(words)


def test_every_order_status_means_an_execution_status(untouched: TradingDB) -> None:
    words = words_of_check(untouched, "trade_executions", "status")
    assert {str(status) for status in EXECUTION_OF_ORDER.values()} <= words


@pytest.mark.parametrize("table", ROWS)
def test_a_real_row_is_taken(db: TradingDB, table: str) -> None:
    db.insert(table, ROWS[table] | REAL.get(table, {}))


@pytest.mark.parametrize(("table", "changes"), IMPOSSIBLE, ids=lambda value: str(value)[:60])
def test_an_impossible_row_is_refused(untouched: TradingDB, table: str, changes: dict[str, Any]) -> None:
    with pytest.raises(DatabaseError):
        untouched.insert(table, ROWS[table] | changes)


def test_attempts_are_counted_from_one_and_each_once(db: TradingDB) -> None:
    decision = db.insert("trade_decisions", ROWS["trade_decisions"])
    attempt = {
        "trade_decision_id": decision, "attempt_number": 1, "status": "submitted", "client_order_id": "c1",
        "created_at": NOW, "updated_at": NOW,
    }
    db.insert("trade_executions", attempt)
    for wrong in ({"attempt_number": 1}, {"attempt_number": 0}, {"trade_decision_id": 4711, "attempt_number": 2}):
        with pytest.raises(DatabaseError):
            db.insert("trade_executions", attempt | wrong)


@pytest.mark.parametrize("table", TRADING)
def test_what_is_no_number_enters_no_money_and_no_quantity(untouched: TradingDB, table: str) -> None:
    for column in number_columns(table):
        for value in NO_NUMBERS:
            with pytest.raises(DatabaseError):
                untouched.insert(table, ROWS[table] | {column: value})


@pytest.mark.parametrize("table", TRADING)
def test_checks_keep_out_what_is_no_number_even_without_a_precision(db: TradingDB, table: str) -> None:
    for column in number_columns(table):
        db.execute_update(sql.SQL(WIDEN).format(table=sql.Identifier(table), column=sql.Identifier(column)))
        for value in NO_NUMBERS:
            with pytest.raises(DatabaseError, match="violates check constraint"):
                db.insert(table, ROWS[table] | {column: value})


def test_the_largest_amounts_that_fit_are_taken(db: TradingDB) -> None:
    dollars, shares = Decimal("999999999999.999999"), Decimal("999999999.999999999")
    row_id = db.insert("order_execution", ROWS["order_execution"] | {"limit_price": dollars, "qty": shares})
    row = db.get_by_id("order_execution", row_id)
    assert row is not None
    assert (row["limit_price"], row["qty"]) == (dollars, shares)


def test_the_schema_files_are_numbered_and_run_in_order() -> None:
    names = [path.name for path in sorted((PROJECT / "sql" / "schema").iterdir())]
    assert names
    assert all(re.fullmatch(r"[0-9]{3}_[a-z_]+\.sql", name) for name in names)
