"""Measures what the audit trail's writes cost against their floor."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

from audit_trail import create_decision, record_answer, record_attempt
from audit_trail.decisions import rationale
from db_layer import TradingDB
from order_life import ExecutionStatus
from tests.bench import samples
from tests.bench.floor import Floor

WARM_UP = 50
ROUNDS = 500
RATIO_LIMIT = 3.0

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
