"""Executions: one row for each attempt to place an order, with the request before the call and the answer after it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from audit_trail.payloads import Payload
from code_version import CODE_VERSION
from db_layer import TradingDB
from order_life import ExecutionStatus

# Several orders can go out with one request (a target and its stop), so the intents come as arrays.
RECORD_ATTEMPT = """
WITH request AS (
    INSERT INTO audit.api_payloads (type, payload, source, captured_at, sha256, byte_length, code_version)
    SELECT 'ApiRequest', %(payload)s::json, 'alpaca', %(now)s, %(sha256)s, %(byte_length)s, %(code_version)s
    WHERE NOT EXISTS (SELECT 1 FROM audit.trade_executions under_way
                      WHERE under_way.order_execution_id = ANY(%(order_ids)s::bigint[])
                        AND under_way.status = 'submitted')
    RETURNING id
)
INSERT INTO audit.trade_executions (
    trade_decision_id, order_execution_id, attempt_number, status, api_request_payload_id, client_order_id,
    submitted_at, created_at, updated_at)
SELECT %(trade_decision_id)s, intent.order_id,
       1 + (SELECT count(*) FROM audit.trade_executions earlier
            WHERE earlier.client_order_id = intent.client_order_id),
       'submitted', request.id, intent.client_order_id, %(now)s, %(now)s, %(now)s
FROM request, unnest(%(order_ids)s::bigint[], %(client_order_ids)s::text[]) AS intent (order_id, client_order_id)
RETURNING id
"""

RECORD_ANSWER = """
WITH response AS (
    INSERT INTO audit.api_payloads (type, payload, source, captured_at, sha256, byte_length)
    VALUES ('ApiResponse', %(payload)s::json, 'alpaca', %(now)s, %(sha256)s, %(byte_length)s)
    RETURNING id
)
UPDATE audit.trade_executions execution
SET api_response_payload_id = response.id, status = %(status)s, http_status_code = %(http_status)s,
    error_code = %(error_code)s, error_message = %(error_message)s, error_details = %(error_details)s,
    rejected_at = CASE WHEN %(status)s = 'rejected' THEN %(now)s::timestamptz END, updated_at = %(now)s
FROM response
WHERE execution.id = ANY(%(execution_ids)s)
"""

# The newest attempt is the one the order came from; earlier ones keep what they came to.
RECORD_ORDER_STATE = """
UPDATE audit.trade_executions execution
SET status = state.status, alpaca_order_id = state.alpaca_order_id, client_order_id = state.client_order_id,
    filled_quantity = state.filled_qty, filled_avg_price = state.filled_avg_price, filled_at = state.filled_at,
    rejected_at = CASE WHEN state.status = 'rejected' THEN COALESCE(rejected_at, %(now)s::timestamptz) END,
    updated_at = %(now)s
FROM unnest(%(order_ids)s::bigint[], %(statuses)s::text[], %(alpaca_order_ids)s::text[],
            %(client_order_ids)s::text[], %(filled_qtys)s::numeric[], %(filled_avg_prices)s::numeric[],
            %(filled_ats)s::timestamptz[])
     AS state (order_id, status, alpaca_order_id, client_order_id, filled_qty, filled_avg_price, filled_at)
WHERE execution.id = (SELECT max(id) FROM audit.trade_executions newest
                      WHERE newest.order_execution_id = state.order_id)
"""


@dataclass(frozen=True)
class OrderState:
    """An order as last heard, for its execution row; quantities in shares, prices in dollars."""

    order_id: int
    status: ExecutionStatus
    alpaca_order_id: str | None
    client_order_id: str
    filled_qty: Decimal
    filled_avg_price: Decimal | None
    filled_at: datetime | None


def record_attempt(
    db: TradingDB, trade_decision_id: int, orders: Mapping[int, str], request: Payload, now: datetime,
) -> list[int]:
    """Write the request and one `submitted` row for each order (id -> client order id); return the rows' ids.

    None are written while an attempt at one of them is under way. Raises DatabaseError.
    """
    rows = db.execute_prepared(RECORD_ATTEMPT, {
        "trade_decision_id": trade_decision_id, "order_ids": list(orders), "client_order_ids": list(orders.values()),
        "payload": request.kept, "sha256": request.sha256, "byte_length": request.byte_length, "now": now,
        "code_version": CODE_VERSION,
    })
    return [row["id"] for row in rows]


def record_answer(
    db: TradingDB, execution_ids: Sequence[int], status: ExecutionStatus, response: Payload, now: datetime,
    http_status: int | None = None, error_code: str | None = None, error_message: str | None = None,
    error_details: Mapping[str, Any] | None = None,
) -> None:
    """Write the answer, or the transport error, and what it proves about the attempts. Raises DatabaseError."""
    db.execute_later(RECORD_ANSWER, {
        "execution_ids": list(execution_ids), "status": str(status), "http_status": http_status,
        "error_code": error_code, "error_message": error_message,
        "error_details": json.dumps(error_details, default=str) if error_details else None,
        "payload": response.kept, "sha256": response.sha256, "byte_length": response.byte_length, "now": now,
    })


def record_order_states(db: TradingDB, states: Sequence[OrderState], now: datetime) -> None:
    """Bring the execution rows of these orders up to date in one statement. Raises DatabaseError."""
    if not states:
        return
    db.execute_later(RECORD_ORDER_STATE, {
        "order_ids": [state.order_id for state in states],
        "statuses": [str(state.status) for state in states],
        "alpaca_order_ids": [state.alpaca_order_id for state in states],
        "client_order_ids": [state.client_order_id for state in states],
        "filled_qtys": [state.filled_qty for state in states],
        "filled_avg_prices": [state.filled_avg_price for state in states],
        "filled_ats": [state.filled_at for state in states],
        "now": now,
    })
