"""Calls that place no order: reads, where the same answer is stored once, and cancels, written before they are said."""

from datetime import datetime

from audit_trail.payloads import Payload
from db_layer import TradingDB

RECORD_READ = """
WITH known AS (
    SELECT type, min(id) AS id FROM audit.api_payloads
    WHERE (type, sha256) IN (('ApiRequest', %(request_sha256)s), ('ApiResponse', %(response_sha256)s))
      AND source = %(source)s AND purged_at IS NULL
      AND (payload IS NOT NULL OR %(response)s::text IS NULL)
    GROUP BY type
), fresh AS (
    INSERT INTO audit.api_payloads (type, payload, source, captured_at, sha256, byte_length)
    SELECT said.type, said.payload::json, %(source)s, %(now)s, said.sha256, said.byte_length
    FROM (VALUES ('ApiRequest', %(request)s, %(request_sha256)s, %(request_length)s),
                 ('ApiResponse', %(response)s, %(response_sha256)s, %(response_length)s))
         AS said (type, payload, sha256, byte_length)
    WHERE NOT EXISTS (SELECT 1 FROM known WHERE known.type = said.type)
    RETURNING type, id
), payload AS (
    SELECT * FROM known UNION ALL SELECT * FROM fresh
)
INSERT INTO audit.api_call_logs (
    api_request_payload_id, api_response_payload_id, endpoint, http_status_code, duration_ms, rate_limit_remaining,
    created_at)
SELECT (SELECT id FROM payload WHERE type = 'ApiRequest'), (SELECT id FROM payload WHERE type = 'ApiResponse'),
       %(endpoint)s, %(http_status)s, %(duration_ms)s, %(rate_limit_remaining)s, %(now)s
"""

RECORD_REQUEST = """
INSERT INTO audit.api_payloads (type, payload, source, captured_at, sha256, byte_length)
VALUES ('ApiRequest', %(payload)s::json, %(source)s, %(now)s, %(sha256)s, %(byte_length)s)
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


def record_request(db: TradingDB, source: str, request: Payload, now: datetime) -> int:
    """Write a request that is about to be sent and return its id. Raises DatabaseError."""
    return int(db.execute_query(RECORD_REQUEST, _stored(request, source, now))[0]["id"])


def record_response(
    db: TradingDB, source: str, request_id: int, endpoint: str, response: Payload, now: datetime,
    http_status: int | None, duration_ms: int,
) -> None:
    """Write the answer to a recorded request. Raises DatabaseError."""
    db.execute_update(RECORD_RESPONSE, _stored(response, source, now) | {
        "request_id": request_id, "endpoint": endpoint, "http_status": http_status, "duration_ms": duration_ms,
    })


def _stored(payload: Payload, source: str, now: datetime) -> dict[str, object]:
    return {
        "payload": payload.kept, "sha256": payload.sha256, "byte_length": payload.byte_length,
        "source": source, "now": now,
    }


def record_read(
    db: TradingDB, source: str, endpoint: str, request: Payload, response: Payload, now: datetime,
    http_status: int | None, duration_ms: int, rate_limit_remaining: int | None,
) -> None:
    """Write one call with both payloads; a payload that is stored already is pointed at. Raises DatabaseError."""
    db.execute_update(RECORD_READ, {
        "source": source, "endpoint": endpoint, "now": now,
        "request": request.kept, "request_sha256": request.sha256, "request_length": request.byte_length,
        "response": response.kept, "response_sha256": response.sha256, "response_length": response.byte_length,
        "http_status": http_status, "duration_ms": duration_ms, "rate_limit_remaining": rate_limit_remaining,
    })
