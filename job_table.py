"""The jobs of the daemon: when each is due, what it does, how late it may begin and how long it may take.

Times are US Eastern. A job that concerns the market has no time on a day without a session.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from functools import cached_property

from alert_round import look_after_alerts
from audit_trail.anchors import AnchorError, anchor_head, current_anchor
from audit_trail.reports import as_text, daily_summary
from audit_trail.reports.sending import send_summary
from audit_trail.retention import purging_connection, run_purge
from clock import at_exchange, market_day
from config import ScheduleSettings
from data_fetch.tasks import run_task
from decision_review import FAILURES, Result
from market_calendar import MarketCalendar, Session
from order_executor import OrderExecutor
from order_monitor import OrderMonitor
from parts import Parts
from pass_log import Event, PassLog
from position_monitor import PositionMonitor
from session_locks import hold_account
from startup_barrier import StartupBarrier
from strategies import STRATEGIES
from strategies.run import StrategyRun

A_DAY = timedelta(days=1)
LONGEST_PAUSE = 40 * A_DAY  # between two runs of a job: a month and a few days, for the monthly one
EVENING = timedelta(hours=5)
QUICK, SLOW, PACED = timedelta(minutes=10), timedelta(hours=1), timedelta(hours=6)  # the last waits for hourly quotas
FIRST_HOUR = 5  # nothing happens in the hours before that people must be told of
QUIVER_TASKS = ("congress_daily", "insider_daily")
CALENDAR_TIME = time(9)  # before the market opens, and after an extra holiday has become known

log = logging.getLogger("jobs")


class JobError(Exception):
    """A run could not do all its work; the message says why, for people."""


class NothingToDoError(Exception):
    """A run has no work, by the settings; the message says why."""


class Lane(StrEnum):
    """Jobs of one lane take turns, those of two lanes do not wait for each other."""

    ACCOUNT = "account"
    DATA = "data"
    PEOPLE = "people"


@dataclass(frozen=True)
class Work:
    """What the jobs of a lane work with; the workers are made once and keep their plans."""

    parts: Parts
    calendar: MarketCalendar

    @cached_property
    def executor(self) -> OrderExecutor:
        parts = self.parts
        return OrderExecutor(db=parts.db, broker=parts.broker, clock=parts.clock, settings=parts.settings)

    @cached_property
    def order_monitor(self) -> OrderMonitor:
        parts = self.parts
        return OrderMonitor(db=parts.db, broker=parts.broker, clock=parts.clock, settings=parts.settings)

    @cached_property
    def position_monitor(self) -> PositionMonitor:
        parts = self.parts
        return PositionMonitor(db=parts.db, broker=parts.broker, clock=parts.clock, settings=parts.settings)


@dataclass(frozen=True)
class When:
    """The times of a job on a day at the exchange (aware UTC, in order), and the same in words."""

    words: str
    on: Callable[[date, Session | None], Sequence[datetime]]


@dataclass(frozen=True)
class Job:
    """A row of the table.

    `run` is given what to work with and the time the run was due; it raises JobError, or what the worker raises.
    `grace` is how late a run may still begin (None: however late); of several that are due only the last one runs. A
    run that exceeds its deadline ends the daemon. An `urgent` one is tried again until its grace is over, and a run
    that is missed is a critical alert. One `at_start` also runs when the daemon starts, before all others.
    """

    name: str
    when: When
    run: Callable[[Work, datetime], None]
    lane: Lane
    grace: timedelta | None
    deadline: timedelta
    urgent: bool = False
    at_start: bool = False


def jobs(schedule: ScheduleSettings) -> tuple[Job, ...]:
    """Return the table; of jobs due at the same minute in one lane the upper one goes first."""
    s, account, data, people = schedule, Lane.ACCOUNT, Lane.DATA, Lane.PEOPLE
    late = timedelta(minutes=s.order_executor_late_minutes)
    orders, positions = s.order_monitor_minutes, s.position_monitor_minutes
    return (
        Job("calendar_check", every_day(CALENDAR_TIME), check_calendar, account, None, QUICK, at_start=True),
        Job("startup_barrier", never_again(), settle_account, account, None, QUICK, at_start=True),
        Job("order_executor", before_the_close(s.order_executor_time), execute, account, late, QUICK, urgent=True),
        *strategy_jobs(schedule, late),
        Job("order_monitor", in_the_session(orders), monitor_orders, account, None, QUICK),
        Job("order_monitor_eod", trading_days(s.order_monitor_eod_time), monitor_orders, account, None, QUICK),
        Job("position_monitor", in_the_session(positions), monitor_positions, account, None, QUICK),
        Job("position_monitor_eod", trading_days(s.position_monitor_eod_time), monitor_positions, account, None, QUICK),
        Job("maintenance_daily", every_day(s.maintenance_time), fetch("maintenance_daily"), data, A_DAY, SLOW),
        Job("congress_daily", every_day(s.congress_fetch_time), fetch("congress_daily"), data, A_DAY, PACED),
        Job("insider_daily", every_day(s.insider_fetch_time), fetch("insider_daily"), data, A_DAY, SLOW),
        Job("retention", monthly(s.retention_day, s.retention_time), purge_texts, data, 10 * A_DAY, SLOW),
        Job("alert_round", around_the_clock(orders), look_after, people, QUICK, QUICK),
        Job("audit_anchor", every_day(s.daily_summary_time), anchor, people, EVENING, QUICK),
        Job("daily_summary", trading_days(s.daily_summary_time), tell_day, people, EVENING, QUICK),
    )


def strategy_jobs(schedule: ScheduleSettings, late: timedelta) -> list[Job]:
    """Return the jobs of the strategies that have a time; one that ran too late would buy at prices of its own."""
    at = schedule.congressional_strategy_time
    if at is None:
        return []
    return [Job("congressional_strategy", before_the_close(at), decide("congressional"), Lane.ACCOUNT, late, QUICK)]


def due_between(job: Job, calendar: MarketCalendar, after: datetime, until: datetime) -> Iterator[datetime]:
    """Yield when a job is due after a moment and not later than another, in order."""
    day, last = market_day(after), market_day(until)
    while day <= last:
        yield from (due for due in job.when.on(day, calendar.session(day)) if after < due <= until)
        day += A_DAY


def next_due(job: Job, calendar: MarketCalendar, after: datetime) -> datetime | None:
    """Return when a job is due next, or None when that is far away."""
    return next(due_between(job, calendar, after, after + LONGEST_PAUSE), None)


def never_again() -> When:
    return When("when the daemon starts", lambda _day, _session: [])


def every_day(at: time) -> When:
    return When(f"{at:%H:%M}, every day", lambda day, _: [at_exchange(day, at)])


def trading_days(at: time) -> When:
    return When(f"{at:%H:%M}, trading days", lambda day, session: [at_exchange(day, at)] if session else [])


def before_the_close(at: time) -> When:
    """A time on trading days, but for half days that have closed by then."""
    def on(day: date, session: Session | None) -> list[datetime]:
        return [at_exchange(day, at)] if session and at_exchange(day, at) < session.closes else []

    return When(f"{at:%H:%M}, trading days", on)


def in_the_session(minutes: int) -> When:
    """Every so many minutes from the open on, and at the close."""
    def on(_: date, session: Session | None) -> list[datetime]:
        if session is None:
            return []
        count = -(-(session.closes - session.opens) // timedelta(minutes=minutes))
        return [*(session.opens + timedelta(minutes=minutes * number) for number in range(count)), session.closes]

    return When(f"every {minutes} min from open to close", on)


def around_the_clock(minutes: int) -> When:
    """As often as that in the session, and on the hour outside it, but for the night."""
    inside = in_the_session(minutes)

    def on(day: date, session: Session | None) -> list[datetime]:
        hours = [at_exchange(day, time(hour)) for hour in range(FIRST_HOUR, 24)]
        outside = [at for at in hours if session is None or not session.opens <= at <= session.closes]
        return sorted([*inside.on(day, session), *outside])

    return When(f"every {minutes} min in the session, else hourly", on)


def monthly(number: int, at: time) -> When:
    return When(f"{at:%H:%M}, day {number} of the month", lambda day, _: [at_exchange(day, at)] * (day.day == number))


def check_calendar(work: Work, _due: datetime) -> None:
    """Compare the bundled calendar with the broker's."""
    parts = work.parts
    if not parts.settings.alpaca.local_broker:  # whose market never closes
        work.calendar.compare(parts.db, parts.broker, PassLog(parts.db, parts.clock), parts.clock.now())


def settle_account(work: Work, _due: datetime) -> None:
    """Settle what an earlier daemon left open; an executor with entries to send does it again before the first."""
    parts = work.parts
    with hold_account(parts.db):
        found = PassLog(parts.db, parts.clock)
        difference = StartupBarrier(parts.db, parts.broker, parts.clock, parts.desk, found).settle()
    if difference:
        log.warning("entries wait until this is explained", extra={"difference": difference})


def execute(work: Work, _due: datetime) -> None:
    """One pass of the executor."""
    _carried_out(work.executor.run())


def decide(strategy: str) -> Callable[[Work, datetime], None]:
    """One run of a strategy: its decisions, and their execution."""
    def run(work: Work, _due: datetime) -> None:
        parts = work.parts
        _, results = StrategyRun(
            STRATEGIES[strategy], db=parts.db, broker=parts.broker, clock=parts.clock, settings=parts.settings,
        ).run()
        _carried_out(results)

    return run


def monitor_orders(work: Work, _due: datetime) -> None:
    """One pass of the order monitor."""
    _reached_all(work.order_monitor.run()[Event.UNREACHED])


def monitor_positions(work: Work, _due: datetime) -> None:
    """One pass of the position monitor."""
    _reached_all(work.position_monitor.run().events[Event.UNREACHED])


def fetch(task: str) -> Callable[[Work, datetime], None]:
    """One run of a task that fetches data, over the days that it covers by itself; none without the source's key."""
    def run(work: Work, _due: datetime) -> None:
        data = work.parts.settings.data
        if task in QUIVER_TASKS and data.quiver_base_url and not data.quiver_api_key:
            raise NothingToDoError("QUIVER_API_KEY is not set")
        run_task(task, work.parts.db, work.parts.clock, work.parts.settings)

    return run


def look_after(work: Work, _due: datetime) -> None:
    """Raise the alerts that the tables show, and tell people of those that they have not heard of."""
    parts = work.parts
    look_after_alerts(parts.db, parts.settings, parts.clock)


def anchor(work: Work, _due: datetime) -> None:
    """Write the head of the audit trail's chain outside the database."""
    parts = work.parts
    try:
        anchor_head(parts.db, parts.settings.audit.anchor_file, parts.clock.now())
    except AnchorError as error:
        raise JobError(str(error)) from error


def purge_texts(work: Work, _due: datetime) -> None:
    """Remove the recorded texts whose time is over."""
    parts = work.parts
    with purging_connection(parts.db, parts.settings) as purger:
        run_purge(purger, parts.settings.audit.payload_retention_days, parts.clock.now())


def tell_day(work: Work, due: datetime) -> None:
    """Send people the summary of the day and the head of the chain; in the log where there is no channel."""
    parts = work.parts
    report = daily_summary(parts.db, market_day(due))
    if not parts.settings.messages.alert_urls:
        log.info("daily summary", extra={"summary": as_text(report)})
    elif failures := send_summary(parts.settings, report, str(current_anchor(parts.db, parts.clock.now()))):
        raise JobError("; ".join(failures))


def _carried_out(results: Counter[Result]) -> None:
    if any(results[result] for result in FAILURES):
        raise JobError("; ".join(f"{result}: {results[result]}" for result in FAILURES if results[result]))


def _reached_all(unreached: int) -> None:
    if unreached:
        raise JobError(f"{Event.UNREACHED}: {unreached}")
