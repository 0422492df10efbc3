"""The kill switch as a person types it: what is printed, which status it ends with, what it changes."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from paper_broker import PaperBroker, Server, SimulatedClock, serve
from paper_broker.faults import read_fault
from tests.acceptance.test_programs import PROJECT, run
from tests.flow.world import ADD_ROW, START, swing

PROGRAM = "scripts/trading_control.py"
# Between a flat book and a position that the broker still shows, the command waits ten seconds on a real clock.
IMPATIENT = f"""
import runpy, datetime, flattening
flattening.POSITIONS_LAG = datetime.timedelta(seconds=1)
runpy.run_path("{PROGRAM}", run_name="__main__")
"""
WHO = f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"


def control(settings: dict[str, str], *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Type a command of the kill switch."""
    return run(PROJECT, PROGRAM, *arguments, **settings | more)


def decide(db: Any, name: str = "A1", **changes: Any) -> None:
    """Write an approved decision."""
    at = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=1)
    db.execute_update(ADD_ROW, {
        "id": name, "at": at, "ticker": "NVDA", "text": json.dumps(swing(**changes)), "approve": True, "executed": None,
    })


def position(settings: dict[str, str], db: Any) -> None:
    """Have a protected position."""
    decide(db)
    for program in ("order_executor.py", "order_monitor.py"):
        assert run(PROJECT, program, **settings).returncode == 0


def test_halt_holds_back_and_resume_releases(configured: dict[str, str], db: Any) -> None:
    halted = control(configured, "halt", "--reason", "something smells")
    assert (halted.returncode, halted.stdout) == (0, "Trading is HALTED now; it was ACTIVE.\n"), halted
    assert control(configured, "halt", "--reason", "it still does").stdout == "Trading stays HALTED.\n"
    decide(db)
    assert "held back: 1" in run(PROJECT, "order_executor.py", **configured).stdout
    row = db.query("trading_control")[0]
    assert (row["state"], row["flatten"], row["reason"], row["changed_by"]) == (
        "HALTED", False, "something smells", WHO,
    )
    resumed = control(configured, "resume", "--reason", "it was lunch")
    assert (resumed.returncode, resumed.stdout) == (0, "Trading is ACTIVE now; it was HALTED.\n")
    assert "placed: 1" in run(PROJECT, "order_executor.py", **configured).stdout
    assert db.query("alerts", {"resolved_at": None}) == []


def test_who_is_not_taken_from_the_environment(configured: dict[str, str], db: Any) -> None:
    forged = dict.fromkeys(("USER", "LOGNAME", "SUDO_USER", "HOSTNAME"), "somebody-else")
    control(configured, "halt", "--reason", "x", **forged)
    assert db.query("trading_control")[0]["changed_by"] == WHO


@pytest.mark.parametrize("arguments", [
    ("halt", "--reason", ""), ("raise", "MAX_ORDER_QTY", "1e99", "--for", "1", "--reason", "x"),
])
def test_a_wrong_command_is_a_usage_error_and_changes_nothing(
    configured: dict[str, str], db: Any, arguments: tuple[str, ...],
) -> None:
    result = control(configured, *arguments)
    assert (result.returncode, result.stdout) == (2, ""), result
    assert "Traceback" not in result.stderr
    assert db.query("trading_control") == db.query("limit_raises") == []


def test_help_names_every_command() -> None:
    result = control({}, "--help")
    assert result.returncode == 0
    assert all(word in result.stdout for word in ("status", "halt", "reduce", "resume", "flatten", "raise"))
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_control_characters_in_a_reason_are_escaped(configured: dict[str, str], db: Any) -> None:
    control(configured, "halt", "--reason", "red\x1b[31m\nnext")
    assert db.query("trading_control")[0]["reason"] == "red\\x1b[31m\\nnext"
    assert "\x1b" not in control(configured, "status").stdout


@pytest.mark.parametrize(("command", "status"), [("halt", 0), ("reduce", 1)])
def test_the_switch_is_turned_also_when_the_broker_cannot_be_reached(
    configured: dict[str, str], db: Any, command: str, status: int,
) -> None:
    result = control(configured, command, "--reason", "x", ALPACA_BASE_URL="http://127.0.0.1:9")
    assert (result.returncode, "Traceback" in result.stderr) == (status, False)
    assert ("The broker did not answer" in result.stdout) == bool(status)
    assert len(db.query("trading_control")) == 1


def test_an_unreachable_database_is_one_line_and_status_1(configured: dict[str, str]) -> None:
    result = control(configured, "halt", "--reason", "x", POSTGRES_HOST="127.0.0.1", POSTGRES_PORT="1")
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)


def test_missing_settings_are_named() -> None:
    result = control({"ALPACA_API_KEY": "key"}, "status")
    assert (result.returncode, "POSTGRES_HOST is not set" in result.stderr) == (2, True)


def test_reduce_cancels_resting_entries_at_once(configured: dict[str, str], db: Any, paper: Server) -> None:
    decide(db, limit_price=130)
    run(PROJECT, "order_executor.py", **configured)
    result = control(configured, "reduce", "--reason", "calm down")
    expected = "Trading is REDUCING now; it was ACTIVE.\nNo entry rests at the broker.\n"
    assert (result.returncode, result.stdout) == (0, expected), result
    assert paper.broker.state.live == {}
    assert db.query("trade_journal")[0]["exit_reason"] == "CANCELLED"


def test_reduce_says_which_entries_are_left_when_their_cancel_fails(
    configured: dict[str, str], db: Any, paper: Server,
) -> None:
    decide(db, limit_price=130)
    run(PROJECT, "order_executor.py", **configured)
    fault = {"method": "DELETE", "path": "/v2/orders/*", "kind": "status", "code": 500, "times": None}
    paper.broker.faults.append(read_fault(fault))
    result = control(configured, "reduce", "--reason", "x")
    assert (result.returncode, db.query("order_execution")[0]["client_order_id"] in result.stdout) == (1, True)
    paper.broker.faults.clear()
    assert run(PROJECT, "order_monitor.py", **configured).stdout == (
        "entries ended unfilled: 1, resting entries cancelled: 1\n"
    )


def test_flatten_closes_everything_and_says_so(configured: dict[str, str], db: Any, paper: Server) -> None:
    position(configured, db)
    paper.broker.foreign_fill("NVDA", "buy", "7")
    result = run(PROJECT, "-c", IMPATIENT, "flatten", "--reason", "fire in the house", **configured)
    assert result.returncode == 0, result
    assert "Nothing of ours is left" in result.stdout
    assert "left alone" in result.stdout
    assert paper.broker.state.shares("NVDA") == 7
    assert db.query("trade_journal")[0]["exit_reason"] == "MANUAL_EXIT"
    assert run(PROJECT, "order_monitor.py", **configured).stdout == "Nothing changed.\n"
    halted = control(configured, "halt", "--reason", "stay")
    assert "Flattening is called off" in halted.stdout


def test_flatten_says_what_is_left_and_why(configured: dict[str, str], db: Any) -> None:
    with serve(PaperBroker(clock=SimulatedClock(START))) as paper:
        paper.broker.set_price("NVDA", Decimal("133.50"))
        settings = configured | {"ALPACA_BASE_URL": paper.url, "ALPACA_DATA_URL": paper.url}
        position(settings, db)
        paper.broker.set_time(START + timedelta(hours=8))
        result = control(settings, "flatten", "--reason", "x")
    assert result.returncode == 1, result
    words = " ".join(result.stdout.split())
    assert "the market is closed; its order at market waits until 2025-01-16 14:30 UTC" in words
    assert db.query("trade_journal")[0]["trade_id"] in words


def test_status_shows_what_stands_and_asks_no_broker(configured: dict[str, str], db: Any, paper: Server) -> None:
    position(configured, db)
    decide(db, "A2", limit_price=120, stop_loss={"stop_price": 110})
    run(PROJECT, "order_executor.py", **configured)
    control(configured, "raise", "MAX_ORDER_NOTIONAL", "30000", "--for", "2", "--reason", "a block")
    control(configured, "halt", "--reason", "drill")
    db.execute_update("UPDATE order_execution SET order_status = 'cancelled' WHERE order_type = 'STOP_LOSS'")
    asked = len(paper.broker.requests)
    result = control(configured, "status")
    assert result.returncode == 0, result
    lines = dict(line.rsplit(None, 1) for line in result.stdout.splitlines() if line[-1:].isdigit())
    for what in ("Resting entries", "Open positions", "Positions without protection"):
        assert lines[what] == "1", result.stdout
    for what in ("Orders of unknown outcome", "Open critical alerts"):
        assert lines[what] == "0", result.stdout
    for words in ("Trading is HALTED", "drill", WHO, "RAISED MAX_ORDER_NOTIONAL to 30000 until", "a block"):
        assert words in " ".join(result.stdout.split())
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert len(paper.broker.requests) == asked


def test_a_raise_is_in_force_for_the_next_pass(configured: dict[str, str], db: Any) -> None:
    decide(db, qty=151)
    result = control(configured, "raise", "max_order_notional", "30000", "--for", "2", "--reason", "a block")
    assert (result.returncode, result.stdout.startswith("MAX_ORDER_NOTIONAL is 30000 until ")) == (0, True), result
    assert run(PROJECT, "order_executor.py", **configured).stdout == "placed: 1\n"
    assert db.query("limit_raises")[0]["changed_by"] == WHO


@pytest.mark.parametrize("arguments", [("status", "--test-mode"), ("--test-mode", "status")])
def test_test_mode_needs_no_settings(bare: Path, arguments: tuple[str, ...]) -> None:
    result = run(bare, PROGRAM, *arguments)
    assert (result.returncode, result.stdout.startswith("Trading is ACTIVE")) == (0, True), result


def test_flatten_in_test_mode(bare: Path) -> None:
    run(bare, "scripts/rehearse.py", "decide")
    for program in ("order_executor.py", "order_monitor.py"):
        run(bare, program, "--test-mode")
    result = run(bare, PROGRAM, "flatten", "--reason", "drill", "--test-mode")
    assert (result.returncode, "Nothing of ours is left" in result.stdout) == (0, True), result
