"""Calls that place no order: reads, where the same answer is stored once, and cancels, written before they are said."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from audit_trail.payloads import Payload
from code_version import CODE_VERSION
from db_layer import TradingDB

# A read needs no flush of its own: whatever is concluded from it is committed later, and brings it to the disk first.
RECORD_READS = """
WITH call AS (
    SELECT * FROM unnest(%(requests)s::text[], %(request_sha256s)s::text[], %(request_lengths)s::integer[],
                         %(responses)s::text[], %(response_sha256s)s::text[], %(response_lengths)s::integer[],
                         %(endpoints)s::text[], %(http_statuses)s::integer[], %(durations)s::integer[],
                         %(rates)s::integer[])
         WITH ORDINALITY AS call (request, request_sha256, request_length, response, response_sha256, response_length,
                                  endpoint, http_status, duration_ms, rate_limit_remaining, place)
), said AS (
    SELECT DISTINCT ON (type, sha256) type, payload, sha256, byte_length
    FROM (SELECT 'ApiRequest' AS type, request AS payload, request_sha256 AS sha256, request_length AS byte_length
          FROM call UNION ALL SELECT 'ApiResponse', response, response_sha256, response_length FROM call) AS both_ways
), known AS (
    SELECT said.type, said.sha256, min(stored.id) AS id
    FROM said JOIN audit.api_payloads stored ON stored.type = said.type AND stored.sha256 = said.sha256
    WHERE stored.source = %(source)s AND stored.purged_at IS NULL
      AND (stored.payload IS NOT NULL OR said.payload IS NULL)
    GROUP BY said.type, said.sha256
), fresh AS (
    INSERT INTO audit.api_payloads (type, payload, source, captured_at, sha256, byte_length)
    SELECT type, payload::json, %(source)s, %(now)s, sha256, byte_length FROM said
    WHERE NOT EXISTS (SELECT 1 FROM known WHERE (known.type, known.sha256) = (said.type, said.sha256))
    RETURNING type, sha256, id
), stored AS (
    SELECT * FROM known UNION ALL SELECT * FROM fresh
)
INSERT INTO audit.api_call_logs (
    data_ingestion_run_id, api_request_payload_id, api_response_payload_id, endpoint, http_status_code, duration_ms,
    rate_limit_remaining, created_at)
SELECT %(run_id)s, request.id, response.id, call.endpoint, call.http_status, call.duration_ms,
       call.rate_limit_remaining, %(now)s
FROM call
JOIN stored request ON request.type = 'ApiRequest' AND request.sha256 = call.request_sha256
JOIN stored response ON response.type = 'ApiResponse' AND response.sha256 = call.response_sha256
WHERE set_config('synchronous_commit', 'off', true) = 'off'
ORDER BY call.place
"""

RECORD_REQUEST = """
INSERT INTO audit.api_payloads (type, payload, source, captured_at, sha256, byte_length, code_version)
VALUES ('ApiRequest', %(payload)s::json, %(source)s, %(now)s, %(sha256)s, %(byte_length)s, %(code_version)s)
RETURNING id
"""

RECORD_RESPONSE = """
WITH response AS (
    INSERT INTO audit.api_payloads (type, payload, source, captured_at, sha256, byte_length)
    VALUES ('ApiResponse', %(payload)s::json, %(source)s, %(now)s, %(sha256)s, %(byte_length)s)
    RETURNING id
)
INSERT INTO audit.api_call_logs (
    api_request_payload_id, api_response_payload_id, endpoint, http_status_code, duration_ms, created_at)
SELECT %(request_id)s, response.id, %(endpoint)s, %(http_status)s, %(duration_ms)s, %(now)s FROM response
"""

# The process ended between a cancel's request and its answer; what the broker made of it shows in the order.
CLOSE_INTERRUPTED = """
WITH interrupted AS (
    SELECT request.id, 'DELETE ' || (request.payload ->> 'endpoint') AS endpoint
    FROM audit.api_payloads request
    WHERE request.type = 'ApiRequest' AND request.payload ->> 'method' = 'DELETE' AND request.source = %(source)s
      AND request.captured_at BETWEEN %(since)s AND %(until)s
      AND NOT EXISTS (SELECT 1 FROM audit.api_call_logs call
                      WHERE call.endpoint LIKE 'DELETE %%' AND call.api_request_payload_id = request.id
                        AND call.endpoint = 'DELETE ' || (request.payload ->> 'endpoint'))
), resolution AS (
    INSERT INTO audit.api_payloads (type, payload, source, captured_at, sha256, byte_length)
    SELECT 'ApiResponse', %(payload)s::json, %(source)s, %(now)s, %(sha256)s, %(byte_length)s
    WHERE EXISTS (SELECT 1 FROM interrupted)
    RETURNING id
)
INSERT INTO audit.api_call_logs (api_request_payload_id, api_response_payload_id, endpoint, created_at)
SELECT interrupted.id, resolution.id, interrupted.endpoint, %(now)s FROM interrupted, resolution
"""
# The executor asks on every trading day; further back nothing is left open.
LONGEST_OPEN = timedelta(days=14)


@dataclass(frozen=True)
class Read:
    """A call that changed nothing, with its answer."""

    endpoint: str
    request: Payload
    response: Payload
    http_status: int | None
    duration_ms: int
    rate_limit_remaining: int | None


def record_request(db: TradingDB, source: str, request: Payload, now: datetime) -> int:
    """Write a request that is about to be sent and return its id. Raises DatabaseError."""
    values = _stored(request, source, now) | {"code_version": CODE_VERSION}
    return int(db.execute_query(RECORD_REQUEST, values)[0]["id"])


def record_response(
    db: TradingDB, source: str, request_id: int, endpoint: str, response: Payload, now: datetime,
    http_status: int | None, duration_ms: int,
) -> None:
    """Write the answer to a recorded request. Raises DatabaseError."""
    db.execute_update(RECORD_RESPONSE, _stored(response, source, now) | {
        "request_id": request_id, "endpoint": endpoint, "http_status": http_status, "duration_ms": duration_ms,
    })


def close_interrupted(db: TradingDB, source: str, resolution: Payload, until: datetime, now: datetime) -> int:
    """Give each cancel written before `until` that has no answer this one; return how many. Raises DatabaseError."""
    return db.execute_update(CLOSE_INTERRUPTED, _stored(resolution, source, now) | {
        "since": now - LONGEST_OPEN, "until": until,
    })


def _stored(payload: Payload, source: str, now: datetime) -> dict[str, object]:
    return {
        "payload": payload.kept, "sha256": payload.sha256, "byte_length": payload.byte_length,
        "source": source, "now": now,
    }


def record_reads(
    db: TradingDB, source: str, reads: Sequence[Read], now: datetime, run_id: int | None = None,
) -> None:
    """Write calls with both payloads; a payload that is stored already is pointed at. Raises DatabaseError.

    `run_id` is data_ingestion_runs.id of the run that made them; None for calls to the broker.
    """
    if not reads:
        return
    db.execute_prepared(RECORD_READS, {
        "source": source, "now": now, "run_id": run_id, "endpoints": [read.endpoint for read in reads],
        "requests": [read.request.kept for read in reads],
        "request_sha256s": [read.request.sha256 for read in reads],
        "request_lengths": [read.request.byte_length for read in reads],
        "responses": [read.response.kept for read in reads],
        "response_sha256s": [read.response.sha256 for read in reads],
        "response_lengths": [read.response.byte_length for read in reads],
        "http_statuses": [read.http_status for read in reads], "durations": [read.duration_ms for read in reads],
        "rates": [read.rate_limit_remaining for read in reads],
    })
