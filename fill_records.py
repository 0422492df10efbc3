"""The rows of `external_order` and `order_fill`: what others ordered on the account, and every execution once."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from audit_trail import AlertKind, AlertLevel, raise_alert
from db_layer import DatabaseError, Row, TradingDB, write_each
from order_comparison import Heard
from order_life import Fill, decimal_text

# An order of ours is known by its client id from before it is sent, so it is never taken for somebody else's.
NOTE_EXTERNAL_ORDERS = """
INSERT INTO external_order AS known (
    alpaca_order_id, client_order_id, symbol, side, broker_status, qty, filled_qty, filled_avg_price, created_at,
    updated_at)
SELECT heard.*, %(now)s, %(now)s
FROM unnest(%(ids)s::text[], %(client_order_ids)s::text[], %(symbols)s::text[], %(sides)s::text[],
            %(statuses)s::text[], %(qtys)s::numeric[], %(filled_qtys)s::numeric[], %(prices)s::numeric[])
     AS heard (id, client_order_id, symbol, side, status, qty, filled_qty, price)
WHERE NOT EXISTS (SELECT 1 FROM order_execution WHERE alpaca_order_id = heard.id)
  AND NOT EXISTS (SELECT 1 FROM order_execution WHERE client_order_id = heard.client_order_id)
ON CONFLICT (alpaca_order_id) DO UPDATE
SET broker_status = EXCLUDED.broker_status, qty = EXCLUDED.qty, filled_qty = EXCLUDED.filled_qty,
    filled_avg_price = EXCLUDED.filled_avg_price, updated_at = EXCLUDED.updated_at
WHERE (known.broker_status, known.filled_qty) IS DISTINCT FROM (EXCLUDED.broker_status, EXCLUDED.filled_qty)
RETURNING alpaca_order_id, side, qty, symbol, filled_qty, created_at = updated_at AS is_new
"""
# Like a read, an execution is on the disk before what is concluded from it; lost in a crash it is listed again.
ADD_FILLS = """
WITH heard AS (
    SELECT ours.id AS order_execution_id, theirs.id AS external_order_id, fill.*,
           COALESCE(ours.side, theirs.side) AS order_side
    FROM unnest(%(order_ids)s::text[], %(execution_ids)s::text[], %(sides)s::text[], %(qtys)s::numeric[],
                %(prices)s::numeric[], %(filled_ats)s::timestamptz[])
         AS fill (order_id, execution_id, side, qty, price, filled_at)
    LEFT JOIN order_execution ours ON ours.alpaca_order_id = fill.order_id
    LEFT JOIN external_order theirs ON theirs.alpaca_order_id = fill.order_id AND ours.id IS NULL
    WHERE ours.id IS NOT NULL OR theirs.id IS NOT NULL
), added AS (
    INSERT INTO order_fill (order_execution_id, external_order_id, execution_id, side, qty, price, filled_at)
    SELECT order_execution_id, external_order_id, execution_id, order_side, qty, price, filled_at
    FROM heard
    WHERE COALESCE(side, order_side) = order_side AND set_config('synchronous_commit', 'off', true) = 'off'
    ON CONFLICT (execution_id) DO NOTHING
    RETURNING execution_id
)
SELECT execution_id, NULL AS order_side FROM added
UNION ALL SELECT execution_id, order_side FROM heard WHERE side <> order_side
"""
# Where the sums disagree, the list of executions is the truth, unless it says more than can have been filled.
FOLLOW_FILLS = """
UPDATE order_execution orders
SET filled_qty = known.qty, filled_avg_price = round(known.spent / known.qty, 6), updated_at = %(now)s
FROM (SELECT order_execution_id, sum(qty) AS qty, sum(qty * price) AS spent FROM order_fill
      WHERE order_execution_id IN (SELECT id FROM order_execution WHERE alpaca_order_id = ANY(%(order_ids)s))
      GROUP BY order_execution_id) AS known
WHERE orders.id = known.order_execution_id AND known.qty > orders.filled_qty AND known.qty <= orders.qty
"""
# Orders that say more shares were filled than executions account for: ours while their trade is open or estimated,
# others for a week after they last changed. An order may have been filled a while before it was first seen here.
UNEXPLAINED = """
SELECT alpaca_order_id, since, filled_qty - known AS missing, estimated
FROM (SELECT orders.alpaca_order_id, orders.created_at AS since, orders.filled_qty,
             journal.pnl_is_estimate AS estimated,
             (SELECT COALESCE(sum(qty), 0) FROM order_fill WHERE order_execution_id = orders.id) AS known
      FROM order_execution orders JOIN trade_journal journal ON journal.id = orders.trade_journal_id
      WHERE orders.filled_qty > 0 AND (journal.status IN ('ORDERED', 'POSITION') OR journal.pnl_is_estimate)
      UNION ALL
      SELECT alpaca_order_id, created_at - interval '7 days', filled_qty, false,
             (SELECT COALESCE(sum(qty), 0) FROM order_fill WHERE external_order_id = theirs.id)
      FROM external_order theirs WHERE updated_at > %(now)s::timestamptz - interval '7 days') AS filled
WHERE filled_qty > known OR estimated
"""
FILLS_OF_TRADES = """
SELECT fill.order_execution_id, fill.qty, fill.price, fill.filled_at
FROM order_fill fill JOIN order_execution orders ON orders.id = fill.order_execution_id
WHERE orders.trade_journal_id = ANY(%(journal_ids)s)
ORDER BY fill.filled_at, fill.id
"""

SIDES = {"buy": "buy", "sell": "sell", "sell_short": "sell"}


def note_external_orders(db: TradingDB, orders: Sequence[Heard], now: datetime) -> None:
    """Write down orders that nobody here placed, with an alert for each symbol; ours among them are left out.

    One that the database refuses is an alert. Raises DatabaseError.
    """
    known = {order["id"]: order for order in orders if order.get("symbol") and order.get("side") in ("buy", "sell")}

    def refused(order: Heard, error: DatabaseError) -> None:
        message = f"order {order['id']} on the account was not placed here and cannot be stored: {error}"
        raise_alert(db, AlertLevel.CRITICAL, AlertKind.ORDER_NOT_RECORDED, order["id"], message, now)

    write_each(list(known.values()), lambda heard: _write_external_orders(db, heard, now), refused)


def _write_external_orders(db: TradingDB, orders: Sequence[Heard], now: datetime) -> None:
    rows = db.execute_query(NOTE_EXTERNAL_ORDERS, {
        "ids": [order["id"] for order in orders],
        "client_order_ids": [order.get("client_order_id") for order in orders],
        "symbols": [order["symbol"] for order in orders], "sides": [order["side"] for order in orders],
        "statuses": [order["status"] for order in orders], "qtys": [order["qty"] for order in orders],
        "filled_qtys": [order["filled_qty"] for order in orders],
        "prices": [order["filled_avg_price"] for order in orders], "now": now,
    })
    for row in rows:
        if row["is_new"]:
            shares = decimal_text(row["qty"]) if row["qty"] is not None else "an amount of"
            order = f"{row['alpaca_order_id']} on the account ({row['side']} {shares} {row['symbol']})"
            message = f"order {order} was not placed here"
            raise_alert(db, AlertLevel.WARNING, AlertKind.EXTERNAL_ORDER, row["symbol"], message, now)


def add_fills(db: TradingDB, fills: Sequence[Heard], now: datetime) -> list[Heard]:
    """Write executions of known orders, each once; return those that were new.

    One on the other side than its order, or that the database refuses, is not written but an alert. Raises
    DatabaseError.
    """
    def refused(fill: Heard, error: DatabaseError) -> None:
        message = f"execution {fill['id']} of order {fill['order_id']} cannot be stored and is left out: {error}"
        raise_alert(db, AlertLevel.CRITICAL, AlertKind.EXECUTION_NOT_RECORDED, fill["id"], message, now)

    return [fill for new in write_each(fills, lambda heard: _write_fills(db, heard, now), refused) for fill in new]


def _write_fills(db: TradingDB, fills: Sequence[Heard], now: datetime) -> list[Heard]:
    added = db.execute_query(ADD_FILLS, {
        "order_ids": [fill["order_id"] for fill in fills], "execution_ids": [fill["id"] for fill in fills],
        "sides": [SIDES.get(str(fill.get("side"))) for fill in fills],
        "qtys": [fill["qty"] for fill in fills], "prices": [fill["price"] for fill in fills],
        "filled_ats": [fill["transaction_time"] for fill in fills],
    })
    new = {row["execution_id"] for row in added if row["order_side"] is None}
    for row in added:
        if row["order_side"] is not None:
            message = f"execution {row['execution_id']} is not a {row['order_side']} as its order is; it was left out"
            raise_alert(db, AlertLevel.CRITICAL, AlertKind.ODD_EXECUTION, row["execution_id"], message, now)
    return [fill for fill in fills if fill["id"] in new]


def follow_fills(db: TradingDB, order_ids: Collection[str], now: datetime) -> int:
    """Raise the filled shares of orders (the broker's ids) to what their executions say. Raises DatabaseError."""
    return db.execute_update(FOLLOW_FILLS, {"order_ids": list(order_ids), "now": now}) if order_ids else 0


def unexplained(db: TradingDB, now: datetime) -> list[Row]:
    """Return orders with filled shares that no execution accounts for yet (`missing`), and all of `estimated` trades.

    Raises DatabaseError.
    """
    return db.execute_prepared(UNEXPLAINED, {"now": now})


def fills_by_order(db: TradingDB, journal_ids: Collection[int]) -> Mapping[int, list[Fill]]:
    """Return the executions of the orders of these trades, by the order's row id. Raises DatabaseError."""
    known: defaultdict[int, list[Fill]] = defaultdict(list)
    for row in db.execute_prepared(FILLS_OF_TRADES, {"journal_ids": list(journal_ids)}):
        known[row["order_execution_id"]].append(Fill(row["qty"], row["price"], row["filled_at"]))
    return known
