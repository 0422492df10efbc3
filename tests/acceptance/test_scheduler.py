"""The daemon as a person or a service manager meets it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import scheduler
from tests.acceptance.test_programs import PROJECT, run

PATIENCE_SECONDS = 30
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'scheduler'"


class Program:
    """A daemon that runs, and what it says."""

    def __init__(self, log: Path, settings: dict[str, str], *flags: str) -> None:
        plain = {"PATH": os.environ["PATH"], "HOME": str(log.parent), "LANG": "C.UTF-8", "ENV_FILE": os.devnull}
        measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
        self._log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "scheduler.py", *flags], cwd=PROJECT, env=plain | measured | settings, stderr=output,
                stdout=output,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait until something has happened; the daemon has to live meanwhile."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < give_up, self.said
            time.sleep(0.02)


@contextmanager
def daemon(log: Path, settings: dict[str, str], *flags: str) -> Iterator[Program]:
    program = Program(log, settings, *flags)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait()


class Manager:
    """A service manager that listens."""

    def __init__(self, line: socket.socket, path: str) -> None:
        self.settings = {"NOTIFY_SOCKET": path}
        self._line = line
        self._heard: list[str] = []

    def received(self) -> list[str]:
        """Every state it was told so far."""
        with suppress(BlockingIOError):
            while True:
                self._heard.append(self._line.recv(100).decode())
        return self._heard


@pytest.fixture
def manager() -> Iterator[Manager]:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        path = str(Path(folder) / "notify")
        line.bind(path)
        line.setblocking(False)
        yield Manager(line, path)


def test_a_daemon_outlives_its_connections_refuses_a_second_one_and_ends_with_a_signal(
    configured: dict[str, str], db: Any, tmp_path: Path, manager: Manager,
) -> None:
    heard, metrics = manager.received, tmp_path / "trading.prom"
    with daemon(tmp_path / "first", configured | manager.settings | {"METRICS_FILE": str(metrics)}) as first:
        first.until(lambda: "scheduler: ready" in first.said)
        first.until(lambda: metrics.exists() and len(heard()) >= 2)
        assert heard()[:2] == ["READY=1", "WATCHDOG=1"]
        assert 'trading_job_done{job="startup_barrier"} 1' in metrics.read_text()
        assert {row["job_name"] for row in db.query("job_runs")} >= {"calendar_check", "startup_barrier"}

        second = run(PROJECT, "scheduler.py", **configured)
        assert second.returncode == 3
        (line,) = second.stderr.splitlines()
        assert "runs as the daemon of this account" in line
        assert line.endswith("or start this one with --standby")

        db.execute_update(CUT)
        first.until(lambda: first.said.count("scheduler: ready") == 2)
        assert "the database is out of reach; trying again" in first.said
        assert len(db.query("job_runs", {"job_name": "startup_barrier", "status": "done"})) == 2

        first.process.send_signal(signal.SIGINT)
        assert first.process.wait(10) == 0
        assert heard()[-1] == "STOPPING=1"
        assert "Traceback" not in first.said
        assert db.query("job_runs", {"status": "running"}) == []


def test_the_table_is_printed_with_the_next_times_and_without_a_database() -> None:
    listed = run(PROJECT, "scheduler.py", "--list", "--test-mode", ORDER_EXECUTOR_TIME="10:07")
    assert (listed.returncode, listed.stderr) == (0, "")
    lines = {line.split()[0]: line for line in listed.stdout.splitlines() if line.split()}
    assert "10:07" in lines["order_executor"].partition("10:07, trading days")[2]
    assert "every 5 min from open to close" in lines["order_monitor"]
    assert "07:00, every day" in lines["congress_daily"]
    graces = {"order_executor": " 2 h ", "congress_daily": " 1 d ", "retention": " 10 d ", "alert_round": " 10 min "}
    assert [name for name, grace in graces.items() if grace not in lines[name]] == []


@pytest.mark.parametrize(("arguments", "words"), [
    (["--replay", "2025-07-07", "2025-06-30"], "two days in order"),
    (["--replay", "2025-07-07", "yesterday"], "'yesterday' is not a day"),
    (["--replay", "1999-01-04", "1999-01-04"], "from 2006-01-01 to 2039-12-31"),
    (["--prices", "demo"], "--prices goes with --replay"),
    (["--list", "--standby"], "not allowed with"),
    (["--replay", "2025-06-30", "2025-06-30", "--prices", "no-such-folder"], "no prices (*.csv) in no-such-folder"),
])
def test_a_slip_is_one_line_and_status_two(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        status: object = scheduler.main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert words in capsys.readouterr().err
