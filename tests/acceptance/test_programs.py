"""The programs as a person runs them: real processes, exit statuses, what is printed where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from paper_broker import Server
from paper_broker.faults import read_fault
from tests.flow.world import ADD_ROW, swing

PROJECT = Path(__file__).resolve().parents[2]


def run(folder: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a program with nothing but these settings."""
    measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    plain = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "ENV_FILE": os.devnull}
    environment = {**plain, **measured, **settings}
    arguments = [sys.executable, *command]
    return subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=50, check=False,
    )


def test_one_trades_life_by_hand_with_nothing_configured(bare: Path) -> None:
    decided = run(bare, "scripts/rehearse.py", "decide")
    assert (decided.returncode, decided.stderr) == (0, "")
    assert "buy 45 NVDA at 133.80" in decided.stdout
    steps = [
        (("order_executor.py", "--test-mode"), "placed: 1"),
        (("order_executor.py", "--test-mode"), "No approved decisions are waiting."),
        (("order_monitor.py", "--test-mode"), "positions opened: 1, exits placed: 1"),
        (("position_monitor.py", "--test-mode"), "1 symbol priced, 1 positions changed."),
        (("scripts/rehearse.py", "price", "NVDA", "146"), "NVDA trades at 146 now."),
        (("order_monitor.py", "--test-mode"), "trades closed: 1"),
        (("-m", "audit_trail", "trace", decided.stdout.split()[0], "--test-mode"), "TARGET_HIT P&L"),
    ]
    for command, expected in steps:
        result = run(bare, *command)
        assert result.returncode == 0, (command, result.stderr)
        assert expected in result.stdout, command
        assert "Traceback" not in result.stderr
    assert _processes_of(bare) == []


def test_a_strategy_by_hand_with_nothing_configured(bare: Path) -> None:
    steps = [
        (("-m", "data_fetch", "congress_daily", "--test-mode"), "congress_daily: "),
        (("scripts/rehearse.py", "price", "NVDA", "134"), "NVDA trades at 134 now."),
        (("-m", "strategies", "congressional", "--test-mode"), "placed: 1"),
    ]
    for command, expected in steps:
        result = run(bare, *command)
        assert result.returncode == 0, (command, result.stderr)
        assert expected in result.stdout, (command, result.stdout)
        assert "Traceback" not in result.stderr
    assert _processes_of(bare) == []


def test_the_programs_work_on_any_database_and_any_broker(configured: dict[str, str], db: Any, paper: Server) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    db.execute_update(ADD_ROW, {
        "id": "A1", "at": now - timedelta(minutes=1), "ticker": "NVDA", "text": json.dumps(swing()), "approve": True,
        "executed": None,
    })
    for program, expected in (
        ("order_executor.py", "placed: 1"), ("order_monitor.py", "positions opened: 1"),
        ("position_monitor.py", "1 symbol priced"),
    ):
        result = run(PROJECT, program, **configured)
        assert (result.returncode, expected in result.stdout) == (0, True), result
    assert db.query("position_tracking")[0]["symbol"] == "NVDA"
    assert len(paper.broker.state.orders) == 3


@pytest.mark.parametrize("program", ["order_executor.py", "order_monitor.py", "position_monitor.py"])
class TestProgram:
    """What is common to the three programs."""

    def test_help_is_there(self, program: str) -> None:
        result = run(PROJECT, program, "--help")
        assert result.returncode == 0
        assert "--test-mode" in result.stdout

    def test_missing_settings_are_named(self, program: str) -> None:
        result = run(PROJECT, program, ALPACA_API_KEY="key")
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == f"{program}: POSTGRES_HOST is not set; put it into .env (see .env.example)\n"

    def test_a_wrong_argument_is_a_usage_error(self, program: str) -> None:
        assert run(PROJECT, program, "--test-mod3").returncode == 2
        assert run(PROJECT, program, "--test-mod").returncode == 2

    def test_an_unreachable_database_is_one_line_and_status_1(
        self, program: str, configured: dict[str, str],
    ) -> None:
        result = run(PROJECT, program, **configured | {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1"})
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        assert "could not connect to PostgreSQL" in result.stderr
        assert result.stderr.endswith("; see whether the server runs, and look at the POSTGRES_ settings\n")

    def test_an_unreachable_broker_is_one_line_and_status_1(
        self, program: str, configured: dict[str, str], db: Any,
    ) -> None:
        db.insert("position_tracking", {
            "trade_journal_id": 1, "symbol": "NVDA", "side": "long", "qty": 1, "avg_entry_price": 1, "cost_basis": 1,
            "last_updated": datetime.now(UTC),
        })
        dead = {"ALPACA_BASE_URL": "http://127.0.0.1:9", "ALPACA_DATA_URL": "http://127.0.0.1:9"}
        result = run(PROJECT, program, **configured | dead)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        assert "Traceback" not in result.stderr

    def test_a_database_without_our_tables_is_said_plainly(
        self, program: str, configured: dict[str, str], clones: Any,
    ) -> None:
        result = run(PROJECT, program, **configured | {"POSTGRES_DB": "postgres"})
        assert result.returncode == 1
        assert "scripts/create_production_tables.py" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_no_program_waits_for_libraries_that_it_has_no_use_for() -> None:
    programs = "order_executor, order_monitor, position_monitor, kill_switch, flattening, audit_trail"
    look = f"import sys, {programs}; print({{'pandas', 'numpy', 'exchange_calendars'}} & set(sys.modules))"
    assert run(PROJECT, "-c", look).stdout == "set()\n"


def test_a_dry_run_prints_and_writes_nothing(configured: dict[str, str], db: Any, paper: Server) -> None:
    at = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=1)
    row = {"id": "A1", "at": at, "ticker": "NVDA", "text": json.dumps(swing()), "approve": True, "executed": None}
    db.execute_update(ADD_ROW, row)
    result = run(PROJECT, "order_executor.py", "--dry-run", **configured)
    assert (result.returncode, result.stdout) == (0, "A1: buy 45 NVDA at 133.8: would be sent\n")
    assert db.query("trade_decisions") == []
    assert paper.broker.state.orders == {}


@pytest.mark.parametrize(
    ("style", "begins"), [("text", "What is recorded"), ("json", "["), ("csv", "at,event,what,detail")],
)
def test_a_trace_is_told_in_each_format(configured: dict[str, str], db: Any, style: str, begins: str) -> None:
    at = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=1)
    row = {"id": "A1", "at": at, "ticker": "NVDA", "text": json.dumps(swing()), "approve": True, "executed": None}
    db.execute_update(ADD_ROW, row)
    run(PROJECT, "order_executor.py", **configured)
    result = run(PROJECT, "-m", "audit_trail", "trace", "A1", "--format", style, **configured)
    assert (result.returncode, result.stdout.startswith(begins)) == (0, True), result
    for event in ("decided", "checked", "said", "heard"):
        assert event in result.stdout


def test_a_program_without_the_projects_packages_says_how_to_get_them(configured: dict[str, str]) -> None:
    bare = [sys.executable, "-S", "order_executor.py"]
    result = subprocess.run(bare, cwd=PROJECT, capture_output=True, text=True, timeout=50, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "run `make demo` once" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_output_that_nobody_reads_does_not_fail_a_pass(configured: dict[str, str], db: Any) -> None:
    environment = {"PATH": os.environ["PATH"], **configured}
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "order_executor.py"], cwd=PROJECT, env=environment, stdout=full, stderr=subprocess.PIPE,
            text=True, timeout=50, check=False,
        )
    assert result.returncode == 0
    assert "Traceback" not in result.stderr


def test_a_cancel_that_the_broker_does_not_answer_about_ends_with_status_1(
    configured: dict[str, str], db: Any, paper: Server,
) -> None:
    at = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=1)
    row = {"id": "A1", "at": at, "ticker": "NVDA", "approve": True, "executed": None}
    db.execute_update(ADD_ROW, row | {"text": json.dumps(swing(limit_price=130))})
    assert run(PROJECT, "order_executor.py", **configured).returncode == 0
    text = json.dumps({"symbol": "NVDA", "primary_action": "CANCEL"})
    db.execute_update('UPDATE analysis_decision SET executed = false, "Decision" = %(text)s', {"text": text})
    paper.broker.faults.append(read_fault({"method": "GET", "path": "/v2/orders/*", "kind": "status", "code": 500}))
    result = run(PROJECT, "order_executor.py", **configured)
    assert (result.returncode, result.stdout) == (1, "broker did not answer: 1\n"), result


def test_an_abbreviated_option_of_the_audit_trail_is_a_usage_error() -> None:
    assert run(PROJECT, "-m", "audit_trail", "trace", "A1", "--form", "json").returncode == 2


@pytest.mark.parametrize("command", [
    ("order_executor.py",), ("-m", "audit_trail", "trace", "A1", "--format", "json"),
])
def test_a_reader_that_has_gone_changes_neither_status_nor_errors(
    configured: dict[str, str], db: Any, command: tuple[str, ...],
) -> None:
    at = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=1)
    row = {"id": "A1", "at": at, "ticker": "NVDA", "text": json.dumps(swing()), "approve": True, "executed": None}
    db.execute_update(ADD_ROW, row)
    run(PROJECT, "order_executor.py", **configured)
    environment = {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", "ENV_FILE": os.devnull, **configured}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            [sys.executable, *command], cwd=PROJECT, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True,
            timeout=50, check=False,
        )
    finally:
        os.close(writer)
    assert (result.returncode, "Error" in result.stderr) == (0, False), result.stderr


def test_a_trace_that_finds_nothing_says_so(configured: dict[str, str], db: Any) -> None:
    result = run(PROJECT, "-m", "audit_trail", "trace", "nothing-like-it", **configured)
    assert (result.returncode, result.stdout) == (1, "")
    assert "nothing is recorded under nothing-like-it" in result.stderr


def test_logs_are_json_on_request_and_hold_no_key(configured: dict[str, str], db: Any) -> None:
    result = run(PROJECT, "order_executor.py", **configured | {"LOG_FORMAT": "json", "ALPACA_SECRET_KEY": "canary-77"})
    assert result.returncode == 0
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert lines[-1]["message"] == "executor pass finished"
    assert "canary-77" not in result.stderr + result.stdout


def test_the_demo_runs_to_its_end(bare: Path) -> None:
    result = run(bare, "scripts/demo.py", ORDER_MONITOR_MINUTES="60", POSITION_MONITOR_MINUTES="60")
    assert result.returncode == 0, result.stderr
    for expected in (
        "TARGET_HIT", "STOPPED_OUT", "TREND", "must be at least 0.01 below", "What is recorded about",
        "congressional 1.0.0, as of 2025-06-02 13:45 UTC", "From a filing to a closed trade",
        "Replay of 2025-06-30 to 2025-07-04", "2025-07-03   09:30-13:00", "2025-07-04   closed", "306.00",
    ):
        assert expected in result.stdout
    filings = [line.split()[0] for line in result.stdout.splitlines() if "NVDA-20250602-" in line]
    assert filings == ["Ada", "Ben", "Cleo"] * 2
    assert _processes_of(bare) == []


def _processes_of(folder: Path) -> list[str]:
    """The command lines of running programs that name a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found
