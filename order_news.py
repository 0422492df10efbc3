"""Writes down what the broker says of our orders: changes, the orders that replaced them, and alerts about both."""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal

from audit_trail import AlertKind, AlertLevel, raise_alert
from clock import Clock
from db_layer import DatabaseError, Row, TradingDB, write_each
from order_comparison import Change, Heard, Successor, end_of_replaced, find_changes, find_successors
from order_life import JournalStatus, OrderRole, OrderStatus, decimal_text, is_ratio_of_a_split
from order_records import LOAD_HEARD, add_successors, apply_changes
from trade_records import restate_plan

CENT = Decimal("0.01")
AMENDED_TRADE = """
SELECT journal.trade_id FROM audit.trade_decisions decision
JOIN order_execution target ON target.id = decision.target_order_id
JOIN trade_journal journal ON journal.id = target.trade_journal_id
WHERE decision.id = %(id)s AND decision.action = 'amend'
"""


class OrderNews:
    """Takes in what the broker says of orders; `mark` marks the row of a decision whose entry is heard of first."""

    def __init__(self, db: TradingDB, clock: Clock, mark: Callable[[int], None]) -> None:
        self._db = db
        self._clock = clock
        self._mark = mark

    def hear(
        self, rows: Sequence[Row], orders: Sequence[Heard],
    ) -> tuple[list[Change], list[Row] | None]:
        """Write down what the broker says of these rows' orders; orders that replaced them get rows too.

        Returns what was new, and the rows as they are now, or None where that takes reading them again. Raises
        DatabaseError.
        """
        changes = find_changes(rows, orders)
        grown = list(rows)
        while successors := find_successors(grown, orders):
            added, unwritten = self._add_successors(successors)
            grown += added
            changes += find_changes(added, orders)
            changes += filter(None, (end_of_replaced(successor, orders) for successor in successors))
            # Nothing would follow an order that ended while the one in its place has no row.
            changes = [change for change in changes if change.row["id"] not in unwritten]
            if unwritten:
                break  # asking again would not end
        taken = self.apply(changes)
        for change in changes:
            self._alert_late_fill(change)
            self._follow_changed_entry(change)
        if len(grown) > len(rows) or len(taken) < len(changes):
            return changes, None
        return changes, [taken.get(row["id"], row) for row in rows]

    def _add_successors(self, successors: Sequence[Successor]) -> tuple[list[Row], set[int]]:
        """Write the orders that replaced ours; return their rows, and the ids of the rows whose successor has none."""
        refusals: dict[str, DatabaseError] = {}
        write_each(
            successors, lambda some: add_successors(self._db, some, self._clock.now()),
            lambda successor, error: refusals.update({successor.order["id"]: error}),
        )
        ids = [successor.order["id"] for successor in successors]
        added = self._db.execute_query(LOAD_HEARD, {"alpaca_order_ids": ids})
        written = {row["alpaca_order_id"] for row in added}
        unwritten = [successor for successor in successors if successor.order["id"] not in written]
        now = self._clock.now()
        for new, old in ((successor.order, successor.row) for successor in unwritten):
            why = refusals.get(new["id"]) or f"its client id {new.get('client_order_id')} is that of another order"
            words = f"order {new['id']}, which replaced {old['client_order_id']}, cannot be stored: {why}"
            raise_alert(self._db, AlertLevel.CRITICAL, AlertKind.ORDER_NOT_RECORDED, new["id"], words, now)
        return added, {successor.row["id"] for successor in unwritten}

    def _follow_changed_entry(self, change: Change) -> None:
        """Bring the plan of a resting entry to a split that the broker restated it for; say what else it changed."""
        row, qty = change.row, change.order["qty"]
        same = row["order_type"] == OrderRole.ENTRY and row["alpaca_order_id"] == change.order["id"]
        if not same or qty is None or qty == row["qty"]:
            return
        now, name = self._clock.now(), row["client_order_id"]
        shares = f"the broker changed the entry {name} from {decimal_text(row['qty'])} to {decimal_text(qty)} shares"
        if _was_split(change):
            restate_plan(self._db, row["trade_journal_id"], qty / row["qty"], now)
            words = f"{shares} for a split; the stop and the target of its trade were restated"
            raise_alert(self._db, AlertLevel.WARNING, AlertKind.SPLIT, row["symbol"], words, now)
            return
        words = f"{shares}; its stop and its target are the old ones: amend or cancel it"
        raise_alert(self._db, AlertLevel.CRITICAL, AlertKind.ORDER_CHANGED_BY_BROKER, name, words, now)

    def _alert_late_fill(self, change: Change) -> None:
        row, filled = change.row, change.order["filled_qty"]
        if row["journal_status"] in (JournalStatus.CLOSED, JournalStatus.CANCELLED) and filled > row["filled_qty"]:
            shares, name = decimal_text(filled - row["filled_qty"]), row["client_order_id"]
            words = f"order {name} filled {shares} shares after {row['trade_id']} was over; the trade is taken up again"
            raise_alert(self._db, AlertLevel.CRITICAL, AlertKind.LATE_FILL, name, words, self._clock.now())

    def apply(self, changes: list[Change]) -> dict[int, Row]:
        """Write changes and return the rows that took them; the row of a decision whose entry is new is marked too.

        Raises DatabaseError.
        """
        taken: dict[int, Row] = {}
        for rows in write_each(changes, self._write, self._alert_not_recorded):
            taken |= rows
        for change in changes:
            if change.row["alpaca_order_id"] is None and change.row["order_type"] == OrderRole.ENTRY:
                self._mark(change.row["id"])
        self.alert_rejected(changes)
        return taken

    def _write(self, changes: Sequence[Change]) -> dict[int, Row]:
        with self._db.transaction():
            return apply_changes(self._db, changes, self._clock.now())

    def _alert_not_recorded(self, change: Change, error: DatabaseError) -> None:
        name = change.order["id"]
        message = f"what the broker says of order {name} cannot be stored: {error}"
        raise_alert(self._db, AlertLevel.CRITICAL, AlertKind.ORDER_NOT_RECORDED, name, message, self._clock.now())

    def alert_rejected(self, changes: Sequence[Change]) -> None:
        """Raise the alert of an amend whose new order the broker took and then rejected."""
        for change in changes:
            rejected = change.status is OrderStatus.REJECTED and not change.order["filled_qty"]
            order = self._db.get_by_id("order_execution", change.row["id"]) if rejected else None
            if order is not None and order["order_type"] == OrderRole.ENTRY:
                words = f"the broker rejected order {change.order['id']} after taking it"
                alert_amended(self._db, order["trade_decision_id"], words, self._clock.now())


def _was_split(change: Change) -> bool:
    """Tell whether an unfilled order asks for more shares at a price as much lower, or for fewer the other way."""
    row, order = change.row, change.order
    if order["filled_qty"] or row["limit_price"] is None or not order["limit_price"]:
        return False
    ratio = order["qty"] / row["qty"]
    return is_ratio_of_a_split(ratio) and abs(row["limit_price"] / ratio - order["limit_price"]) < CENT


def alert_amended(db: TradingDB, decision_id: int, reason: str, now: datetime) -> None:
    """Raise the alert that an amend took an order away and placed none; nothing for other decisions."""
    for trade in db.execute_query(AMENDED_TRADE, {"id": decision_id}):
        message = f"the order of {trade['trade_id']} is cancelled, and the one to replace it came to nothing: {reason}"
        raise_alert(db, AlertLevel.CRITICAL, AlertKind.AMENDED_WITHOUT_ORDER, trade["trade_id"], message, now)
