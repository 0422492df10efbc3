"""The paper broker of test mode: one process for all commands that run now, its state kept between them.

It is found through `address`, a file beside its state; commands hold `users.lock` shared while they run. The last one
to leave ends the broker; were it killed, the broker ends by itself once it can have that lock alone.
"""

import atexit
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

import requests

from config import LOCAL_STATE, PROJECT_ROOT, AlpacaSettings

FOLDER = LOCAL_STATE / "paper_broker"
START_SECONDS = 20
STOP_POLLS, STOP_POLL_SECONDS = 250, 0.02
_held: list[IO[str]] = []
_started: list[subprocess.Popen[str]] = []


class LocalBrokerError(Exception):
    """The local paper broker could not be started; the message says why."""


def use(alpaca: AlpacaSettings) -> AlpacaSettings:
    """Start the paper broker of test mode unless it runs, and return settings that point at it.

    It lives as long as a process that called this. Raises LocalBrokerError.
    """
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        if not _held:
            users = (FOLDER / "users.lock").open("a")
            fcntl.flock(users, fcntl.LOCK_SH)
            _held.append(users)
            atexit.register(leave)
        with (FOLDER / "start.lock").open("a") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            url = _running() or _start()
    except OSError as error:
        raise LocalBrokerError(_unusable(error)) from error
    return replace(alpaca, base_url=url, data_url=url)


def leave() -> None:
    """Give the broker up; the last user ends it and sees it gone, so that nothing runs after a command."""
    if not _held:
        return
    users = _held.pop()
    with suppress(BlockingIOError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _running():
            _end(int(_address()[1]))
    users.close()


def _unusable(error: OSError) -> str:
    path = Path(error.filename or FOLDER)
    there = next(place for place in (path, *path.parents) if place.exists())
    return (
        f"the local paper broker cannot use {path}: {error.strerror}; {there} belongs to user id "
        f"{there.stat().st_uid}, and this is {os.geteuid()}; run as its owner, or delete {FOLDER} to start afresh"
    )


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        for _ in range(STOP_POLLS):
            for process in _started:
                process.poll()  # an ended child stays in the list of processes until its parent asks for it
            os.kill(pid, 0)
            time.sleep(STOP_POLL_SECONDS)


def _address() -> list[str]:
    address = FOLDER / "address"
    return address.read_text(encoding="utf-8").split() if address.is_file() else ["", "0"]


def _running() -> str | None:
    url = _address()[0]
    try:
        with requests.Session() as session:
            session.trust_env = False
            healthy = bool(url) and session.get(f"{url}/control/health", timeout=2).status_code == 200
    except requests.RequestException:
        healthy = False
    return url if healthy else None


def _start() -> str:
    command = [
        sys.executable, "-m", "paper_broker", "--port", "0", "--hours", "always", "--invent-prices",
        "--state", str(FOLDER / "state.json"), "--users-lock", str(FOLDER / "users.lock"),
    ]
    with (FOLDER / "log").open("w") as output:
        process = subprocess.Popen(
            command, cwd=PROJECT_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output,
            text=True, start_new_session=True, pass_fds=(),
        )
    _started.append(process)
    line = ""
    if process.stdout is not None:
        with process.stdout as printed:
            line = printed.readline() if select.select([printed], [], [], START_SECONDS)[0] else ""
    if "http://" not in line:
        process.kill()
        process.wait()
        reason = (FOLDER / "log").read_text(encoding="utf-8").strip().splitlines()[-1:] or ["no reason given"]
        raise LocalBrokerError(f"the local paper broker did not start: {reason[0]}")
    url = line[line.index("http://"):].strip()
    (FOLDER / "address").write_text(f"{url} {process.pid}", encoding="utf-8")
    return url
