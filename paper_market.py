"""A market of one's own for the demo and for replays: an empty database and a paper broker whose time is told to it."""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import requests

import embedded_postgres
from clock import ManualClock
from config import PROJECT_ROOT
from db_layer import DatabaseError, TradingDB
from environment import ConfigError
from local_broker import LocalBrokerError

TIMEOUT_SECONDS = 30


class PaperMarket:
    """A paper broker that is told the time and the prices; raises LocalBrokerError when it does not answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.trust_env = False

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def set_time(self, moment: datetime) -> None:
        """Let the market play up to this moment."""
        self._control("clock", json={"now": moment.isoformat()})

    def add_bars(self, bars: bytes) -> None:
        """Tell it the prices of the days to come; CSV as paper_broker/README.md has it."""
        self._control("bars", data=bars)

    def _control(self, what: str, **content: Any) -> None:
        try:
            answer = self._session.post(f"{self.url}/control/{what}", timeout=TIMEOUT_SECONDS, **content)
        except requests.RequestException as error:
            raise LocalBrokerError(f"the paper broker does not answer: {error}") from error
        if answer.status_code != 200:
            raise ConfigError(f"the paper broker does not take the {what}: {answer.text.strip()}")


class MarketClock(ManualClock):
    """The time of whoever trades in that market: it moves when told to, and while somebody waits."""

    def __init__(self, market: PaperMarket, start: datetime) -> None:
        self._market = market
        super().__init__(start)

    def set(self, moment: datetime) -> None:
        super().set(moment)
        self._market.set_time(moment)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._market.set_time(self.now())


@contextmanager
def own_market(state: Path, name: str) -> Iterator[tuple[TradingDB, PaperMarket]]:
    """Give an empty database, which stays for a look, and a paper broker, which ends; one at a time keeps such a state.

    Raises ConfigError, LocalBrokerError, and DatabaseError when another one is at it.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / "users.lock").open("a")
    except OSError as error:
        words = f"the {name} keeps its state in {state}, which cannot be written: {error.strerror}"
        raise ConfigError(words) from error
    with lock as alone:
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatabaseError(f"another {name} is running; wait for its end") from None
        shutil.rmtree(state / "postgres", ignore_errors=True)
        database = embedded_postgres.connection_parameters(state / "postgres")
        with TradingDB(config=database, application_name=name) as db, _paper_broker(state) as market:
            db.create_schema(test_mode=True)
            yield db, market


@contextmanager
def _paper_broker(state: Path) -> Iterator[PaperMarket]:
    # The lock is its user's as long as that lives; without it the broker ends by itself.
    command = [sys.executable, "-m", "paper_broker", "--users-lock", str(state / "users.lock")]
    with subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if "http://" not in line:
                raise LocalBrokerError("the paper broker did not start; run python -m paper_broker to see why")
            market = PaperMarket(line[line.index("http://"):].strip())
            yield market
            market.close()
        finally:
            process.terminate()
