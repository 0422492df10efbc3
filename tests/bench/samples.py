"""What both sides write: rows of the size that real decisions, requests and answers have."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from audit_trail import (
    NewDecision,
    Payload,
    PayloadPolicy,
    create_decision,
    record_attempt,
    request_text,
    response_text,
)
from db_layer import TradingDB

NOW = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
RUNS = 20
DECISIONS = 2_000

DECISION_TEXT = json.dumps({
    "symbol": "NVDA", "analysis_date": "2026-11-20", "support": 100.1, "resistance": 150.1,
    "primary_action": "NEW_TRADE",
    "new_trade": {
        "strategy": "SWING", "pattern": "PATTERN_1", "qty": 45, "side": "buy", "type": "limit", "time_in_force": "day",
        "limit_price": 133.80, "stop_loss": {"stop_price": 124.00}, "take_profit": {"limit_price": 145.50},
        "reward_risk_ratio": 2.15, "risk_amount": 100.00, "risk_percentage": 1.0,
    },
})
ORDER = {
    "symbol": "NVDA", "qty": "45", "side": "buy", "time_in_force": "day", "type": "limit", "limit_price": "133.8",
}
# The fields of the broker's order object. Source: https://docs.alpaca.markets/reference/postorder
ACCEPTED = ORDER | {
    "id": "61e69015-8549-4bfd-b9c3-01e75843f47d", "created_at": "2026-11-20T15:00:00.123456789Z",
    "updated_at": "2026-11-20T15:00:00.123456789Z", "submitted_at": "2026-11-20T15:00:00.123456789Z",
    "filled_at": None, "expired_at": None, "canceled_at": None, "failed_at": None, "replaced_at": None,
    "replaced_by": None, "replaces": None, "asset_id": "4ce9353c-66d1-46c2-898f-fce867ab0247",
    "asset_class": "us_equity", "notional": None, "filled_qty": "0", "filled_avg_price": None, "order_class": "",
    "order_type": "limit", "stop_price": None, "status": "pending_new", "extended_hours": False, "legs": None,
    "trail_percent": None, "trail_price": None, "hwm": None, "position_intent": "buy_to_open",
    "expires_at": "2026-11-20T21:00:00Z", "source": None, "subtag": None,
}
HEADERS = {"X-Request-ID": "c1b5b4f9d2c04e7d8d8a1a2b3c4d5e6f", "X-RateLimit-Remaining": "187"}


def decision(name: str) -> NewDecision:
    """Return a decision as the executor records it; `name` is unique."""
    return NewDecision(
        strategy_name="n8n_analysis", strategy_version="1", action="new_trade", symbol="NVDA", side="buy",
        quantity=Decimal(45), order_type="limit", limit_price=Decimal("133.80"), analysis_decision_id=name,
        analysis_row_key=name, source_bytes=DECISION_TEXT,
        source_bytes_sha256=hashlib.sha256(DECISION_TEXT.encode()).hexdigest(),
        rationale={
            "trigger_event": {"type": "analysis_decision", "decided_at": NOW.isoformat()},
            "source_data": {"table": "analysis_decision", "row_key": name, "analysis_id": name},
        },
    )


def request(name: str) -> Payload:
    """Return the request for an order of that client order id."""
    body = json.dumps(ORDER | {"client_order_id": name})
    return PayloadPolicy().payload(request_text("POST", "/v2/orders", {}, body))


def response(name: str) -> Payload:
    """Return the broker's answer that it has accepted that order."""
    body = json.dumps(ACCEPTED | {"client_order_id": name})
    return PayloadPolicy().payload(response_text(200, HEADERS, body))


def fill(db: TradingDB) -> list[int]:
    """Write ingestion runs of the last two days and decisions with an attempt each; return the decisions' ids."""
    with db.transaction():
        for number in range(RUNS):
            ended = NOW - timedelta(hours=2 * number + 1)
            db.insert("data_ingestion_runs", {
                "task_name": "congress_daily", "data_source": "quiverquant_congress", "status": "completed",
                "started_at": ended, "completed_at": ended, "records_fetched": 1_000, "records_skipped": 1_000,
                "created_at": ended, "updated_at": ended,
            })
    ids = []
    with db.transaction():
        for number in range(DECISIONS):
            name = f"earlier-{number}"
            ids.append(create_decision(db, decision(name), NOW))
            record_attempt(db, ids[-1], {number: name}, request(name), NOW)
    return ids
