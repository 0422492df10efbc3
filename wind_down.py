"""What the kill switch asks of a monitor pass: resting entries cancelled (REDUCING), everything closed (a flatten).

Both are done by every pass while the switch says so, so that what was interrupted is finished by whoever comes next.
Source: docs/architecture.md, stopping.
"""

import logging
from functools import partial

from audit_trail import AlertKind, resolve_alerts
from clock import Clock
from db_layer import Row, TradingDB
from order_desk import OrderDesk
from order_life import ExitReason
from order_records import ALL_RESTING_ENTRIES
from pass_log import Event, PassLog
from protection import Protection
from trade import Trade
from trade_book import reload

# Many entries are cancelled one after the other; one that lingers is looked at again by the next pass.
ENTRY_POLLS = 3

log = logging.getLogger("wind_down")


class WindDown:
    """Takes entries back and closes trades, each as far as it can be done now."""

    def __init__(
        self, db: TradingDB, clock: Clock, desk: OrderDesk, protection: Protection, found: PassLog,
    ) -> None:
        self._db = db
        self._clock = clock
        self._desk = desk
        self._protection = protection
        self._found = found

    def withdraw_entries(self) -> list[int]:
        """Cancel every entry that rests at the broker; return the journal ids of their trades. Raises DatabaseError."""
        resting = self._db.execute_query(ALL_RESTING_ENTRIES)
        for entry in resting:
            self._found.tolerate(entry["client_order_id"], partial(self._withdraw, entry))
        return sorted({entry["trade_journal_id"] for entry in resting})

    def close_out(self, trade: Trade) -> None:
        """Close a trade at market; one that cannot be closed now keeps its exits, or gets them back.

        Raises DatabaseError and BrokerError.
        """
        trade = reload(self._db, trade)
        if trade.held < 0:
            self._protection.undo_excess(trade)
            return
        if trade.held == 0:
            return
        if self._has_entry_beside(trade):
            # The broker refuses an order at market beside it, and the shares it may bring would have no stop.
            self._protection.protect(trade)
            self._not_closed(trade, f"an entry in {trade.symbol} has not gone away yet")
            return
        self._protection.close_at_market(trade, ExitReason.MANUAL_EXIT)
        self._keep_protected(reload(self._db, trade))

    def _withdraw(self, entry: Row) -> None:
        if self._desk.cancel(entry, ENTRY_POLLS):
            self._found.events[Event.WITHDRAWN] += 1
        else:
            log.warning("an entry has not gone away yet", extra={"order": entry["client_order_id"]})

    def _has_entry_beside(self, trade: Trade) -> bool:
        resting = self._db.execute_query(ALL_RESTING_ENTRIES)
        same = any((entry["symbol"], entry["side"]) == (trade.symbol, trade.side) for entry in resting)
        return same or not trade.entry_ended

    def _keep_protected(self, trade: Trade) -> None:
        """Put the exits back over a trade that the broker would not close."""
        if trade.held <= 0 or trade.exit_groups:
            return
        why = self._found.last_words.get(trade.name, "the broker did not take the order")
        self._protection.protect(trade)
        self._not_closed(trade, why)
        if reload(self._db, trade).exit_groups:
            resolve_alerts(self._db, (AlertKind.UNPROTECTED_POSITION,), (trade.name,), self._clock.now())

    def _not_closed(self, trade: Trade, why: str) -> None:
        words = f"{trade.name} could not be closed, and is tried again by every pass: {why}"
        self._found.critical(AlertKind.NOT_FLATTENED, trade.name, words)
