"""Ingestion runs: what was fetched, with which calls, and what it changed; written as it goes on, so that a run that
fails keeps all of it, and one that is killed all but its last calls."""

import json
import logging
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import date, datetime
from enum import StrEnum
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from audit_trail.calls import Read, record_reads
from audit_trail.payloads import PayloadPolicy, request_text, response_text
from clock import Clock
from db_layer import DatabaseError, TradingDB
from log_setup import printable
from session_locks import hold_task

# Who starts a task holds its lock, so whatever still counts as running has lost its process.
START_RUN = """
WITH died AS (
    UPDATE audit.data_ingestion_runs
    SET status = 'failed', failed_at = %(now)s, updated_at = %(now)s,
        error_message = 'the process ended before the run did', error_details = '{"error_class": "ProcessEnded"}'
    WHERE task_name = %(task_name)s AND status = 'running'
    RETURNING run_id
)
INSERT INTO audit.data_ingestion_runs (task_name, data_source, status, started_at, created_at, updated_at)
VALUES (%(task_name)s, %(data_source)s, 'running', %(now)s, %(now)s, %(now)s)
RETURNING id, run_id, (SELECT string_agg(run_id::text, ', ') FROM died) AS died
"""

RECORD_OPERATIONS = """
WITH done AS (
    INSERT INTO audit.data_ingestion_run_records (
        data_ingestion_run_id, record_type, record_id, operation, created_at)
    SELECT %(run_id)s, %(record_type)s, id, operation, %(now)s
    FROM (SELECT unnest(%(created)s::bigint[]) AS id, 'created' AS operation
          UNION ALL SELECT unnest(%(updated)s::bigint[]), 'updated'
          UNION ALL SELECT unnest(%(skipped)s::bigint[]), 'skipped') AS operation
)
UPDATE audit.data_ingestion_runs
SET records_fetched = records_fetched + %(created_count)s + %(updated_count)s + %(skipped_count)s,
    records_created = records_created + %(created_count)s, records_updated = records_updated + %(updated_count)s,
    records_skipped = records_skipped + %(skipped_count)s,
    data_date_start = LEAST(data_date_start, %(first)s::date), data_date_end = GREATEST(data_date_end, %(last)s::date),
    updated_at = %(now)s
WHERE id = %(run_id)s
"""

END_RUN = """
UPDATE audit.data_ingestion_runs
SET status = %(status)s, updated_at = %(now)s, error_message = %(message)s, error_details = %(details)s::jsonb,
    completed_at = CASE WHEN %(status)s = 'completed' THEN %(now)s::timestamptz END,
    failed_at = CASE WHEN %(status)s = 'failed' THEN %(now)s::timestamptz END
WHERE id = %(run_id)s AND status = 'running'
"""

# Found through the runs: the log of calls is large, and most of it is the broker's.
RECENT_CALLS = """
SELECT call.endpoint, call.created_at
FROM audit.data_ingestion_runs run JOIN audit.api_call_logs call ON call.data_ingestion_run_id = run.id
WHERE run.started_at > %(since)s::timestamptz - interval '2 days' AND call.created_at > %(since)s
ORDER BY call.created_at
"""

STACK_LINES = 10
P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("ingestion")


class Operation(StrEnum):
    """What a run did with a record."""

    CREATED = "created"
    UPDATED = "updated"
    SKIPPED = "skipped"


class IngestionRun:
    """A run in progress; `counts` are its records by operation so far."""

    def __init__(
        self, db: TradingDB, clock: Clock, policy: PayloadPolicy, task_name: str, data_source: str,
    ) -> None:
        self.task_name = task_name
        self.data_source = data_source
        self.counts: Counter[Operation] = Counter()
        self._db = db
        self._clock = clock
        self._policy = policy
        self._heard: list[Read] = []
        self._logged: dict[str, set[int]] = defaultdict(set)
        names = {"task_name": task_name, "data_source": data_source, "now": clock.now()}
        row = db.execute_query(START_RUN, names)[0]
        self.id: int = row["id"]
        self.run_id: str = row["run_id"]
        if row["died"]:
            log.warning("an earlier run ended without a word", extra={"task": task_name, "run_id": row["died"]})

    def without_secrets(self, text: str) -> str:
        """Return text with each key in it blotted out."""
        return self._policy.without_secrets(text)

    def log_call(
        self, endpoint: str, params: Mapping[str, str], status: int | None, headers: Mapping[str, str],
        body: str | None, duration_ms: int, error: str | None = None, rate_limit_remaining: int | None = None,
    ) -> None:
        """Note a GET call with its answer, or with the error that came instead, free of keys."""
        request = self._policy.payload(request_text("GET", endpoint, params, None))
        response = self._policy.payload(response_text(status, headers, body, error))
        self._heard.append(Read(f"GET {endpoint}", request, response, status, duration_ms, rate_limit_remaining))

    def write_calls(self) -> None:
        """Commit the calls noted so far: before anything is concluded from them, and before a long wait.

        The end of the run does it too. Raises DatabaseError.
        """
        if self._heard:
            record_reads(self._db, self.data_source, self._heard, self._clock.now(), self.id)
            self._heard.clear()

    def log_records(
        self, record_type: str, ids: Mapping[Operation, Sequence[int]], repeats: int = 0,
        dates: Sequence[date] = (),
    ) -> None:
        """Write what was done with which rows of the table `record_type`, and the report dates among them.

        `repeats` are records that one answer held more than once; they are counted as skipped. To be called in the
        transaction that writes the rows. Raises DatabaseError.
        """
        counts = Counter({operation: len(ids.get(operation, ())) for operation in Operation})
        counts[Operation.SKIPPED] += repeats
        # A record that comes again in the same run has its row already.
        logged = self._logged[record_type]
        fresh = {str(word): [row for row in ids.get(word, ()) if row not in logged] for word in Operation}
        logged.update(*fresh.values())
        self._db.execute_prepared(RECORD_OPERATIONS, {
            "run_id": self.id, "record_type": record_type, "now": self._clock.now(),
            "first": min(dates, default=None), "last": max(dates, default=None),
            **fresh, **{f"{operation}_count": counts[operation] for operation in Operation},
        })
        self.counts += counts

    def recent_calls(self, since: datetime) -> list[tuple[str, datetime]]:
        """Return the calls of all runs since then, as method with path and time, oldest first. Raises DatabaseError."""
        self.write_calls()
        rows = self._db.execute_query(RECENT_CALLS, {"since": since})
        return [(row["endpoint"], row["created_at"]) for row in rows]

    def complete(self) -> None:
        """End the run well. Raises DatabaseError."""
        self.write_calls()
        self._end("completed", None, None)

    def fail(self, error: BaseException) -> None:
        """End the run with class, message and the innermost stack lines of the error. Raises DatabaseError."""
        words = printable(self._policy.without_secrets(str(error)) or type(error).__name__)
        frames = reversed(traceback.extract_tb(error.__traceback__))
        stack = [f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" for frame in frames][:STACK_LINES]
        try:
            self.write_calls()
        finally:
            self._end("failed", words, {"error_class": type(error).__name__, "message": words, "stack": stack})

    def _end(self, status: str, message: str | None, details: Mapping[str, Any] | None) -> None:
        self._db.execute_update(END_RUN, {
            "run_id": self.id, "status": status, "now": self._clock.now(), "message": message,
            "details": None if details is None else json.dumps(details),
        })


class DataIngestion:
    """A run to be entered with `with`, or, as a decorator, one run for each call of a function of the run."""

    def __init__(
        self, db: TradingDB, clock: Clock, policy: PayloadPolicy, task_name: str, data_source: str,
    ) -> None:
        self._parts = (db, clock, policy, task_name, data_source)
        self._run: AbstractContextManager[IngestionRun] | None = None

    def __enter__(self) -> IngestionRun:
        self._run = _logged(*self._parts)
        return self._run.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._run is not None:
            self._run.__exit__(*error)

    def __call__(self, work: Callable[Concatenate[IngestionRun, P], R]) -> Callable[P, R]:
        @wraps(work)
        def logged(*args: P.args, **kwargs: P.kwargs) -> R:
            with _logged(*self._parts) as run:
                return work(run, *args, **kwargs)

        return logged


def log_data_ingestion(
    task_name: str, data_source: str, db: TradingDB, clock: Clock, policy: PayloadPolicy | None = None,
) -> DataIngestion:
    """Wrap the work of one run, as a context manager that gives an IngestionRun or as a decorator that passes one.

    The run is committed as running before the work, and as completed or failed after it; exceptions of the work go on.
    Only one process does a task at a time. Raises LockTakenError and DatabaseError.
    """
    return DataIngestion(db, clock, policy or PayloadPolicy(), task_name, data_source)


@contextmanager
def _logged(
    db: TradingDB, clock: Clock, policy: PayloadPolicy, task_name: str, data_source: str,
) -> Iterator[IngestionRun]:
    with ExitStack() as held:
        held.enter_context(hold_task(db, task_name))
        run = IngestionRun(db, clock, policy, task_name, data_source)
        try:
            yield run
        except BaseException as error:
            if not db.is_connected():
                held.close()  # the lock went with its connection, and a new one may be opened
            try:
                run.fail(error)
            except DatabaseError as trouble:
                log.warning("the failure of a run was not recorded", extra={"run_id": run.run_id, "error": trouble})
            raise
        run.complete()
