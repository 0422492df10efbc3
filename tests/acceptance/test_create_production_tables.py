"""`scripts/create_production_tables.py` as a process, on databases as NocoDB leaves them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = PROJECT / "scripts" / "create_production_tables.py"
NOCODB_TABLE = """
CREATE TABLE analysis_decision (
    id serial PRIMARY KEY, "Analysis_Id" text, "Date_time" timestamp, "Ticker" text, "Decision" json, "Approve" boolean,
    "Date" date, "Remarks" text
)
"""
ADD_FIELDS = """
ALTER TABLE analysis_decision ADD existing_order_id varchar, ADD existing_trade_journal_id integer,
    ADD executed boolean, ADD execution_time timestamp
"""
TABLES = """
SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
"""


class Production:
    """An empty database, and the script run against it."""

    def __init__(self, keywords: dict[str, Any]) -> None:
        self.connection = psycopg2.connect(**keywords)
        self.connection.autocommit = True
        self.environ = {
            "POSTGRES_HOST": str(keywords["host"]), "POSTGRES_PORT": str(keywords["port"]),
            "POSTGRES_DB": str(keywords["dbname"]), "POSTGRES_USER": str(keywords["user"]),
            "ALPACA_API_KEY": "PKEXAMPLE", "ALPACA_SECRET_KEY": "s3cret-example",
        }

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return run_script(*arguments, **self.environ | environ)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def tables(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for schema, table in self.execute(TABLES):
            found.setdefault(schema, set()).add(table)
        return found


def run_script(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    environment = os.environ | {"ENV_FILE": os.devnull} | environ
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/", check=False)


@pytest.fixture
def production(database: dict[str, Any]) -> Iterator[Production]:
    """A database of production before the first run: the test's own, emptied."""
    production = Production(database)
    production.execute("DROP SCHEMA public, audit CASCADE; CREATE SCHEMA public")
    yield production
    production.connection.close()


def test_it_creates_every_table_but_the_one_of_nocodb_and_says_what_is_missing(production: Production) -> None:
    done = production.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "in the schema public" in done.stdout
    assert "Still to do: there is no table analysis_decision" in done.stdout
    tables = production.tables()
    assert {"trade_journal", "order_execution", "order_fill", "position_tracking"} <= tables["public"]
    assert {"trade_decisions", "trade_executions", "api_payloads"} <= tables["audit"]
    assert "analysis_decision" not in tables["public"]


def test_it_names_the_missing_fields_until_they_are_there(production: Production) -> None:
    production.execute(NOCODB_TABLE)
    first = production.run()
    assert first.returncode == 0
    assert (
        "lacks the fields existing_order_id (varchar), existing_trade_journal_id (integer), executed (boolean), "
        "execution_time (timestamp); add them in NocoDB"
    ) in first.stdout
    production.execute(ADD_FIELDS)
    second = production.run()
    assert second.returncode == 0
    assert "analysis_decision is ready; its primary key is id." in second.stdout


def test_it_may_run_again_at_any_time(production: Production) -> None:
    schema = {"POSTGRES_SCHEMA": "pa9idbNom3cubse"}
    assert production.run(**schema).returncode == 0
    production.execute("INSERT INTO audit.trading_control (state, reason, changed_by, changed_at)"
                       " VALUES ('HALTED', 'drill', 'test', now())")
    before = production.tables()
    again = production.run(**schema)
    assert (again.returncode, again.stderr) == (0, "")
    assert production.tables() == before
    assert before.keys() == {"pa9idbNom3cubse", "audit"}
    assert production.execute("SELECT state FROM audit.trading_control") == [("HALTED",)]


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"POSTGRES_DB": ""}, 2, "POSTGRES_DB is not set"),
        ({"POSTGRES_PORT": "many"}, 2, "POSTGRES_PORT is 'many'"),
        ({"POSTGRES_DB": "nowhere"}, 1, "could not connect to PostgreSQL"),
        ({"POSTGRES_HOST": "/nonexistent"}, 1, "could not connect to PostgreSQL"),
    ],
)
def test_a_foreseeable_error_is_one_line_and_its_exit_status(
    production: Production, change: dict[str, str], status: int, words: str,
) -> None:
    failed = production.run(**change)
    assert (failed.returncode, failed.stdout) == (status, "")
    assert words in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_a_database_that_refuses_is_one_line(production: Production) -> None:
    production.execute("CREATE VIEW order_fill AS SELECT 1 AS id")
    failed = production.run()
    assert (failed.returncode, len(failed.stderr.splitlines())) == (1, 1)
    assert production.tables() == {}


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["--nonsense"], 2), (["surplus"], 2)])
def test_help_and_usage_errors_have_their_status(arguments: list[str], status: int) -> None:
    assert run_script(*arguments).returncode == status
