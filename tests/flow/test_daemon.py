"""The daemon's threads: a run that hangs, a stop with work under way, a lane whose connection is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import scheduler
from clock import SystemClock
from db_layer import DatabaseError, TradingDB
from job_table import Job, Lane, When, Work
from scheduler import Daemon, HungError
from stopping import Stop
from tests.crash.lives import settings_for

PATIENCE_SECONDS = 20
CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'scheduler' AND datname = %(dbname)s
"""
NOWHERE = "http://127.0.0.1:9"
Run = Callable[[Work, datetime], None]


class Place:
    """A daemon with a table of the test's own, in a thread."""

    def __init__(self, database: dict[str, Any]) -> None:
        self.stop = Stop()
        self.error: Exception | None = None
        self.table: list[Job] = []
        self._database = database
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def job(self, name: str, run: Run, deadline: timedelta = timedelta(minutes=1), at_start: bool = False) -> None:
        """Add a job that is due as soon as the daemon is there."""
        due = datetime.now(UTC) + timedelta(seconds=len(self.table) / 1000)
        when = When("once", lambda day, _: [due] * (day == due.astimezone(scheduler.MARKET_ZONE).date()))
        self.table.append(Job(name, when, run, Lane.ACCOUNT, None, deadline, at_start=at_start))

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        try:
            with closing(Daemon(settings_for(self._database, NOWHERE, {}), SystemClock(), self.stop)) as daemon:
                daemon.serve()
        except (DatabaseError, HungError) as error:
            self.error = error


@pytest.fixture
def place(database: dict[str, Any], db: TradingDB, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    # A first run in the ledger, so that what was due since then is made up for.
    db.insert("job_runs", {"job_name": "before", "due_at": datetime.now(UTC) - timedelta(seconds=9), "status": "done"})
    place = Place(database | {"user": "trading_app"})
    monkeypatch.setattr(scheduler, "jobs", lambda _schedule: place.table)
    monkeypatch.setattr(scheduler, "WIND_UP_SECONDS", -9.8)  # with the ten of a call to the broker
    yield place
    place.stop.ask()


def statuses(db: TradingDB) -> dict[str, str]:
    return {row["job_name"]: row["status"] for row in db.query("job_runs") if row["job_name"] != "before"}


def test_a_run_that_hangs_ends_the_daemon_and_says_so(place: Place, db: TradingDB) -> None:
    over = threading.Event()
    place.job("hangs", lambda _work, _due: bool(over.wait(PATIENCE_SECONDS)) and None, timedelta(seconds=0.2))
    place.start()
    try:
        place.wait()
    finally:
        over.set()
    assert isinstance(place.error, HungError)
    row = db.query("job_runs", {"job_name": "hangs"})[0]
    assert row["status"] == "failed"
    assert "exceeded its deadline" in row["reason"]
    assert [alert["kind"] for alert in db.query("alerts")] == ["job_failed"]


def test_a_stop_lets_the_run_under_way_end_and_begins_nothing_that_waits(
    place: Place, db: TradingDB, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler, "WIND_UP_SECONDS", PATIENCE_SECONDS)

    def ask_and_go_on(_work: Work, _due: datetime) -> None:
        place.stop.ask()
        threading.Event().wait(0.7)  # longer than the daemon takes to see it

    place.job("under way", ask_and_go_on)
    place.job("waits", lambda _work, _due: None)
    place.start()
    place.wait()
    assert place.error is None
    assert statuses(db) == {"under way": "done"}


def test_a_run_whose_connection_is_lost_is_done_by_the_same_daemon(
    place: Place, db: TradingDB, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler, "RETRY_SECONDS", 0)
    tries: list[datetime] = []

    def lose_it_once(work: Work, due: datetime) -> None:
        tries.append(due)
        if len(tries) == 1:
            pid = work.parts.db.execute_query("SELECT pg_backend_pid() AS pid")[0]["pid"]
            with work.parts.db.transaction():
                db.execute_query("SELECT pg_terminate_backend(%(pid)s)", {"pid": pid})
                work.parts.db.execute_query("SELECT 1")
        place.stop.ask()

    place.job("loses", lose_it_once)
    place.start()
    place.wait()
    assert place.error is None
    assert len(tries) == 2
    assert statuses(db) == {"loses": "done"}


def test_a_daemon_that_lost_its_lock_begins_anew_at_once(
    place: Place, db: TradingDB, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler, "PING_SECONDS", 3600)
    monkeypatch.setattr(scheduler, "FIRST_PAUSE_SECONDS", 0)
    begun: list[datetime] = []
    works = threading.Event()

    def begin(_work: Work, due: datetime) -> None:
        begun.append(due)
        if len(begun) == 2:
            works.set()
        if len(begun) == 3:  # when the second term begins; the first began with it and then ran what was due
            place.stop.ask()

    place.job("begins", begin, at_start=True)
    place.start()
    assert works.wait(PATIENCE_SECONDS)
    db.execute_update(CUT, database)
    place.wait()
    assert place.error is None
    assert len(begun) == 3
