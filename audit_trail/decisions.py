"""Decisions: each is written, with the lineage of its data, before anything is done about it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from db_layer import TradingDB
from order_life import DECISION_MOVES, DecisionStatus, pairs

# Lineage is what was complete when it was decided, which for a row of n8n's is before its claim: at most five runs of
# the 24 hours before.
CREATE_DECISION = """
WITH decided AS (
    SELECT LEAST(%(decided_at)s::timestamptz, %(now)s) AS at
), runs AS (
    SELECT id, run_id, task_name, data_source, completed_at, records_fetched
    FROM audit.data_ingestion_runs, decided
    WHERE status = 'completed' AND completed_at <= decided.at AND completed_at > decided.at - interval '24 hours'
    ORDER BY completed_at DESC, id DESC LIMIT 5
), lineage AS (
    SELECT jsonb_agg(jsonb_build_object('run_id', run_id, 'task_name', task_name, 'data_source', data_source,
                                        'completed_at', completed_at, 'records_fetched', records_fetched)
                     ORDER BY completed_at DESC, id DESC) AS runs,
           (array_agg(id ORDER BY completed_at DESC, id DESC))[1] AS latest_id
    FROM runs
)
INSERT INTO audit.trade_decisions (
    strategy_name, strategy_version, action, symbol, side, quantity, order_type, limit_price, analysis_decision_id,
    analysis_row_key, target_order_id, primary_quiver_trade_id, primary_ingestion_run_id, decision_rationale,
    source_bytes, source_bytes_sha256, created_at, updated_at)
SELECT %(strategy_name)s, %(strategy_version)s, %(action)s, %(symbol)s, %(side)s, %(quantity)s, %(order_type)s,
       %(limit_price)s, %(analysis_decision_id)s, %(analysis_row_key)s, %(target_order_id)s,
       %(primary_quiver_trade_id)s,
       COALESCE(%(primary_ingestion_run_id)s, lineage.latest_id),
       %(rationale)s::jsonb
           || jsonb_build_object('data_lineage', jsonb_build_object('ingestion_runs', COALESCE(lineage.runs, '[]'))),
       %(source_bytes)s, %(source_bytes_sha256)s, %(now)s, %(now)s
FROM lineage
RETURNING id
"""

FINISH_DECISIONS = """
UPDATE audit.trade_decisions decision
SET status = outcome.status, updated_at = %(now)s,
    status_reason = COALESCE(outcome.reason, CASE WHEN decision.status = 'pending' THEN decision.status_reason END),
    executed_at = CASE WHEN outcome.status = 'executed' THEN %(now)s::timestamptz END,
    failed_at = CASE WHEN outcome.status = 'failed' THEN %(now)s::timestamptz END,
    cancelled_at = CASE WHEN outcome.status = 'cancelled' THEN %(now)s::timestamptz END
FROM unnest(%(ids)s::bigint[], %(statuses)s::text[], %(reasons)s::text[]) AS outcome (id, status, reason)
WHERE decision.id = outcome.id
  AND (decision.status, outcome.status) IN (SELECT * FROM unnest(%(earlier)s::text[], %(later)s::text[]))
"""

Outcome = tuple[DecisionStatus, str | None]


@dataclass(frozen=True)
class NewDecision:
    """A decision about to be recorded; quantity in shares, limit price in dollars.

    `target_order_id` is order_execution.id of the order that a cancel or an amend is about. `decided_at` is when it was
    decided, where that was before it is recorded: what became known after that is not in its lineage.
    """

    strategy_name: str
    strategy_version: str
    action: str
    symbol: str
    source_bytes_sha256: str
    source_bytes: str | None = None
    side: str | None = None
    quantity: Decimal | None = None
    order_type: str | None = None
    limit_price: Decimal | None = None
    analysis_decision_id: str | None = None
    analysis_row_key: str | None = None
    target_order_id: int | None = None
    primary_quiver_trade_id: int | None = None
    primary_ingestion_run_id: int | None = None
    decided_at: datetime | None = None
    rationale: Mapping[str, Any] = field(default_factory=dict)


def create_decision(db: TradingDB, decision: NewDecision, now: datetime) -> int:
    """Insert a pending decision with the lineage known when it was decided and return its id. Raises DatabaseError."""
    why = json.dumps(rationale(**decision.rationale), default=str)
    return int(db.execute_prepared(CREATE_DECISION, vars(decision) | {"rationale": why, "now": now})[0]["id"])


def rationale(
    signal_strength: Decimal | None = None, confidence_score: Decimal | None = None,
    trigger_event: Mapping[str, Any] | None = None, source_data: Mapping[str, Any] | None = None,
    market_context: Mapping[str, Any] | None = None, portfolio_context: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the rationale with every part the contract names; parts nobody gave are null or empty."""
    return {
        "signal_strength": signal_strength,
        "confidence_score": confidence_score,
        "trigger_event": dict(trigger_event or {}),
        "source_data": dict(source_data or {}),
        "market_context": dict(market_context or {}),
        "portfolio_context": dict(portfolio_context or {}),
    }


def finish_decisions(db: TradingDB, outcomes: Mapping[int, Outcome], now: datetime) -> int:
    """Move decisions (by id) to their outcomes with the reasons; return how many had none yet. Raises DatabaseError.

    Where no reason is given, what was noted while the decision was pending stays.
    """
    if not outcomes:
        return 0
    return db.execute_update(FINISH_DECISIONS, {
        "ids": list(outcomes), "statuses": [str(status) for status, _ in outcomes.values()],
        "reasons": [reason for _, reason in outcomes.values()], "now": now, **pairs(DECISION_MOVES),
    })


def finish_decision(
    db: TradingDB, decision_id: int, status: DecisionStatus, reason: str | None, now: datetime,
) -> bool:
    """Move one decision to its outcome; False when it has one already. Raises DatabaseError."""
    return finish_decisions(db, {decision_id: (status, reason)}, now) == 1
