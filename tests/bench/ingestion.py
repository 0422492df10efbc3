"""Measures what logging an ingestion run costs, against the same rows by bulk statements."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from statistics import median
from time import perf_counter
from typing import Any

import psycopg2
from psycopg2 import sql

from audit_trail import Operation, Payload, PayloadPolicy, log_data_ingestion, request_text, response_text
from clock import ManualClock
from db_layer import Parameters, Row, TradingDB
from tests.bench.monitor_pass import Measure
from tests.bench.samples import NOW

CALLS = 10
BODY_BYTES = 20_000
RUNS: dict[int, tuple[int, int, float]] = {1_000: (10, 60, 3.0), 100_000: (1, 3, 4.0)}  # warm-up, rounds, limit
ENDPOINT = "/beta/live/insiders"
START = """
INSERT INTO audit.data_ingestion_runs (task_name, data_source, status, started_at, created_at, updated_at)
VALUES ('floor', 'bench', 'running', %s, %s, %s) RETURNING id
"""
REST = """
WITH payload AS (
    INSERT INTO audit.api_payloads (type, payload, source, captured_at, sha256, byte_length)
    SELECT type, body::json, 'bench', %(now)s, digest, length
    FROM unnest(%(types)s::text[], %(bodies)s::text[], %(digests)s::text[], %(lengths)s::int[])
         AS said (type, body, digest, length)
    RETURNING id, type
), call AS (
    INSERT INTO audit.api_call_logs (data_ingestion_run_id, api_request_payload_id, api_response_payload_id, endpoint,
                                     http_status_code, duration_ms, created_at)
    SELECT %(run)s, request.id, response.id, %(endpoint)s, 200, 5, %(now)s
    FROM (SELECT id, row_number() OVER () AS place FROM payload WHERE type = 'ApiRequest') AS request
    JOIN (SELECT id, row_number() OVER () AS place FROM payload WHERE type = 'ApiResponse') AS response USING (place)
), record AS (
    INSERT INTO audit.data_ingestion_run_records (data_ingestion_run_id, record_type, record_id, operation, created_at)
    SELECT %(run)s, 'bench', id, 'created', %(now)s FROM unnest(%(ids)s::bigint[]) AS id
)
UPDATE audit.data_ingestion_runs
SET status = 'completed', completed_at = %(now)s, records_fetched = %(count)s, records_created = %(count)s
WHERE id = %(run)s
"""


class CountingDB(TradingDB):
    """Counts its statements."""

    statements = 0

    def _run(self, statement: str | sql.Composable, parameters: Parameters) -> tuple[list[Row], int]:
        self.statements += 1
        return super()._run(statement, parameters)


class Floor:
    """A bare connection that writes a run in two statements and two commits, with texts and digests at hand."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._connection = psycopg2.connect(**parameters)
        self._connection.autocommit = True
        self._cursor = self._connection.cursor()

    def close(self) -> None:
        self._connection.close()

    def write(self, payloads: Sequence[tuple[str, Payload]], ids: list[int]) -> None:
        """Write a run with its calls and records."""
        self._cursor.execute(START, (NOW, NOW, NOW))
        self._cursor.execute(REST, {
            "run": self._cursor.fetchone()[0], "now": NOW, "endpoint": ENDPOINT, "ids": _literal(ids),
            "count": len(ids), "types": [kind for kind, _ in payloads],
            "bodies": [payload.kept for _, payload in payloads],
            "digests": [payload.sha256 for _, payload in payloads],
            "lengths": [payload.byte_length for _, payload in payloads],
        })


def measure(parameters: Mapping[str, Any]) -> list[Measure]:
    """Measure both sizes of a run. Raises DatabaseError."""
    measures: list[Measure] = []
    with CountingDB(config=parameters) as db, closing(Floor(parameters)) as floor:
        db.create_schema()
        counted = []
        for records, (warm_up, rounds, limit) in RUNS.items():
            ours, bare, statements = _times(db, floor, records, warm_up + rounds)
            mine, theirs = median(ours[warm_up:]) * 1000, median(bare[warm_up:]) * 1000
            name = f"{records:,} records"
            measures.append(Measure(f"{name}, floors at p50", mine / theirs, limit, 2))
            measures.append(Measure(f"{name}, ms at p50", mine, 50 if records == min(RUNS) else None, 1))
            measures.append(Measure(f"{name}, ms of the floor", theirs, None, 1))
            counted.append(statements)
        measures.append(Measure("statements of a run, the smaller one", counted[0]))
        measures.append(Measure("statements that more records add", counted[-1] - counted[0], 0))
    return measures


def _times(db: CountingDB, floor: Floor, records: int, rounds: int) -> tuple[list[float], list[float], int]:
    """Time both sides in turns, and return how many statements our last run took."""
    ids = list(range(1, records + 1))
    taken: tuple[list[float], list[float]] = ([], [])
    statements = 0
    for number in range(rounds):
        bodies = [_body(f"{records}-{number}-{place}") for place in range(2 * CALLS)]
        payloads = [pair for body in bodies[CALLS:] for pair in _payloads(body)]
        for side in (0, 1) if number % 2 else (1, 0):
            before, started = db.statements, perf_counter()
            if side:
                floor.write(payloads, ids)
            else:
                _write(db, bodies[:CALLS], ids)
            taken[side].append(perf_counter() - started)
            statements = db.statements - before or statements
    return *taken, statements


def _write(db: TradingDB, bodies: Sequence[str], ids: list[int]) -> None:
    with log_data_ingestion("bench", "bench", db, ManualClock(NOW)) as run:
        for body in bodies:
            run.log_call(ENDPOINT, {"page": "1"}, 200, {}, body, 5)
        run.log_records("bench", {Operation.CREATED: ids})


def _body(name: str) -> str:
    row = {"Ticker": "NVDA", "Name": f"EXAMPLE {name}", "Shares": 100.0, "PricePerShare": 120.5, "isDirector": True}
    return json.dumps([row | {"line": number} for number in range(BODY_BYTES // len(json.dumps(row)))])


def _payloads(body: str) -> list[tuple[str, Payload]]:
    policy = PayloadPolicy()
    request = request_text("GET", ENDPOINT, {"page": "1"}, None)
    return [("ApiRequest", policy.payload(request)), ("ApiResponse", policy.payload(response_text(200, {}, body)))]


def _literal(ids: list[int]) -> str:
    return f"{{{','.join(map(str, ids))}}}"
