"""Writes what a strategy planned: all decisions of a run at once, before anything is done about them."""

import hashlib
import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from audit_trail import NewDecision, create_decision
from clock import MARKET_ZONE
from db_layer import TradingDB
from decision import Action
from strategies.plan import Plan, Planned, Skipped
from strategies.signals import Strategy

BLOCKED_FOR = timedelta(days=7)

NOTE_DISCLOSURES = """
INSERT INTO audit.trade_decision_disclosures (trade_decision_id, quiver_trade_id, strategy_name)
SELECT %(decision_id)s, unnest(%(ids)s::bigint[]), %(strategy)s
"""
BLOCK = """
INSERT INTO blocked_assets (symbol, reason, blocked_at, expires_at)
VALUES (%(symbol)s, %(reason)s, %(now)s, %(until)s)
ON CONFLICT (symbol) DO UPDATE
SET reason = EXCLUDED.reason, blocked_at = EXCLUDED.blocked_at, expires_at = EXCLUDED.expires_at
WHERE blocked_assets.expires_at < EXCLUDED.expires_at
"""


def write_plan(db: TradingDB, plan: Plan, now: datetime) -> list[int]:
    """Write the decisions of a plan and the blocks of symbols, in the open transaction; return the decisions' ids.

    The database refuses a disclosure that the strategy has decided on before. Raises DatabaseError.
    """
    for skipped in plan.skipped:
        if skipped.blocks:
            _block(db, skipped, now)
    return [_write(db, plan, planned, now) for planned in plan.planned]


def _write(db: TradingDB, plan: Plan, planned: Planned, now: datetime) -> int:
    decision_id = create_decision(db, new_decision(plan.strategy, planned, plan.as_of), now)
    db.execute_later(NOTE_DISCLOSURES, {
        "decision_id": decision_id, "strategy": plan.strategy.name,
        "ids": [found.id for found in planned.signal.purchases],
    })
    return decision_id


def _block(db: TradingDB, skipped: Skipped, now: datetime) -> None:
    db.execute_update(BLOCK, {
        "symbol": skipped.signal.symbol, "reason": skipped.reason, "now": now, "until": now + BLOCKED_FOR,
    })


def new_decision(strategy: Strategy, planned: Planned, as_of: datetime) -> NewDecision:
    """Return the decision to be written; its text is one that n8n could have written."""
    signal, trade, levels, primary = planned.signal, planned.trade, planned.levels, planned.signal.primary
    text = decision_text(planned, as_of)
    return NewDecision(
        strategy_name=strategy.name, strategy_version=strategy.version, action=Action.NEW_TRADE.lower(),
        symbol=signal.symbol, side=trade.side, quantity=trade.qty, order_type=trade.order_type,
        limit_price=trade.limit_price, source_bytes=text,
        source_bytes_sha256=hashlib.sha256(text.encode("utf-8")).hexdigest(),
        primary_quiver_trade_id=primary.id, primary_ingestion_run_id=primary.run_id, decided_at=as_of,
        rationale={
            "signal_strength": signal.strength, "confidence_score": signal.confidence,
            "trigger_event": {
                "type": "disclosure", "quiver_trade_id": primary.id, "person": primary.person_name,
                "transaction_date": primary.transaction_date, "disclosure_date": primary.disclosure_date,
                "available_at": primary.available_at,
            },
            "source_data": {
                "table": "quiver_trades", "ids": [found.id for found in signal.purchases], "people": signal.people,
                "dollars_at_least": sum((found.dollars for found in signal.purchases), Decimal(0)),
                "parts": dict(signal.parts),
            },
            "market_context": {"last_price": planned.last_price, "range_low": levels.low, "range_high": levels.high},
            "portfolio_context": {
                "equity": planned.equity, "at_risk": (levels.limit - levels.stop) * trade.qty,
                "order_dollars": levels.limit * trade.qty,
            },
        },
    )


def decision_text(planned: Planned, as_of: datetime) -> str:
    """Return the decision in the words of docs/decisions-in.md, which the executor reads, whoever decided."""
    trade, document = planned.trade, dict[str, Any]()
    document["symbol"] = planned.signal.symbol
    document["analysis_date"] = as_of.astimezone(MARKET_ZONE).date().isoformat()
    document["primary_action"] = str(Action.NEW_TRADE)
    document["new_trade"] = {
        "strategy": trade.style, "pattern": trade.pattern, "qty": int(trade.qty), "side": trade.side,
        "type": trade.order_type, "time_in_force": trade.time_in_force,
        "limit_price": _number(trade.limit_price), "stop_loss": {"stop_price": _number(trade.stop_price)},
        "take_profit": {"limit_price": _number(trade.target_price)},
    }
    return json.dumps(document)


def _number(price: Decimal | None) -> float | None:
    # At most four decimals, which a float shows as they are.
    return None if price is None else float(price)
