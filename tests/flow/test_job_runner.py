"""What becomes of due runs: recorded, made up for, given up, taken up again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pytest

from alpaca_client import Broker
from audit_trail import AlertKind
from clock import at_exchange
from db_layer import DatabaseError, TradingDB
from job_runner import Cycle, JobRunner, NotYetError
from job_table import Job, JobError, Lane, Work, anchor, every_day, jobs, look_after, purge_texts
from market_calendar import MarketCalendar, Session
from parts import build_parts
from session_locks import hold_account
from stopping import Stop, StoppableBroker, StoppableClock, Stopped
from tests.crash.lives import settings_for
from tests.flow.world import World, swing

TUESDAY, WEDNESDAY, THURSDAY, FRIDAY = (date(2025, 1, day) for day in (14, 15, 16, 17))


def at(day: date, text: str) -> datetime:
    return at_exchange(day, time.fromisoformat(text))


def passing(_work: Work, _due: datetime) -> None:
    """Do nothing well."""


class Stage:
    """Runners on the world's database and broker, one after the other, each with the books its predecessors left."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.calendar = MarketCalendar()
        self.ran: list[tuple[str, datetime]] = []
        self.work = self.real_work()

    def real_work(self, broker: Broker | None = None) -> Work:
        world = self.world
        door = broker or Broker(world.settings.alpaca, clock=world.clock)
        parts = build_parts(db=world.programs, broker=door, clock=world.clock, settings=world.settings)
        return Work(parts, self.calendar)

    def runner(self, *table: Job) -> JobRunner:
        """A daemon's runner that has just begun, with this table."""
        runner = JobRunner(table, self.world.clock, self.calendar, dict.fromkeys(Lane, self.work))
        runner.begin(self.world.programs)
        return runner

    def job(self, name: str, run: Callable[[Work, datetime], None] = passing, **changes: Any) -> Job:
        """A job of the real table that notes its runs and then does something else."""
        def noted(work: Work, due: datetime) -> None:
            self.ran.append((name, due))
            run(work, due)

        (real,) = (job for job in jobs(self.world.settings.schedule) if job.name == name)
        return replace(real, run=noted, **changes)

    def go_to(self, day: date, text: str) -> None:
        self.world.clock.set(at(day, text))
        self.world.market.set_time(self.world.clock.now())

    def runs(self, name: str) -> list[tuple[datetime, str, str | None]]:
        rows = self.world.db.query("job_runs", {"job_name": name})
        return [(row["due_at"], row["status"], row["reason"]) for row in sorted(rows, key=lambda row: row["due_at"])]

    def alerts(self, kind: AlertKind) -> list[tuple[str, str, bool]]:
        rows = self.world.db.query("alerts", {"kind": str(kind)})
        return [(row["level"], row["subject"], row["resolved_at"] is not None) for row in rows]


@pytest.fixture
def stage(world: World) -> Stage:
    return Stage(world)


def test_a_due_job_runs_once_and_its_run_is_a_row(stage: Stage) -> None:
    stage.go_to(WEDNESDAY, "09:44")
    job = stage.job("order_executor")
    runner = stage.runner(job)
    heard: list[Cycle] = []
    runner.listeners.append(heard.append)
    runner.handle(job)
    assert stage.ran == []
    stage.go_to(WEDNESDAY, "09:45")
    runner.handle(job)
    runner.handle(job)
    due = at(WEDNESDAY, "09:45")
    assert stage.ran == [("order_executor", due)]
    row = stage.world.one("job_runs")
    assert [row[name] for name in ("due_at", "started_at", "ended_at")] == [due, due, due]
    assert (row["status"], row["reason"]) == ("done", None)
    assert heard == [runner.cycles["order_executor"]]
    assert (heard[0].due, heard[0].status) == (due, "done")


def test_after_days_without_a_daemon_the_monitor_runs_once_at_once(stage: Stage) -> None:
    stage.go_to(TUESDAY, "15:54")
    job = stage.job("order_monitor")
    first = stage.runner(job)
    stage.go_to(TUESDAY, "15:55")
    first.handle(job)
    stage.go_to(FRIDAY, "09:32")
    stage.runner(job).handle(job)
    assert stage.ran[1:] == [("order_monitor", at(FRIDAY, "09:30"))]
    statuses = [status for _, status, _ in stage.runs("order_monitor")]
    assert statuses == ["done", *["missed"] * (1 + 79 + 79), "done"]
    assert stage.alerts(AlertKind.JOB_MISSED) == []


@pytest.mark.parametrize(("now", "runs", "status"), [("11:44", True, "done"), ("11:46", False, "missed")])
def test_an_executor_that_was_down_in_the_morning_is_late_within_its_window_and_missed_after_it(
    stage: Stage, now: str, runs: bool, status: str,
) -> None:
    stage.go_to(WEDNESDAY, "09:40")
    job = stage.job("order_executor")
    stage.runner(stage.job("order_monitor", at_start=True))
    stage.go_to(WEDNESDAY, now)
    stage.runner(job).handle(job)
    assert bool(stage.ran[1:]) is runs
    assert [(due, said) for due, said, _ in stage.runs("order_executor")] == [(at(WEDNESDAY, "09:45"), status)]
    assert stage.alerts(AlertKind.JOB_MISSED) == ([] if runs else [("critical", "order_executor", False)])


def test_each_missed_executor_run_is_recorded_and_the_alert_ends_with_the_next_that_is_done(stage: Stage) -> None:
    stage.go_to(TUESDAY, "09:40")
    job = stage.job("order_executor")
    stage.runner(stage.job("order_monitor", at_start=True))
    stage.go_to(THURSDAY, "15:00")
    runner = stage.runner(job)
    runner.handle(job)
    assert [(due, status) for due, status, _ in stage.runs("order_executor")] == [
        (at(day, "09:45"), "missed") for day in (TUESDAY, WEDNESDAY, THURSDAY)
    ]
    (alert,) = stage.world.db.query("alerts", {"kind": "job_missed"})
    assert "2025-01-16 09:45" in alert["message"]
    stage.go_to(FRIDAY, "09:45")
    runner.handle(job)
    assert stage.alerts(AlertKind.JOB_MISSED) == [("critical", "order_executor", True)]


def test_of_runs_that_wait_for_a_busy_lane_only_the_last_takes_place(stage: Stage) -> None:
    stage.go_to(WEDNESDAY, "10:00")
    job = stage.job("order_monitor")
    runner = stage.runner(job)
    stage.go_to(WEDNESDAY, "10:16")
    runner.handle(job)
    assert [(due, status) for due, status, _ in stage.runs("order_monitor")] == [
        (at(WEDNESDAY, "10:05"), "skipped"), (at(WEDNESDAY, "10:10"), "skipped"), (at(WEDNESDAY, "10:15"), "done"),
    ]


def test_a_failing_job_is_recorded_and_alerted_louder_the_third_time_and_stops_nobody(stage: Stage) -> None:
    trouble: list[Exception] = [JobError("no luck"), ValueError("a mistake of ours"), DatabaseError("no", "42P01")]

    def fail(_work: Work, _due: datetime) -> None:
        if trouble:
            raise trouble.pop(0)

    stage.go_to(WEDNESDAY, "10:00")
    job = stage.job("order_monitor", fail)
    runner = stage.runner(job)
    levels = []
    for minute in ("10:05", "10:10", "10:15", "10:20"):
        stage.go_to(WEDNESDAY, minute)
        runner.handle(job)
        levels.append(stage.alerts(AlertKind.JOB_FAILED))
    assert [(status, reason) for _, status, reason in stage.runs("order_monitor")] == [
        ("failed", "no luck"), ("failed", "ValueError: a mistake of ours"), ("failed", "no"), ("done", None),
    ]
    assert levels == [[(level, "order_monitor", over)] for level, over in (
        ("warning", False), ("warning", False), ("critical", False), ("critical", True),
    )]


def test_an_executor_that_does_not_reach_the_broker_tries_again_until_its_window_ends(stage: Stage) -> None:
    stage.go_to(WEDNESDAY, "09:44")
    (job,) = (job for job in jobs(stage.world.settings.schedule) if job.name == "order_executor")
    runner = stage.runner(job)
    stage.world.decide(swing())
    stage.world.fault("GET", "/v2/account", "status", code=503, times=None)
    stage.go_to(WEDNESDAY, "09:45")
    with pytest.raises(NotYetError, match="503"):
        runner.handle(job)
    ((due, status, reason),) = stage.runs("order_executor")
    assert (due, status) == (at(WEDNESDAY, "09:45"), "running")
    assert "503" in (reason or "")
    assert stage.alerts(AlertKind.JOB_FAILED) == [("warning", "order_executor", False)]
    stage.world.market.faults.clear()
    stage.go_to(WEDNESDAY, "09:50")
    runner.handle(job)
    assert stage.runs("order_executor") == [(at(WEDNESDAY, "09:45"), "done", None)]
    assert len(stage.world.posted()) == 1
    stage.world.fault("GET", "/v2/account", "status", code=503, times=None)
    stage.go_to(THURSDAY, "11:45")
    with pytest.raises(NotYetError):
        runner.handle(job)
    stage.go_to(THURSDAY, "11:46")
    runner.handle(job)
    assert stage.runs("order_executor")[1][1] == "failed"
    assert "503" in (stage.runs("order_executor")[1][2] or "")


def test_the_run_of_a_daemon_that_was_killed_is_taken_up_by_the_next(stage: Stage) -> None:
    class Killed(BaseException):
        pass

    def die(_work: Work, _due: datetime) -> None:
        if len(stage.ran) == 1:
            raise Killed

    stage.go_to(WEDNESDAY, "10:04")
    job = stage.job("order_monitor", die)
    runner = stage.runner(job)
    stage.go_to(WEDNESDAY, "10:05")
    with pytest.raises(Killed):
        runner.handle(job)
    assert stage.runs("order_monitor") == [(at(WEDNESDAY, "10:05"), "running", None)]
    stage.go_to(WEDNESDAY, "10:06")
    stage.runner(job).handle(job)
    assert stage.ran == [("order_monitor", at(WEDNESDAY, "10:05"))] * 2
    assert stage.runs("order_monitor") == [(at(WEDNESDAY, "10:05"), "done", None)]


def test_a_run_that_nobody_will_take_up_failed(stage: Stage) -> None:
    stage.world.db.insert("job_runs", {"job_name": "gone", "due_at": at(WEDNESDAY, "09:00"), "status": "running"})
    stage.go_to(WEDNESDAY, "10:00")
    stage.runner()
    assert stage.runs("gone") == [(at(WEDNESDAY, "09:00"), "failed", "the daemon ended before the run did")]


def test_a_job_that_finds_another_program_at_work_is_skipped(stage: Stage, database: dict[str, Any]) -> None:
    def take_turns(work: Work, _due: datetime) -> None:
        with hold_account(work.parts.db, 0):
            raise AssertionError

    stage.go_to(WEDNESDAY, "10:00")
    job = stage.job("order_monitor", take_turns)
    runner = stage.runner(job)
    stage.go_to(WEDNESDAY, "10:05")
    with TradingDB(config=database, application_name="order_monitor") as other, hold_account(other):
        runner.handle(job)
    ((_, status, reason),) = stage.runs("order_monitor")
    assert status == "skipped"
    assert "is at work on this account" in (reason or "")


def test_without_the_sources_key_its_run_is_skipped_and_nobody_is_alarmed(stage: Stage) -> None:
    real = stage.work.parts
    settings = replace(real.settings, data=replace(real.settings.data, quiver_base_url="https://api.quiverquant.com"))
    stage.work = Work(replace(real, settings=settings), stage.calendar)
    job = next(job for job in jobs(settings.schedule) if job.name == "congress_daily")
    runner = stage.runner(job)
    stage.go_to(date(2025, 1, 16), "07:00")
    runner.handle(job)
    assert [run[1:] for run in stage.runs("congress_daily")] == [("skipped", "QUIVER_API_KEY is not set")]
    assert stage.alerts(AlertKind.JOB_FAILED) == []


def test_a_run_without_end_is_seen_and_given_up(stage: Stage) -> None:
    began, over = threading.Event(), threading.Event()

    def hang(_work: Work, _due: datetime) -> None:
        began.set()
        over.wait(30)

    stage.go_to(WEDNESDAY, "10:04")
    job = stage.job("order_monitor", hang)
    runner = stage.runner(job)
    stage.go_to(WEDNESDAY, "10:05")
    thread = threading.Thread(target=runner.handle, args=(job,))
    thread.start()
    try:
        assert began.wait(30)
        stage.world.clock.set(at(WEDNESDAY, "10:15"))
        assert runner.overdue() is None
        stage.world.clock.set(at(WEDNESDAY, "10:16"))
        hung = runner.overdue()
        assert hung is not None
        runner.give_up(stage.world.db, hung)
    finally:
        over.set()
        thread.join()
    ((_, status, reason),) = stage.runs("order_monitor")
    assert (status, reason) == ("failed", "exceeded its deadline of 0:10:00; the daemon ended itself")
    assert stage.alerts(AlertKind.JOB_FAILED)[0][:2] == ("critical", "order_monitor")


def test_a_stop_ends_a_pass_before_its_next_word_to_the_broker(stage: Stage) -> None:
    world = stage.world
    stop = Stop()

    class StopsAfterAnOrder(StoppableBroker):
        def send(self, request: Any) -> Any:
            try:
                return super().send(request)
            finally:
                stop.ask()

    stage.go_to(WEDNESDAY, "09:44")
    (job,) = (job for job in jobs(world.settings.schedule) if job.name == "order_executor")
    for symbol in ("NVDA", "AMD"):
        world.price(symbol, "135")
        world.decide(swing(symbol), ticker=symbol)
    clock = StoppableClock(world.clock, stop)
    stage.work = stage.real_work(StopsAfterAnOrder(world.settings.alpaca, clock, stop))
    runner = stage.runner(job)
    stage.go_to(WEDNESDAY, "09:45")
    with pytest.raises(Stopped):
        runner.handle(job)
    assert len(world.posted()) == 1
    assert {row["order_status"] for row in world.db.query("order_execution")} == {"pending", "intended"}
    assert stage.runs("order_executor")[0][1] == "running"
    stage.work = stage.real_work()
    stage.runner(job).handle(job)
    assert len(world.posted()) == 2
    assert stage.runs("order_executor")[0][1] == "done"


def test_after_a_stop_the_broker_is_asked_nothing_more(stage: Stage) -> None:
    stop = Stop()
    stage.go_to(WEDNESDAY, "10:04")
    (job,) = (job for job in jobs(stage.world.settings.schedule) if job.name == "order_monitor")
    stage.work = stage.real_work(StoppableBroker(stage.world.settings.alpaca, stage.world.clock, stop))
    runner = stage.runner(job)
    stage.go_to(WEDNESDAY, "10:05")
    asked = len(stage.world.market.requests)
    stop.ask()
    with pytest.raises(Stopped):
        runner.handle(job)
    assert len(stage.world.market.requests) == asked


def test_a_run_that_another_daemon_has_done_meanwhile_is_not_done_again(stage: Stage) -> None:
    stage.go_to(WEDNESDAY, "10:04")
    job = stage.job("order_monitor")
    runner, other = stage.runner(job), stage.runner(job)
    stage.go_to(WEDNESDAY, "10:05")
    other.handle(job)
    runner.handle(job)
    assert stage.ran == [("order_monitor", at(WEDNESDAY, "10:05"))]


def test_waiting_ends_with_a_stop(world: World) -> None:
    stop = Stop(outer := Stop())
    clock = StoppableClock(world.clock, stop)
    began = clock.now()
    clock.sleep(1.2)
    assert (clock.now() - began).total_seconds() == pytest.approx(1.2)
    outer.ask()
    with pytest.raises(Stopped):
        clock.sleep(60)
    assert not Stop().asked
    assert (clock.now() - began).total_seconds() == pytest.approx(1.2)


@contextmanager
def told(world: World, **row: Any) -> Iterator[None]:
    """Let the broker's calendar say one thing only, for a while."""
    world.fault("GET", "/v2/calendar", "status", code=200, body=[row] if row else [], times=None)
    yield
    world.market.faults.clear()


def check(stage: Stage) -> Job:
    (job,) = (job for job in jobs(stage.world.settings.schedule) if job.name == "calendar_check")
    return job


def test_the_brokers_word_on_a_day_wins_and_a_difference_is_an_alert_until_it_is_gone(stage: Stage) -> None:
    job, monitor = check(stage), stage.job("order_monitor")
    stage.go_to(WEDNESDAY, "08:00")
    with told(stage.world, date="2025-01-16", open="09:30", close="13:00"):
        runner = stage.runner(job, monitor)
    assert stage.calendar.session(WEDNESDAY) is None
    assert stage.calendar.session(THURSDAY) == Session(at(THURSDAY, "09:30"), at(THURSDAY, "13:00"))
    assert stage.calendar.version == 1
    assert len(stage.alerts(AlertKind.CALENDAR_DIFFERS)) == 9  # each weekday of the two weeks but Martin Luther King's
    stage.go_to(WEDNESDAY, "18:00")
    runner.handle(monitor)
    assert stage.ran == []
    stage.go_to(THURSDAY, "09:00")
    runner.handle(job)
    assert stage.calendar.session(THURSDAY) == Session(at(THURSDAY, "09:30"), at(THURSDAY, "16:00"))
    assert {over for _, _, over in stage.alerts(AlertKind.CALENDAR_DIFFERS)} == {True}


@pytest.mark.parametrize("trouble", [
    {"kind": "status", "code": 503}, {"kind": "status", "code": 200, "body": []}, {"kind": "drop"},
    {"kind": "status", "code": 200, "body": [{"date": "2025-01-15"}]},
    {"kind": "status", "code": 200, "body": [{"date": "2025-01-15", "open": "16:00", "close": "09:30"}]},
])
def test_without_a_sensible_word_of_the_broker_the_bundled_calendar_holds(
    stage: Stage, trouble: dict[str, Any],
) -> None:
    stage.go_to(WEDNESDAY, "08:00")
    stage.world.fault("GET", "/v2/calendar", **trouble, times=None)
    stage.runner(check(stage))
    assert stage.calendar.session(WEDNESDAY) == Session(at(WEDNESDAY, "09:30"), at(WEDNESDAY, "16:00"))
    assert stage.calendar.version == 0
    assert [status for _, status, _ in stage.runs("calendar_check")] == ["failed"]
    assert stage.alerts(AlertKind.CALENDAR_DIFFERS) == []


def test_the_account_is_settled_before_the_first_job(stage: Stage) -> None:
    world = stage.world
    world.decide(swing())
    world.fault("POST", "/v2/orders", "drop", executed=True)
    world.fault("GET", "/v2/orders:by_client_order_id", "drop")
    world.execute()
    assert world.one("order_execution")["order_status"] == "unknown"
    stage.go_to(WEDNESDAY, "11:00")
    (barrier,) = (job for job in jobs(world.settings.schedule) if job.name == "startup_barrier")
    stage.runner(barrier)
    assert world.one("order_execution")["order_status"] == "pending"
    assert [status for _, status, _ in stage.runs("startup_barrier")] == ["done"]


def test_a_database_lost_in_a_run_leaves_it_to_be_taken_up_again(stage: Stage) -> None:
    def lose(work: Work, _due: datetime) -> None:
        if len(stage.ran) == 1:
            raise DatabaseError("the connection was lost", lost_connection=True)

    stage.go_to(WEDNESDAY, "10:04")
    job = stage.job("order_monitor", lose)
    runner = stage.runner(job)
    stage.go_to(WEDNESDAY, "10:05")
    with pytest.raises(NotYetError):
        runner.handle(job)
    runner.handle(job)
    assert stage.runs("order_monitor") == [(at(WEDNESDAY, "10:05"), "done", None)]


def test_a_purge_whose_role_cannot_connect_fails_and_says_so(stage: Stage, database: dict[str, Any]) -> None:
    settings = settings_for(database, stage.world.settings.alpaca.base_url, {"PURGE_POSTGRES_USER": "no_such_role"})
    stage.work = Work(replace(stage.work.parts, settings=settings), stage.calendar)
    stage.go_to(FRIDAY, "04:00")
    job = stage.job("retention", purge_texts, when=every_day(time(4, 30)))
    runner = stage.runner(job)
    stage.go_to(FRIDAY, "04:30")
    runner.handle(job)
    ((_, status, reason),) = stage.runs("retention")
    assert status == "failed"
    assert "PURGE_POSTGRES_USER" in str(reason)
    assert stage.alerts(AlertKind.JOB_FAILED) == [("warning", "retention", False)]


def test_an_anchor_that_cannot_be_written_fails_in_plain_words(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    parts = stage.work.parts
    audit = replace(parts.settings.audit, anchor_file=tmp_path / "file" / "anchors")
    stage.work = Work(replace(parts, settings=replace(parts.settings, audit=audit)), stage.calendar)
    job = stage.job("audit_anchor", anchor)
    stage.go_to(FRIDAY, "18:29")
    runner = stage.runner(job)
    stage.go_to(FRIDAY, "18:30")
    runner.handle(job)
    ((_, status, reason),) = stage.runs("audit_anchor")
    assert (status, str(reason)[:26]) == ("failed", "the anchor was not written")
    assert [record for record in caplog.records if record.exc_info] == []


def test_runs_of_a_clock_that_was_ahead_do_not_keep_a_daemon_from_working(stage: Stage) -> None:
    ahead = at(FRIDAY, "09:35").replace(year=2031)
    for status in ("done", "running"):
        stage.world.db.insert("job_runs", {"job_name": "order_monitor", "due_at": ahead, "status": status})
        ahead = ahead.replace(year=2032)
    stage.go_to(FRIDAY, "09:34")
    job = stage.job("order_monitor")
    runner = stage.runner(job)
    stage.go_to(FRIDAY, "09:35")
    runner.handle(job)
    assert stage.ran == [("order_monitor", at(FRIDAY, "09:35"))]


def test_a_job_whose_statement_takes_too_long_fails_and_says_so(stage: Stage) -> None:
    def ask(work: Work, _due: datetime) -> None:
        with work.parts.db.transaction():
            work.parts.db.execute_update("SET LOCAL statement_timeout = '20ms'")
            work.parts.db.execute_query("SELECT pg_sleep(5)")

    stage.go_to(FRIDAY, "18:29")
    job = stage.job("daily_summary", ask)
    runner = stage.runner(job)
    stage.go_to(FRIDAY, "18:30")
    runner.handle(job)
    ((_, status, reason),) = stage.runs("daily_summary")
    assert (status, reason) == ("failed", "canceling statement due to statement timeout")
    assert stage.alerts(AlertKind.JOB_FAILED) == [("warning", "daily_summary", False)]


def test_a_round_that_cannot_look_after_the_alerts_has_failed(stage: Stage) -> None:
    stage.world.db.execute_update("REVOKE SELECT ON audit.data_ingestion_runs FROM trading_app")
    stage.go_to(FRIDAY, "19:59")
    job = stage.job("alert_round", look_after)
    runner = stage.runner(job)
    stage.go_to(FRIDAY, "20:00")
    runner.handle(job)
    ((_, status, reason),) = stage.runs("alert_round")
    assert (status, reason) == ("failed", "permission denied for table data_ingestion_runs")
