"""Keeps every position under exactly one exit over exactly the shares held, and closes what cannot be protected.

Source: docs/architecture.md, protection.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from adjustment_records import SPLITS_SINCE, unfollowed_splits
from alpaca_client import Broker, Outcome
from audit_trail import AlertKind, AlertLevel, finish_decisions
from clock import Clock
from db_layer import Row, TradingDB
from order_desk import OrderDesk
from order_life import AT_BROKER, ENDED, DecisionStatus, ExitReason, OrderRole, OrderStatus, decimal_text, opposite
from order_records import RESTING_ORDERS, Intent, add_intent, set_status
from pass_log import Event, PassLog
from trade import Trade
from trade_book import held_at, reload
from trade_records import hold_positions, track_exits

# The broker's positions can lag its fills by a moment, and shares stay reserved for a moment after a cancel.
POSITION_POLLS = 6
POSITION_POLL_SECONDS = 0.5
# The broker ends a gtc order after 90 days; ours are renewed before.
RENEWAL_AGE = timedelta(days=80)
# A target that the broker refused is asked for again on another day.
TARGET_RETRY = timedelta(hours=20)
CENT = Decimal("0.01")
STOP_ATTEMPTS = 2
HELD_BY_OTHERS = """
WITH others AS (
    SELECT id FROM trade_journal WHERE symbol = %(symbol)s AND status = 'POSITION' AND id <> %(journal_id)s
)
SELECT COALESCE(sum(CASE moved.side WHEN 'buy' THEN moved.qty ELSE -moved.qty END), 0) AS qty
FROM (SELECT side, filled_qty AS qty FROM order_execution WHERE trade_journal_id IN (SELECT id FROM others)
      UNION ALL
      SELECT side, qty FROM position_adjustment WHERE trade_journal_id IN (SELECT id FROM others)) AS moved
"""
LAST_WORDS = """
SELECT error_message FROM audit.trade_executions WHERE order_execution_id = %(order_id)s ORDER BY id DESC LIMIT 1
"""
SUFFIX = {OrderRole.STOP_LOSS: "s", OrderRole.TAKE_PROFIT: "x", OrderRole.EXIT: "m"}

log = logging.getLogger("protection")


class Protection:
    """Places, replaces and removes the exits of positions."""

    def __init__(self, db: TradingDB, broker: Broker, clock: Clock, desk: OrderDesk, found: PassLog) -> None:
        self._db = db
        self._broker = broker
        self._clock = clock
        self._desk = desk
        self._found = found
        self.moved: set[int] = set()  # trades whose orders changed since the pass loaded them

    def protect(self, trade: Trade) -> None:
        """Make the live exit one group over exactly the shares held, replacing whatever else there is.

        Raises DatabaseError and BrokerError.
        """
        live = trade.exit_groups
        if len(live) == 1 and self._fits(trade, live[0]):
            self._follow(trade, live[0])
            return
        # What protects some of the shares is not taken away before it is sure that something better can be placed.
        if not self._there_at_broker(trade):
            return
        if self._was_split(trade):
            if not live:
                self._unprotected(trade, "its stock was split, and the position monitor has not followed that yet")
            return
        if not all(self._remove(order) for order in live):
            self._unprotected(trade, "the exit orders that do not fit it did not go away")
            return
        trade = reload(self._db, trade)
        if trade.held > 0:
            self._place(trade)

    def place_stop_loss(self, trade: Trade) -> tuple[int, Outcome | None]:
        """Place a stop for all shares held: gtc, or day for a fraction, which the broker takes no other way."""
        with self._db.transaction():
            order_id = add_intent(self._db, self._intent(trade, OrderRole.STOP_LOSS), self._clock.now())
        return order_id, self._desk.submit(order_id)

    def place_take_profit(self, trade: Trade) -> tuple[int, Outcome | None]:
        """Place target and stop for all shares held as one OCO order, whose parent is the target."""
        now = self._clock.now()
        with self._db.transaction():
            order_id = add_intent(self._db, self._intent(trade, OrderRole.TAKE_PROFIT), now)
            add_intent(self._db, self._intent(trade, OrderRole.STOP_LOSS, parent_order_id=order_id), now)
        return order_id, self._desk.submit(order_id)

    def close_at_market(self, trade: Trade, reason: ExitReason) -> None:
        """Cancel what works for a trade, wait for its shares to be free, and sell (or buy back) them all.

        Raises DatabaseError and BrokerError.
        """
        self.moved.add(trade.id)
        if self._closing(trade):
            return
        if trade.held > 0 and not self._there_at_broker(trade):
            return
        working = [*trade.exit_groups, *(() if trade.entry_ended else (trade.entry,))]
        gone = [self._remove(order) for order in working]
        if not all(gone):
            self._unprotected(trade, "it could not be closed at market, because its orders did not go away")
            return
        trade = reload(self._db, trade)
        if trade.held <= 0 or not self._free_at_broker(trade):
            return
        self._clear_the_way(trade)
        order_id, outcome = self._place_exit(trade, trade.held, opposite(trade.side), reason)
        self._judge(trade, order_id, outcome)

    def undo_excess(self, trade: Trade) -> None:
        """Bring back the shares that a trade's exits took beyond what it had, so that none stays net short.

        Raises DatabaseError and BrokerError.
        """
        words = f"the exits of {trade.name} took {decimal_text(-trade.held)} shares more than it had"
        coming = [order for order in trade.exit_groups if order["side"] == trade.side]
        if coming and coming[0]["order_status"] == OrderStatus.INTENDED:
            self._desk.submit(coming[0]["id"])
        if coming:
            return
        gone = [self._remove(order) for order in trade.exit_groups]
        if not all(gone):
            self._too_many(trade, f"{words}, and its other orders did not go away")
            return
        trade = reload(self._db, trade)
        if trade.held >= 0:
            return
        there = self._broker.position(trade.symbol).qty
        if there != self._others(trade) + trade.position:
            self._too_many(trade, f"{words}; the broker's position does not show it")
            return
        self._too_many(trade, f"{words}; they are brought back at market")
        # The broker takes no market order beside a stop on the other side; the other trade gets a new one afterwards.
        for stop in self._resting(trade.symbol, opposite(trade.side), OrderRole.STOP_LOSS, OrderRole.EXIT):
            self._desk.cancel(stop)
            self.moved.add(stop["trade_journal_id"])
        # The broker refuses an order that closes a position and opens the opposite one: what belongs to other trades
        # in the symbol is brought back by the next pass.
        qty = min(-trade.held, abs(there)) if there * trade.position > 0 else -trade.held
        self._place_exit(trade, qty, trade.side, ExitReason.EMERGENCY_EXIT)

    def hold(self, trades: Sequence[Trade]) -> None:
        """Record what these trades hold, and that their decisions are executed. Raises DatabaseError."""
        now = self._clock.now()
        decisions = [trade.journal["trade_decision_id"] for trade in trades]
        with self._db.transaction():
            hold_positions(self._db, trades, now)
            finish_decisions(self._db, {id: (DecisionStatus.EXECUTED, None) for id in decisions if id}, now)

    def _follow(self, trade: Trade, order: Row) -> None:
        """Bring the exit that fits on its way, and say so where it is not known to work."""
        leg = trade.leg(order)
        if order["order_status"] == OrderStatus.INTENDED:
            self._judge(trade, order["id"], self._desk.submit(order["id"]))
        elif order["order_status"] == OrderStatus.UNKNOWN:
            self._unprotected(trade, "nobody knows yet whether the broker has its exit order")
        elif leg is not None and leg["order_status"] not in AT_BROKER:
            self._unprotected(trade, "the broker does not show the stop inside its OCO order")
        else:
            self._note_protected(trade)

    def _place(self, trade: Trade) -> None:
        """Place what the trade wants; a refused stop is tried once more with a fresh look, then the trade is closed.

        An order can be taken and rejected a moment later; the second time in a row counts as refused for good.
        """
        rejected = _rejected_later(trade)
        if rejected:
            self._unprotected(trade, "the broker took its last exit order and rejected it later")
        # Where not even closing was taken, that is tried again, and not the whole ladder at every pass.
        if rejected >= STOP_ATTEMPTS or _closing_was_refused(trade):
            self.close_at_market(trade, ExitReason.EMERGENCY_EXIT)
            return
        if self._wants_target(trade):
            if not self._free_at_broker(trade):
                return
            order_id, outcome = self.place_take_profit(trade)
            # With the price beyond the stop no OCO is taken, but a stop alone is, and it ends the trade at once.
            if outcome is not Outcome.REFUSED:
                self._judge(trade, order_id, outcome)
                return
            words = f"{trade.name} gets a stop but no target: the broker refused the OCO order: {self._words(order_id)}"
            self._found.alert(AlertLevel.WARNING, AlertKind.TARGET_NOT_PLACED, trade.name, words)
        for _ in range(STOP_ATTEMPTS):
            trade = self._look_afresh(trade)
            if trade.held <= 0 or not self._free_at_broker(trade):
                return
            order_id, outcome = self.place_stop_loss(trade)
            if outcome is not Outcome.REFUSED:
                self._judge(trade, order_id, outcome)
                return
        words = f"the broker refused the stop of {trade.name}: {self._words(order_id)}"
        self._found.critical(AlertKind.EMERGENCY_EXIT, trade.name, f"{words}; the position is closed at market")
        self.close_at_market(reload(self._db, trade), ExitReason.EMERGENCY_EXIT)

    def _look_afresh(self, trade: Trade) -> Trade:
        """Hear of the trade's own orders again, and clear the way for a plain stop."""
        self._clear_the_way(trade)
        before = trade.held
        trade = reload(self._db, trade)
        if trade.held > 0 and trade.held != before:
            self.hold([trade])
        return trade

    def _clear_the_way(self, trade: Trade) -> None:
        """Cancel the entries that rest in the symbol: beside them a plain exit is refused as a potential wash trade."""
        for entry in self._resting(trade.symbol, trade.side, OrderRole.ENTRY):
            self._desk.cancel(entry)
            if entry["trade_journal_id"] != trade.id:
                self.moved.add(entry["trade_journal_id"])
                name = entry["client_order_id"]
                words = f"entry {name} was cancelled, because the broker takes no exit for {trade.name} beside it"
                self._found.alert(AlertLevel.WARNING, AlertKind.ENTRY_GAVE_WAY, name, words)

    def _resting(self, symbol: str, side: str, *roles: OrderRole) -> list[Row]:
        wanted = {"symbol": symbol, "side": side, "roles": [str(role) for role in roles]}
        return self._db.execute_query(RESTING_ORDERS, wanted)

    def _wants_target(self, trade: Trade) -> bool:
        """Tell whether an OCO belongs to the trade; the broker takes none over a fraction of a share."""
        return trade.target_price is not None and trade.held == trade.held.to_integral_value()

    def _fits(self, trade: Trade, order: Row) -> bool:
        if order["qty"] - order["filled_qty"] != trade.held or order["side"] == trade.side:
            return False
        if order["order_type"] == OrderRole.EXIT:
            return True
        if order["time_in_force"] == "gtc" and self._clock.now() - order["created_at"] > RENEWAL_AGE:
            return False
        if order["order_type"] == OrderRole.STOP_LOSS:
            return not self._target_is_due(trade)
        leg = trade.leg(order)
        return leg is not None and OrderStatus(leg["order_status"]) not in ENDED

    def _target_is_due(self, trade: Trade) -> bool:
        """Tell whether a trade that got a stop alone may ask for its OCO again: another day, price within."""
        asked = [order["created_at"] for order in trade.exits if order["order_type"] == OrderRole.TAKE_PROFIT]
        if not self._wants_target(trade) or (asked and self._clock.now() - max(asked) < TARGET_RETRY):
            return False
        price = self._broker.latest_prices([trade.symbol]).get(trade.symbol)
        low, high = sorted((trade.stop_price, trade.target_price or trade.stop_price))
        return price is not None and low + CENT < price < high - CENT

    def _remove(self, order: Row) -> bool:
        """Make sure that an order does not work any more; True when it has ended, however it did."""
        if order["order_status"] == OrderStatus.INTENDED:
            with self._db.transaction():
                set_status(self._db, order["id"], OrderStatus.CANCELLED, self._clock.now())
            return True
        return order["alpaca_order_id"] is not None and self._desk.cancel(order)

    def _free_at_broker(self, trade: Trade) -> bool:
        """Make sure that an exit order can only close shares: without them it would open the opposite position."""
        sign = 1 if trade.side == "buy" else -1
        for poll in range(POSITION_POLLS):
            if poll:
                self._clock.sleep(POSITION_POLL_SECONDS)
            position = self._broker.position(trade.symbol)
            if min(sign * position.qty, sign * position.available) >= trade.held:
                return True
        if sign * position.qty >= trade.held:
            free = decimal_text(sign * position.available)
            self._unprotected(trade, f"only {free} are free at the broker; an order that is not ours reserves the rest")
            return False
        self._mismatch(trade, sign * position.qty)
        return False

    def _there_at_broker(self, trade: Trade) -> bool:
        """Tell whether the broker holds the trade's shares, reserved or not; they can lag a fill by a moment."""
        sign = 1 if trade.side == "buy" else -1
        for poll in range(POSITION_POLLS):
            if poll:
                self._clock.sleep(POSITION_POLL_SECONDS)
            there = sign * self._broker.position(trade.symbol).qty
            if there >= trade.held:
                return True
        self._mismatch(trade, there)
        return False

    def _was_split(self, trade: Trade) -> bool:
        """Tell whether the broker's position differs from our books by a split that they do not know yet."""
        if self._broker.position(trade.symbol).qty == self._others(trade) + trade.position:
            return False
        opened = min(order["created_at"] for order in trade.entries)
        splits = self._broker.list_splits(self._clock.now() - SPLITS_SINCE)
        moments = [split["at"] for split in unfollowed_splits(self._db, splits, trade.symbol) if split["at"] >= opened]
        held = [held_at(self._db, [trade], moment) for moment in moments]
        return any(then is None or then[trade.id] != 0 for then in held)

    def _others(self, trade: Trade) -> Decimal:
        """Return the shares of all other trades in a trade's symbol, negative for short ones."""
        ids = {"symbol": trade.symbol, "journal_id": trade.id}
        qty: Decimal = self._db.execute_query(HELD_BY_OTHERS, ids)[0]["qty"]
        return qty

    def _mismatch(self, trade: Trade, there: Decimal) -> None:
        self._found.critical(
            AlertKind.BROKER_MISMATCH, trade.name,
            f"{trade.name} has {decimal_text(trade.held)} {trade.symbol}, the broker has {decimal_text(there)}; no "
            "exit order was placed, because it could open a position; the position monitor looks for what closed it",
        )

    def _place_exit(
        self, trade: Trade, qty: Decimal, side: str, reason: ExitReason,
    ) -> tuple[int, Outcome | None]:
        intent = replace(self._intent(trade, OrderRole.EXIT), qty=qty, side=side, exit_reason=reason)
        with self._db.transaction():
            order_id = add_intent(self._db, intent, self._clock.now())
        return order_id, self._desk.submit(order_id)

    def _judge(self, trade: Trade, order_id: int, outcome: Outcome | None) -> None:
        if outcome is Outcome.ACCEPTED:
            self._found.events[Event.PROTECTED] += 1
            self._note_protected(reload(self._db, trade))
        elif outcome is not None:  # None: another process is sending it
            self._unprotected(trade, f"its exit order was not placed: {outcome}, {self._words(order_id)}")

    def _words(self, order_id: int) -> str:
        rows = self._db.execute_query(LAST_WORDS, {"order_id": order_id})
        return str(rows[0]["error_message"]) if rows else "not sent"

    def _note_protected(self, trade: Trade) -> None:
        journal = trade.journal
        live = {
            order["order_type"]: order for order in trade.exits if OrderStatus(order["order_status"]) not in ENDED
        }
        stop, target = live.get(OrderRole.STOP_LOSS, {}), live.get(OrderRole.TAKE_PROFIT, {})
        ids = stop.get("alpaca_order_id"), target.get("alpaca_order_id")
        price = stop.get("stop_price", journal["current_stop_loss"])
        known = journal["stop_loss_order_id"], journal["take_profit_order_id"], journal["current_stop_loss"]
        if (*ids, price) != known:
            track_exits(self._db, trade.id, ids[0], price, ids[1], self._clock.now())
        self._found.resolve((AlertKind.UNPROTECTED_POSITION, AlertKind.BROKER_MISMATCH), (trade.name,))
        if target or not self._wants_target(trade):
            self._found.resolve((AlertKind.TARGET_NOT_PLACED,), (trade.name,))

    def _intent(self, trade: Trade, role: OrderRole, parent_order_id: int | None = None) -> Intent:
        journal = trade.journal
        number = 1 + sum(order["parent_order_id"] is None for order in trade.exits)
        gtc = trade.held == trade.held.to_integral_value() and role is not OrderRole.EXIT
        stem = trade.entries[0]["client_order_id"].removesuffix("-e")
        letter = "l" if parent_order_id else SUFFIX[role]
        return Intent(
            trade_journal_id=trade.id, trade_decision_id=journal["trade_decision_id"],
            analysis_decision_id=journal["initial_analysis_id"], client_order_id=f"{stem}-{letter}{number}",
            role=role, side=opposite(trade.side), time_in_force="gtc" if gtc else "day", qty=trade.held,
            limit_price=trade.target_price if role is OrderRole.TAKE_PROFIT else None,
            stop_price=trade.stop_price if role is OrderRole.STOP_LOSS else None,
            parent_order_id=parent_order_id,
        )

    def _closing(self, trade: Trade) -> bool:
        """Tell whether an order that closes the whole trade at market is on its way; one not sent yet is sent."""
        on_the_way = [
            order for order in trade.exit_groups
            if order["order_type"] == OrderRole.EXIT and order["side"] != trade.side
            and order["qty"] - order["filled_qty"] == trade.held
        ]
        for order in on_the_way:
            if order["order_status"] == OrderStatus.INTENDED:
                self._judge(trade, order["id"], self._desk.submit(order["id"]))
        return bool(on_the_way)

    def _too_many(self, trade: Trade, words: str) -> None:
        self._found.critical(AlertKind.TOO_MANY_EXITS, trade.name, words)

    def _unprotected(self, trade: Trade, why: str) -> None:
        words = f"{decimal_text(trade.held)} {trade.symbol} of {trade.name} have no exit order for all shares: {why}"
        self._found.critical(AlertKind.UNPROTECTED_POSITION, trade.name, words)


def _closing_was_refused(trade: Trade) -> bool:
    """Tell whether the trade's newest exit is one that was to close it in an emergency and came to nothing."""
    newest = trade.exits[-1] if trade.exits else {}
    said = newest.get("exit_reason"), newest.get("order_status")
    return said == (ExitReason.EMERGENCY_EXIT, OrderStatus.REJECTED) and newest["side"] != trade.side


def _rejected_later(trade: Trade) -> int:
    """Return how many of the trade's newest exit orders in a row the broker took and then rejected."""
    count = 0
    for order in reversed([order for order in trade.exits if order["parent_order_id"] is None]):
        if order["order_status"] != OrderStatus.REJECTED or order["alpaca_order_id"] is None:
            break
        count += 1
    return count
