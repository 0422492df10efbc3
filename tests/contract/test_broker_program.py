"""The broker as a program: its one line, its state file, its end."""

from __future__ import annotations

import fcntl
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

PROJECT = Path(__file__).resolve().parents[2]
KEYS = {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}
BARS = "timestamp,symbol,open,high,low,close,volume\n2025-01-14,NVDA,130,136,129,133.5,1000\n"


def launch(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "paper_broker", *arguments]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def running(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with launch(*arguments) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("paper broker listening on http://127.0.0.1:"), process.communicate()
        try:
            yield line.split()[-1], process
        finally:
            process.kill()


def call(method: str, url: str, body: Any = None) -> Any:
    answer = requests.request(method, url, json=body, headers=KEYS, timeout=10)
    answer.raise_for_status()
    return answer.json()


def test_the_state_survives_a_restart(tmp_path: Path) -> None:
    prices, state = tmp_path / "bars.csv", tmp_path / "state.json"
    prices.write_text(BARS)
    options = ("--hours", "always", "--state", str(state), "--cash", "50000")
    with running(*options, "--prices", str(prices)) as (url, process):
        wish = {"symbol": "NVDA", "qty": "10", "side": "buy", "type": "market", "time_in_force": "day"}
        order = call("POST", f"{url}/v2/orders", {**wish, "client_order_id": "mine"})
        assert call("GET", f"{url}/v2/orders/{order['id']}")["status"] == "filled"
        exits = {"order_class": "oco", "take_profit": {"limit_price": 145}, "stop_loss": {"stop_price": 124}}
        call(
            "POST",
            f"{url}/v2/orders",
            {**wish, "side": "sell", "type": "limit", "time_in_force": "gtc", **exits},
        )
        before = [
            call("GET", url + path)
            for path in ("/v2/orders?status=all&nested=true", "/v2/account/activities")
        ]
        process.kill()
    with running(*options) as (url, process):
        after = [
            call("GET", url + path)
            for path in ("/v2/orders?status=all&nested=true", "/v2/account/activities")
        ]
        assert after == before
        assert call("GET", f"{url}/v2/positions/NVDA")["qty_available"] == "0"
        assert call("GET", f"{url}/v2/account")["cash"] == "48665"
        call("POST", f"{url}/control/prices", {"NVDA": "120"})
        assert call("GET", f"{url}/v2/positions") == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_the_broker_ends_with_its_last_user(tmp_path: Path) -> None:
    lock = tmp_path / "users.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with running("--hours", "always", "--users-lock", str(lock)) as (url, process):
            assert call("GET", f"{url}/control/health")["status"] == "ok"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.7)
            fcntl.flock(file, fcntl.LOCK_UN)
            assert process.wait(10) == 0


def test_unusable_prices_are_one_line_and_exit_status_2(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("a,b\n1,2\n")
    for path, reason in (
        (bad, "the header must name timestamp"),
        (tmp_path / "none.csv", "cannot read the price file"),
    ):
        with launch("--prices", str(path), "--hours", "always") as process:
            out, error = process.communicate(timeout=20)
        assert (process.returncode, out, error.count("\n")) == (2, "", 1)
        assert reason in error


def test_a_damaged_state_file_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text('{"format": 1, "state": {')
    with launch("--state", str(state), "--hours", "always") as process:
        _, error = process.communicate(timeout=20)
    assert (process.returncode, error.count("\n")) == (2, 1)
    assert str(state) in error
    assert list(tmp_path.iterdir()) == [state]


def test_a_port_in_use_is_one_line_and_exit_status_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with launch("--port", port, "--hours", "always") as process:
            _, error = process.communicate(timeout=20)
    assert (process.returncode, error.count("\n")) == (1, 1)
    assert port in error
