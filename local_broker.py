"""The paper broker of test mode: one process for all commands that run now, its state kept between them.

It is found through `address`, a file beside its state; commands hold `users.lock` shared while they run, and the
broker ends by itself once it can have that lock alone.
"""

import fcntl
import subprocess
import sys
from dataclasses import replace
from typing import IO

import requests

from config import LOCAL_STATE, PROJECT_ROOT, AlpacaSettings

FOLDER = LOCAL_STATE / "paper_broker"
START_SECONDS = 20
_held: list[IO[str]] = []


class LocalBrokerError(Exception):
    """The local paper broker could not be started; the message says why."""


def use(alpaca: AlpacaSettings) -> AlpacaSettings:
    """Start the paper broker of test mode unless it runs, and return settings that point at it.

    It lives at least as long as this process. Raises LocalBrokerError.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not _held:
        users = (FOLDER / "users.lock").open("a")
        fcntl.flock(users, fcntl.LOCK_SH)
        _held.append(users)
    with (FOLDER / "start.lock").open("a") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        url = _running() or _start()
    return replace(alpaca, base_url=url, data_url=url)


def _running() -> str | None:
    address = FOLDER / "address"
    url = address.read_text(encoding="utf-8").strip() if address.is_file() else ""
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
    line = process.stdout.readline() if process.stdout else ""
    if "http://" not in line:
        process.kill()
        process.wait()
        reason = (FOLDER / "log").read_text(encoding="utf-8").strip().splitlines()[-1:] or ["no reason given"]
        raise LocalBrokerError(f"the local paper broker did not start: {reason[0]}")
    url = line[line.index("http://"):].strip()
    (FOLDER / "address").write_text(url, encoding="utf-8")
    return url
