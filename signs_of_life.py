"""Says that the daemon is well, to whoever waits for it: systemd, a dead man's switch, Prometheus.

Nothing is said while it is not so: the silence is what raises the alarm.
"""

import logging
from datetime import datetime, timedelta

from config import Settings
from db_layer import DatabaseError, TradingDB
from heartbeat import beat
from job_ledger import RunStatus
from job_runner import Cycle, JobRunner
from job_table import Lane
from metrics import write_metrics
from service_notify import ALIVE, READY, STOPPING, notify

LOOK_EVERY = timedelta(seconds=15)
METRICS_EVERY = timedelta(minutes=1)

log = logging.getLogger("scheduler")


class SignsOfLife:
    """The signs that one daemon gives; `db` is the connection that holds its lock."""

    def __init__(self, settings: Settings, db: TradingDB, runner: JobRunner) -> None:
        self._settings = settings
        self._db = db
        self._runner = runner
        self._looked: datetime | None = None
        self._measured: datetime | None = None
        runner.listeners.append(self._cycle_ended)

    def begin(self) -> None:
        """Say that the daemon is ready: its lock is held, and the account is settled."""
        notify(READY)

    def end(self) -> None:
        """Say that it is about to end."""
        notify(STOPPING)

    def look(self, now: datetime) -> None:
        """Give the signs that are due, to be called while database and lock are known to be there.

        Raises DatabaseError for a connection that was lost.
        """
        if self._looked is not None and now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        stalled = self._runner.stalled()
        if stalled is None:
            notify(ALIVE)
        else:
            log.error("a job does not begin, so the service manager hears nothing", extra={"job": stalled})
        if self._settings.metrics_file and (self._measured is None or now - self._measured >= METRICS_EVERY):
            self._measured = now
            self._measure(now)

    def _cycle_ended(self, cycle: Cycle) -> None:
        """Ask for HEARTBEAT_URL after a run on the account that did all its work."""
        if cycle.lane is Lane.ACCOUNT and cycle.status is RunStatus.DONE:
            beat(self._settings)

    def _measure(self, now: datetime) -> None:
        try:
            write_metrics(self._db, self._settings.metrics_file, now)
        except OSError as error:
            log.warning("METRICS_FILE cannot be written", extra={"error": error})
        except DatabaseError as error:
            if error.lost_connection:
                raise
            log.warning("metrics could not be collected", extra={"error": error})
