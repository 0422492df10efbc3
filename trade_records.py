"""The rows of `trade_journal` and `position_tracking`: a trade opened, held, and closed with its profit or loss."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from db_layer import DatabaseError, Row, TradingDB
from decision import NewTrade
from order_life import JOURNAL_MOVES, ExitReason, JournalStatus

OPEN_TRADES = """
SELECT journal.*, decision.source_bytes_sha256, decision.analysis_row_key
FROM trade_journal journal JOIN audit.trade_decisions decision ON decision.id = journal.trade_decision_id
WHERE journal.status IN ('ORDERED', 'POSITION')
ORDER BY journal.id
"""
OPEN_POSITION = """
UPDATE trade_journal
SET status = 'POSITION', actual_entry = %(price)s, actual_qty = %(bought)s, updated_at = %(now)s,
    current_stop_loss = COALESCE(current_stop_loss, planned_stop_loss)
WHERE id = %(journal_id)s AND status = ANY(%(allowed)s)
"""
TRACK_POSITION = """
INSERT INTO position_tracking (trade_journal_id, symbol, side, qty, avg_entry_price, cost_basis, last_updated)
SELECT id, symbol, CASE side WHEN 'buy' THEN 'long' ELSE 'short' END, %(held)s, %(price)s,
       round(%(held)s * %(price)s, 6), %(now)s
FROM trade_journal WHERE id = %(journal_id)s
ON CONFLICT (trade_journal_id) DO UPDATE
SET qty = EXCLUDED.qty, avg_entry_price = EXCLUDED.avg_entry_price, cost_basis = EXCLUDED.cost_basis,
    market_value = round(position_tracking.current_price * EXCLUDED.qty, 6),
    unrealized_pnl = round((position_tracking.current_price - EXCLUDED.avg_entry_price) * EXCLUDED.qty
                           * CASE EXCLUDED.side WHEN 'long' THEN 1 ELSE -1 END, 6),
    last_updated = EXCLUDED.last_updated
"""
TRACK_EXITS = """
UPDATE position_tracking
SET stop_loss_order_id = %(stop_id)s, take_profit_order_id = %(target_id)s, last_updated = %(now)s
WHERE trade_journal_id = %(journal_id)s
  AND (stop_loss_order_id, take_profit_order_id) IS DISTINCT FROM (%(stop_id)s::text, %(target_id)s::text)
"""
END_TRADE = """
UPDATE trade_journal
SET status = %(status)s, exit_reason = %(reason)s, exit_date = %(ended_at)s, exit_price = %(price)s,
    actual_pnl = %(pnl)s, pnl_is_estimate = %(estimate)s, updated_at = %(now)s
WHERE id = %(journal_id)s AND status = ANY(%(allowed)s)
"""
FORGET_POSITION = "DELETE FROM position_tracking WHERE trade_journal_id = %(journal_id)s"
ESTIMATES = "SELECT id, side FROM trade_journal WHERE status = 'CLOSED' AND pnl_is_estimate ORDER BY id"
SETTLE_ESTIMATE = """
UPDATE trade_journal
SET actual_entry = %(entry)s, exit_price = %(exit)s, actual_pnl = %(pnl)s, pnl_is_estimate = false, updated_at = %(now)s
WHERE id = %(journal_id)s AND status = 'CLOSED' AND pnl_is_estimate
"""


@dataclass(frozen=True)
class TradeEnd:
    """How a trade ended; prices and profit in dollars, None where nothing was ever filled."""

    status: JournalStatus
    reason: ExitReason
    ended_at: datetime
    price: Decimal | None = None
    pnl: Decimal | None = None
    estimate: bool = False


def add_trade(
    db: TradingDB, trade_id: str, symbol: str, trade: NewTrade, analysis_id: str | None, decision_id: int,
    now: datetime,
) -> int:
    """Write the journal row of a decided trade and return its id. Raises DatabaseError."""
    return int(db.insert("trade_journal", {
        "trade_id": trade_id, "symbol": symbol, "side": str(trade.side), "trade_style": str(trade.style),
        "pattern": trade.pattern, "status": str(JournalStatus.ORDERED), "initial_analysis_id": analysis_id,
        "trade_decision_id": decision_id, "planned_entry": trade.limit_price, "planned_stop_loss": trade.stop_price,
        "planned_take_profit": trade.target_price, "planned_qty": trade.qty, "created_at": now, "updated_at": now,
    }))


def open_trades(db: TradingDB) -> list[Row]:
    """Return the journal rows of all trades that are not over. Raises DatabaseError."""
    return db.execute_query(OPEN_TRADES)


def hold_position(
    db: TradingDB, journal_id: int, bought: Decimal, held: Decimal, price: Decimal | None, now: datetime,
) -> None:
    """Record the shares entered and held so far and their average price. Raises DatabaseError."""
    if price is None:
        raise DatabaseError(f"the broker gave no average price for the filled entry of trade {journal_id}")
    values = {"journal_id": journal_id, "bought": bought, "held": held, "price": round(price, 6), "now": now}
    db.execute_update(OPEN_POSITION, values | {"allowed": [*_before(JournalStatus.POSITION), "POSITION"]})
    if held > 0:
        db.execute_update(TRACK_POSITION, values)


def track_exits(db: TradingDB, journal_id: int, stop_id: str | None, target_id: str | None, now: datetime) -> None:
    """Record which orders of the broker protect the position. Raises DatabaseError."""
    db.execute_update(TRACK_EXITS, {"journal_id": journal_id, "stop_id": stop_id, "target_id": target_id, "now": now})


def end_trade(db: TradingDB, journal_id: int, end: TradeEnd, now: datetime) -> bool:
    """Close or cancel a trade and forget its position; False when it was over already. Raises DatabaseError."""
    ended = db.execute_update(END_TRADE, {
        "journal_id": journal_id, "status": str(end.status), "reason": str(end.reason), "ended_at": end.ended_at,
        "price": _cents(end.price), "pnl": _cents(end.pnl), "estimate": end.estimate, "now": now,
        "allowed": _before(end.status),
    })
    db.execute_update(FORGET_POSITION, {"journal_id": journal_id})
    return ended == 1


def estimated_trades(db: TradingDB) -> list[Row]:
    """Return id and side of the closed trades whose profit is an estimate. Raises DatabaseError."""
    return db.execute_query(ESTIMATES)


def settle_estimate(
    db: TradingDB, journal_id: int, entry: Decimal, exit_price: Decimal, pnl: Decimal, now: datetime,
) -> None:
    """Replace an estimate by what the executions say. Raises DatabaseError."""
    db.execute_update(SETTLE_ESTIMATE, {
        "journal_id": journal_id, "entry": _cents(entry), "exit": _cents(exit_price), "pnl": _cents(pnl), "now": now,
    })


def _before(status: JournalStatus) -> list[str]:
    return [str(before) for before, after in JOURNAL_MOVES.items() if status in after]


def _cents(amount: Decimal | None) -> Decimal | None:
    """Round to the millionth the columns hold."""
    return None if amount is None else round(amount, 6)
