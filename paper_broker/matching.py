"""Orders meeting prices: routing, election of stops, executions, groups and ends of orders."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal

from paper_broker.account import move_position, open_shares, record_fill
from paper_broker.orders import (
    ENTRY,
    LIMIT_TYPES,
    LIVE,
    STOP_LOSS,
    STOP_TYPES,
    TAKE_PROFIT,
    WORKING,
    Order,
)
from paper_broker.sessions import Calendar
from paper_broker.state import Release, State
from paper_broker.values import CENT, ZERO, cut

_FIFTY = Decimal(50)
_NOT_ROUTED = frozenset({"accepted", "pending_new", "held"})
_AUCTIONS = frozenset({"opg", "cls"})
_AT_ONCE = frozenset({"ioc", "fok"})


class Matching:
    """Applies prices and the passing of time to the orders of a State.

    `in_session` says whether regular hours are running; the engine sets it as sessions open and close.
    """

    def __init__(self, state: State, calendar: Calendar) -> None:
        self.state = state
        self.calendar = calendar
        self.in_session = calendar.at(state.time) is not None

    def jump(self, symbol: str, bid: Decimal, ask: Decimal, last: Decimal | None = None) -> None:
        """Set a new price without any price in between, and match."""
        self.state.market.new_step(symbol)
        self._set(symbol, bid, ask, last)

    def move(self, symbol: str, target: Decimal) -> None:
        """Let the price run to `target` through every price on its way, as within a bar, and match."""
        self.state.market.new_step(symbol)
        price = self.state.market.last(symbol) or target
        while (step := self._next_trigger(symbol, price, target)) is not None:
            price = step
            self._set(symbol, price, price, price)
        self._set(symbol, target, target, target)

    def _set(self, symbol: str, bid: Decimal, ask: Decimal, last: Decimal | None) -> None:
        self.state.market.set_quote(symbol, self.state.time, bid, ask, last)
        self.state.touch(symbol)
        self.match(symbol)

    def _next_trigger(self, symbol: str, price: Decimal, target: Decimal) -> Decimal | None:
        low, high = min(price, target), max(price, target)
        prices = (
            p for order in self.state.working_for(symbol) for p in (order.limit_price, order.stop_price)
        )
        between = [p for p in prices if p is not None and low < p < high]
        if not between:
            return None
        return max(between) if target < price else min(between)

    def match(self, symbol: str, auction: str = "") -> None:
        """Let every order of the symbol trade as far as it can, the oldest first."""
        self._trail(symbol)
        progress = True
        while progress:
            progress = any(self._try(order, auction) for order in self.state.working_for(symbol))
        for order in self.state.working_for(symbol):
            if order.time_in_force in _AT_ONCE and order.status in WORKING and self.in_session:
                self.end(order, "canceled")

    def match_all(self, auction: str = "") -> None:
        """Match every symbol."""
        for symbol in list(self.state.live_in):
            self.match(symbol, auction)

    def match_touched(self) -> None:
        """Match the symbols about which something changed since they were matched last."""
        touched, self.state.touched = self.state.touched, set()
        for symbol in sorted(touched):
            self.match(symbol)

    def _try(self, order: Order, auction: str) -> bool:
        if not order.live or not self._may_trade(order, auction):
            return False
        if order.type in STOP_TYPES and not order.elected and not self._elect(order):
            return False
        price = self._price(order)
        qty = self._tradable(order, price) if price is not None else ZERO
        if price is None or not qty:
            return False
        self.execute(order, qty, price)
        return True

    def _may_trade(self, order: Order, auction: str) -> bool:
        if order.time_in_force in _AUCTIONS:
            return order.time_in_force == auction
        if order.standing == "held":
            return self.in_session and self._armed(order)
        if order.standing not in WORKING:
            return False
        return self.in_session or (order.extended_hours and self.calendar.extended_at(self.state.time))

    def _armed(self, stop: Order) -> bool:
        target = self._sibling(stop)
        return target is not None and target.live and target.standing not in _NOT_ROUTED

    def _elect(self, order: Order) -> bool:
        last = self.state.market.last(order.symbol)
        if last is None or order.stop_price is None or not self.in_session:
            return False
        touched = last >= order.stop_price if order.side == "buy" else last <= order.stop_price
        if touched:
            order.elected = True
            self.state.touch(order.symbol)
            self._end_target(order)
        return touched

    def _end_target(self, stop: Order) -> None:
        target = self._sibling(stop)
        if target is None or not target.live:
            return
        behaviour = self.state.behaviour
        if behaviour.both_legs_fill and target.limit_price is not None:
            behaviour.both_legs_fill = False
            self._book(target, target.remaining, target.limit_price)
        else:
            self._finish(target, behaviour.tp_status_on_stop)
        if stop.status == "held":
            self._status(stop, "new")

    def _price(self, order: Order) -> Decimal | None:
        quote = self.state.market.quotes.get(order.symbol)
        if quote is None:
            return None
        price = quote.ask if order.side == "buy" else quote.bid
        limit = order.limit_price if order.type in LIMIT_TYPES else self._collar(order)
        if not price or (limit is not None and (price > limit if order.side == "buy" else price < limit)):
            return None
        return price

    @staticmethod
    def _collar(order: Order) -> Decimal | None:
        """Buy stops become stop-limits 4 % (below 50 dollars) or 2.5 % above the stop."""
        if order.side == "sell" or order.type not in STOP_TYPES or order.stop_price is None:
            return None
        return order.stop_price * (Decimal("1.04") if order.stop_price < _FIFTY else Decimal("1.025"))

    def _tradable(self, order: Order, price: Decimal) -> Decimal:
        wanted = order.remaining if order.notional is None else cut(order.notional / price)
        left = self.state.market.available(order.symbol)
        if left is None or left >= wanted:
            return wanted
        # An order by amount trades in one piece: its rest could not be told from its fills.
        return ZERO if order.time_in_force == "fok" or order.notional is not None else left

    def _trail(self, symbol: str) -> None:
        last = self.state.market.last(symbol)
        if last is None or not self.in_session:
            return
        for order in self.state.working_for(symbol):
            if order.type == "trailing_stop" and order.status in WORKING and not order.elected:
                trail(order, last)

    def execute(self, order: Order, qty: Decimal, price: Decimal) -> None:
        """Trade `qty` shares of an order at `price` and do what follows for its group."""
        self.state.market.take(order.symbol, qty)
        self._book(order, qty, price)
        if order.role == ENTRY and order.status == "filled":
            self._activate_legs(order)
        elif order.role == TAKE_PROFIT:
            self._shrink_stop(order)

    def _book(self, order: Order, qty: Decimal, price: Decimal) -> None:
        order.filled_qty += qty
        order.filled_value += qty * price
        if order.notional is not None or not order.remaining:
            order.filled_at = self.state.time
            self._status(order, "filled")
        else:
            order.status_before = "partially_filled"
            self._status(order, "pending_cancel" if order.status == "pending_cancel" else "partially_filled")
        record_fill(self.state, order, qty, price)

    def _activate_legs(self, entry: Order) -> None:
        legs = [leg for leg in self.state.exits(entry) if leg.status == "held"]
        for leg in legs:
            if len(legs) == 1 or leg.role == TAKE_PROFIT:
                self._status(leg, "new")

    def _shrink_stop(self, target: Order) -> None:
        stop = self._sibling(target)
        if stop is None or not stop.live:
            return
        if target.status == "filled":
            self._finish(stop, "canceled")
        else:
            stop.qty = target.remaining
            stop.updated_at = self.state.time

    def _sibling(self, order: Order) -> Order | None:
        """The other exit of a group; an entry has none."""
        if order.role == ENTRY:
            return None
        return next((member for member in self.state.exits(order) if member.id != order.id), None)

    def route(self, orders: Iterable[Order]) -> None:
        """Send waiting orders to the market when it takes them, or reject those that were doomed."""
        for order in list(orders):
            if order.status not in ("accepted", "pending_new"):
                continue
            if order.doomed:
                self.end(order, "rejected")
            elif order.time_in_force != "opg" and (self.in_session or self._extended(order)):
                self._status(order, "new")

    def _extended(self, order: Order) -> bool:
        return order.extended_hours and self.calendar.extended_at(self.state.time)

    def end(self, order: Order, status: str) -> None:
        """End an order and with it the other live members of its group."""
        self._finish(order, status)
        for member in self.state.group(order):
            if member.live:
                self._finish(member, "expired" if status == "expired" else "canceled")

    def complete_cancel(self, order: Order) -> None:
        """Carry out a requested cancel, or let the order fill first when told that cancels lose."""
        behaviour = self.state.behaviour
        quote = self.state.market.quotes.get(order.symbol)
        if behaviour.cancel_loses_to_fill and quote is not None and order.remaining:
            behaviour.cancel_loses_to_fill = False
            if order.role == STOP_LOSS:
                self._end_target(order)
            self.execute(order, order.remaining, order.limit_price or quote.last)
        else:
            self.end(order, "canceled")

    def complete_replace(self, new: Order) -> None:
        """Put a replacement in its predecessor's place, or reject it when the predecessor filled first."""
        old = self.state.orders[new.replaces or ""]
        behaviour = self.state.behaviour
        quote = self.state.market.quotes.get(old.symbol)
        if behaviour.replace_loses_to_fill and quote is not None:
            behaviour.replace_loses_to_fill = False
            self._status(old, "new")
            if old.role == STOP_LOSS:
                self._end_target(old)
            self.execute(old, old.remaining, old.limit_price or quote.last)
        if old.status != "pending_replace":
            self._finish(new, "rejected")
            return
        adopt_group(self.state, old, new)
        old.replaced_by = new.id
        self._finish(old, "replaced")
        if new.status != "held":
            self._status(new, "new")

    def release_late_fills(self) -> None:
        """Show executions whose delay is over in the positions, and free shares whose delay is over."""
        now = self.state.time
        due = [fill for fill in self.state.late_fills if fill.due <= now]
        for fill in due:
            self.state.late_fills.remove(fill)
            move_position(self.state, fill.symbol, fill.signed_qty, fill.price)
        kept = [release for release in self.state.releases if release.due > now]
        if due or len(kept) != len(self.state.releases):
            self.state.releases = kept
            self.state.version += 1

    def _finish(self, order: Order, status: str) -> None:
        now, delay = self.state.time, self.state.behaviour.release_delay_seconds
        if delay and status == "canceled" and order.closing and order.status != "held":
            due = now + timedelta(seconds=float(delay))
            shares = open_shares(self.state, order)
            self.state.releases.append(Release(due, order.symbol, order.side, shares, order.id))
        column = {"canceled": "canceled_at", "expired": "expired_at", "replaced": "replaced_at"}
        setattr(order, column.get(status, "failed_at"), now)
        self._status(order, status)

    def _status(self, order: Order, status: str) -> None:
        order.status = status
        order.updated_at = self.state.time
        self.state.touch(order.symbol)
        if status not in LIVE:
            self.state.retire(order)


def trail(order: Order, last: Decimal) -> None:
    """Move a trailing stop's high-water mark with the price, and its stop price with the mark."""
    better = order.hwm is None or (last > order.hwm if order.side == "sell" else last < order.hwm)
    order.hwm = last if better else order.hwm
    mark = order.hwm or last
    distance = order.trail_price or mark * (order.trail_percent or ZERO) / 100
    stop = mark - distance if order.side == "sell" else mark + distance
    order.stop_price = stop.quantize(CENT)


def adopt_group(state: State, old: Order, new: Order) -> None:
    """Give a replacement its predecessor's place in the group."""
    new.root, new.role, new.leg_ids = old.root, old.role, old.leg_ids
    if not old.root:
        return
    if old.root == old.id:
        for leg in new.leg_ids:
            state.orders[leg].root = new.id
        new.root, old.root, old.leg_ids = new.id, "", []
    else:
        legs = state.orders[old.root].leg_ids
        legs[legs.index(old.id)] = new.id
