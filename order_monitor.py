"""Follows every order to its end: fills open positions, positions are protected, exits close trades."""

import argparse
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import partial

import requirements_check  # noqa: F401
from alpaca_client import Broker, BrokerError, Outcome
from audit_trail import AlertLevel, finish_decision, raise_alert, resolve_alert
from clock import Clock
from command_line import EXIT_DONE, EXIT_FAILED, arguments, run_program, show
from config import Settings
from db_layer import DatabaseError, Row, TradingDB
from order_life import (
    AT_BROKER,
    ENDED,
    FILLED_EXIT,
    UNFILLED_END,
    DecisionStatus,
    ExitReason,
    Fill,
    JournalStatus,
    OrderRole,
    OrderStatus,
    average_price,
    decimal_text,
    opposite,
    realised_pnl,
    total_qty,
)
from order_records import (
    FILLS_OF_TRADE,
    FILLS_WANTED,
    LEFTOVERS,
    LOAD_ORDERS,
    ORDERS_OF_TRADE,
    RESTING_ENTRIES,
    Change,
    Intent,
    add_fills,
    add_intent,
    find_changes,
    set_status,
)
from parts import PROGRAM_ERRORS, build_parts
from trade_records import (
    Trade,
    TradeEnd,
    end_trade,
    estimated_trades,
    hold_position,
    one_trade,
    open_trades,
    settle_estimate,
    track_exits,
    trade_of,
)

# Our clock and the broker's may differ; listings begin this much earlier.
CLOCK_MARGIN = timedelta(hours=1)
# The broker's positions can lag its fills by a moment.
POSITION_POLLS = 6
POSITION_POLL_SECONDS = 0.5
LAST_WORDS = """
SELECT error_message FROM audit.trade_executions WHERE trade_decision_id = %(decision_id)s ORDER BY id DESC LIMIT 1
"""
UNIQUE_VIOLATION = "23505"
PROTECTION_ALERTS = ("unprotected_position", "broker_mismatch")
OPEN_ALERTS = "SELECT kind, subject FROM audit.alerts WHERE kind = ANY(%(kinds)s) AND resolved_at IS NULL"

log = logging.getLogger("order_monitor")


class Event(StrEnum):
    """What a pass did."""

    CHANGED = "orders changed"
    OPENED = "positions opened"
    PROTECTED = "exits placed"
    CLOSED = "trades closed"
    ENDED_UNFILLED = "entries ended unfilled"
    CANCELLED = "leftover orders cancelled"
    PROBLEM = "problems (rows of audit.alerts)"
    UNREACHED = "orders left alone because the broker did not answer"


class OrderMonitor:
    """One pass: what the broker says is written down, and every trade is brought to where it should be."""

    def __init__(
        self, test_mode: bool = False, db: TradingDB | None = None, broker: Broker | None = None,
        clock: Clock | None = None, settings: Settings | None = None,
    ) -> None:
        parts = build_parts(test_mode, db, broker, clock, settings, "order_monitor")
        self._db = parts.db
        self._broker = parts.broker
        self._clock = parts.clock
        self._desk = parts.desk
        self._events: Counter[Event] = Counter()
        self._open_alerts: set[tuple[str, str]] = set()
        self._moved: set[int] = set()  # trades whose orders changed on behalf of another in this pass

    def run(self) -> Counter[Event]:
        """Do one pass and return what was done. Raises DatabaseError and BrokerError."""
        self._events = Counter()
        self._moved = set()
        alerts = self._db.execute_query(OPEN_ALERTS, {"kinds": [*PROTECTION_ALERTS, "not_attended_to"]})
        self._open_alerts = {(alert["kind"], alert["subject"]) for alert in alerts}
        self._broker.account()
        self._desk.settle_unfinished()
        self.sync_order_status()
        # Profit can wait for the executions, protection cannot.
        self._tolerate("fills", self._sync_fills)
        for trade in self._open_trades():
            self._tolerate(trade.journal["trade_id"], partial(self._attend, trade))
        self.cancel_remaining_orders()
        log.info("monitor pass finished", extra={str(event): count for event, count in self._events.items()})
        return self._events

    def sync_order_status(self) -> None:
        """Write down what one listing says about all working orders. Raises BrokerError."""
        rows = self._db.execute_query(LOAD_ORDERS)
        asked = [row for row in rows if OrderStatus(row["order_status"]) in (*AT_BROKER, OrderStatus.UNKNOWN)]
        if not asked:
            return
        orders = self._broker.list_orders(min(row["created_at"] for row in asked) - CLOCK_MARGIN)
        changes = find_changes(rows, orders)
        self._events[Event.CHANGED] += self._desk.apply(changes)
        for change in changes:
            self._alert_late_fill(change)
        listed = {order["id"] for order in orders}
        for row in asked:
            if row["alpaca_order_id"] and row["parent_order_id"] is None and row["alpaca_order_id"] not in listed:
                self._tolerate(row["client_order_id"], partial(self._desk.refresh, row["id"]))

    def handle_entry_filled(self, trade: Trade) -> None:
        """Turn a filled entry into a position, or bring its quantity up to date. Raises DatabaseError."""
        now, price = self._clock.now(), trade.entry["filled_avg_price"]
        with self._db.transaction():
            hold_position(self._db, trade.journal["id"], trade.entered, trade.held, price, now)
            finish_decision(self._db, trade.journal["trade_decision_id"], DecisionStatus.EXECUTED, None, now)
        if trade.journal["status"] == JournalStatus.ORDERED:
            self._events[Event.OPENED] += 1
            log.info("position opened", extra={"trade_id": trade.journal["trade_id"], "qty": decimal_text(trade.held)})

    def place_stop_loss(self, trade: Trade) -> Outcome | None:
        """Place a stop for all shares held: gtc, or day for a fraction, which the broker takes no other way."""
        with self._db.transaction():
            order_id = add_intent(self._db, self._exit_intent(trade, OrderRole.STOP_LOSS), self._clock.now())
        return self._desk.submit(order_id)

    def place_take_profit(self, trade: Trade) -> Outcome | None:
        """Place target and stop for all shares held as one OCO order, whose parent is the target."""
        now = self._clock.now()
        with self._db.transaction():
            order_id = add_intent(self._db, self._exit_intent(trade, OrderRole.TAKE_PROFIT), now)
            add_intent(self._db, self._exit_intent(trade, OrderRole.STOP_LOSS, parent_order_id=order_id), now)
        return self._desk.submit(order_id)

    def handle_exit_filled(self, trade: Trade) -> None:
        """Close a trade whose shares are all gone, with the profit its executions give. Raises DatabaseError."""
        now = self._clock.now()
        entries, exits, complete = self._fills(trade)
        last = max((order for order in trade.exits if order["filled_qty"] > 0), key=_filled_at)
        end = TradeEnd(
            JournalStatus.CLOSED, FILLED_EXIT[OrderRole(last["order_type"])], last["filled_at"] or now,
            average_price(exits), realised_pnl(trade.journal["side"], entries, exits), estimate=not complete,
        )
        with self._db.transaction():
            end_trade(self._db, trade.journal["id"], end, now)
            for kind in PROTECTION_ALERTS:
                resolve_alert(self._db, kind, trade.journal["trade_id"], now)
        self._events[Event.CLOSED] += 1
        log.info("trade closed", extra={
            "trade_id": trade.journal["trade_id"], "reason": end.reason, "pnl": decimal_text(end.pnl or Decimal(0)),
            "estimate": end.estimate,
        })

    def cancel_remaining_orders(self) -> None:
        """Cancel what still works at the broker for trades that are over. Raises DatabaseError."""
        for order in self._db.execute_query(LEFTOVERS):
            current = self._db.get_by_id("order_execution", order["id"])
            if current is None or OrderStatus(current["order_status"]) in ENDED:
                continue
            self._tolerate(order["client_order_id"], partial(self._cancel_leftover, order))

    def _attend(self, trade: Trade) -> None:
        if trade.journal["id"] in self._moved:
            trade = self._reload(trade)
        if trade.entered == 0:
            if trade.entry_ended:
                self._end_unfilled(trade)
            return
        self._keep_tracking(trade)
        if trade.held > 0:
            self._protect(trade)
        elif trade.held < 0:
            self._alert_too_many_exits(trade)
        elif trade.entry_ended or self._desk.cancel(trade.entry):
            trade = self._reload(trade)
            if trade.held == 0:
                self.handle_exit_filled(trade)

    def _keep_tracking(self, trade: Trade) -> None:
        journal = trade.journal
        tracked = journal["tracked_qty"] or Decimal(0)
        if (journal["status"], journal["actual_qty"], tracked) != (JournalStatus.POSITION, trade.entered, trade.held):
            self.handle_entry_filled(trade)

    def _protect(self, trade: Trade) -> None:
        """Make the live exit one group over exactly the shares held, replacing whatever else there is."""
        live = trade.exit_groups
        if len(live) == 1 and self._fits(trade, live[0]):
            if live[0]["order_status"] == OrderStatus.INTENDED:
                self._judge(trade, self._desk.submit(live[0]["id"]))
            elif live[0]["order_status"] != OrderStatus.UNKNOWN:
                self._note_protected(trade)
            return
        if not all(self._remove(order) for order in live):
            self._unprotected(trade, "the exit orders that do not fit it did not go away")
            return
        trade = self._reload(trade)
        if self._wants_target(trade):
            if trade.held > 0 and self._held_at_broker(trade):
                outcome = self.place_take_profit(trade)
                # With the price beyond the stop no OCO is taken, but a stop alone is, and it ends the trade at once.
                if outcome is not Outcome.REFUSED:
                    self._judge(self._reload(trade), outcome)
                    return
                words = f"{trade.journal['trade_id']} gets a stop but no target: the broker refused the OCO order"
                self._alert(AlertLevel.WARNING, "target_not_placed", trade.journal["trade_id"], words)
            trade = self._reload(trade)
        self._cancel_resting_entries(trade)
        trade = self._reload(trade)
        self._keep_tracking(trade)
        if trade.held > 0 and self._held_at_broker(trade):
            self._judge(self._reload(trade), self.place_stop_loss(trade))

    def _wants_target(self, trade: Trade) -> bool:
        return trade.journal["planned_take_profit"] is not None

    def _cancel_resting_entries(self, trade: Trade) -> None:
        """Clear the way for a plain stop: the broker refuses it beside a resting entry as a potential wash trade."""
        side = {"symbol": trade.journal["symbol"], "side": trade.journal["side"]}
        for entry in self._db.execute_query(RESTING_ENTRIES, side):
            self._desk.cancel(entry)
            if entry["trade_journal_id"] != trade.journal["id"]:
                self._moved.add(entry["trade_journal_id"])
                log.warning("an entry gave way to a stop", extra={
                    "entry": entry["client_order_id"], "trade_id": trade.journal["trade_id"],
                })

    def _held_at_broker(self, trade: Trade) -> bool:
        """Make sure that an exit order can only close shares: without them it would open the opposite position."""
        sign = 1 if trade.journal["side"] == "buy" else -1
        for poll in range(POSITION_POLLS):
            if poll:
                self._clock.sleep(POSITION_POLL_SECONDS)
            there = sign * self._broker.position_qty(trade.journal["symbol"])
            if there >= trade.held:
                return True
        self._problem(
            trade, "broker_mismatch",
            f"{trade.journal['trade_id']} has {decimal_text(trade.held)} {trade.journal['symbol']}, the broker has "
            f"{decimal_text(there)}; no exit order was placed, because it could open a position; compare by hand",
        )
        return False

    def _fits(self, trade: Trade, order: Row) -> bool:
        if order["qty"] - order["filled_qty"] != trade.held:
            return False
        leg = trade.leg(order)
        return order["order_type"] == OrderRole.STOP_LOSS or (
            leg is not None and OrderStatus(leg["order_status"]) not in ENDED
        )

    def _remove(self, order: Row) -> bool:
        if order["order_status"] == OrderStatus.INTENDED:
            with self._db.transaction():
                set_status(self._db, order["id"], OrderStatus.CANCELLED, self._clock.now())
            return True
        return order["alpaca_order_id"] is not None and self._desk.cancel(order)

    def _judge(self, trade: Trade, outcome: Outcome | None) -> None:
        if outcome is Outcome.ACCEPTED:
            self._events[Event.PROTECTED] += 1
            self._note_protected(self._reload(trade))
            return
        if outcome is None:
            return  # another process is sending it
        (last,) = self._db.execute_query(LAST_WORDS, {"decision_id": trade.journal["trade_decision_id"]})
        self._unprotected(trade, f"its exit order was not placed: {outcome}, {last['error_message']}")

    def _note_protected(self, trade: Trade) -> None:
        now, journal = self._clock.now(), trade.journal
        live = {
            order["order_type"]: order for order in trade.exits if OrderStatus(order["order_status"]) not in ENDED
        }
        stop, target = live.get(OrderRole.STOP_LOSS, {}), live.get(OrderRole.TAKE_PROFIT, {})
        ids = stop.get("alpaca_order_id"), target.get("alpaca_order_id")
        if ids != (journal["stop_loss_order_id"], journal["take_profit_order_id"]):
            track_exits(self._db, journal["id"], ids[0], stop.get("stop_price"), ids[1], now)
        for kind in PROTECTION_ALERTS:
            if (kind, journal["trade_id"]) in self._open_alerts:
                resolve_alert(self._db, kind, journal["trade_id"], now)

    def _end_unfilled(self, trade: Trade) -> None:
        now = self._clock.now()
        reason = UNFILLED_END[OrderStatus(trade.entry["order_status"])]
        status = DecisionStatus.CANCELLED if reason is ExitReason.CANCELLED else DecisionStatus.FAILED
        words = f"the order ended as {trade.entry['broker_status']} with nothing filled"
        with self._db.transaction():
            end_trade(self._db, trade.journal["id"], TradeEnd(JournalStatus.CANCELLED, reason, now), now)
            finish_decision(self._db, trade.journal["trade_decision_id"], status, words, now)
        self._events[Event.ENDED_UNFILLED] += 1

    def _cancel_leftover(self, order: Row) -> None:
        self._events[Event.CANCELLED] += self._desk.cancel(order)
        now_filled = self._db.get_by_id("order_execution", order["id"]) or order
        if now_filled["filled_qty"] > order["filled_qty"]:
            self._alert_filled_after_end(order, order["trade_id"], now_filled["filled_qty"] - order["filled_qty"])

    def _sync_fills(self) -> None:
        since: datetime | None = self._db.execute_query(FILLS_WANTED)[0]["since"]
        if since is not None:
            add_fills(self._db, self._broker.list_fills(since - CLOCK_MARGIN))
        for journal_id in estimated_trades(self._db):
            self._settle_estimate(self._trade(journal_id))

    def _settle_estimate(self, trade: Trade) -> None:
        entries, exits, complete = self._fills(trade)
        entry, left = average_price(entries), average_price(exits)
        if total_qty(entries) != total_qty(exits):
            self._alert_too_many_exits(trade)
        elif complete and entry is not None and left is not None:
            pnl = realised_pnl(trade.journal["side"], entries, exits)
            settle_estimate(self._db, trade.journal["id"], entry, left, pnl, self._clock.now())

    def _fills(self, trade: Trade) -> tuple[list[Fill], list[Fill], bool]:
        """Return entry and exit executions; where some are not known yet, the orders' averages, and False."""
        known: defaultdict[int, list[Fill]] = defaultdict(list)
        for row in self._db.execute_query(FILLS_OF_TRADE, {"journal_id": trade.journal["id"]}):
            known[row["order_execution_id"]].append(Fill(row["qty"], row["price"]))
        orders = (trade.entry, *trade.exits)
        complete = all(total_qty(known[order["id"]]) == order["filled_qty"] for order in orders)
        if not complete:
            known = defaultdict(list, {
                order["id"]: [Fill(order["filled_qty"], order["filled_avg_price"])]
                for order in orders if order["filled_qty"] > 0
            })
        return known[trade.entry["id"]], [fill for order in trade.exits for fill in known[order["id"]]], complete

    def _exit_intent(self, trade: Trade, role: OrderRole, parent_order_id: int | None = None) -> Intent:
        journal = trade.journal
        number = 1 + sum(order["parent_order_id"] is None for order in trade.exits)
        whole = trade.held == trade.held.to_integral_value()
        stem = trade.entry["client_order_id"].removesuffix("-e")
        letter = "x" if role is OrderRole.TAKE_PROFIT else ("l" if parent_order_id else "s")
        return Intent(
            trade_journal_id=journal["id"], trade_decision_id=journal["trade_decision_id"],
            analysis_decision_id=journal["initial_analysis_id"], client_order_id=f"{stem}-{letter}{number}",
            role=role, side=opposite(journal["side"]), time_in_force="gtc" if whole else "day", qty=trade.held,
            limit_price=journal["planned_take_profit"] if role is OrderRole.TAKE_PROFIT else None,
            stop_price=journal["current_stop_loss"] if role is OrderRole.STOP_LOSS else None,
            parent_order_id=parent_order_id,
        )

    def _open_trades(self) -> list[Trade]:
        orders: defaultdict[int, list[Row]] = defaultdict(list)
        for row in self._db.execute_query(LOAD_ORDERS):
            orders[row["trade_journal_id"]].append(row)
        trades = []
        for journal in open_trades(self._db):
            trade = trade_of(journal, orders[journal["id"]])
            if trade is not None:
                trades.append(trade)
                continue
            words = f"{journal['trade_id']} is {journal['status']} but has no entry order; nobody follows it"
            self._alert(AlertLevel.WARNING, "trade_without_order", journal["trade_id"], words)
        return trades

    def _reload(self, trade: Trade) -> Trade:
        return self._trade(trade.journal["id"])

    def _trade(self, journal_id: int) -> Trade:
        orders = self._db.execute_query(ORDERS_OF_TRADE, {"journal_id": journal_id})
        trade = trade_of(one_trade(self._db, journal_id), orders)
        if trade is None:
            raise DatabaseError(f"the entry order of trade {journal_id} is gone")
        return trade

    def _unprotected(self, trade: Trade, why: str) -> None:
        position = f"{decimal_text(trade.held)} {trade.journal['symbol']} of {trade.journal['trade_id']}"
        self._problem(trade, "unprotected_position", f"{position} have no exit order for all shares: {why}")

    def _alert_too_many_exits(self, trade: Trade) -> None:
        trade_id = trade.journal["trade_id"]
        words = f"{trade_id} closed {decimal_text(-trade.held)} shares more than it had; close the difference by hand"
        self._problem(trade, "too_many_exits", words)

    def _alert_late_fill(self, change: Change) -> None:
        """Say that shares were filled for a trade that is over here; nobody protects them."""
        row, filled = change.row, change.order["filled_qty"]
        if row["journal_status"] not in (JournalStatus.CLOSED, JournalStatus.CANCELLED) or filled == row["filled_qty"]:
            return
        self._alert_filled_after_end(row, row["trade_id"], filled - row["filled_qty"])

    def _alert_filled_after_end(self, order: Row, trade_id: str, shares: Decimal) -> None:
        message = (
            f"order {order['client_order_id']} filled {decimal_text(shares)} shares after {trade_id} was over; "
            "close or protect them by hand"
        )
        self._alert(AlertLevel.CRITICAL, "late_fill", order["client_order_id"], message)

    def _tolerate(self, subject: str, work: Callable[[], None]) -> None:
        """Do one piece of work so that its failure does not stop the others; a lost database goes up."""
        try:
            work()
            if ("not_attended_to", subject) in self._open_alerts:
                resolve_alert(self._db, "not_attended_to", subject, self._clock.now())
        except BrokerError as error:
            self._events[Event.UNREACHED] += 1
            log.error("not attended to in this pass", extra={"subject": subject, "error": error})
        except DatabaseError as error:
            if error.lost_connection:
                raise
            if error.sqlstate == UNIQUE_VIOLATION:
                log.warning("another process is at work on this trade", extra={"subject": subject})
                return
            self._alert(AlertLevel.CRITICAL, "not_attended_to", subject, f"{subject} was not attended to: {error}")

    def _problem(self, trade: Trade, kind: str, message: str) -> None:
        self._alert(AlertLevel.CRITICAL, kind, trade.journal["trade_id"], message)

    def _alert(self, level: AlertLevel, kind: str, subject: str, message: str) -> None:
        self._events[Event.PROBLEM] += 1
        log.error(message)
        raise_alert(self._db, level, kind, subject, message, self._clock.now())


def main(argv: list[str] | None = None) -> int:
    """Run one pass from the command line and return the exit status."""
    parser = arguments("Follow orders and fills, open and protect positions, close trades: one pass.")
    return run_program(parser, argv, _work, PROGRAM_ERRORS)


def _work(options: argparse.Namespace, settings: Settings) -> int:
    events = OrderMonitor(options.test_mode, settings=settings).run()
    show(", ".join(f"{event}: {events[event]}" for event in Event if events[event]) or "Nothing changed.")
    return EXIT_FAILED if events[Event.UNREACHED] else EXIT_DONE


def _filled_at(order: Row) -> datetime:
    moment: datetime = order["filled_at"] or order["updated_at"]
    return moment


if __name__ == "__main__":
    sys.exit(main())
