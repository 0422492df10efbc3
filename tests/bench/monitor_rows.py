"""Our side of the book: the rows that executor and monitor would have written by now, loaded in bulk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from db_layer import Row, TradingDB
from tests.bench import book, samples
from tests.bench.book import Trade

# Only the columns named in the rows are written; whatever else the table has gets its default.
LOAD = """
INSERT INTO {table} ({columns})
SELECT {columns} FROM json_populate_recordset(NULL::{table}, %(rows)s)
"""
# The rows bring their ids, so the sequences do not know them yet.
SET_SEQUENCE = "SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
# Parents before their children: the order in which the tables are filled.
TABLES = (
    "audit.trade_decisions", "trade_journal", "order_execution", "audit.trade_executions", "order_fill",
    "position_tracking",
)


def load(db: TradingDB) -> None:
    """Write all rows of the trades before the changes. Raises DatabaseError."""
    rows: dict[str, list[Row]] = {table: [] for table in TABLES}
    for trade in book.TRADES:
        for table, row in _rows(trade):
            rows[table].append(row)
    with db.transaction():
        for table in TABLES:
            texts = {"table": table, "columns": ", ".join(rows[table][0])}
            db.execute_update(LOAD.format(**texts), {"rows": json.dumps(rows[table], default=str)})
            if "id" in rows[table][0]:
                db.execute_query(SET_SEQUENCE.format(**texts))


def expected_pnl() -> Decimal:
    """Return the profit of all trades that close between the passes, dollars."""
    return sum(
        ((price - trade.entry_price) * trade.qty for trade in book.POSITIONS if (price := trade.exit_price)),
        Decimal(0),
    )


def order_row_id(trade: Trade, order: str) -> int:
    """Return order_execution.id of the trade's `entry`, `exit` or `leg`."""
    return 1 + 3 * trade.number + ("entry", "exit", "leg").index(order)


def _rows(trade: Trade) -> Iterator[tuple[str, Row]]:
    placed = trade.opened_at if trade.held else trade.submitted_at
    yield "audit.trade_decisions", _decision(trade, placed)
    yield "trade_journal", _journal(trade, placed)
    if not trade.held:
        yield from _order(trade, "entry", "ENTRY", "pending", placed, limit_price=trade.entry_price)
        return
    yield from _order(trade, "entry", "ENTRY", "filled", placed, limit_price=trade.entry_price)
    yield "order_fill", {
        "order_execution_id": order_row_id(trade, "entry"), "execution_id": book.fill_id(trade, "entry"),
        "side": "buy", "qty": trade.qty, "price": trade.entry_price, "filled_at": trade.opened_at,
    }
    if trade.has_target:
        yield from _order(trade, "exit", "TAKE_PROFIT", "pending", trade.submitted_at, limit_price=trade.target_price)
    stop = "leg" if trade.has_target else "exit"
    yield from _order(trade, stop, "STOP_LOSS", "pending", trade.submitted_at, stop_price=trade.stop_price)
    yield "position_tracking", {
        "trade_journal_id": 1 + trade.number, "symbol": trade.symbol, "side": "long", "qty": trade.qty,
        "avg_entry_price": trade.entry_price, "cost_basis": trade.qty * trade.entry_price,
        "stop_loss_order_id": trade.broker_id(stop),
        "take_profit_order_id": trade.broker_id("exit") if trade.has_target else None,
    }


def _decision(trade: Trade, placed: datetime) -> Row:
    return {
        "id": 1 + trade.number, "decision_id": trade.broker_id("decision"), "strategy_name": "n8n_analysis",
        "strategy_version": "1", "action": "new_trade", "symbol": trade.symbol, "side": "buy", "quantity": trade.qty,
        "status": "executed" if trade.held else "pending", "executed_at": placed if trade.held else None,
        "decision_rationale": {}, "source_bytes": samples.DECISION_TEXT,
        "source_bytes_sha256": hashlib.sha256(samples.DECISION_TEXT.encode()).hexdigest(),
        "created_at": placed, "updated_at": placed,
    }


def _journal(trade: Trade, placed: datetime) -> Row:
    return {
        "id": 1 + trade.number, "trade_id": f"{trade.symbol}-{placed:%Y%m%d}-{trade.number:04}", "symbol": trade.symbol,
        "side": "buy", "trade_style": "TREND" if trade.target_price is None else "SWING",
        "status": "POSITION" if trade.held else "ORDERED", "trade_decision_id": 1 + trade.number,
        "planned_entry": trade.entry_price, "planned_stop_loss": trade.stop_price,
        "planned_take_profit": trade.target_price, "planned_qty": trade.qty,
        "actual_entry": trade.entry_price if trade.held else None, "actual_qty": trade.qty if trade.held else None,
        "current_stop_loss": trade.stop_price if trade.held else None, "created_at": placed, "updated_at": placed,
    }


def _order(
    trade: Trade, name: str, role: str, status: str, placed: datetime, **prices: Decimal | None,
) -> Iterator[tuple[str, Row]]:
    """Yield the row of an order and that of the attempt that placed it."""
    filled = status == "filled"
    ids = {"alpaca_order_id": trade.broker_id(name), "client_order_id": trade.client_id(name)}
    done: dict[str, Any] = {
        "filled_avg_price": trade.entry_price if filled else None, "filled_at": placed if filled else None,
        "created_at": placed, "updated_at": placed,
    }
    known = _word(trade, name)
    yield "order_execution", {
        "id": order_row_id(trade, name), "trade_journal_id": 1 + trade.number, "trade_decision_id": 1 + trade.number,
        "order_type": role, "side": "buy" if name == "entry" else "sell", "order_status": status,
        "broker_status": known, "time_in_force": "gtc", "qty": trade.qty, "filled_qty": trade.qty if filled else 0,
        "limit_price": prices.get("limit_price"), "stop_price": prices.get("stop_price"),
        "parent_order_id": order_row_id(trade, "exit") if name == "leg" else None, "missed_lookups": 0,
    } | ids | done
    yield "audit.trade_executions", {
        "trade_decision_id": 1 + trade.number, "order_execution_id": order_row_id(trade, name),
        "execution_id": trade.broker_id(f"attempt at {name}"), "attempt_number": 1, "http_status_code": 200,
        "status": "filled" if filled else "accepted", "filled_quantity": trade.qty if filled else 0,
        "submitted_at": placed,
    } | ids | done


def _word(trade: Trade, name: str) -> str:
    """Return the broker's word as last heard: what the listing says before the changes."""
    if trade.held and name == "entry":
        return "filled"
    order = book.listed(trade, after=False)
    return str(order["legs"][0]["status"] if name == "leg" else order["status"])
