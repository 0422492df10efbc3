"""Follows every order to its end: fills open positions, positions are protected, exits close trades."""

import argparse
import gc
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import partial

import requirements_check  # noqa: F401
from account_sync import AccountSync
from account_watch import ask_for_account
from alert_round import run_worker
from alpaca_client import Broker
from audit_trail import AlertKind
from clock import Clock
from command_line import EXIT_DONE, EXIT_FAILED, arguments, show
from config import Settings
from db_layer import DatabaseError, TradingDB
from decision import TradeStyle
from kill_switch import current_control
from order_life import ENDED, ExitReason, JournalStatus, decimal_text
from order_records import LEFTOVERS
from parts import PROGRAM_ERRORS, build_parts
from pass_log import ALERTS_OF_TRADE, Event, PassLog
from protection import Protection
from session_locks import hold_account
from trade import Trade
from trade_book import conclude, give_way, load_open_trades, load_trades, load_unbalanced, reload, settle_estimates
from wind_down import WindDown

log = logging.getLogger("order_monitor")


class OrderMonitor:
    """One pass: what the broker says is written down, and every trade is brought to where it should be."""

    def __init__(
        self, test_mode: bool = False, db: TradingDB | None = None, broker: Broker | None = None,
        clock: Clock | None = None, settings: Settings | None = None,
    ) -> None:
        self._parts = parts = build_parts(test_mode, db, broker, clock, settings, "order_monitor")
        self._db = parts.db
        self._broker = parts.broker
        self._clock = parts.clock
        self._desk = parts.desk
        self._settings = parts.settings
        self._sync = AccountSync(parts.db, parts.broker, parts.clock, parts.desk)
        self._begin()

    def close(self) -> None:
        """Close the connections that were opened for it."""
        self._parts.close()

    def run(self) -> Counter[Event]:
        """Do one pass and return what was done. Raises DatabaseError and BrokerError."""
        with hold_account(self._db), _without_collecting():
            return self._pass()

    def _pass(self) -> Counter[Event]:
        self._begin()
        ask_for_account(self._broker, self._found)
        self._desk.settle_unfinished(self._found)
        self.sync_order_status()
        trades = load_open_trades(self._db, self._found, self._sync.rows)
        trades = give_way(self._db, trades, self._found, self._clock.now())
        self._keep_books(trades)
        control = current_control(self._db)
        if control.flatten:
            self._close_everything()
        else:
            self._found.resolve((AlertKind.NOT_FLATTENED,), [trade.name for trade in trades])
            self._found.tolerate("day trades", partial(self._flatten_day_trades, trades))
            self._attend_to(trades)
            if control.cancels_entries:
                self._attend_to(self._withdraw_entries())
        self.cancel_remaining_orders()
        events = self._found.events
        log.info("monitor pass finished", extra={str(event): count for event, count in events.items()})
        return events

    def sync_order_status(self) -> None:
        """Write down what the broker says of orders and executions. Raises DatabaseError and BrokerError."""
        with self._found.reading("orders"):
            self._sync.orders(self._found)
        # Profit can wait for the executions, protection cannot.
        self._found.tolerate("fills", self._sync_fills)

    def handle_entry_filled(self, trades: Sequence[Trade]) -> None:
        """Turn filled entries into positions, or bring their quantities up to date. Raises DatabaseError."""
        self._protection.hold(trades)
        for trade in trades:
            if trade.journal["status"] == JournalStatus.ORDERED:
                self._found.events[Event.OPENED] += 1
                log.info("position opened", extra={"trade_id": trade.name, "qty": decimal_text(trade.held)})

    def handle_trade_over(self, trades: Sequence[Trade]) -> None:
        """End trades whose shares are all gone, or whose entry ended with nothing filled. Raises DatabaseError."""
        with self._db.transaction():
            ends = conclude(self._db, trades, self._clock.now())
            self._found.resolve(ALERTS_OF_TRADE, [trade.name for trade in trades])
        closed = sum(end.status is JournalStatus.CLOSED for end in ends)
        self._found.events[Event.CLOSED] += closed
        self._found.events[Event.ENDED_UNFILLED] += len(ends) - closed

    def cancel_remaining_orders(self) -> None:
        """Cancel what still works at the broker for trades that are over. Raises DatabaseError.

        A trade whose leftover fills before its cancel arrives is taken up again at once.
        """
        leftovers = self._db.execute_query(LEFTOVERS)
        for order in leftovers:
            current = self._db.get_by_id("order_execution", order["id"])
            if current is not None and current["order_status"] not in ENDED:
                self._found.tolerate(order["client_order_id"], partial(self._desk.cancel, order))
                self._found.events[Event.CANCELLED] += 1
        late = load_unbalanced(self._db, {order["trade_journal_id"] for order in leftovers})
        self._keep_books(late)
        self._attend_to(late)

    def _begin(self) -> None:
        self._found = PassLog(self._db, self._clock)
        self._protection = Protection(self._db, self._broker, self._clock, self._desk, self._found)
        self._wind_down = WindDown(self._db, self._clock, self._desk, self._protection, self._found)

    def _attend_to(self, trades: Sequence[Trade]) -> None:
        for trade in trades:
            if trade.entered > 0 and (trade.held != 0 or not trade.entry_ended):
                self._found.tolerate(trade.name, partial(self._attend, trade))

    def _withdraw_entries(self) -> Sequence[Trade]:
        """Cancel the entries that rest, write what their ends mean, and return their trades."""
        trades = load_trades(self._db, self._wind_down.withdraw_entries())
        self._keep_books(trades)
        return trades

    def _close_everything(self) -> None:
        """Take the entries back and close every trade at market, because a person asked for it (flatten)."""
        self._withdraw_entries()
        for trade in load_open_trades(self._db, self._found):
            self._found.tolerate(trade.name, partial(self._wind_down.close_out, trade))

    def _keep_books(self, trades: Sequence[Trade]) -> None:
        """Write what the fills mean for the trades: opened, grown, shrunken, over."""
        moved = [trade for trade in trades if _has_shares_unheard_of(trade)]
        self._in_bulk(moved, self.handle_entry_filled)
        self._in_bulk([trade for trade in trades if trade.held == 0 and trade.entry_ended], self.handle_trade_over)

    def _in_bulk(self, trades: Sequence[Trade], write: Callable[[Sequence[Trade]], None]) -> None:
        """Write for all at once, or where the database refuses one by one, so that one odd row holds up no other."""
        if not trades:
            return
        try:
            write(trades)
        except DatabaseError as error:
            if error.lost_connection:
                raise
            for trade in trades:
                self._found.tolerate(trade.name, partial(write, [trade]))

    def _attend(self, trade: Trade) -> None:
        """Bring the orders of a trade that has filled shares to where they should be."""
        if trade.id in self._protection.moved:
            trade = reload(self._db, trade)
        if trade.held > 0:
            self._protection.protect(trade)
        elif trade.held < 0:
            self._protection.undo_excess(trade)
        elif trade.entry_ended or self._desk.cancel(trade.entry):
            trade = reload(self._db, trade)
            if trade.held == 0:
                self.handle_trade_over([trade])

    def _flatten_day_trades(self, trades: Sequence[Trade]) -> None:
        """Close the day trades shortly before the close (DAYTRADE_FLATTEN_MINUTES_BEFORE_CLOSE)."""
        ahead = timedelta(minutes=self._settings.limits.daytrade_flatten_minutes)
        due = [trade for trade in trades if trade.journal["trade_style"] == TradeStyle.DAYTRADE and _is_alive(trade)]
        if not ahead or not due:
            return
        hours = self._broker.market_hours()
        if not hours.is_open or hours.next_close - hours.now > ahead:
            return
        for trade in due:
            self._found.tolerate(
                trade.name, partial(self._protection.close_at_market, trade, ExitReason.EOD_EXIT),
            )

    def _sync_fills(self) -> None:
        if self._sync.fills():
            settle_estimates(self._db, self._clock.now())


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Keep the garbage collector away: it would look at thousands of rows again and again, none of them garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _is_alive(trade: Trade) -> bool:
    """Tell whether a trade holds shares, or may still come to hold some."""
    return trade.held > 0 or not trade.entry_ended


def _has_shares_unheard_of(trade: Trade) -> bool:
    """Tell whether the books do not say yet what a trade holds, or that it held shares which are gone again."""
    came_and_went = trade.entered > 0 and trade.journal["status"] == JournalStatus.ORDERED
    return came_and_went or (trade.held != 0 and not _is_tracked(trade))


def _is_tracked(trade: Trade) -> bool:
    """Tell whether the books say already what the trade holds; shares below nought have no row."""
    journal, held = trade.journal, trade.held if trade.held > 0 else None
    said = journal["status"], journal["actual_qty"], journal["actual_entry"], journal["tracked_qty"]
    return said == (JournalStatus.POSITION, trade.entered, round(trade.entry_price, 6), held)


def main(argv: list[str] | None = None) -> int:
    """Run one pass from the command line and return the exit status."""
    parser = arguments("Follow orders and fills, open and protect positions, close trades: one pass.")
    return run_worker(parser, argv, _work, PROGRAM_ERRORS)


def _work(options: argparse.Namespace, settings: Settings) -> int:
    with closing(OrderMonitor(options.test_mode, settings=settings)) as monitor:
        events = monitor.run()
    show(", ".join(f"{event}: {events[event]}" for event in Event if events[event]) or "Nothing changed.")
    return EXIT_FAILED if events[Event.UNREACHED] else EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
