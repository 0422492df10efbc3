"""The broker itself: orders, prices and time brought together behind one lock."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from paper_broker import desk, drafts, foreign
from paper_broker.account import equity
from paper_broker.bars import read_csv
from paper_broker.clock import Clock, SimulatedClock, SystemClock
from paper_broker.drafts import NOT_FOUND, RefusalError
from paper_broker.faults import Fault
from paper_broker.market import Asset, Bar
from paper_broker.matching import Matching
from paper_broker.orders import Order
from paper_broker.sessions import AlwaysOpen, Calendar, NewYork, boundaries
from paper_broker.state import Account, Position, State
from paper_broker.values import eastern_date, number

if TYPE_CHECKING:
    from paper_broker.wire import Request

# What happens first when several things happen at one instant; orders expire between the two halves.
_BAR_CLOSE, _SESSION_CLOSE, _AFTER_EXPIRY, _BAR_POINT, _SESSION_OPEN = range(5)

# A group's waiting leg ends with its group, and a cancel that is on its way needs no second one.
_NOT_CANCELLED = frozenset({"held", "pending_cancel"})

Price = Decimal | str | int
INVENTED_PRICE = Decimal(100)


class PaperBroker:
    """One account at a broker that keeps its own market; every method may be called from any thread.

    `clock` is the time (the system's unless given), `hours` "nyse" or "always", `cash` the opening balance in
    dollars. `state` continues a saved broker and takes precedence over `cash`.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        hours: str = "nyse",
        cash: Decimal = Decimal(100000),
        state: State | None = None,
    ) -> None:
        if hours not in ("nyse", "always"):
            raise ValueError(f"hours must be nyse or always, not {hours}")
        self.lock = threading.RLock()
        self.calendar: Calendar = AlwaysOpen() if hours == "always" else NewYork()
        self.clock: Clock = clock or SystemClock()
        if state is not None and state.simulated:
            self.clock = SimulatedClock(state.time)
        now = self.clock.now()
        self.state = state or State(now, Account(cash, cash, now))
        self.state.simulated = isinstance(self.clock, SimulatedClock)
        self.matching = Matching(self.state, self.calendar)
        self.requests: list[dict[str, object]] = []
        self.faults: list[Fault] = []
        self.late_requests: list[tuple[datetime, Request]] = []
        self._low_first: dict[str, bool] = {}
        self._hours: tuple[bool, bool] | None = None

    def step(self) -> None:
        """Bring the market up to the present: everything that was due happens, in order."""
        with self.lock:
            self._settle()
            now = self.clock.now()
            if now == self.state.time:
                return
            if now > self.state.time:
                self._play(now)
            else:
                self.state.time = now
                self.matching.in_session = self.calendar.at(now) is not None
            self._settle()

    def set_time(self, moment: datetime) -> None:
        """Stop using the system's time and make `moment` the present; the market is played up to it.

        An earlier moment undoes no order, but the bars after it will be played again. Raises ValueError for a
        time without a zone or beyond the known sessions.
        """
        with self.lock:
            self.calendar.next_open(moment)
            self.step()
            if moment < self.state.time:
                self.state.market.rewind(moment)
            if not isinstance(self.clock, SimulatedClock):
                self.clock = SimulatedClock(moment)
            self.clock.set(moment)
            self.state.simulated = True
            self.state.version += 1
            self.step()

    def use_system_time(self) -> None:
        """Go back to the system's time."""
        with self.lock:
            self.clock = SystemClock()
            self.state.simulated = False
            self.state.version += 1
            self.step()

    def _settle(self) -> None:
        state = self.state
        self._due(state.time, inclusive=True)
        for order in list(state.live.values()):
            if order.replaces and state.orders[order.replaces].status == "pending_replace":
                self.matching.complete_replace(order)
        self.matching.route(state.live.values())
        hours = self.matching.in_session, self.calendar.extended_at(state.time)
        if hours != self._hours:
            self._hours = hours
            self.matching.match_all()
        self.matching.match_touched()

    def _play(self, now: datetime) -> None:
        after = self.state.time
        events: list[tuple[datetime, int, str, int, Bar | None]] = [
            (at, _SESSION_OPEN if opens else _SESSION_CLOSE, "", 0, None)
            for at, opens in boundaries(self.calendar, after, now)
        ]
        for at, point, due in self.state.market.points(after, now):
            events.append((at, _BAR_CLOSE if point == 3 else _BAR_POINT, due.symbol, point, due))
        for at, rank, _, point, bar in sorted(events, key=lambda event: event[:4]):
            self._due(at, inclusive=rank > _AFTER_EXPIRY)
            self.state.time = at
            if bar is not None:
                self._replay(bar, point)
            elif rank == _SESSION_OPEN:
                self._open_session()
            else:
                self._close_session()
        self._due(now, inclusive=True)
        self.state.time = now

    def _replay(self, bar: Bar, point: int) -> None:
        """Play one point of a bar: its open, the extreme adverse to the position held, the other, its close.

        The adverse extreme is the high for a short position and the low otherwise.
        """
        if not self.matching.in_session:
            self.matching.route(self.state.live.values())
        if point == 0:
            self.matching.jump(bar.symbol, bar.open, bar.open, bar.open)
        elif point == 3:
            self.matching.move(bar.symbol, bar.close)
        else:
            if point == 1:
                self._low_first[bar.symbol] = self.state.shares(bar.symbol) >= 0
            low = self._low_first.get(bar.symbol, True) == (point == 1)
            self.matching.move(bar.symbol, bar.low if low else bar.high)

    def _open_session(self) -> None:
        state, today = self.state, eastern_date(self.state.time)
        self.matching.in_session = True
        for position in state.positions.values():
            position.avg_day = state.market.previous_close(position.symbol, today) or position.avg_entry
        self.matching.route(state.live.values())
        self.matching.match_all("opg")
        self._end_all("opg")

    def _close_session(self) -> None:
        self.matching.match_all("cls")
        self._end_all("cls")
        self.state.account.last_equity = equity(self.state)
        self.matching.in_session = False

    def _end_all(self, time_in_force: str) -> None:
        for order in list(self.state.live.values()):
            if order.time_in_force == time_in_force and order.live:
                self.matching.end(order, "canceled")

    def _due(self, until: datetime, *, inclusive: bool) -> None:
        """Carry out, in order of time, the cancels, expiries and delays that end by `until`."""
        state = self.state
        hang = state.behaviour.cancel_hang
        due: list[tuple[datetime, int, Order]] = []
        for order in state.live.values():
            if order.status == "pending_cancel" and order.cancel_due is not None and not hang:
                due.append((order.cancel_due, order.sequence, order))
            if order.expires_at <= until:
                due.append((order.expires_at, order.sequence, order))
        for at, _, order in sorted(due, key=lambda entry: entry[:2]):
            if at > until or (at == until and not inclusive) or not order.live:
                continue
            state.time = max(state.time, at)
            if order.status == "pending_cancel" and order.cancel_due is not None and at == order.cancel_due:
                self.matching.complete_cancel(order)
            else:
                self.matching.end(order, "expired")
        state.time = max(state.time, until) if inclusive else state.time
        self.matching.release_late_fills()

    def submit(self, body: object, source: str | None = None) -> Order:
        """Place the order described by a request body; raises RefusalError."""
        with self.lock:
            self.step()
            draft = drafts.read_draft(body)
            self.invent_price(draft.symbol, draft.limit_price or draft.stop_price)
            return desk.place(self.state, self.calendar, draft, source)

    def invent_price(self, symbol: str, price: Decimal | None = None) -> None:
        """Where prices may be invented, give a symbol nobody has priced this one, or 100 dollars."""
        if self.state.behaviour.invent_prices and symbol not in self.state.market.quotes:
            self.set_price(symbol, price or INVENTED_PRICE)

    def cancel(self, order_id: str) -> None:
        """Request the cancel of one order; raises RefusalError."""
        with self.lock:
            self.step()
            desk.cancel(self.state, self.order(order_id))

    def cancel_all(self) -> list[Order]:
        """Request the cancel of every open order; returns those it was requested for."""
        with self.lock:
            self.step()
            asked = [order for order in self.state.live.values() if order.status not in _NOT_CANCELLED]
            for order in asked:
                desk.cancel(self.state, order)
            return asked

    def replace(self, order_id: str, body: Mapping[str, object], source: str | None = None) -> Order:
        """Replace a live order by one with changed terms; raises RefusalError."""
        with self.lock:
            self.step()
            return desk.replace_order(self.state, self.calendar, self.order(order_id), body, source)

    def close_position(
        self, symbol: str, qty: Decimal | None = None, percentage: Decimal | None = None
    ) -> Order:
        """Place the market order that closes a position or part of it; raises RefusalError."""
        with self.lock:
            self.step()
            draft = desk.closing_draft(self.state, self.position(symbol), qty, percentage)
            return desk.place(self.state, self.calendar, draft)

    def cancel_at_once(self, symbol: str = "") -> None:
        """End every live order (of one symbol) without the usual delay; where cancels hang they stay pending."""
        with self.lock:
            for order in list(self.state.live.values()):
                if not order.live or symbol not in ("", order.symbol):
                    continue
                if not self.state.behaviour.cancel_hang:
                    self.matching.end(order, "canceled")
                elif order.status not in _NOT_CANCELLED:
                    desk.cancel(self.state, order)

    def order(self, order_id: str) -> Order:
        """The order with that id; raises RefusalError (404)."""
        found = self.state.orders.get(order_id.lower())
        if found is None:
            raise RefusalError(404, NOT_FOUND, f"order not found for {order_id}")
        return found

    def order_by_client_id(self, client_order_id: str) -> Order:
        """The order with that client order id, in any state; raises RefusalError (404)."""
        found = self.state.by_client_id.get(client_order_id)
        if found is None:
            raise RefusalError(404, NOT_FOUND, f"order not found for {client_order_id}")
        return found

    def position(self, symbol_or_id: str) -> Position:
        """The open position of a symbol or asset id; raises RefusalError (404)."""
        asset = self.state.market.find_asset(symbol_or_id)
        found = self.state.positions.get(asset.symbol) if asset else None
        if found is None:
            raise RefusalError(404, NOT_FOUND, "position does not exist")
        return found

    def asset(self, symbol_or_id: str) -> Asset:
        """The asset of a symbol or asset id; raises RefusalError (404)."""
        found = self.state.market.find_asset(symbol_or_id)
        if found is None and self.state.behaviour.invent_prices:
            return self.define_asset(symbol_or_id)
        if found is None:
            raise RefusalError(404, NOT_FOUND, f"asset not found for {symbol_or_id}")
        return found

    def set_price(
        self,
        symbol: str,
        price: Price | None = None,
        *,
        bid: Price | None = None,
        ask: Price | None = None,
        last: Price | None = None,
    ) -> None:
        """Set a symbol's price, or its bid and ask (0: nobody quotes that side), in dollars, and match.

        Raises ValueError when neither a price nor both sides are given.
        """
        sides = (price, price) if price is not None else (bid, ask)
        if sides[0] is None or sides[1] is None:
            raise ValueError(f"{symbol} needs a price, or a bid and an ask")
        low, high = number(sides[0]), number(sides[1])
        if low < 0 or high < 0 or 0 < high < low or not (low or high):
            raise ValueError(f"{symbol} cannot be quoted at bid {low}, ask {high}")
        with self.lock:
            self.step()
            trade = last if last is not None else price
            self.matching.jump(symbol, low, high, None if trade is None else number(trade))

    def add_bars(self, bars: list[Bar] | str) -> None:
        """Add bars (or their CSV text) to be replayed as time passes; raises BarError."""
        with self.lock:
            self.step()
            loaded = read_csv(bars, self.calendar) if isinstance(bars, str) else bars
            self.state.market.add_bars(loaded, self.state.time)
            for symbol in {bar.symbol for bar in loaded}:
                self.state.touch(symbol)
            self.step()

    def set_liquidity(self, symbol: str, shares: Price | None) -> None:
        """Limit how many shares of a symbol trade in one price step; None lifts the limit."""
        with self.lock:
            self.state.market.asset(symbol)
            self.state.market.set_cap(symbol, None if shares is None else number(shares))
            self.state.touch(symbol)

    def define_asset(self, symbol: str, **flags: Any) -> Asset:
        """Make a symbol known and set flags of it; raises ValueError for an unknown flag."""
        with self.lock:
            asset = self.state.market.asset(symbol)
            assign(asset, flags)
            self.state.version += 1
            return asset

    def behave(self, **changes: Any) -> None:
        """Change fields of Behaviour; raises ValueError for an unknown name or a wrong type."""
        with self.lock:
            self.step()
            assign(self.state.behaviour, changes)
            self.state.version += 1

    def set_account(self, **changes: Any) -> None:
        """Change fields of the account (cash, status, flags, multiplier); raises ValueError."""
        with self.lock:
            self.step()
            assign(self.state.account, changes)
            self.state.version += 1

    def foreign_fill(self, symbol: str, side: str, qty: Price, price: Price | None = None) -> Order:
        """Trade at once without a request of the API, as a person in the broker's app would."""
        with self.lock:
            self.step()
            return foreign.fill(self, symbol, side, number(qty), None if price is None else number(price))

    def foreign_close(self, symbol: str, price: Price | None = None) -> Order:
        """Cancel a symbol's orders and close its position at once, as a person in the broker's app would."""
        with self.lock:
            self.step()
            return foreign.close(self, symbol, None if price is None else number(price))

    def split(self, symbol: str, ratio: Price) -> None:
        """Split a stock: `ratio` new shares for each old one, as "4" or, in reverse, "1/4"; raises ValueError."""
        with self.lock:
            self.step()
            foreign.split(self, symbol, foreign.read_ratio(ratio))


def assign(record: Any, changes: Mapping[str, Any]) -> None:
    """Set fields of a record, each to a value of its type; raises ValueError and then changes nothing."""
    known = {field.name for field in fields(record)}
    ready = {}
    for name, value in changes.items():
        if name not in known:
            raise ValueError(f"unknown field {name}; known are {', '.join(sorted(known))}")
        present = getattr(record, name)
        if isinstance(present, Decimal):
            value = number(value)
        elif type(value) is not type(present):
            raise ValueError(f"{name} must be a {type(present).__name__}, not {value!r}")
        ready[name] = value
    for name, value in ready.items():
        setattr(record, name, value)
