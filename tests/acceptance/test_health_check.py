"""The health check as a monitoring system runs it: 0 healthy, 1 degraded, 2 down, and no traceback."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from tests.acceptance.test_programs import PROJECT, run

NOWHERE = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1"}
DEAD = {"ALPACA_BASE_URL": "http://127.0.0.1:9", "ALPACA_DATA_URL": "http://127.0.0.1:9"}
CHECKS = ["database", "clock", "jobs", "positions", "alerts", "trading", "broker", "clock"]


def health(settings: dict[str, str]) -> tuple[int, dict[str, Any]]:
    result = run(PROJECT, "scripts/health_check.py", "--json", **settings)
    assert "Traceback" not in result.stderr
    return result.returncode, json.loads(result.stdout)


def test_a_healthy_system_is_said_to_be_so(configured: dict[str, str], db: Any) -> None:
    result = run(PROJECT, "scripts/health_check.py", **configured)
    lines = result.stdout.splitlines()
    assert (result.returncode, result.stderr, lines[-1]) == (0, "", "The system is healthy.")
    assert [line.split()[1] for line in lines[:-1]] == CHECKS
    assert max(map(len, lines)) < 80


def test_a_critical_alert_and_a_missed_job_degrade_it(configured: dict[str, str], db: Any) -> None:
    now = datetime.now(UTC)
    db.insert("alerts", {
        "level": "critical", "kind": "order_lost", "subject": "x", "message": "m", "first_seen_at": now,
        "last_seen_at": now,
    })
    db.insert("job_runs", {"job_name": "order_monitor", "due_at": now, "status": "missed", "reason": "late"})
    status, found = health(configured)
    assert (status, found["status"]) == (1, "degraded")
    degraded = {check["name"]: check["detail"] for check in found["checks"] if check["status"] != "healthy"}
    assert degraded == {
        "jobs": "order_monitor missed: late",
        "alerts": "1 critical and not acknowledged; run: python -m audit_trail alerts",
    }


def test_without_database_or_broker_it_is_down(configured: dict[str, str], db: Any) -> None:
    for trouble, name in ((NOWHERE, "database"), (DEAD, "broker")):
        status, found = health(configured | trouble)
        assert (status, found["status"]) == (2, "down")
        assert [check["name"] for check in found["checks"] if check["status"] == "down"] == [name]


def test_missing_settings_are_one_line(configured: dict[str, str]) -> None:
    result = run(PROJECT, "scripts/health_check.py", ALPACA_API_KEY="key")
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
