"""The rows of `trade_journal` and `position_tracking`: a trade opened, held, and closed with its profit or loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from clock import MARKET_ZONE
from db_layer import Row, TradingDB
from decision import NewTrade
from order_life import ENDED, JOURNAL_MOVES, ExitReason, JournalStatus, OrderRole, OrderStatus, before

TRADES = """
SELECT journal.*, position.qty AS tracked_qty, position.stop_loss_order_id, position.take_profit_order_id
FROM trade_journal journal LEFT JOIN position_tracking position ON position.trade_journal_id = journal.id
"""
OPEN_TRADES = TRADES + "WHERE journal.status IN ('ORDERED', 'POSITION') ORDER BY journal.id"
ONE_TRADE = TRADES + "WHERE journal.id = %(journal_id)s"
OPEN_POSITION = """
UPDATE trade_journal
SET status = 'POSITION', actual_entry = %(price)s, actual_qty = %(entered)s, updated_at = %(now)s,
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
# One statement for all positions; a symbol without a price is not among the prices, so its row stays as it was.
VALUE_POSITIONS = """
UPDATE position_tracking position
SET current_price = latest.price, market_value = round(position.qty * latest.price, 6),
    unrealized_pnl = round((latest.price - position.avg_entry_price) * position.qty
                           * CASE position.side WHEN 'long' THEN 1 ELSE -1 END, 6),
    last_updated = %(now)s
FROM unnest(%(symbols)s::text[], %(prices)s::numeric[]) AS latest (symbol, price)
WHERE position.symbol = latest.symbol AND position.current_price IS DISTINCT FROM latest.price
"""
REVIEW_TRADES = """
UPDATE trade_journal journal
SET last_review_date = %(today)s, updated_at = %(now)s, days_open = GREATEST(0, %(today)s - (
        SELECT min(fill.filled_at AT TIME ZONE %(zone)s)::date
        FROM order_fill fill JOIN order_execution orders ON orders.id = fill.order_execution_id
        WHERE orders.trade_journal_id = journal.id AND orders.order_type = 'ENTRY'))
WHERE journal.status = 'POSITION' AND journal.last_review_date IS DISTINCT FROM %(today)s
  AND EXISTS (SELECT 1 FROM position_tracking position
              WHERE position.trade_journal_id = journal.id AND position.symbol = ANY(%(symbols)s))
"""

TRACK_EXITS = """
WITH tracked AS (
    UPDATE position_tracking
    SET stop_loss_order_id = %(stop_id)s, take_profit_order_id = %(target_id)s, last_updated = %(now)s
    WHERE trade_journal_id = %(journal_id)s
)
UPDATE trade_journal SET current_stop_loss = COALESCE(%(stop_price)s, current_stop_loss), updated_at = %(now)s
WHERE id = %(journal_id)s
"""
END_TRADE = """
UPDATE trade_journal
SET status = %(status)s, exit_reason = %(reason)s, exit_date = %(ended_at)s, exit_price = %(price)s,
    actual_pnl = %(pnl)s, pnl_is_estimate = %(estimate)s, updated_at = %(now)s
WHERE id = %(journal_id)s AND status = ANY(%(allowed)s)
"""
FORGET_POSITION = "DELETE FROM position_tracking WHERE trade_journal_id = %(journal_id)s"
ESTIMATES = "SELECT id FROM trade_journal WHERE pnl_is_estimate AND status = 'CLOSED' ORDER BY id"
SETTLE_ESTIMATE = """
UPDATE trade_journal
SET actual_entry = %(entry)s, exit_price = %(exit)s, actual_pnl = %(pnl)s, pnl_is_estimate = false, updated_at = %(now)s
WHERE id = %(journal_id)s AND status = 'CLOSED' AND pnl_is_estimate
"""


@dataclass(frozen=True)
class Trade:
    """A trade that is not over, with its orders."""

    journal: Row
    entry: Row
    exits: tuple[Row, ...]

    @property
    def entered(self) -> Decimal:
        return Decimal(self.entry["filled_qty"])

    @property
    def held(self) -> Decimal:
        """The shares held now, always counted positive."""
        return self.entered - sum((order["filled_qty"] for order in self.exits), Decimal(0))

    @property
    def entry_ended(self) -> bool:
        return OrderStatus(self.entry["order_status"]) in ENDED

    @property
    def exit_groups(self) -> list[Row]:
        """The exit orders not ended yet; an OCO counts as its target, unless that has ended and its stop has not."""
        live = {order["id"]: order for order in self.exits if OrderStatus(order["order_status"]) not in ENDED}
        return [order for order in live.values() if order["parent_order_id"] not in live]

    def leg(self, order: Row) -> Row | None:
        """Return the stop inside an OCO."""
        return next((other for other in self.exits if other["parent_order_id"] == order["id"]), None)


@dataclass(frozen=True)
class TradeEnd:
    """How a trade ended; prices and profit in dollars, None where nothing was ever filled."""

    status: JournalStatus
    reason: ExitReason
    ended_at: datetime
    price: Decimal | None = None
    pnl: Decimal | None = None
    estimate: bool = False


def trade_of(journal: Row, orders: Sequence[Row]) -> Trade | None:
    """Put a journal row and its orders together; None for one without an entry order, which somebody wrote by hand."""
    entry = next((order for order in orders if order["order_type"] == OrderRole.ENTRY), None)
    return None if entry is None else Trade(journal, entry, tuple(order for order in orders if order is not entry))


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


def one_trade(db: TradingDB, journal_id: int) -> Row:
    """Return the journal row of a trade with what is tracked of its position. Raises DatabaseError."""
    return db.execute_query(ONE_TRADE, {"journal_id": journal_id})[0]


def hold_position(
    db: TradingDB, journal_id: int, entered: Decimal, held: Decimal, price: Decimal, now: datetime,
) -> None:
    """Record the shares entered and held so far and their average price. Raises DatabaseError."""
    values = {"journal_id": journal_id, "entered": entered, "held": held, "price": round(price, 6), "now": now}
    allowed = [*before(JOURNAL_MOVES, JournalStatus.POSITION), "POSITION"]
    db.execute_update(OPEN_POSITION, values | {"allowed": allowed})
    if held > 0:
        db.execute_update(TRACK_POSITION, values)


def value_positions(db: TradingDB, prices: Mapping[str, Decimal], today: date, now: datetime) -> int:
    """Write value and unrealised profit at these prices (dollars by symbol); return how many rows changed.

    The trades' last review and days open follow; `today` is the market's day. Raises DatabaseError.
    """
    values = {
        "symbols": list(prices), "prices": list(prices.values()), "today": today, "now": now, "zone": MARKET_ZONE.key,
    }
    changed = db.execute_update(VALUE_POSITIONS, values)
    db.execute_update(REVIEW_TRADES, values)
    return changed


def track_exits(
    db: TradingDB, journal_id: int, stop_id: str | None, stop_price: Decimal | None, target_id: str | None,
    now: datetime,
) -> None:
    """Record which orders of the broker protect the position, and the stop's price in dollars. Raises DatabaseError."""
    db.execute_update(TRACK_EXITS, {
        "journal_id": journal_id, "stop_id": stop_id, "stop_price": stop_price, "target_id": target_id, "now": now,
    })


def end_trade(db: TradingDB, journal_id: int, end: TradeEnd, now: datetime) -> bool:
    """Close or cancel a trade and forget its position; False when it was over already. Raises DatabaseError."""
    ended = db.execute_update(END_TRADE, {
        "journal_id": journal_id, "status": str(end.status), "reason": str(end.reason), "ended_at": end.ended_at,
        "price": _to_millionth(end.price), "pnl": _to_millionth(end.pnl), "estimate": end.estimate, "now": now,
        "allowed": before(JOURNAL_MOVES, end.status),
    })
    db.execute_update(FORGET_POSITION, {"journal_id": journal_id})
    return ended == 1


def estimated_trades(db: TradingDB) -> list[int]:
    """Return the ids of the closed trades whose profit is an estimate. Raises DatabaseError."""
    return [row["id"] for row in db.execute_query(ESTIMATES)]


def settle_estimate(
    db: TradingDB, journal_id: int, entry: Decimal, exit_price: Decimal, pnl: Decimal, now: datetime,
) -> None:
    """Replace an estimate by what the executions say. Raises DatabaseError."""
    db.execute_update(SETTLE_ESTIMATE, {
        "journal_id": journal_id, "entry": _to_millionth(entry), "exit": _to_millionth(exit_price),
        "pnl": _to_millionth(pnl), "now": now,
    })


def _to_millionth(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else round(amount, 6)
