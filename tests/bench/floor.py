"""The floor: what the same rows cost by hand, in the fewest prepared statements and commits that are safe."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg2

from audit_trail import Payload
from audit_trail.decisions import NewDecision

# To the tables of the product, so that rows, indexes, checks and foreign keys are the same on both sides.
PREPARE = """
SET search_path = public, audit;
SET TimeZone = 'UTC';
PREPARE decide (timestamptz, text, text, text, text, text, numeric, text, numeric, text, text, bigint, bigint, jsonb,
                text, text) AS
WITH runs AS (
    SELECT * FROM data_ingestion_runs
    WHERE status = 'completed' AND completed_at <= $1 AND completed_at > $1 - interval '24 hours'
    ORDER BY completed_at DESC LIMIT 5
)
INSERT INTO trade_decisions (
    strategy_name, strategy_version, action, symbol, side, quantity, order_type, limit_price, analysis_decision_id,
    analysis_row_key, primary_quiver_trade_id, primary_ingestion_run_id, decision_rationale, source_bytes,
    source_bytes_sha256, created_at, updated_at)
SELECT $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, COALESCE($13, (array_agg(id))[1]),
       $14 || jsonb_build_object('data_lineage', jsonb_build_object('ingestion_runs', jsonb_agg(jsonb_build_object(
           'run_id', run_id, 'task_name', task_name, 'data_source', data_source, 'completed_at', completed_at,
           'records_fetched', records_fetched)))),
       $15, $16, $1, $1
FROM runs
RETURNING id;
PREPARE ask (timestamptz, json, text, int, bigint, bigint, text) AS
WITH request AS (
    INSERT INTO api_payloads (type, payload, source, captured_at, sha256, byte_length)
    VALUES ('ApiRequest', $2, 'alpaca', $1, $3, $4) RETURNING id
)
INSERT INTO trade_executions (
    trade_decision_id, order_execution_id, attempt_number, status, api_request_payload_id, client_order_id,
    submitted_at, created_at, updated_at)
SELECT $5, $6, 1, 'submitted', id, $7, $1, $1, $1 FROM request
RETURNING id;
PREPARE hear (timestamptz, json, text, int, bigint, text, int) AS
WITH response AS (
    INSERT INTO api_payloads (type, payload, source, captured_at, sha256, byte_length)
    VALUES ('ApiResponse', $2, 'alpaca', $1, $3, $4) RETURNING id
)
UPDATE trade_executions
SET api_response_payload_id = response.id, status = $6, http_status_code = $7, updated_at = $1
FROM response WHERE trade_executions.id = $5;
"""
DECIDE = "EXECUTE decide (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
ASK = "EXECUTE ask (%s, %s, %s, %s, %s, %s, %s)"
HEAR = "EXECUTE hear (%s, %s, %s, %s, %s, %s, %s)"


class Floor:
    """A bare connection where each statement commits by itself."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._connection = psycopg2.connect(**parameters)
        self._connection.autocommit = True
        self._cursor = self._connection.cursor()
        self._cursor.execute(PREPARE)

    def close(self) -> None:
        self._connection.close()

    def decide(self, decision: NewDecision, rationale: str, now: datetime) -> None:
        """Write one decision with its lineage; the rationale is JSON text already."""
        self._cursor.execute(DECIDE, (
            now, decision.strategy_name, decision.strategy_version, decision.action, decision.symbol, decision.side,
            decision.quantity, decision.order_type, decision.limit_price, decision.analysis_decision_id,
            decision.analysis_row_key, decision.primary_quiver_trade_id, decision.primary_ingestion_run_id, rationale,
            decision.source_bytes, decision.source_bytes_sha256,
        ))
        self._cursor.fetchone()

    def execute(
        self, decision_id: int, order_id: int, name: str, request: Payload, response: Payload, now: datetime,
    ) -> None:
        """Write one request before, and its answer after, a call that is not made."""
        said = (request.kept, request.sha256, request.byte_length)
        self._cursor.execute(ASK, (now, *said, decision_id, order_id, name))
        execution_id = self._cursor.fetchone()[0]
        heard = (response.kept, response.sha256, response.byte_length)
        self._cursor.execute(HEAR, (now, *heard, execution_id, "accepted", 200))
