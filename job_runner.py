"""Runs what is due, writes down every run, and makes up for what a daemon that was down could not do.

A job is settled up to the last time it was due whose end is known. Whatever was due since then is looked at together,
whether it is a minute or a week: the last one runs unless it is too late, the others are written down as not run.
So one rule serves the usual minute, a machine that was busy or asleep, a lost database, and a daemon that was killed.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from audit_trail import AlertKind, AlertLevel, raise_alert, resolve_alerts
from clock import MARKET_ZONE, Clock
from data_fetch.source_line import SourceError
from db_layer import DatabaseError, TradingDB
from environment import ConfigError
from job_ledger import (
    DIED,
    RunStatus,
    begin_run,
    end_run,
    first_run,
    last_settled,
    note_run,
    record_not_run,
    unfinished,
)
from job_table import A_DAY, QUICK, Job, JobError, Lane, NothingToDoError, Work, due_between, next_due
from market_calendar import MarketCalendar
from parts import PROGRAM_ERRORS
from pass_log import FAILURES_BEFORE_CRITICAL
from session_locks import LockTakenError

LOOKS_BACK = 31 * A_DAY
STALLED = 3 * QUICK  # a lane's jobs wait for one another, each at most for its deadline
A_MOMENT = timedelta(seconds=1)
FORESEEABLE: tuple[type[Exception], ...] = (JobError, ConfigError, DatabaseError, SourceError, *PROGRAM_ERRORS)
MAY_PASS: tuple[type[Exception], ...] = (JobError, LockTakenError, *PROGRAM_ERRORS)
NO_DAEMON = "no daemon was running"

log = logging.getLogger("jobs")


class NotYetError(Exception):
    """A run could not be ended, or an urgent one not be done, and is to be tried again soon; the message says why."""


@dataclass(frozen=True)
class Cycle:
    """The last run of a job that came to an end."""

    job: str
    lane: Lane
    due: datetime
    ended: datetime
    status: RunStatus
    reason: str | None


@dataclass(frozen=True)
class Running:
    """A run in progress."""

    job: Job
    due: datetime
    began: datetime


class JobRunner:
    """The jobs of one daemon, from its start on.

    `cycles` has the last ended run of each job by name, and `listeners` are told each at once: whoever wants to know
    that the daemon is well looks there. Each lane is used by one thread at a time.
    """

    def __init__(
        self, table: Sequence[Job], clock: Clock, calendar: MarketCalendar, lanes: Mapping[Lane, Work],
    ) -> None:
        self.jobs = tuple(table)
        self.calendar = calendar
        self.cycles: dict[str, Cycle] = {}
        self.listeners: list[Callable[[Cycle], None]] = []
        self.running: dict[Lane, Running] = {}
        self._clock = clock
        self._lanes = lanes
        self._settled: dict[str, datetime] = {}
        self._failures: Counter[str] = Counter()
        self._began = clock.now()

    def begin(self, db: TradingDB) -> None:
        """Take up the ledger, compare the calendars, and settle the account before anything is traded.

        To be called by whoever holds the daemon's lock, with its connection. Raises DatabaseError.
        """
        now = self._began = self._clock.now()
        settled, first = last_settled(db, now), first_run(db, now)
        since = now if first is None else first - A_MOMENT  # that one may be what was begun and not ended
        for job in self.jobs:
            self._settled[job.name] = max(settled.get(job.name, since), now - LOOKS_BACK)
        pending = {(job.name, due) for job in self.jobs for due in self.pending(job)}
        for name, due in unfinished(db):
            if (name, due) not in pending:
                end_run(db, name, due, now, RunStatus.FAILED, DIED)
        for job in self.jobs:
            if job.at_start:
                self._run(job, now, self._lanes[job.lane])

    def pending(self, job: Job) -> list[datetime]:
        """Return when a job was due up to now without its end being known."""
        return list(due_between(job, self.calendar, self._settled[job.name], self._clock.now()))

    def next_due(self, job: Job) -> datetime | None:
        """Return when a job is due next."""
        return next_due(job, self.calendar, self._clock.now())

    def handle(self, job: Job) -> None:
        """Run a job if it is due, and write down what did not run. Raises NotYetError and Stopped."""
        try:
            self._handle(job, self._lanes[job.lane])
        except DatabaseError as error:
            # The row still says running, or is not there: the run is taken up as after a crash.
            raise NotYetError(str(error)) from error

    def overdue(self) -> Running | None:
        """Return a run that has exceeded its deadline."""
        now = self._clock.now()
        late = (run for run in tuple(self.running.values()) if now - run.began > run.job.deadline)
        return next(late, None)

    def stalled(self) -> str | None:
        """Return a job on the account that should have begun long ago, though it need not wait for anything."""
        now = self._clock.now()
        late = (
            job.name for job in self.jobs if job.lane is Lane.ACCOUNT and not job.urgent
            and any(now - due > STALLED for due in self.pending(job)[:1])
        )
        return next(late, None)

    def give_up(self, db: TradingDB, run: Running) -> None:
        """Write down that a run hangs, because its process is about to end. Raises DatabaseError."""
        words = f"exceeded its deadline of {run.job.deadline}; the daemon ended itself"
        end_run(db, run.job.name, run.due, self._clock.now(), RunStatus.FAILED, words)
        self._alert_failure(db, run.job, words, AlertLevel.CRITICAL)

    def _handle(self, job: Job, work: Work) -> None:
        pending = self.pending(job)
        if not pending:
            return
        *older, last = pending
        db, now = work.parts.db, self._clock.now()
        if older:
            self._leave_out(db, job, older, f"the run due at {_shown(last)} takes its place")
        if job.grace is not None and now - last > job.grace:
            self._leave_out(db, job, [last], f"it could not begin within {job.grace}")
        else:
            self._run(job, last, work)
        self._settled[job.name] = last

    def _leave_out(self, db: TradingDB, job: Job, due: Sequence[datetime], why: str) -> None:
        """Write down runs that did not happen: missed where no daemon was there, or where nothing takes their place."""
        now = self._clock.now()
        for status, times, reason in (
            (RunStatus.MISSED, [at for at in due if at < self._began], NO_DAEMON),
            (RunStatus.MISSED if job.urgent else RunStatus.SKIPPED, [at for at in due if at >= self._began], why),
        ):
            if times:
                record_not_run(db, job.name, times, now, status, reason)
                log.warning(f"runs were {status}", extra={"job": job.name, "runs": len(times), "reason": reason})
        if job.urgent:
            days = ", ".join(map(_shown, due))
            words = f"{job.name} did not run at {days} (US Eastern); what waits for it is carried out by its next run"
            raise_alert(db, AlertLevel.CRITICAL, AlertKind.JOB_MISSED, job.name, words, now)

    def _run(self, job: Job, due: datetime, work: Work) -> None:
        db, began = work.parts.db, self._clock.now()
        if not begin_run(db, job.name, due, began):
            return
        self.running[job.lane] = Running(job, due, began)
        idle = False
        try:
            status, reason = self._attempt(job, due, work)
        except NothingToDoError as error:
            idle, status, reason = True, RunStatus.SKIPPED, str(error)
        finally:
            del self.running[job.lane]
        now = self._clock.now()
        end_run(db, job.name, due, now, status, reason)
        if idle or status is RunStatus.DONE:
            self._failures.pop(job.name, None)
            resolve_alerts(db, (AlertKind.JOB_FAILED, AlertKind.JOB_MISSED), (job.name,), now)
        elif reason is not None:
            self._failed(db, job, reason)
        cycle = Cycle(job.name, job.lane, due, now, status, reason)
        self.cycles[job.name] = cycle
        for listener in self.listeners:
            listener(cycle)

    def _attempt(self, job: Job, due: datetime, work: Work) -> tuple[RunStatus, str | None]:
        """Run a job and say how it ended.

        Raises NotYetError, NothingToDoError, Stopped, and DatabaseError for a lost connection.
        """
        try:
            job.run(work, due)
        except NothingToDoError:
            raise
        except FORESEEABLE as error:
            if isinstance(error, DatabaseError) and error.lost_connection:
                raise
            if isinstance(error, MAY_PASS):
                self._try_again(job, due, work.parts.db, str(error))
            return (RunStatus.SKIPPED if isinstance(error, LockTakenError) else RunStatus.FAILED), str(error)
        except Exception as error:  # whatever a job does wrong, the others go on
            log.exception("a job stumbled", extra={"job": job.name})
            return RunStatus.FAILED, f"{type(error).__name__}: {error}"
        return RunStatus.DONE, None

    def _try_again(self, job: Job, due: datetime, db: TradingDB, reason: str) -> None:
        """Leave an urgent run open while its grace lasts, by raising NotYetError."""
        if job.urgent and job.grace is not None and self._clock.now() - due <= job.grace:
            note_run(db, job.name, due, reason)
            self._failed(db, job, reason, final=False)
            raise NotYetError(reason)

    def _failed(self, db: TradingDB, job: Job, reason: str, final: bool = True) -> None:
        self._failures[job.name] += 1
        critical = (job.urgent and final) or self._failures[job.name] >= FAILURES_BEFORE_CRITICAL
        self._alert_failure(db, job, reason, AlertLevel.CRITICAL if critical else AlertLevel.WARNING)

    def _alert_failure(self, db: TradingDB, job: Job, reason: str, level: AlertLevel) -> None:
        raise_alert(db, level, AlertKind.JOB_FAILED, job.name, f"{job.name}: {reason}", self._clock.now())


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone(MARKET_ZONE):%Y-%m-%d %H:%M}"
