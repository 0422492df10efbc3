"""Keeps every position under exactly one exit over exactly the shares held, and closes what cannot be protected.

Source: docs/architecture.md, protection.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from alpaca_client import Broker, Outcome
from audit_trail import AlertKind, AlertLevel, finish_decisions
from clock import Clock
from db_layer import Row, TradingDB
from order_desk import OrderDesk
from order_life import AT_BROKER, ENDED, DecisionStatus, ExitReason, OrderRole, OrderStatus, decimal_text, opposite
from order_records import RESTING_ORDERS, Intent, add_intent, lock_if_unsent, set_status
from pass_log import Event, PassLog
from shares_at_broker import CENT, SharesAtBroker
from trade import Trade
from trade_book import reload
from trade_records import hold_positions, track_exits

# The broker ends a gtc order after 90 days; ours are renewed before.
RENEWAL_AGE = timedelta(days=80)
# A target that the broker refused is asked for again on another day.
TARGET_RETRY = timedelta(hours=20)
WASH_TRADE = "wash trade"
STOP_ATTEMPTS = 2
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
        self._shares = SharesAtBroker(db, broker, clock)
        self.moved: set[int] = set()  # trades whose orders changed since the pass loaded them

    def protect(self, trade: Trade) -> None:
        """Make the live exit one group over exactly the shares held, replacing whatever else there is.

        Raises DatabaseError and BrokerError.
        """
        if self._is_covered(trade, self._fits):
            return
        live = trade.exit_groups
        if self._shares.were_split(trade):
            if not live:
                self._unprotected(trade, "its stock was split, and the position monitor has not followed that yet")
            return
        if not all(self._remove(order) for order in live):
            self._unprotected(trade, "the exit orders that do not fit it did not go away")
            return
        trade = reload(self._db, trade)
        # Another process may have placed an exit since the pass loaded the trade.
        if trade.held > 0 and not (trade.exit_groups and self._is_covered(trade, self._fits)):
            self._place(trade)

    def place_stop_loss(self, trade: Trade, shares: Decimal) -> tuple[int, Outcome | None]:
        """Place a stop for these shares: gtc, or day for a fraction, which the broker takes no other way."""
        with self._db.transaction():
            order_id = add_intent(self._db, self._intent(trade, OrderRole.STOP_LOSS, shares), self._clock.now())
        return order_id, self._desk.submit(order_id)

    def place_take_profit(self, trade: Trade, shares: Decimal, target: Decimal) -> tuple[int, Outcome | None]:
        """Place target (in dollars) and stop for these shares as one OCO order, whose parent is the target."""
        now = self._clock.now()
        parent = replace(self._intent(trade, OrderRole.TAKE_PROFIT, shares), limit_price=target)
        with self._db.transaction():
            order_id = add_intent(self._db, parent, now)
            add_intent(self._db, self._intent(trade, OrderRole.STOP_LOSS, shares, parent_order_id=order_id), now)
        return order_id, self._desk.submit(order_id)

    def close_at_market(self, trade: Trade, reason: ExitReason) -> None:
        """Cancel what works for a trade, wait for its shares to be free, and sell (or buy back) them all.

        Raises DatabaseError and BrokerError.
        """
        self.moved.add(trade.id)
        if trade.held > 0 and self._is_covered(trade, self._closes):
            return
        working = [*trade.exit_groups, *(() if trade.entry_ended else (trade.entry,))]
        gone = [self._remove(order) for order in working]
        if not all(gone):
            self._unprotected(trade, "it could not be closed at market, because its orders did not go away")
            return
        trade = reload(self._db, trade)
        shares = self._closable(trade) if trade.held > 0 else trade.held
        if shares > 0:
            self._clear_the_way(trade)
            self._close(trade, shares, reason)

    def undo_excess(self, trade: Trade) -> None:
        """Bring back the shares that a trade's exits took beyond what it had, so that none stays net short.

        Raises DatabaseError and BrokerError.
        """
        words = f"the exits of {trade.name} took {decimal_text(-trade.held)} shares more than it had"
        coming = [order for order in trade.exit_groups if order["side"] == trade.side]
        if coming and coming[0]["order_status"] != OrderStatus.INTENDED:
            return
        gone = [self._remove(order) for order in trade.exit_groups if order not in coming]
        if not all(gone):
            self._too_many(trade, f"{words}, and its other orders did not go away")
            return
        trade = reload(self._db, trade)
        if trade.held >= 0:
            self._take_back(coming)
            return
        if not self._shares.are_as_booked(trade):
            self._take_back(coming)
            self._too_many(trade, f"{words}; the broker's position does not show it")
            return
        self._too_many(trade, f"{words}; they are brought back at market")
        # The broker takes no market order beside a stop on the other side; the other trade gets a new one afterwards.
        for stop in self._resting(trade.symbol, opposite(trade.side), OrderRole.STOP_LOSS, OrderRole.EXIT):
            self._desk.cancel(stop)
            self.moved.add(stop["trade_journal_id"])
        # The broker refuses an order that closes a position and opens the opposite one: what belongs to other trades
        # in the symbol is brought back by the next pass.
        there = self._broker.position(trade.symbol).qty
        qty = min(-trade.held, abs(there)) if there * trade.position > 0 else -trade.held
        if coming and coming[0]["qty"] == qty:
            self._desk.submit(coming[0]["id"])
            return
        self._take_back(coming)
        self._place_exit(reload(self._db, trade), qty, trade.side, ExitReason.EMERGENCY_EXIT)

    def hold(self, trades: Sequence[Trade]) -> None:
        """Record what these trades hold, and that their decisions are executed. Raises DatabaseError."""
        now = self._clock.now()
        decisions = [trade.journal["trade_decision_id"] for trade in trades]
        with self._db.transaction():
            hold_positions(self._db, trades, now)
            finish_decisions(self._db, {id: (DecisionStatus.EXECUTED, None) for id in decisions if id}, now)

    def _is_covered(self, trade: Trade, fits: Callable[[Trade, Row, Decimal], bool]) -> bool:
        """Follow the trade's exit where it is right; also True where nothing is there that another could be for.

        An exit that was written earlier is sent only while its shares are there, and taken back otherwise. What
        protects some of the shares is not taken away before it is sure that something better can be placed.
        """
        live = trade.exit_groups
        only = live[0] if len(live) == 1 else None
        right = only is not None and fits(trade, only, trade.held)
        if only and right and only["order_status"] != OrderStatus.INTENDED:
            self._follow(trade, only)
            return True
        shares = self._closable(trade)
        if only and (right if shares == trade.held else fits(trade, only, shares)):
            self._follow(trade, only)
            return True
        if not shares:
            self._take_back(order for order in live if order["order_status"] == OrderStatus.INTENDED)
        return not shares

    def _take_back(self, unsent: Iterable[Row]) -> None:
        for order in unsent:
            self._remove(order)

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
        if rejected >= STOP_ATTEMPTS or self._closing_was_refused(trade):
            self.close_at_market(trade, ExitReason.EMERGENCY_EXIT)
            return
        if trade.target_price is not None:
            shares = self._closable(trade)
            if not shares:
                return
            if _is_whole(shares):
                order_id, outcome = self.place_take_profit(trade, shares, trade.target_price)
                # With the price beyond the stop no OCO is taken, but a stop alone is, and it ends the trade at once.
                if outcome is not Outcome.REFUSED:
                    self._judge(trade, order_id, outcome)
                    return
                words = f"the broker refused the OCO order: {self._words(order_id)}"
                words = f"{trade.name} gets a stop but no target: {words}"
                self._found.alert(AlertLevel.WARNING, AlertKind.TARGET_NOT_PLACED, trade.name, words)
        for _ in range(STOP_ATTEMPTS):
            trade = self._look_afresh(trade)
            if trade.exit_groups:
                return  # another process has placed one
            shares = self._closable(trade) if trade.held > 0 else trade.held
            if shares <= 0:
                return
            order_id, outcome = self._place_stop(trade, shares)
            if outcome is not Outcome.REFUSED:
                self._judge(trade, order_id, outcome)
                return
        words = f"the broker refused the stop of {trade.name}: {self._words(order_id)}"
        self._found.critical(AlertKind.EMERGENCY_EXIT, trade.name, f"{words}; the position is closed at market")
        self.close_at_market(reload(self._db, trade), ExitReason.EMERGENCY_EXIT)

    def _place_stop(self, trade: Trade, shares: Decimal) -> tuple[int, Outcome | None]:
        """Place a stop alone, or beside somebody's opposite order, where the broker takes none, one in an OCO."""
        order_id, outcome = self.place_stop_loss(trade, shares)
        if trade.target_price is None and _is_whole(shares) and self._was_wash_trade(order_id, outcome):
            return self.place_take_profit(reload(self._db, trade), shares, self._shares.far_target(trade))
        return order_id, outcome

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

    def _fits(self, trade: Trade, order: Row, shares: Decimal) -> bool:
        """Tell whether an order is the right exit over so many of a trade's shares."""
        if order["order_type"] == OrderRole.EXIT:
            return self._closes(trade, order, shares)
        if order["qty"] - order["filled_qty"] != shares or order["side"] == trade.side:
            return False
        if order["time_in_force"] == "gtc" and self._clock.now() - order["created_at"] > RENEWAL_AGE:
            return False
        if order["order_type"] == OrderRole.STOP_LOSS:
            return not self._target_is_due(trade, shares)
        leg = trade.leg(order)
        return leg is not None and leg["order_status"] not in ENDED

    def _closes(self, trade: Trade, order: Row, shares: Decimal) -> bool:
        """Tell whether an order is a close over so many of a trade's shares that will fill."""
        if order["order_type"] != OrderRole.EXIT or order["side"] == trade.side:
            return False
        if order["qty"] - order["filled_qty"] != shares:
            return False
        return order["limit_price"] is None or self._shares.is_marketable(trade, order["limit_price"])

    def _target_is_due(self, trade: Trade, shares: Decimal) -> bool:
        """Tell whether a trade that got a stop alone may ask for its OCO again: another day, price within."""
        asked = [order["created_at"] for order in trade.exits if order["order_type"] == OrderRole.TAKE_PROFIT]
        if not _wants_target(trade, shares) or (asked and self._clock.now() - max(asked) < TARGET_RETRY):
            return False
        price = self._broker.latest_prices([trade.symbol]).get(trade.symbol)
        low, high = sorted((trade.stop_price, trade.target_price or trade.stop_price))
        return price is not None and low + CENT < price < high - CENT

    def _remove(self, order: Row) -> bool:
        """Make sure that an order does not work any more; True when it has ended, however it did."""
        if order["order_status"] == OrderStatus.INTENDED:
            with self._db.transaction():
                unsent = lock_if_unsent(self._db, order["id"])
                if unsent:
                    set_status(self._db, order["id"], OrderStatus.CANCELLED, self._clock.now())
            return unsent
        return order["alpaca_order_id"] is not None and self._desk.cancel(order)

    def _closable(self, trade: Trade) -> Decimal:
        """Return for how many shares an exit can be, so that it can only close; an alert says where not for all."""
        shares = self._shares.of(trade)
        if shares.closable == trade.held:
            return shares.closable
        if shares.there >= trade.held:
            free = decimal_text(shares.closable)
            self._unprotected(trade, f"only {free} are free at the broker; an order that is not ours reserves the rest")
        else:
            words = f"{trade.name} has {decimal_text(trade.held)} {trade.symbol}, the broker has"
            self._found.critical(
                AlertKind.BROKER_MISMATCH, trade.name,
                f"{words} {decimal_text(shares.there)}; no exit order is for more than that, because it could open a "
                "position; the position monitor looks for what closed it",
            )
        return shares.closable

    def _close(self, trade: Trade, shares: Decimal, reason: ExitReason) -> None:
        """Send an order at market, or beside somebody's opposite order, where the broker takes none, a limit order."""
        side = opposite(trade.side)
        order_id, outcome = self._place_exit(trade, shares, side, reason)
        limit = self._shares.price_past_others(trade) if self._was_wash_trade(order_id, outcome) else None
        if limit is not None:
            order_id, outcome = self._place_exit(reload(self._db, trade), shares, side, reason, limit)
        self._judge(trade, order_id, outcome)

    def _place_exit(
        self, trade: Trade, qty: Decimal, side: str, reason: ExitReason, limit: Decimal | None = None,
    ) -> tuple[int, Outcome | None]:
        intent = replace(self._intent(trade, OrderRole.EXIT, qty), side=side, exit_reason=reason, limit_price=limit)
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

    def _was_wash_trade(self, order_id: int, outcome: Outcome | None) -> bool:
        return outcome is Outcome.REFUSED and WASH_TRADE in self._words(order_id)

    def _closing_was_refused(self, trade: Trade) -> bool:
        """Tell whether the trade's newest exit is one that was to close it in an emergency and came to nothing.

        Not so where another order stood in the way: when that is gone, a stop will be taken.
        """
        newest = trade.exits[-1] if trade.exits else {}
        said = newest.get("exit_reason"), newest.get("order_status")
        refused = said == (ExitReason.EMERGENCY_EXIT, OrderStatus.REJECTED) and newest["side"] != trade.side
        return refused and WASH_TRADE not in self._words(newest["id"])

    def _note_protected(self, trade: Trade) -> None:
        journal = trade.journal
        live = {
            order["order_type"]: order for order in trade.exits if order["order_status"] not in ENDED
        }
        stop, target = live.get(OrderRole.STOP_LOSS, {}), live.get(OrderRole.TAKE_PROFIT, {})
        ids = stop.get("alpaca_order_id"), target.get("alpaca_order_id")
        price = stop.get("stop_price", journal["current_stop_loss"])
        known = journal["stop_loss_order_id"], journal["take_profit_order_id"], journal["current_stop_loss"]
        if (*ids, price) != known:
            track_exits(self._db, trade.id, ids[0], price, ids[1], self._clock.now())
        if sum(order["qty"] - order["filled_qty"] for order in trade.exit_groups) == trade.held:
            self._found.resolve((AlertKind.UNPROTECTED_POSITION, AlertKind.BROKER_MISMATCH), (trade.name,))
        if target or not _wants_target(trade, trade.held):
            self._found.resolve((AlertKind.TARGET_NOT_PLACED,), (trade.name,))

    def _intent(self, trade: Trade, role: OrderRole, qty: Decimal, parent_order_id: int | None = None) -> Intent:
        journal = trade.journal
        number = 1 + sum(order["parent_order_id"] is None for order in trade.exits)
        gtc = _is_whole(qty) and role is not OrderRole.EXIT
        stem = trade.entries[0]["client_order_id"].removesuffix("-e")
        letter = "l" if parent_order_id else SUFFIX[role]
        return Intent(
            trade_journal_id=trade.id, trade_decision_id=journal["trade_decision_id"],
            analysis_decision_id=journal["initial_analysis_id"], client_order_id=f"{stem}-{letter}{number}",
            role=role, side=opposite(trade.side), time_in_force="gtc" if gtc else "day", qty=qty,
            stop_price=trade.stop_price if role is OrderRole.STOP_LOSS else None,
            parent_order_id=parent_order_id,
        )

    def _too_many(self, trade: Trade, words: str) -> None:
        self._found.critical(AlertKind.TOO_MANY_EXITS, trade.name, words)

    def _unprotected(self, trade: Trade, why: str) -> None:
        words = f"{decimal_text(trade.held)} {trade.symbol} of {trade.name} have no exit order for all shares: {why}"
        self._found.critical(AlertKind.UNPROTECTED_POSITION, trade.name, words)


def _is_whole(shares: Decimal) -> bool:
    """Tell whether no share is a fraction; the broker takes no OCO and no gtc order over one."""
    return shares == shares.to_integral_value()


def _wants_target(trade: Trade, shares: Decimal) -> bool:
    """Tell whether an OCO belongs over so many shares of a trade."""
    return trade.target_price is not None and _is_whole(shares)


def _rejected_later(trade: Trade) -> int:
    """Return how many of the trade's newest exit orders in a row the broker took and then rejected."""
    count = 0
    for order in reversed([order for order in trade.exits if order["parent_order_id"] is None]):
        if order["order_status"] != OrderStatus.REJECTED or order["alpaca_order_id"] is None:
            break
        count += 1
    return count
