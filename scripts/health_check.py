"""Says how database, broker, clocks, jobs, positions and alerts are: exit 0 healthy, 1 degraded, 2 down."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import requirements_check  # noqa: F401 isort: skip

import local_broker
from alpaca_client import Broker, BrokerError
from clock import SystemClock
from command_line import add_test_mode, run_program
from config import Settings
from db_layer import DatabaseError, TradingDB
from kill_switch import current_control
from local_broker import LocalBrokerError
from log_setup import printable
from parts import open_database
from standing import what_stands

TIME_OF_DATABASE = "SELECT clock_timestamp() AS now"
LATEST_JOBS = """
SELECT DISTINCT ON (job_name) job_name, status, due_at, started_at, reason FROM audit.job_runs
WHERE due_at > %(since)s AND due_at <= %(now)s ORDER BY job_name, due_at DESC
"""
ALERTS = """
SELECT count(*) AS open, count(*) FILTER (WHERE level = 'critical' AND acknowledged_at IS NULL) AS critical
FROM audit.alerts WHERE resolved_at IS NULL
"""
MOST_OFFSET = timedelta(seconds=1)
LOOK_BACK = timedelta(days=40)  # monthly jobs too
LONGEST_SILENCE = timedelta(hours=26)  # some job of the daemon is due every day
LONGEST_RUN = timedelta(hours=7)
LONGEST_DETAIL = 300


class Health(IntEnum):
    """How well it is; the number is the exit status."""

    HEALTHY = 0
    DEGRADED = 1
    DOWN = 2


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    health: Health
    detail: str


def main(argv: list[str] | None = None) -> int:
    """Look at everything, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_test_mode(parser)
    return run_program(parser, argv, _work)


def _work(options: argparse.Namespace, settings: Settings) -> int:
    checks = list(_checks(settings))
    worst = max(check.health for check in checks)
    if options.json:
        found = [{"name": c.name, "status": c.health.name.lower(), "detail": c.detail} for c in checks]
        print(json.dumps({"status": worst.name.lower(), "checks": found}, indent=2))
    else:
        for check in checks:
            print(f"{check.health.name.lower():8}  {check.name:9}  {check.detail}")
        print(f"The system is {worst.name.lower()}.")
    return int(worst)


def _checks(settings: Settings) -> Iterator[Check]:
    with ExitStack() as opened:
        try:
            db = opened.enter_context(open_database(settings.test_mode, settings, "health_check"))
        except DatabaseError as error:
            yield _check("database", Health.DOWN, str(error))
        else:
            yield _check("database", Health.HEALTHY, "answers")
            for name, look in (
                ("clock", _database_clock), ("jobs", _jobs), ("positions", _positions), ("alerts", _alerts),
                ("trading", _trading),
            ):
                yield _tried(name, look, db)
        yield from _broker(settings)


def _tried(name: str, look: Callable[[TradingDB], tuple[Health, str]], db: TradingDB) -> Check:
    try:
        return _check(name, *look(db))
    except DatabaseError as error:
        return _check(name, Health.DOWN, str(error))


def _check(name: str, health: Health, detail: str) -> Check:
    return Check(name, health, printable(detail, LONGEST_DETAIL))


def _database_clock(db: TradingDB) -> tuple[Health, str]:
    before = SystemClock().now()
    theirs = db.execute_query(TIME_OF_DATABASE)[0]["now"]
    return judge_clock("the database", theirs, before, SystemClock().now())


def judge_clock(whose: str, theirs: datetime, before: datetime, after: datetime) -> tuple[Health, str]:
    """Say how far our clock is from another one that was read between two moments of ours."""
    offset = max(theirs - after, before - theirs, timedelta(0))
    if offset > MOST_OFFSET:
        words = f"our clock and that of {whose} differ by {offset.total_seconds():.1f} seconds; set the time by NTP"
        return Health.DEGRADED, words
    return Health.HEALTHY, f"agrees with {whose}"


def _jobs(db: TradingDB) -> tuple[Health, str]:
    now = SystemClock().now()
    rows = db.execute_query(LATEST_JOBS, {"since": now - LOOK_BACK, "now": now})
    return judge_jobs(
        [(row["job_name"], row["status"], row["due_at"], row["started_at"], row["reason"]) for row in rows], now,
    )


def judge_jobs(
    latest: list[tuple[str, str, datetime, datetime | None, str | None]], now: datetime,
) -> tuple[Health, str]:
    """Say how the daemon's jobs are, by the latest run of each: name, status, due, started, reason."""
    if not latest:
        return Health.HEALTHY, "no daemon has run here"
    bad = [f"{name} {status}: {reason or 'no reason given'}" for name, status, _, _, reason in latest
           if status in ("failed", "missed")]
    bad += [f"{name} has been running since {started:%Y-%m-%d %H:%M} UTC" for name, status, _, started, _ in latest
            if status == "running" and started is not None and now - started > LONGEST_RUN]
    last = max(due for _, _, due, _, _ in latest)
    if now - last > LONGEST_SILENCE:
        bad.append(f"no job has run since {last:%Y-%m-%d %H:%M} UTC; is the daemon running?")
    return (Health.DEGRADED, "; ".join(bad)) if bad else (Health.HEALTHY, f"{len(latest)} jobs, none failed or missed")


def _positions(db: TradingDB) -> tuple[Health, str]:
    standing = what_stands(db)
    bare = [trade.name for trade in standing.unprotected]
    unknown = [row["client_order_id"] for row in standing.unknown]
    words = [f"without a stop for all shares: {', '.join(bare)}"] if bare else []
    words += [f"orders of unknown outcome: {', '.join(unknown)}"] if unknown else []
    fine = f"{len(standing.trades)} open, each protected"
    return (Health.DEGRADED, "; ".join(words)) if words else (Health.HEALTHY, fine)


def _alerts(db: TradingDB) -> tuple[Health, str]:
    row = db.execute_query(ALERTS)[0]
    if row["critical"]:
        return Health.DEGRADED, f"{row['critical']} critical and not acknowledged; run: python -m audit_trail alerts"
    return Health.HEALTHY, f"{row['open']} open, none of them critical and new"


def _trading(db: TradingDB) -> tuple[Health, str]:
    control = current_control(db)
    return Health.HEALTHY, f"{control.state}: {control.reason}"


def _broker(settings: Settings) -> Iterator[Check]:
    try:
        alpaca = local_broker.use(settings.alpaca) if settings.alpaca.local_broker else settings.alpaca
        with Broker(alpaca, clock=SystemClock()) as broker:
            broker.account()
            before = SystemClock().now()
            theirs = broker.market_hours().now
            after = SystemClock().now()
    except (BrokerError, LocalBrokerError) as error:
        yield _check("broker", Health.DOWN, str(error))
        return
    yield _check("broker", Health.HEALTHY, "answers, and knows the account")
    yield _check("clock", *judge_clock("the broker", theirs, before, after))


if __name__ == "__main__":
    sys.exit(main())
