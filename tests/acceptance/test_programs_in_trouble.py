"""Programs that meet another one or lose their database: status 1, one line, and the next run goes on."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from db_layer import TradingDB
from paper_broker import Server
from session_locks import hold_account
from tests.acceptance.test_programs import PROJECT, run
from tests.flow.database_line import breaking_line
from tests.flow.world import ADD_ROW, swing

IMPATIENT = """
import sys, session_locks, {program}
session_locks.PASS_WAIT_SECONDS = 0.1
sys.exit({program}.main([]))
"""
DISK_FULL = """
CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER trouble BEFORE INSERT ON audit.api_payloads FOR EACH STATEMENT EXECUTE FUNCTION trouble()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="line-") as name:
        yield Path(name)


def decide(db: Any) -> None:
    at = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=1)
    text = json.dumps(swing())
    db.execute_update(ADD_ROW, {
        "id": "A1", "at": at, "ticker": "NVDA", "text": text, "approve": True, "executed": None,
    })


def last_line(said: str) -> str:
    assert "Traceback" not in said
    return said.splitlines()[-1]


@pytest.mark.parametrize("program", ["order_executor", "order_monitor", "position_monitor"])
def test_a_program_that_finds_another_one_at_work_says_which_and_does_nothing(
    database: dict[str, Any], configured: dict[str, str], db: Any, paper: Server, program: str,
) -> None:
    decide(db)
    with TradingDB(config=database, application_name="flatten") as other, hold_account(other):
        result = run(PROJECT, "-c", IMPATIENT.format(program=program), **configured)
    assert (result.returncode, result.stdout) == (1, "")
    assert " flatten (connected as process " in last_line(result.stderr)
    assert paper.broker.requests == []


@pytest.mark.parametrize("commit", [1, 2, 3])
@pytest.mark.parametrize("arrives", [False, True])
def test_an_executor_whose_database_goes_away_ends_with_1_and_the_next_run_sends_nothing_twice(
    database: dict[str, Any], configured: dict[str, str], db: Any, paper: Server, folder: Path, commit: int,
    arrives: bool,
) -> None:
    decide(db)
    with breaking_line(database, folder, commit, arrives) as line:
        through = {"POSTGRES_HOST": str(folder), "POSTGRES_PORT": str(line.keywords["port"])}
        result = run(PROJECT, "order_executor.py", **configured | through)
        assert line.broken
    assert result.returncode == 1
    assert last_line(result.stderr).startswith("order_executor.py: ")
    assert run(PROJECT, "order_executor.py", **configured).returncode == 0
    assert len(paper.broker.state.orders) == (0 if (commit, arrives) == (2, True) else 1)


@pytest.mark.parametrize("program", ["order_executor.py", "order_monitor.py", "position_monitor.py"])
def test_a_full_disk_is_one_line(configured: dict[str, str], db: Any, paper: Server, program: str) -> None:
    decide(db)
    db.execute_update(DISK_FULL)
    result = run(PROJECT, program, **configured)
    assert result.returncode == 1
    assert last_line(result.stderr) == f"{program}: could not extend file: No space left on device"
    assert paper.broker.state.orders == {}


def test_a_right_that_is_missing_is_one_line_that_says_where_rights_come_from(
    configured: dict[str, str], db: Any,
) -> None:
    db.execute_update("REVOKE SELECT ON analysis_decision FROM trading_app")
    result = run(PROJECT, "order_executor.py", **configured)
    assert result.returncode == 1
    assert "permission denied for table analysis_decision; see docs/database-setup.md" in last_line(result.stderr)
