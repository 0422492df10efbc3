"""The runs of the daemon's jobs as rows of `audit.job_runs`: one row for each time a job was due."""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum

from db_layer import TradingDB

# A row that still says running when somebody is about to run is that of a daemon that ended; its run is taken up.
BEGIN_RUN = """
INSERT INTO audit.job_runs (job_name, due_at, started_at, status)
VALUES (%(job)s, %(due)s, %(now)s, 'running')
ON CONFLICT (job_name, due_at) DO UPDATE SET started_at = EXCLUDED.started_at, reason = NULL
WHERE job_runs.status = 'running'
RETURNING id
"""
END_RUN = """
UPDATE audit.job_runs SET status = %(status)s, ended_at = %(now)s, reason = %(reason)s
WHERE job_name = %(job)s AND due_at = %(due)s AND status = 'running'
"""
RECORD_NOT_RUN = """
INSERT INTO audit.job_runs (job_name, due_at, status, reason)
SELECT %(job)s, due, %(status)s, %(reason)s FROM unnest(%(due)s::timestamptz[]) AS due
ON CONFLICT (job_name, due_at) DO UPDATE SET status = 'failed', ended_at = %(now)s,
    reason = COALESCE(job_runs.reason, %(died)s)
WHERE job_runs.status = 'running'
"""
NOTE_RUN = """
UPDATE audit.job_runs SET reason = %(reason)s WHERE job_name = %(job)s AND due_at = %(due)s AND status = 'running'
"""
# What was due after now is of a clock that was ahead, and says nothing of what has been done.
LAST_SETTLED = """
SELECT job_name, max(due_at) AS due_at FROM audit.job_runs WHERE status <> 'running' AND due_at <= %(now)s
GROUP BY job_name
"""
FIRST_RUN = "SELECT min(due_at) AS due_at FROM audit.job_runs WHERE due_at <= %(now)s"
UNFINISHED = "SELECT job_name, due_at FROM audit.job_runs WHERE status = 'running' ORDER BY due_at"
DIED = "the daemon ended before the run did"
LONGEST_REASON = 500


class RunStatus(StrEnum):
    """What became of a run; skipped: another one did its work, missed: nothing did."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    MISSED = "missed"


def begin_run(db: TradingDB, job: str, due: datetime, now: datetime) -> bool:
    """Write that a run begins; False when its row says that it is over. Raises DatabaseError."""
    return bool(db.execute_prepared(BEGIN_RUN, {"job": job, "due": due, "now": now}))


def end_run(
    db: TradingDB, job: str, due: datetime, now: datetime, status: RunStatus, reason: str | None = None,
) -> None:
    """Write how a run ended. Raises DatabaseError."""
    words = None if reason is None else reason[:LONGEST_REASON]
    db.execute_prepared(END_RUN, {"job": job, "due": due, "now": now, "status": str(status), "reason": words})


def note_run(db: TradingDB, job: str, due: datetime, reason: str) -> None:
    """Write why a run is not over yet. Raises DatabaseError."""
    db.execute_update(NOTE_RUN, {"job": job, "due": due, "reason": reason[:LONGEST_REASON]})


def record_not_run(
    db: TradingDB, job: str, due: Collection[datetime], now: datetime, status: RunStatus, reason: str,
) -> None:
    """Write that a job did not run at these times; a run that was begun and not ended failed. Raises DatabaseError."""
    db.execute_update(RECORD_NOT_RUN, {
        "job": job, "due": list(due), "now": now, "status": str(status), "reason": reason, "died": DIED,
    })


def last_settled(db: TradingDB, now: datetime) -> dict[str, datetime]:
    """Return for each job that ever ran when the last run was due whose end is known. Raises DatabaseError."""
    return {row["job_name"]: row["due_at"] for row in db.execute_query(LAST_SETTLED, {"now": now})}


def first_run(db: TradingDB, now: datetime) -> datetime | None:
    """Return when the first run of all was due, or None before there was one. Raises DatabaseError."""
    due: datetime | None = db.execute_query(FIRST_RUN, {"now": now})[0]["due_at"]
    return due


def unfinished(db: TradingDB) -> list[tuple[str, datetime]]:
    """Return job and time of the runs that no daemon has ended. Raises DatabaseError."""
    return [(row["job_name"], row["due_at"]) for row in db.execute_query(UNFINISHED)]
