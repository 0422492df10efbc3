"""When each job is due."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from clock import MARKET_ZONE
from config import Settings, load_settings
from job_table import A_DAY, Job, due_between, jobs, next_due
from market_calendar import MarketCalendar

ANSWERS = Path(__file__).parent / "due_times.txt"
CALENDAR = MarketCalendar()


def settings(**environ: str) -> Settings:
    return load_settings(True, environ)


def table(**environ: str) -> dict[str, Job]:
    return {job.name: job for job in jobs(settings(**environ).schedule)}


def answers() -> dict[str, list[str]]:
    """The lines of the answer file by heading."""
    found: dict[str, list[str]] = {}
    for line in ANSWERS.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return found


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=MARKET_ZONE).astimezone(UTC)


def due(name: str, day: str, **environ: str) -> list[str]:
    """When a job is due on a day, at the exchange."""
    midnight = at(f"{day} 00:00")
    times = due_between(table(**environ)[name], CALENDAR, midnight, midnight + A_DAY)
    return [f"{moment.astimezone(MARKET_ZONE):%H:%M}" for moment in times]


def test_every_job_of_three_years_is_due_exactly_when_the_answer_file_says() -> None:
    known, listed = answers(), []
    expected: list[tuple[datetime, str]] = []
    for line in known["days"]:
        day, kind, offset = line.split()[:3]
        listed.append(date.fromisoformat(day))
        for entry in known[kind] + (known["first of a month"] if day.endswith("-01") else []):
            clock, *names = entry.split()
            expected += [(datetime.fromisoformat(f"{day}T{clock}{offset}"), name) for name in names]
    first, last = at("2024-01-01 00:00"), at("2026-12-31 23:59")
    assert listed == [date(2024, 1, 1) + A_DAY * number for number in range(1096)]
    found = [(moment, job.name) for job in table().values() for moment in due_between(job, CALENDAR, first, last)]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(("name", "environ", "expected"), [
    ("order_monitor", {"ORDER_MONITOR_MINUTES": "60"}, ["09:30", "10:30", "11:30", "12:30", "13:00"]),
    ("order_monitor", {"ORDER_MONITOR_MINUTES": "45"}, ["09:30", "10:15", "11:00", "11:45", "12:30", "13:00"]),
    ("order_monitor_eod", {"ORDER_MONITOR_EOD_TIME": "17:30"}, ["17:30"]),
    ("order_executor", {"ORDER_EXECUTOR_TIME": "08:00"}, ["08:00"]),
    ("order_executor", {"ORDER_EXECUTOR_TIME": "12:59"}, ["12:59"]),
    ("order_executor", {"ORDER_EXECUTOR_TIME": "13:00"}, []),
    ("congress_daily", {"CONGRESS_FETCH_TIME": "06:10"}, ["06:10"]),
])
def test_the_settings_say_when_on_a_half_day(name: str, environ: dict[str, str], expected: list[str]) -> None:
    assert due(name, "2025-07-03", **environ) == expected


def test_the_next_time_looks_over_a_long_weekend() -> None:
    executor = table()["order_executor"]
    assert next_due(executor, CALENDAR, at("2025-07-03 09:44")) == at("2025-07-03 09:45")
    assert next_due(executor, CALENDAR, at("2025-07-03 09:45")) == at("2025-07-07 09:45")


def test_jobs_of_the_account_take_turns_and_wait_for_no_data() -> None:
    lanes = {name: str(job.lane) for name, job in table().items()}
    assert {name for name, lane in lanes.items() if lane == "data"} == {
        "maintenance_daily", "congress_daily", "insider_daily", "retention",
    }
    assert {name for name, lane in lanes.items() if lane == "people"} == {
        "alert_round", "audit_anchor", "daily_summary",
    }


def test_only_orders_are_urgent_and_they_do_not_begin_hours_late() -> None:
    urgent = {name: job.grace for name, job in table(ORDER_EXECUTOR_LATE_MINUTES="30").items() if job.urgent}
    assert urgent == {"order_executor": timedelta(minutes=30)}


def test_a_strategy_is_run_on_trading_days_where_it_has_a_time() -> None:
    assert "congressional_strategy" not in table()
    assert due("congressional_strategy", "2025-01-15", CONGRESSIONAL_STRATEGY_TIME="09:40") == ["09:40"]
    assert due("congressional_strategy", "2025-12-25", CONGRESSIONAL_STRATEGY_TIME="09:40") == []
