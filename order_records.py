"""The rows of `order_execution`: intents written, and what the broker says applied to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from operator import itemgetter

from audit_trail import AlertKind, AlertLevel, OrderState, raise_alert, record_order_states, resolve_alerts
from db_layer import NO_DATA, DatabaseError, Row, TradingDB
from order_comparison import TERMS, Change, Successor, is_strange
from order_life import (
    EXECUTION_OF_ORDER,
    ORDER_MOVES,
    ExitReason,
    OrderRole,
    OrderStatus,
    before,
)

HEARD_IF_SAID = (*TERMS, "client_order_id")
# What the row of an order's execution repeats.
STATE_OF_ROW = itemgetter(
    "order_status", "alpaca_order_id", "client_order_id", "filled_qty", "filled_avg_price", "filled_at",
)
# What is over once it is known what became of an order.
ALERTS_OF_UNKNOWN = AlertKind.ORDER_NOT_SETTLED, AlertKind.ORDER_MISMATCH

# An intent whose request was committed but whose answer was not is as unknown as a lost answer.
UNSETTLED = """
WITH interrupted AS (
    UPDATE order_execution SET order_status = 'unknown', updated_at = %(now)s
    WHERE order_status = 'intended'
      AND EXISTS (SELECT 1 FROM audit.trade_executions execution
                  WHERE execution.order_execution_id = order_execution.id AND execution.status = 'submitted')
    RETURNING id, client_order_id, parent_order_id
)
SELECT id, client_order_id FROM order_execution WHERE order_status = 'unknown' AND parent_order_id IS NULL
UNION SELECT id, client_order_id FROM interrupted WHERE parent_order_id IS NULL
ORDER BY id
"""
UNKNOWN_ENTRIES_IN = """
SELECT orders.client_order_id
FROM order_execution orders JOIN trade_journal journal ON journal.id = orders.trade_journal_id
WHERE orders.order_status = 'unknown' AND orders.order_type = 'ENTRY' AND journal.symbol = %(symbol)s
ORDER BY orders.id
"""

# What the next listing is held against: all orders of trades that are not over, and all others since four days before
# the oldest working order (or the newest of all) was written, because a fill or an order can arrive after an end. One
# that was given up counts from then on: it may have waited for the line for days before it was sent.
LISTING_START = """
SELECT LEAST((SELECT min(created_at) FROM order_execution
              WHERE order_status IN ('intended', 'unknown', 'pending', 'partially_filled')),
             (SELECT max(created_at) FROM order_execution),
             (SELECT min(created_at) FROM external_order
              WHERE broker_status NOT IN ('filled', 'canceled', 'expired', 'rejected', 'replaced')))
       - interval '4 days' AS since,
       ARRAY(SELECT alpaca_order_id FROM external_order
             WHERE broker_status NOT IN ('filled', 'canceled', 'expired', 'rejected', 'replaced')
             ORDER BY id) AS foreign_ids
"""
LOAD_ORDERS = """
WITH orders AS NOT MATERIALIZED (
    SELECT id, trade_journal_id, alpaca_order_id, client_order_id, order_type, side, order_status, broker_status,
           time_in_force, qty, limit_price, stop_price, filled_qty, filled_avg_price, filled_at, parent_order_id,
           exit_reason, created_at, updated_at
    FROM order_execution
)
SELECT orders.*, journal.status AS journal_status, journal.trade_id, journal.trade_style, journal.symbol
FROM orders JOIN trade_journal journal ON journal.id = orders.trade_journal_id
WHERE journal.status IN ('ORDERED', 'POSITION')
UNION ALL
SELECT orders.*, journal.status, journal.trade_id, journal.trade_style, journal.symbol
FROM orders JOIN trade_journal journal ON journal.id = orders.trade_journal_id
WHERE orders.created_at >= %(since)s AND journal.status NOT IN ('ORDERED', 'POSITION')
UNION ALL
SELECT orders.*, journal.status, journal.trade_id, journal.trade_style, journal.symbol
FROM orders JOIN trade_journal journal ON journal.id = orders.trade_journal_id
WHERE orders.order_status = 'cancelled' AND orders.broker_status IS NULL AND orders.updated_at >= %(since)s
  AND orders.created_at < %(since)s AND journal.status NOT IN ('ORDERED', 'POSITION')
ORDER BY id
"""
ORDERS_OF_TRADES = """
SELECT * FROM order_execution WHERE trade_journal_id = ANY(%(journal_ids)s) ORDER BY id
"""
LOAD_GROUP = """
SELECT orders.*, journal.symbol, journal.status AS journal_status, journal.trade_id FROM order_execution orders
JOIN trade_journal journal ON journal.id = orders.trade_journal_id
WHERE orders.id = %(id)s OR orders.parent_order_id = %(id)s
ORDER BY orders.parent_order_id NULLS FIRST, orders.id
"""
LOAD_HEARD = """
SELECT orders.*, journal.symbol, journal.status AS journal_status, journal.trade_id
FROM order_execution orders JOIN trade_journal journal ON journal.id = orders.trade_journal_id
WHERE orders.alpaca_order_id = ANY(%(alpaca_order_ids)s)
ORDER BY orders.id
"""
LOCK_GROUP = LOAD_GROUP + "FOR UPDATE OF orders"
# Asked after the lock, in a statement of its own: only then does it see what the former holder wrote.
UNSENT = """
SELECT 1 FROM order_execution orders
WHERE id = %(id)s AND order_status = 'intended'
  AND NOT EXISTS (SELECT 1 FROM audit.trade_executions execution
                  WHERE execution.order_execution_id = orders.id AND execution.status = 'submitted')
"""
# Orders outside of OCO groups that rest at the broker on one side; a plain order on the other would be a wash trade.
RESTING_ORDERS = """
SELECT orders.* FROM order_execution orders JOIN trade_journal journal ON journal.id = orders.trade_journal_id
WHERE journal.symbol = %(symbol)s AND orders.side = %(side)s AND orders.order_type = ANY(%(roles)s)
  AND orders.parent_order_id IS NULL AND orders.order_status IN ('pending', 'partially_filled')
  AND orders.alpaca_order_id IS NOT NULL
ORDER BY orders.id
"""
# One that the broker has taken may be unknown all the same: where nobody here knows its word for it.
ALL_RESTING_ENTRIES = """
SELECT orders.*, journal.symbol, journal.trade_id
FROM order_execution orders JOIN trade_journal journal ON journal.id = orders.trade_journal_id
WHERE orders.order_type = 'ENTRY' AND orders.order_status IN ('unknown', 'pending', 'partially_filled')
  AND orders.alpaca_order_id IS NOT NULL
ORDER BY orders.id
"""
LEFTOVERS = """
SELECT orders.*, journal.trade_id
FROM order_execution orders JOIN trade_journal journal ON journal.id = orders.trade_journal_id
WHERE orders.order_status IN ('pending', 'partially_filled') AND orders.alpaca_order_id IS NOT NULL
  AND journal.status IN ('CLOSED', 'CANCELLED')
ORDER BY orders.parent_order_id NULLS FIRST, orders.id
"""

# The status a change was computed from is checked again, so that two writers cannot move one order apart, and shares
# once filled stay filled.
APPLY_CHANGES = """
UPDATE order_execution orders
SET order_status = change.new_status, broker_status = change.broker_status, alpaca_order_id = change.alpaca_order_id,
    client_order_id = change.client_order_id, qty = change.qty,
    limit_price = change.limit_price, stop_price = change.stop_price, filled_qty = change.filled_qty,
    filled_avg_price = change.filled_avg_price, filled_at = change.filled_at, updated_at = %(now)s
FROM unnest(%(ids)s::bigint[], %(old_statuses)s::text[], %(new_statuses)s::text[], %(broker_statuses)s::text[],
            %(alpaca_order_ids)s::text[], %(client_order_ids)s::text[], %(qtys)s::numeric[],
            %(limit_prices)s::numeric[], %(stop_prices)s::numeric[], %(filled_qtys)s::numeric[],
            %(filled_avg_prices)s::numeric[], %(filled_ats)s::timestamptz[])
     AS change (id, old_status, new_status, broker_status, alpaca_order_id, client_order_id, qty, limit_price,
                stop_price, filled_qty, filled_avg_price, filled_at)
WHERE orders.id = change.id AND orders.order_status = change.old_status AND orders.filled_qty <= change.filled_qty
RETURNING orders.id
"""

# An order that replaced one of ours is ours too: it serves the same trade in the same role, and takes over its leg. Its
# age is the old one's, because the broker may end both on the same day.
ADD_SUCCESSORS = """
WITH added AS (
    INSERT INTO order_execution (
        trade_journal_id, trade_decision_id, analysis_decision_id, alpaca_order_id, client_order_id, order_type, side,
        order_status, broker_status, time_in_force, qty, limit_price, stop_price, exit_reason, parent_order_id,
        created_at, updated_at)
    SELECT old.trade_journal_id, old.trade_decision_id, old.analysis_decision_id, successor.alpaca_order_id,
           successor.client_order_id, old.order_type, old.side, 'pending', successor.broker_status, old.time_in_force,
           successor.qty, successor.limit_price, successor.stop_price, old.exit_reason, old.parent_order_id,
           old.created_at, %(now)s
    FROM unnest(%(old_ids)s::bigint[], %(alpaca_order_ids)s::text[], %(client_order_ids)s::text[],
                %(broker_statuses)s::text[], %(qtys)s::numeric[], %(limit_prices)s::numeric[],
                %(stop_prices)s::numeric[])
         AS successor (old_id, alpaca_order_id, client_order_id, broker_status, qty, limit_price, stop_price)
    JOIN order_execution old ON old.id = successor.old_id
    ON CONFLICT DO NOTHING
    RETURNING id, alpaca_order_id
)
UPDATE order_execution leg SET parent_order_id = added.id, updated_at = %(now)s
FROM added JOIN unnest(%(old_ids)s::bigint[], %(alpaca_order_ids)s::text[]) AS successor (old_id, alpaca_order_id)
     ON successor.alpaca_order_id = added.alpaca_order_id
WHERE leg.parent_order_id = successor.old_id
  AND leg.order_status IN ('intended', 'unknown', 'pending', 'partially_filled')
"""
SET_STATUS = """
UPDATE order_execution
SET order_status = %(status)s, updated_at = %(now)s,
    missed_lookups = CASE WHEN %(status)s = 'intended' THEN 0 ELSE missed_lookups END
WHERE (id = %(id)s OR parent_order_id = %(id)s) AND order_status = ANY(%(allowed)s)
"""
COUNT_MISSED_LOOKUP = """
UPDATE order_execution SET missed_lookups = missed_lookups + 1, updated_at = %(now)s WHERE id = %(id)s
RETURNING missed_lookups
"""
LAST_SUBMITTED = """
SELECT max(submitted_at) AS at FROM audit.trade_executions WHERE order_execution_id = %(id)s
"""

@dataclass(frozen=True)
class Intent:
    """An order about to be written down; shares and dollars."""

    trade_journal_id: int
    trade_decision_id: int
    analysis_decision_id: str | None
    client_order_id: str
    role: OrderRole
    side: str
    time_in_force: str
    qty: Decimal
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    parent_order_id: int | None = None
    exit_reason: ExitReason | None = None


def listing_start(db: TradingDB) -> tuple[datetime | None, list[str]]:
    """Return since when orders must be listed so that all that matter are among them; None before the first order.

    With it come the broker's ids of other people's orders that worked when last heard of. Raises DatabaseError.
    """
    start = db.execute_prepared(LISTING_START, {})[0]
    return start["since"], start["foreign_ids"]


def load_orders(db: TradingDB, since: datetime) -> list[Row]:
    """Return the orders that a listing from this moment on is held against, oldest first. Raises DatabaseError."""
    return db.execute_query(LOAD_ORDERS, {"since": since})


def add_intent(db: TradingDB, intent: Intent, now: datetime) -> int:
    """Write an order that is not sent yet and return its id. Raises DatabaseError."""
    values = {name: value for name, value in vars(intent).items() if name != "role"}
    return int(db.insert("order_execution", values | {
        "order_type": str(intent.role), "order_status": str(OrderStatus.INTENDED), "created_at": now, "updated_at": now,
    }))


def load_group(db: TradingDB, order_id: int, lock: bool = False) -> list[Row]:
    """Return an order and its leg, locked in the open transaction if so asked.

    Raises DatabaseError, also when the order or its trade is gone.
    """
    rows = db.execute_prepared(LOCK_GROUP if lock else LOAD_GROUP, {"id": order_id})
    if not rows or rows[0]["id"] != order_id:
        raise DatabaseError(f"order {order_id} or its trade is gone from the books", NO_DATA)
    return rows


def lock_if_unsent(db: TradingDB, order_id: int) -> bool:
    """Lock an intended order and its leg in the open transaction; False when it was sent, or is being sent.

    Raises DatabaseError, also when the order or its trade is gone.
    """
    load_group(db, order_id, lock=True)
    return bool(db.execute_query(UNSENT, {"id": order_id}))


def unsettled(db: TradingDB, now: datetime) -> list[Row]:
    """Return the orders whose outcome nobody knows, those of interrupted processes included. Raises DatabaseError."""
    return db.execute_prepared(UNSETTLED, {"now": now})


def unknown_entries_in(db: TradingDB, symbol: str) -> list[str]:
    """Return the client order ids of the entries in a symbol whose outcome nobody knows. Raises DatabaseError."""
    return [row["client_order_id"] for row in db.execute_query(UNKNOWN_ENTRIES_IN, {"symbol": symbol})]


def last_submitted(db: TradingDB, order_id: int) -> datetime:
    """Return when an order was last sent. Raises DatabaseError, also when nothing says that it was."""
    at: datetime | None = db.execute_query(LAST_SUBMITTED, {"id": order_id})[0]["at"]
    if at is None:
        raise DatabaseError(f"nothing is left that says when order {order_id} was sent", NO_DATA)
    return at


def count_missed_lookup(db: TradingDB, order_id: int, now: datetime) -> int:
    """Count that the broker did not know an order, and return how often it did not. Raises DatabaseError."""
    return int(db.execute_query(COUNT_MISSED_LOOKUP, {"id": order_id, "now": now})[0]["missed_lookups"])


def add_successors(db: TradingDB, successors: Sequence[Successor], now: datetime) -> None:
    """Write the orders that replaced ours; what was filled comes with the next change. Raises DatabaseError."""
    # A leg is put under the order that its parent's place has gone to by then.
    parents = [successor for successor in successors if successor.row["parent_order_id"] is None]
    legs = [successor for successor in successors if successor.row["parent_order_id"] is not None]
    for group in filter(None, (parents, legs)):
        orders = [successor.order for successor in group]
        db.execute_update(ADD_SUCCESSORS, {
            "old_ids": [successor.row["id"] for successor in group],
            "alpaca_order_ids": [order["id"] for order in orders],
            "client_order_ids": [order.get("client_order_id") for order in orders],
            "broker_statuses": [order["status"] for order in orders], "qtys": [order["qty"] for order in orders],
            "limit_prices": [order["limit_price"] for order in orders],
            "stop_prices": [order["stop_price"] for order in orders], "now": now,
        })


def apply_changes(db: TradingDB, changes: Sequence[Change], now: datetime) -> dict[int, Row]:
    """Write the changes and what they mean for the executions; return the rows that took them, by id, as they are now.

    Raises DatabaseError.
    """
    if not changes:
        return {}
    for change in changes:
        _alert_on_strange_word(db, change, now)
    changed = [_changed_row(change, now) for change in changes]
    taken = {row["id"] for row in db.execute_prepared(APPLY_CHANGES, {
        "ids": [row["id"] for row in changed], "old_statuses": [change.row["order_status"] for change in changes],
        "new_statuses": [row["order_status"] for row in changed],
        "broker_statuses": [row["broker_status"] for row in changed],
        "alpaca_order_ids": [row["alpaca_order_id"] for row in changed],
        "client_order_ids": [row["client_order_id"] for row in changed], "qtys": [row["qty"] for row in changed],
        "limit_prices": [row["limit_price"] for row in changed], "stop_prices": [row["stop_price"] for row in changed],
        "filled_qtys": [row["filled_qty"] for row in changed],
        "filled_avg_prices": [row["filled_avg_price"] for row in changed],
        "filled_ats": [row["filled_at"] for row in changed], "now": now,
    })}
    record_order_states(db, [
        _state(row) for change, row in zip(changes, changed, strict=True)
        if row["id"] in taken and STATE_OF_ROW(row) != STATE_OF_ROW(change.row)
    ], now)
    _end_alerts(db, [change for change in changes if change.row["id"] in taken], now)
    return {row["id"]: row for row in changed if row["id"] in taken}


def set_status(db: TradingDB, order_id: int, status: OrderStatus, now: datetime) -> None:
    """Move an order and its leg without the broker's word, where the move is allowed. Raises DatabaseError.

    Back to intended leads only from unknown: what provably did not arrive may be tried again under the same id.
    """
    back = status is OrderStatus.INTENDED
    allowed = [str(OrderStatus.UNKNOWN)] if back else before(ORDER_MOVES, status)
    db.execute_update(SET_STATUS, {"id": order_id, "status": str(status), "allowed": allowed, "now": now})


def _alert_on_strange_word(db: TradingDB, change: Change, now: datetime) -> None:
    word = change.order["status"]
    if is_strange(word):
        message = f"the broker calls order {change.order['id']} {word[:60]!r}, an unknown word; nothing was done"
        raise_alert(db, AlertLevel.WARNING, AlertKind.UNKNOWN_BROKER_STATUS, change.order["id"], message, now)


def _end_alerts(db: TradingDB, changes: Sequence[Change], now: datetime) -> None:
    """End the alerts about orders of which nobody knew what had become, or what the broker's word for it means."""
    unknown, known = OrderStatus.UNKNOWN, [change for change in changes if not is_strange(change.order["status"])]
    settled = [change.row["client_order_id"] for change in known if change.row["order_status"] == unknown]
    understood = [change.order["id"] for change in known if is_strange(change.row["broker_status"])]
    resolve_alerts(db, ALERTS_OF_UNKNOWN, settled, now)
    resolve_alerts(db, (AlertKind.UNKNOWN_BROKER_STATUS,), understood, now)


def _changed_row(change: Change, now: datetime) -> Row:
    """Return the row of a change with what the broker says; what it does not say stays."""
    heard = ((name, change.order.get(name)) for name in HEARD_IF_SAID)
    return {
        **change.row, **{name: value for name, value in heard if value is not None},
        "order_status": str(change.status), "broker_status": change.order["status"],
        "alpaca_order_id": change.order["id"], "filled_qty": change.order["filled_qty"],
        "filled_avg_price": change.order["filled_avg_price"], "filled_at": change.order["filled_at"],
        "updated_at": now,
    }


def _state(row: Row) -> OrderState:
    return OrderState(
        order_id=row["id"], status=EXECUTION_OF_ORDER[OrderStatus(row["order_status"])],
        alpaca_order_id=row["alpaca_order_id"], client_order_id=row["client_order_id"], filled_qty=row["filled_qty"],
        filled_avg_price=row["filled_avg_price"], filled_at=row["filled_at"],
    )
