"""Finds in the tables what nobody raises an alert about when it happens: runs that fail, are overdue or bring nothing,
too many failures in a day or an hour, orders unknown for too long, and the day's loss."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from audit_trail import AlertKind, AlertLevel, raise_alert, resolve_alerts
from clock import MARKET_ZONE
from config import ScheduleSettings, Settings
from daily_loss import day_pnl
from db_layer import Row, TradingDB
from exposure import day_start
from limit_raises import limits_in_force
from order_life import decimal_text

# The latest run of each task that ended, and the latest that has not.
LATEST_RUNS = """
SELECT task_name, status, started_at, records_fetched, error_message, run_id, last_completed_at FROM (
    SELECT task_name, status, started_at, records_fetched, error_message, run_id,
           max(completed_at) OVER (PARTITION BY task_name) AS last_completed_at,
           row_number() OVER (PARTITION BY task_name, status = 'running' ORDER BY started_at DESC, id DESC) AS place
    FROM audit.data_ingestion_runs WHERE started_at > %(since)s
) run WHERE place = 1
"""
DECISIONS_OF_THE_DAY = """
SELECT count(*) AS ended, count(*) FILTER (WHERE status = 'failed') AS failed FROM audit.trade_decisions
WHERE action = 'new_trade' AND status <> 'pending' AND created_at >= %(start)s
"""
# The log is long and in the order of time, so its end is enough.
LATEST_CALLS = """
SELECT CASE WHEN data_ingestion_run_id IS NULL THEN 'the broker' ELSE 'sources of data' END AS other,
       count(*) AS calls,
       count(*) FILTER (WHERE http_status_code IS NULL OR http_status_code IN (408, 429) OR http_status_code >= 500)
           AS failed
FROM (SELECT * FROM audit.api_call_logs ORDER BY id DESC LIMIT 500) call
WHERE created_at > %(since)s GROUP BY 1
"""
LONG_UNKNOWN = """
SELECT orders.client_order_id, journal.symbol, orders.side, max(execution.submitted_at) AS submitted_at
FROM order_execution orders
JOIN trade_journal journal ON journal.id = orders.trade_journal_id
JOIN audit.trade_executions execution
     ON execution.order_execution_id = orders.id AND execution.status IN ('submitted', 'unknown')
WHERE orders.order_status IN ('intended', 'unknown') AND orders.parent_order_id IS NULL
GROUP BY orders.id, journal.symbol HAVING max(execution.submitted_at) < %(before)s
ORDER BY orders.id
"""
OPEN_SUBJECTS = "SELECT kind, subject FROM audit.alerts WHERE kind = ANY(%(kinds)s) AND resolved_at IS NULL"

# All that `findings` looks for, each closed when it is not found any more.
KINDS = (
    AlertKind.RUN_FAILED, AlertKind.RUN_OVERDUE, AlertKind.NO_RECORDS_FETCHED, AlertKind.FAILURE_RATE,
    AlertKind.API_ERROR_RATE, AlertKind.UNKNOWN_ORDER, AlertKind.DAILY_LOSS,
)
LOOK_BACK = timedelta(days=30)
LONGEST_RUN = timedelta(hours=2)
GRACE = timedelta(hours=2)
MOST_FAILURES = 0.3  # of the decisions of a day
FEWEST_DECISIONS = 5
MOST_API_ERRORS = 0.2  # of the calls of an hour
FEWEST_CALLS = 10
LONGEST_UNKNOWN = timedelta(minutes=15)


@dataclass(frozen=True)
class Finding:
    """A matter as it should stand in `audit.alerts`; the message says the same while nothing new happens."""

    level: AlertLevel
    kind: AlertKind
    subject: str
    message: str


def watch(db: TradingDB, settings: Settings, now: datetime) -> None:
    """Raise what is found, and close what was found before and is not so any more. Raises DatabaseError."""
    rows = db.execute_query(OPEN_SUBJECTS, {"kinds": [str(kind) for kind in KINDS]})
    before = {(AlertKind(row["kind"]), row["subject"]) for row in rows}
    still = set()
    for finding in findings(db, settings, now):
        matter = finding.kind, finding.subject
        # A run that fails says so itself.
        quiet = matter in before or finding.kind is AlertKind.RUN_FAILED
        raise_alert(db, finding.level, *matter, finding.message, now, quiet)
        still.add(matter)
    for kind, subject in before - still:
        resolve_alerts(db, (kind,), (subject,), now)


def findings(db: TradingDB, settings: Settings, now: datetime) -> Iterator[Finding]:
    """Return what is not as it should be by the tables. Raises DatabaseError."""
    runs: defaultdict[str, list[Row]] = defaultdict(list)
    for row in db.execute_query(LATEST_RUNS, {"since": now - LOOK_BACK}):
        runs[row["task_name"]].append(row)
    for task, latest in runs.items():
        yield from _about_runs(task, latest, _due_times(settings.schedule), now)
    yield from _about_decisions(db, now)
    for row in db.execute_query(LATEST_CALLS, {"since": now - timedelta(hours=1)}):
        if row["calls"] >= FEWEST_CALLS and row["failed"] > MOST_API_ERRORS * row["calls"]:
            words = f"more than {MOST_API_ERRORS:.0%} of the calls to {row['other']} in the last hour failed"
            yield Finding(AlertLevel.WARNING, AlertKind.API_ERROR_RATE, row["other"], words)
    for row in db.execute_query(LONG_UNKNOWN, {"before": now - LONGEST_UNKNOWN}):
        order = f"the order to {row['side']} {row['symbol']}"
        words = f"what became of {order} has been unknown since {_at(row['submitted_at'])}"
        yield Finding(AlertLevel.CRITICAL, AlertKind.UNKNOWN_ORDER, row["client_order_id"], words)
    limit = limits_in_force(db, settings.limits, now).max_daily_loss
    if -day_pnl(db, now) > limit:
        words = f"more than MAX_DAILY_LOSS={decimal_text(limit)} dollars have been lost today"
        yield Finding(AlertLevel.CRITICAL, AlertKind.DAILY_LOSS, _today(now), words)


def _about_runs(task: str, latest: list[Row], due_times: Mapping[str, time], now: datetime) -> Iterator[Finding]:
    warning = AlertLevel.WARNING
    for row in latest:
        if row["status"] == "failed":
            words = f"the run {row['run_id']} of {task} failed: {row['error_message']}"
            yield Finding(warning, AlertKind.RUN_FAILED, task, words)
            return
        if row["status"] == "completed" and row["records_fetched"] == 0:
            words = f"the run {row['run_id']} of {task} completed without a single record"
            yield Finding(warning, AlertKind.NO_RECORDS_FETCHED, task, words)
        elif row["status"] == "running" and now - row["started_at"] > LONGEST_RUN:
            words = f"the run {row['run_id']} of {task} has not ended since {_at(row['started_at'])}"
            yield Finding(warning, AlertKind.RUN_OVERDUE, task, words)
            return
    completed = latest[0]["last_completed_at"]
    if task in due_times and completed is not None and completed < _last_due(due_times[task], now):
        words = f"{task}, due at {due_times[task]:%H:%M} US Eastern time, has not completed since {_at(completed)}"
        yield Finding(warning, AlertKind.RUN_OVERDUE, task, words)


def _about_decisions(db: TradingDB, now: datetime) -> Iterator[Finding]:
    row = db.execute_query(DECISIONS_OF_THE_DAY, {"start": day_start(now)})[0]
    if row["ended"] >= FEWEST_DECISIONS and row["failed"] > MOST_FAILURES * row["ended"]:
        words = f"{row['failed']} of {row['ended']} decided trades of the day failed"
        yield Finding(AlertLevel.CRITICAL, AlertKind.FAILURE_RATE, _today(now), words)


def _due_times(schedule: ScheduleSettings) -> dict[str, time]:
    return {
        "congress_daily": schedule.congress_fetch_time, "insider_daily": schedule.insider_fetch_time,
        "maintenance_daily": schedule.maintenance_time,
    }


def _last_due(due: time, now: datetime) -> datetime:
    """Return the latest time that a task was due and has had its grace since."""
    local = (now - GRACE).astimezone(MARKET_ZONE)
    day = local.date() if local.time() >= due else local.date() - timedelta(days=1)
    return datetime.combine(day, due, MARKET_ZONE)


def _today(now: datetime) -> str:
    return f"{now.astimezone(MARKET_ZONE):%Y-%m-%d}"


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
