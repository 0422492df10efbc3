"""What the health check makes of clocks and of the daemon's runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from scripts.health_check import Health, judge_clock, judge_jobs

NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)


@pytest.mark.parametrize(("ahead", "health"), [
    (-1.5, Health.DEGRADED), (-0.9, Health.HEALTHY), (0.1, Health.HEALTHY), (1.1, Health.HEALTHY),
    (1.3, Health.DEGRADED),
])
def test_a_clock_that_is_a_second_off_is_noticed_whatever_the_call_took(ahead: float, health: Health) -> None:
    found, words = judge_clock("the broker", NOW + timedelta(seconds=ahead), NOW, NOW + timedelta(seconds=0.2))
    assert (found, "NTP" in words) == (health, health is Health.DEGRADED)


@pytest.mark.parametrize(("status", "due_hours", "health", "words"), [
    ("done", 1, Health.HEALTHY, "1 jobs, none failed or missed"),
    ("failed", 1, Health.DEGRADED, "order_monitor failed: why"),
    ("missed", 1, Health.DEGRADED, "order_monitor missed: why"),
    ("skipped", 1, Health.HEALTHY, "1 jobs, none failed or missed"),
    ("running", 1, Health.HEALTHY, "1 jobs, none failed or missed"),
    ("running", 8, Health.DEGRADED, "order_monitor has been running since 2025-01-15 07:00 UTC"),
    ("done", 27, Health.DEGRADED, "no job has run since 2025-01-14 12:00 UTC; is the daemon running?"),
])
def test_the_latest_run_of_a_job_tells_how_it_is(status: str, due_hours: int, health: Health, words: str) -> None:
    due = NOW - timedelta(hours=due_hours)
    assert judge_jobs([("order_monitor", status, due, due, "why")], NOW) == (health, words)


def test_where_no_daemon_runs_its_jobs_are_no_trouble() -> None:
    assert judge_jobs([], NOW) == (Health.HEALTHY, "no daemon has run here")
