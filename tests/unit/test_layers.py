"""The rooms of the design and which may know which; import-linter cannot do this, it knows packages only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

# A module imports from the rows above its own, never from its own row or from one below.
LAYERS = (
    {
        "clock", "code_version", "decision", "embedded_postgres", "http_wire", "log_setup", "message_sender",
        "order_life", "progress", "requirements_check", "service_notify", "session_pooling",
    },
    {"broker_answers", "environment", "tables", "trade"},
    {"config"},
    {"broker_line", "db_layer", "heartbeat", "local_broker", "messages"},
    {"command_line", "paper_market", "session_locks"},
    {"analysis_rows", "audit_trail", "exposure", "job_ledger", "order_comparison", "order_listing", "trade_records"},
    {
        "adjustment_records", "alpaca_client", "fill_records", "kill_switch", "limit_raises", "order_records",
        "risk_checks", "written_decisions",
    },
    {"daily_loss", "order_news", "pass_log", "replay_checks", "risk_gate"},
    {"account_watch", "alert_watch", "market_calendar", "market_view", "metrics", "stopping"},
    {"alert_round", "order_desk"},
    {"account_sync", "parts", "row_history", "trade_book"},
    {"shares_at_broker"},
    {"order_changes", "protection", "reconciliation", "standing"},
    {"decision_review", "startup_barrier", "wind_down"},
    {"unsent_entries"},
    {"data_fetch", "order_executor", "order_monitor", "position_monitor"},
    {"strategies"},
    {"flattening", "job_table"},
    {"job_runner"},
    {"replay", "signs_of_life"},
    {"scheduler"},
    {"scripts"},
)
LEVEL = {module: level for level, row in enumerate(LAYERS) for module in row}
# Although the rows would let it: the client is handed its recorder.
FORBIDDEN = {"alpaca_client": {"db_layer", "audit_trail"}}
ALONE = "paper_broker"  # it stands for somebody else's system


def sources() -> dict[str, list[Path]]:
    """The project's Python files by the top-level module they belong to."""
    found: dict[str, list[Path]] = {}
    for path in PROJECT.glob("[!.]*/**/*.py"):
        found.setdefault(path.relative_to(PROJECT).parts[0], []).append(path)
    found.pop("tests", None)
    return found | {path.stem: [path] for path in PROJECT.glob("*.py")}


SOURCES = sources()


def imports(module: str) -> set[str]:
    """The project's other modules that a module names in an import, at any depth of its code."""
    named: set[str] = set()
    for path in SOURCES[module]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                named.add(node.module or "")
    return ({name.partition(".")[0] for name in named} & SOURCES.keys()) - {module}


def test_every_module_has_its_place() -> None:
    assert SOURCES.keys() <= LEVEL.keys() | {ALONE}


@pytest.mark.parametrize("module", sorted(SOURCES.keys() & LEVEL.keys()))
def test_a_module_imports_only_from_the_rows_above_it(module: str) -> None:
    wrong = {other for other in imports(module) & LEVEL.keys() if LEVEL[other] >= LEVEL[module]}
    assert wrong == set()


@pytest.mark.parametrize("module", sorted(FORBIDDEN.keys() & SOURCES.keys()))
def test_a_module_does_not_import_what_it_must_not_know(module: str) -> None:
    assert imports(module) & FORBIDDEN[module] == set()


@pytest.mark.skipif(ALONE not in SOURCES, reason="there is no paper broker")
def test_the_paper_broker_and_the_product_do_not_know_each_other() -> None:
    assert imports(ALONE) == set()
    assert {module for module in SOURCES if ALONE in imports(module)} <= {"scripts"}
