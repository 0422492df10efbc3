"""Every SQL constant of the product is planned by the server, so that a slip of the pen in any of them is found."""

from __future__ import annotations

import importlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from psycopg2 import sql

from db_layer import TradingDB

PROJECT = Path(__file__).resolve().parents[2]
NOT_OURS = {"tests", "paper_broker"}
VERBS = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|MERGE)\s")
PLACEHOLDER = re.compile(r"%\((\w+)\)s")
NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
# A value for parameters whose type decides how a statement is read; all others are NULL.
SAMPLES: dict[str, Any] = {
    "now": NOW, "names": ["TimeZone"], "values": ["UTC"], "allowed": ["pending"], "zone": "UTC",
}


def constants() -> dict[str, str]:
    """Every upper-case constant of a module of ours that is a statement, by module and name."""
    found: dict[str, str] = {}
    for path in sorted([*PROJECT.glob("*.py"), *PROJECT.glob("[!.]*/**/*.py")]):
        parts = path.relative_to(PROJECT).with_suffix("").parts
        if parts[0] in NOT_OURS:
            continue
        module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, str) and VERBS.match(value) and value not in found.values():
                found[f"{module.__name__}.{name}"] = value
    return found


CONSTANTS = constants()


def with_one_row(statement: str) -> str:
    """Write `VALUES %s`, which execute_values fills, as a row of NULLs."""
    columns = re.search(r"\(([^()]*)\)\s*VALUES %s", statement)
    if columns is None:
        return statement
    return statement.replace("VALUES %s", f"VALUES ({', '.join(['NULL'] * len(columns[1].split(',')))})")


@pytest.mark.parametrize("name", CONSTANTS)
def test_the_server_can_plan_the_statement(untouched: TradingDB, name: str) -> None:
    statement = with_one_row(CONSTANTS[name])
    parameters = {parameter: SAMPLES.get(parameter) for parameter in PLACEHOLDER.findall(statement)}
    identifiers = {place: sql.Identifier("Analysis_Id") for place in re.findall(r"\{(\w+)\}", statement)}
    explain = sql.SQL("EXPLAIN ") + (sql.SQL(statement).format(**identifiers) if identifiers else sql.SQL(statement))
    assert untouched.execute_query(explain, parameters or None)


def test_the_statements_of_every_layer_are_among_them() -> None:
    modules = {name.rpartition(".")[0] for name in CONSTANTS}
    assert {
        "db_layer", "analysis_rows", "order_records", "trade_records", "order_desk", "order_monitor", "order_executor",
        "position_monitor", "risk_gate", "audit_trail.alerts", "audit_trail.calls", "audit_trail.decisions",
        "audit_trail.executions", "audit_trail.ingestion", "audit_trail.trace", "data_fetch.records",
    } <= modules


def test_no_statement_is_built_outside_a_constant() -> None:
    inline = re.compile(r"""execute_(?:query|update|prepared|values)\(\s*(?:f?["']|sql\.SQL\()""")
    guilty = [
        path.name for path in [*PROJECT.glob("*.py"), *PROJECT.glob("[!.]*/**/*.py")]
        if path.relative_to(PROJECT).parts[0] not in NOT_OURS and inline.search(path.read_text(encoding="utf-8"))
    ]
    assert guilty == []
