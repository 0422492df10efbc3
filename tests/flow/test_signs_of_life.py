"""What others hear of a daemon, and when they hear nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import signs_of_life
from config import load_settings
from job_runner import STALLED, JobRunner
from job_table import Job
from signs_of_life import SignsOfLife
from tests.flow.test_job_runner import Stage
from tests.flow.world import World


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(signs_of_life, "notify", said.append)
    monkeypatch.setattr(signs_of_life, "beat", lambda _settings: said.append("heartbeat"))
    return said


def signs_for(stage: Stage, *table: Job, metrics_file: str = "") -> tuple[SignsOfLife, JobRunner]:
    runner = stage.runner(*table)
    settings = replace(load_settings(True, {}), metrics_file=metrics_file)
    return SignsOfLife(settings, stage.world.programs, runner), runner


def test_a_daemon_whose_jobs_do_not_begin_is_silent(world: World, heard: list[str]) -> None:
    stage = Stage(world)
    monitor = stage.job("order_monitor")
    signs, runner = signs_for(stage, monitor)
    signs.look(world.clock.now())
    assert heard == ["WATCHDOG=1"]
    world.pass_time(minutes=STALLED.total_seconds() / 60 + 6)
    signs.look(world.clock.now())
    assert heard == ["WATCHDOG=1"]
    runner.handle(monitor)
    world.pass_time(minutes=1)
    signs.look(world.clock.now())
    assert heard == ["WATCHDOG=1", "heartbeat", "WATCHDOG=1"]


def test_only_runs_on_the_account_that_did_all_their_work_are_heartbeats(world: World, heard: list[str]) -> None:
    stage = Stage(world)

    def fail(*_: Any) -> None:
        raise ValueError("no")

    table = stage.job("order_monitor", fail), stage.job("alert_round")
    _, runner = signs_for(stage, *table)
    world.pass_time(minutes=6)
    for job in table:
        runner.handle(job)
    assert heard == []


def test_metrics_that_cannot_be_written_do_not_end_the_daemon(
    world: World, heard: list[str], caplog: pytest.LogCaptureFixture,
) -> None:
    signs, _ = signs_for(Stage(world), metrics_file="/nowhere/at/all.prom")
    signs.look(world.clock.now())
    signs.look(world.clock.now() + timedelta(seconds=20))
    assert [record.message for record in caplog.records].count("METRICS_FILE cannot be written") == 1
    assert heard == ["WATCHDOG=1"] * 2


