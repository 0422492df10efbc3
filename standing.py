"""What still stands by our books alone, so that it can be said while the broker is out of reach."""

from collections.abc import Sequence
from dataclasses import dataclass

from db_layer import Row, TradingDB
from order_life import AT_BROKER, OrderRole
from order_records import ALL_RESTING_ENTRIES
from trade import Trade
from trade_book import load_trades

# A position without an entry order was written by hand; the monitors say so, and nobody follows it.
HELD_TRADES = """
SELECT journal.id FROM trade_journal journal
WHERE journal.status = 'POSITION' AND EXISTS (SELECT 1 FROM order_execution orders
                                              WHERE orders.trade_journal_id = journal.id AND order_type = 'ENTRY')
ORDER BY journal.id
"""
# An order whose request was committed but whose answer was not is as unknown as a lost answer. An entry that the broker
# has is one at rest, even where nobody here knows its word for it.
UNKNOWN_ORDERS = """
SELECT orders.*, journal.symbol, journal.trade_id
FROM order_execution orders JOIN trade_journal journal ON journal.id = orders.trade_journal_id
WHERE orders.parent_order_id IS NULL AND NOT (orders.order_type = 'ENTRY' AND orders.alpaca_order_id IS NOT NULL)
  AND (orders.order_status = 'unknown'
       OR orders.order_status = 'intended'
          AND EXISTS (SELECT 1 FROM audit.trade_executions execution
                      WHERE execution.order_execution_id = orders.id AND execution.status = 'submitted'))
ORDER BY orders.id
"""
CRITICAL_ALERTS = """
SELECT kind, subject, message FROM audit.alerts WHERE resolved_at IS NULL AND level = 'critical' ORDER BY id
"""


@dataclass(frozen=True)
class Standing:
    """Entries at rest, trades with shares, trades just without them (`ending`), unknown orders, critical alerts."""

    entries: Sequence[Row]
    trades: Sequence[Trade]
    ending: Sequence[Trade]
    unknown: Sequence[Row]
    alerts: Sequence[Row]

    @property
    def unprotected(self) -> list[Trade]:
        """The trades whose shares have no exit at the broker, or one over another number of them."""
        return [trade for trade in self.trades if not is_protected(trade)]


def what_stands(db: TradingDB) -> Standing:
    """Return what the books show now. Raises DatabaseError."""
    held = load_trades(db, [row["id"] for row in db.execute_query(HELD_TRADES)])
    return Standing(
        db.execute_query(ALL_RESTING_ENTRIES), [trade for trade in held if trade.held != 0],
        [trade for trade in held if trade.held == 0], db.execute_query(UNKNOWN_ORDERS),
        db.execute_query(CRITICAL_ALERTS),
    )


def is_protected(trade: Trade) -> bool:
    """Tell whether one exit works at the broker for exactly the shares held; an order that closes them counts."""
    if len(trade.exit_groups) != 1:
        return False
    (order,) = trade.exit_groups
    stop = trade.leg(order) if order["order_type"] == OrderRole.TAKE_PROFIT else order
    working = all(part is not None and part["order_status"] in AT_BROKER for part in (order, stop))
    return working and order["side"] != trade.side and order["qty"] - order["filled_qty"] == trade.held
