"""Writes down what the broker says of the account's orders and executions: ours, and those of others."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from alpaca_client import Broker
from clock import Clock
from db_layer import Row, TradingDB
from fill_records import Heard, add_fills, note_external_orders, unexplained
from order_desk import OrderDesk
from order_life import AT_BROKER, JournalStatus, OrderStatus, decimal_text
from order_records import LOAD_ORDERS, Change
from pass_log import Event, PassLog

# Our clock and the broker's may differ; listings begin this much earlier.
CLOCK_MARGIN = timedelta(hours=1)


class AccountSync:
    """Brings the rows of orders and fills up to what the broker says."""

    def __init__(self, db: TradingDB, broker: Broker, clock: Clock, desk: OrderDesk) -> None:
        self._db = db
        self._broker = broker
        self._clock = clock
        self._desk = desk

    def orders(self, found: PassLog) -> None:
        """Write down what one listing says about all orders. Raises DatabaseError and BrokerError."""
        rows = self._db.execute_query(LOAD_ORDERS)
        if not rows:
            return
        asked = [row for row in rows if OrderStatus(row["order_status"]) in (*AT_BROKER, OrderStatus.UNKNOWN)]
        orders = self._broker.list_orders(rows[0]["since"])
        changes = self._desk.hear(rows, orders)
        found.events[Event.CHANGED] += len(changes)
        for change in changes:
            self._alert_late_fill(change, found)
        members = [member for order in orders for member in (order, *order["legs"])]
        self._note_external(rows, members)
        self._ask_for_absent(asked, {member["id"] for member in members}, found)

    def fills(self) -> None:
        """Write down the executions not known yet, newest first, until none is missing.

        Raises DatabaseError and BrokerError.
        """
        missing = unexplained(self._db, self._clock.now())
        if not missing:
            return
        for page in self._broker.fill_pages(min(order["since"] for order in missing) - CLOCK_MARGIN):
            now = self._clock.now()
            if add_fills(self._db, page, now) and not unexplained(self._db, now):
                return

    def _note_external(self, rows: Sequence[Row], members: Sequence[Heard]) -> None:
        ours = {row["alpaca_order_id"] for row in rows} | {row["client_order_id"] for row in rows}
        others = [heard for heard in members if heard["id"] not in ours and heard.get("client_order_id") not in ours]
        note_external_orders(self._db, others, self._clock.now())

    def _ask_for_absent(self, asked: Sequence[Row], listed: set[str], found: PassLog) -> None:
        """Ask for working orders that the listing left out, one by one: absence says nothing about them."""
        for row in asked:
            if row["alpaca_order_id"] and row["parent_order_id"] is None and row["alpaca_order_id"] not in listed:
                found.tolerate(row["client_order_id"], partial(self._desk.refresh, row["id"]))

    def _alert_late_fill(self, change: Change, found: PassLog) -> None:
        row, filled = change.row, change.order["filled_qty"]
        if row["journal_status"] in (JournalStatus.CLOSED, JournalStatus.CANCELLED) and filled > row["filled_qty"]:
            shares = decimal_text(filled - row["filled_qty"])
            found.critical(
                "late_fill", row["client_order_id"],
                f"order {row['client_order_id']} filled {shares} shares after {row['trade_id']} was over; the trade is "
                "taken up again",
            )
