"""The daemon: every job of the table at its time, one daemon on an account, until SIGTERM or SIGINT."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import date, datetime, timedelta
from pathlib import Path

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.base import BaseTrigger

import local_broker
import replay
import requirements_check  # noqa: F401
from clock import MARKET_ZONE, Clock, SystemClock
from command_line import EXIT_DONE, EXIT_FAILED, add_test_mode, all_settings, run_guarded
from config import Settings
from db_layer import PING, DatabaseError
from job_runner import JobRunner, NotYetError
from job_table import LONGEST_PAUSE, Job, Lane, Work, jobs, next_due
from market_calendar import MarketCalendar
from parts import PROGRAM_ERRORS, build_parts, open_database
from service_notify import ALIVE, READY, notify
from session_locks import LockTakenError, hold_daemon
from signs_of_life import SignsOfLife
from stopping import Stop, StoppableBroker, StoppableClock, Stopped
from tables import print_table

EXIT_TAKEN = 3
FIRST_DAY, LAST_DAY = date(2006, 1, 1), date(2039, 12, 31)  # what the paper broker's calendar holds
LOOK_SECONDS = 0.5
PING_SECONDS = 15
RETRY_SECONDS = 60
STANDBY_SECONDS = 2
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1, 30
WIND_UP_SECONDS = 5  # besides the time that one call to the broker may take
WIND_UP_LOOK_SECONDS = 0.02

log = logging.getLogger("scheduler")


class HungError(Exception):
    """A run does not end; only the end of the process can end it."""


class DueTrigger(BaseTrigger):  # type: ignore[misc]
    """APScheduler's question when a job is due next, answered by the table and the market's calendar."""

    def __init__(self, runner: JobRunner, job: Job) -> None:
        self._runner = runner
        self._job = job

    def get_next_fire_time(self, _previous: datetime | None, now: datetime) -> datetime:
        return next_due(self._job, self._runner.calendar, now) or now + LONGEST_PAUSE


class Clockwork(BlockingScheduler):  # type: ignore[misc]
    """APScheduler with a thread for each lane; its waiting goes by our clock and is short, to look around between.

    It goes on as long as `look` says so; once `stop` was asked for, what is queued does not begin. `busy` are the jobs
    that are at work.
    """

    def __init__(self, runner: JobRunner, clock: Clock, stop: Stop, look: Callable[[], bool]) -> None:
        # What a late or a doubled wake-up means is for the runner to say, which asks what is due each time.
        defaults = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        lanes = {str(lane): ThreadPoolExecutor(1) for lane in Lane}
        super().__init__(timezone=MARKET_ZONE, executors=lanes, job_defaults=defaults)
        self.busy: set[str] = set()
        self._runner = runner
        self._clock = clock
        self._stop = stop
        self._look = look
        self._seen = runner.calendar.version
        for number, job in enumerate(runner.jobs):
            name = f"{number:02}"  # jobs of one minute go by their ids
            self.add_job(self._fire, DueTrigger(runner, job), (job, name), id=name, executor=str(job.lane))

    def _main_loop(self) -> None:
        self._catch_up()
        while self._look():
            if self._seen != self._runner.calendar.version:
                self._seen = self._runner.calendar.version
                self._catch_up()
            wait = self._process_jobs()
            self._clock.sleep(LOOK_SECONDS if wait is None else min(wait, LOOK_SECONDS))

    def _catch_up(self) -> None:
        """Let every job see at once whether something is due, and then when it is due next."""
        for job in self.get_jobs():
            job.modify(next_run_time=self._clock.now())

    def _fire(self, job: Job, name: str) -> None:
        # In this order: whoever asks for the stop and then sees nobody busy knows that nobody will be.
        self.busy.add(name)
        try:
            self._stop.check()
            self._runner.handle(job)
        except NotYetError as error:
            log.warning("a run is tried again soon", extra={"job": job.name, "reason": error})
            if not self._stop.asked:
                self.modify_job(name, next_run_time=self._clock.now() + timedelta(seconds=RETRY_SECONDS))
        except Stopped:
            log.info("a run was left to the next daemon", extra={"job": job.name})
        finally:
            self.busy.discard(name)


class Daemon:
    """One process that works on its own: it holds the daemon's lock, or waits for it, for as long as it lives."""

    def __init__(self, settings: Settings, clock: Clock, stop: Stop) -> None:
        self._settings = settings
        self._stop = stop
        self._base_clock = clock
        self._clock = StoppableClock(clock, stop)
        self._db = open_database(settings.test_mode, settings, "scheduler")
        self._pinged = clock.now()

    def close(self) -> None:
        """Close the connection that holds the lock."""
        self._db.close()

    def serve(self, standby: bool = False) -> None:
        """Work until a stop is asked for, also over losses of the database.

        Raises LockTakenError when another daemon works and this one is not to wait for its place, HungError when a run
        does not end, and DatabaseError when the database is there and not usable.
        """
        pause, waits = FIRST_PAUSE_SECONDS, False
        with suppress(Stopped):
            while True:
                try:
                    with hold_daemon(self._db):
                        pause, waits = FIRST_PAUSE_SECONDS, False
                        return self._work()
                except LockTakenError as error:
                    if not standby:
                        raise
                    if not waits:
                        log.info("standing by", extra={"reason": error})
                    pause, waits = STANDBY_SECONDS, True
                    notify(READY)
                    notify(ALIVE)
                except DatabaseError as error:
                    if not error.lost_connection:
                        raise
                    log.error("the database is out of reach; trying again", extra={"reason": error, "seconds": pause})
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                self._clock.sleep(pause)

    def _work(self) -> None:
        """Be the daemon: everything from settling what another one left to the end of the last run."""
        with ExitStack() as lanes:
            stop, calendar = Stop(self._stop), MarketCalendar()
            clock = StoppableClock(self._base_clock, stop)
            runner = JobRunner(jobs(self._settings.schedule), self._clock, calendar, {
                lane: lanes.enter_context(_work_of(self._settings, calendar, clock, stop)) for lane in Lane
            })
            signs = SignsOfLife(self._settings, self._db, runner)
            runner.begin(self._db)
            clockwork = Clockwork(runner, self._clock, stop, lambda: self._look(runner, signs))
            log.info("ready", extra={"jobs": len(runner.jobs)})
            signs.begin()
            try:
                clockwork.start()
            finally:
                if self._stop.asked:
                    signs.end()
                stop.ask()
                clockwork.shutdown(wait=False)
                self._wind_up(clockwork)

    def _look(self, runner: JobRunner, signs: SignsOfLife) -> bool:
        """Look between two jobs whether all is well; False when a stop is asked for.

        Raises HungError, and DatabaseError when the lock was lost with its connection.
        """
        self._db.connect()
        now = self._clock.now()
        if (now - self._pinged).total_seconds() >= PING_SECONDS:
            self._pinged = now
            self._db.execute_query(PING)
        hung = runner.overdue()
        if hung is not None:
            runner.give_up(self._db, hung)
            raise HungError(f"{hung.job.name}, due {hung.due:%Y-%m-%d %H:%M} UTC, has exceeded {hung.job.deadline}")
        signs.look(now)
        return not self._stop.asked

    def _wind_up(self, clockwork: Clockwork) -> None:
        """Let the unit of work that is under way end. Raises HungError when it does not."""
        patience = self._settings.alpaca.timeout_seconds + WIND_UP_SECONDS
        began = self._base_clock.now()
        while clockwork.busy:
            if (self._base_clock.now() - began).total_seconds() > patience:
                raise HungError(f"a run did not end within {patience:g} seconds")
            self._base_clock.sleep(WIND_UP_LOOK_SECONDS)


@contextmanager
def _work_of(settings: Settings, calendar: MarketCalendar, clock: Clock, stop: Stop) -> Iterator[Work]:
    alpaca = local_broker.use(settings.alpaca) if settings.alpaca.local_broker else settings.alpaca
    with (
        StoppableBroker(alpaca, clock, stop) as broker,
        closing(build_parts(settings.test_mode, None, broker, clock, settings, "scheduler")) as parts,
    ):
        yield Work(parts, calendar)


def main(argv: list[str] | None = None) -> int:
    """Run the daemon, print its table, or replay past days; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="scheduler.py", description="Run every job at its time until SIGTERM or SIGINT.", allow_abbrev=False,
    )
    add_test_mode(parser)
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--list", action="store_true", help="print the jobs with their next times, and do nothing")
    ways.add_argument("--standby", action="store_true", help="wait for another daemon's place")
    ways.add_argument(
        "--replay", nargs=2, type=_day, metavar=("FROM", "TO"),
        help="live through past days at simulated time, on a database and a paper broker of their own",
    )
    parser.add_argument(
        "--prices", type=Path, metavar="DIR",
        help="for --replay: bars as *.csv and decisions as decisions.json instead of the bundled ones",
    )
    return run_guarded(parser, argv, lambda options: _main(parser, options), PROGRAM_ERRORS)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day such as 2025-07-03") from error


def _main(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.prices and not options.replay:
        parser.error("--prices goes with --replay")
    if options.replay:
        first, last = options.replay
        if not FIRST_DAY <= first <= last <= LAST_DAY:
            parser.error(f"--replay takes two days in order, from {FIRST_DAY} to {LAST_DAY}")
        return replay.main(all_settings(test_mode=True), first, last, options.prices)
    settings = all_settings(options.test_mode)
    if options.list:
        _print_table(settings)
        return EXIT_DONE
    return _serve(settings, options.standby)


def _print_table(settings: Settings) -> None:
    now, calendar = SystemClock().now(), MarketCalendar()
    rows = []
    for job in jobs(settings.schedule):
        due = next_due(job, calendar, now)
        late = "any time" if job.grace is None else _span(job.grace)
        next_time = f"{due.astimezone(MARKET_ZONE):%a %Y-%m-%d %H:%M}" if due else ""
        rows.append((job.name, job.when.words, next_time, late, str(job.lane)))
    print_table("Jobs (US Eastern time)", ("Job", "When", "Next", "May begin late by", "Lane"), rows)


def _span(span: timedelta) -> str:
    """Whole days, hours or minutes, whichever is shortest to read."""
    minutes = int(span.total_seconds()) // 60
    unit, size = next((unit, size) for unit, size in (("d", 1440), ("h", 60), ("min", 1)) if minutes % size == 0)
    return f"{minutes // size} {unit}"


def _serve(settings: Settings, standby: bool) -> int:
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.ask())
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    try:
        with closing(Daemon(settings, SystemClock(), stop)) as daemon:
            daemon.serve(standby)
    except LockTakenError as error:
        print(f"scheduler.py: {error}; or start this one with --standby", file=sys.stderr)
        return EXIT_TAKEN
    except HungError as error:
        # Its thread cannot be ended, and an ordinary exit would wait for it.
        print(f"scheduler.py: {error}; the process ends without it", file=sys.stderr, flush=True)
        os._exit(EXIT_DONE if stop.asked else EXIT_FAILED)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
