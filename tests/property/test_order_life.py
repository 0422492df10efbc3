"""Whatever happens in whatever order: our books are the broker's, and every share is under one exit.

Decisions, prices, a person at the broker, misfortunes of the broker, time and passes of the three programs are mixed
at random; `books` checks after each step what always holds and, when everything has been seen, the rest.
"""

from __future__ import annotations

import logging
import random
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import pytest
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from alpaca_client import Broker
from clock import ManualClock
from db_layer import TradingDB
from paper_broker import PaperBroker, SimulatedClock, serve
from paper_broker.drafts import RefusalError
from paper_broker.orders import Order
from tests.flow.world import GENEROUS, START, World
from tests.property.books import Books, differences

OURS = {"NVDA": "135", "AMD": "120"}
OTHER = {"KO": "60"}
SETTINGS = GENEROUS | {"ALPACA_TIMEOUT_SECONDS": "20", "ALLOW_SHORT": "true"}
ROUNDS = 6
CENT = Decimal("0.01")

# A failure is shown as it was found: making it smaller takes minutes, and `make soak` is for that.
USUAL = settings(max_examples=60, stateful_step_count=30, phases=[Phase.generate])
PARTS = 4  # so that several processes share the examples
PROFILE = USUAL if settings.get_current_profile_name() == "repeatable" else settings()

Thing = TypeVar("Thing")

PICK = st.integers(0, 5)
SYMBOL = st.sampled_from(sorted(OURS))
ANY_SYMBOL = st.sampled_from(sorted(OURS | OTHER))
SIDE = st.sampled_from(["buy", "sell"])
STYLE = st.sampled_from(["SWING", "SWING", "TREND", "DAYTRADE"])
QTY = st.sampled_from(["10", "46", "1", "2.5"])
KIND = st.sampled_from(["limit", "limit", "near", "market"])
TIME_IN_FORCE = st.sampled_from(["day", "gtc"])
WHERE = st.sampled_from(["to an order", "past an order", "to an order", "past an order", -8, -3, 3, 8])
LIQUIDITY = st.sampled_from([None, None, "1", "7"])
NORMAL = {
    "cancel_loses_to_fill": False, "replace_loses_to_fill": False, "reject_next": 0, "both_legs_fill": False,
    "tp_status_on_stop": "canceled", "positions_lag": "0", "activities_lag": "0", "cancel_delay_seconds": "0",
    "release_delay_seconds": "0",
}
MISFORTUNES: list[dict[str, Any]] = [
    {"cancel_loses_to_fill": True}, {"replace_loses_to_fill": True}, {"reject_next": 1}, {"both_legs_fill": True},
    {"tp_status_on_stop": "replaced"}, {"positions_lag": "3"}, {"activities_lag": "90"}, {"cancel_delay_seconds": "2"},
    {"release_delay_seconds": "2"},
]


class SharedClock(ManualClock):
    """Moves the broker's time with ours, also while we wait."""

    def __init__(self, broker: PaperBroker) -> None:
        self._broker = broker
        super().__init__(START)

    def sleep(self, seconds: float) -> None:
        self.set(self.now() + timedelta(seconds=seconds))

    def set(self, moment: datetime) -> None:
        super().set(moment)
        self._broker.set_time(moment)


class LastingWorld(World):
    """Keeps its connections for all passes: a thousand examples with a hundred passes each would use up the sockets."""

    def open(self, clock: ManualClock, **environ: str) -> None:
        self.configure(**environ)
        self.clock = clock
        self._broker = Broker(self.settings.alpaca, clock=clock)

    def _worker(self, kind: type[Any]) -> Any:
        return kind(db=self.programs, broker=self._broker, clock=self.clock, settings=self.settings)


class OrderLife(RuleBasedStateMachine):
    """One account from its first decision on."""

    def __init__(self, clones: Any) -> None:
        super().__init__()
        logging.disable()
        self._clones = clones
        self._ids = random.Random(0)
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=self._ids.getrandbits(128), version=4))
        self._database = clones.create()
        self._db = TradingDB(config=self._database)
        self._programs = TradingDB(config=self._database | {"user": "trading_app"})
        self.market = PaperBroker(clock=SimulatedClock(START), cash=Decimal(10**7))
        self._server = serve(self.market)
        self._server.start()
        self.world = LastingWorld(self._db, self._server, self._programs)
        self.world.open(SharedClock(self.market), **SETTINGS)
        for symbol, price in (OURS | OTHER).items():
            self.world.price(symbol, price)
        self.books = Books(self._database, self.market)
        self._sides: dict[str, str] = {}
        self._steps = 0  # since everything was at rest

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self._everybody_else_leaves()
                self.rest()
        finally:
            self._server.stop()
            del self.world  # with its connections
            self.books.close()
            self._db.close()
            self._programs.close()
            self._clones.drop(self._database)
            self._patch.undo()
            logging.disable(logging.NOTSET)

    @invariant()
    def the_books_agree(self) -> None:
        self._steps += 1
        self.market.step()
        self.books.check_always()

    # Decisions

    @initialize(style=STYLE, side=SIDE, qty=QTY)
    def a_first_position(self, style: str, side: str, qty: str) -> None:
        self.decide("NVDA", style, side, qty, "market", "day", at_once=True)
        self._pass(self.world.monitor)

    @initialize(style=STYLE, side=SIDE, qty=QTY)
    def a_first_resting_entry(self, style: str, side: str, qty: str) -> None:
        self.decide("AMD", style, side, qty, "limit", "gtc", at_once=True)

    @rule(symbol=SYMBOL, style=STYLE, side=SIDE, qty=QTY, kind=KIND, time_in_force=TIME_IN_FORCE, at_once=st.booleans())
    def decide(
        self, symbol: str, style: str, side: str, qty: str, kind: str, time_in_force: str, at_once: bool,
    ) -> None:
        self.world.decide(self._decision(symbol, style, side, qty, kind, time_in_force), ticker=symbol)
        if at_once:
            self._pass(self.world.execute)

    @precondition(lambda self: self._entries())
    @rule(pick=PICK)
    def decide_to_cancel(self, pick: int) -> None:
        self._decide_about(_choose(self._entries(), pick), {"primary_action": "CANCEL"})

    @precondition(lambda self: self._entries())
    @rule(pick=PICK, qty=QTY, kind=st.sampled_from(["limit", "near"]))
    def decide_to_amend(self, pick: int, qty: str, kind: str) -> None:
        order = _choose(self._entries(), pick)
        style = self.world.one("trade_journal", id=self._row(order)["trade_journal_id"])["trade_style"]
        decision = self._decision(order.symbol, style, order.side, qty, kind, order.time_in_force)
        name = self._decide_about(order, decision | {"primary_action": "AMEND"})
        self.books.note_amend(order.id, name, Decimal(str(decision["new_trade"]["qty"])))

    # Passes

    @rule(which=st.sampled_from(["execute", "monitor", "value", "value without positions"]))
    def a_pass(self, which: str) -> None:
        """One pass; the last kind is told that the account is empty, which proves nothing."""
        program, _, emptied = which.partition(" ")
        if emptied:
            self.world.fault("GET", "/v2/positions", "status", code=200, body=[], times=None)
        self._pass(getattr(self.world, program))
        self.market.faults.clear()

    @rule(minutes=st.sampled_from([0, 5]))
    def both_monitors(self, minutes: int) -> None:
        self.world.pass_time(minutes=minutes)
        self._pass(self.world.monitor)
        self._pass(self.world.value)

    # The market

    @rule(pick=PICK, where=WHERE, shares=LIQUIDITY, seen=st.booleans())
    def the_price_moves(self, pick: int, where: str | int, shares: str | None, seen: bool) -> None:
        """Somewhere, or to the price of an order of ours, or with a gap past it; then only some shares may trade."""
        priced = self._priced()
        if isinstance(where, int) or not priced:
            symbol = sorted(OURS)[pick % len(OURS)]
            price = self._near(symbol, where if isinstance(where, int) else 3)
        else:
            order = _choose(priced, pick)
            symbol, price = order.symbol, order.stop_price or order.limit_price
            if where == "past an order":
                price += (price - self._price(symbol)) / 4
        if 10 < price < 1000:
            self.market.set_liquidity(symbol, shares)
            self.world.price(symbol, str(price.quantize(CENT)))
        if seen:
            self._pass(self.world.monitor)

    @rule(how_long=st.sampled_from(["a minute", "an hour", "until the evening", "a night", "two nights"]))
    def time_passes(self, how_long: str) -> None:
        if how_long == "until the evening":
            self._close()
        elif how_long.endswith(("night", "nights")):
            for _ in range(2 if how_long == "two nights" else 1):
                self._a_night()
        else:
            self.world.pass_time(minutes=1 if how_long == "a minute" else 60)

    @precondition(lambda self: self.market.state.positions and self._steps > 3)
    @rule(pick=PICK, ratio=st.sampled_from(["2", "10", "1/2"]), seen=st.booleans())
    def the_company_splits_its_shares(self, pick: int, ratio: str, seen: bool) -> None:
        """Overnight, with or without a pass before the market opens."""
        symbol = _choose(sorted(self.market.state.positions), pick)
        new, _, old = ratio.partition("/")
        times = Decimal(new) / Decimal(old or "1")
        self.rest()
        if not self._may_split(symbol, times):
            return
        self._close()
        held = self.books.positions()
        self.market.split(symbol, ratio)
        self.books.note_split(symbol, times, held)
        if seen:
            self.both_monitors(0)
        self._open()

    # A person at the broker

    @precondition(lambda self: self.market.state.positions)
    @rule(pick=PICK, shares=st.sampled_from(["one", "half", "all", "all and three", "one more", "close"]))
    def somebody_trades_by_hand(self, pick: int, shares: str) -> None:
        symbol = _choose(sorted(self.market.state.positions), pick)
        held = self.books.shares_at_broker(symbol)
        qty = {"one": Decimal(1), "half": abs(held) // 2, "all": abs(held), "one more": Decimal(1)}
        if shares == "close":
            self.market.foreign_close(symbol)
        elif held and (traded := qty.get(shares, abs(held) + 3)):
            self.market.foreign_fill(symbol, "buy" if (held < 0) is not (shares == "one more") else "sell", traded)

    @rule(symbol=ANY_SYMBOL, side=SIDE, percent=st.sampled_from([-6, -1, 1, 6]), shares=st.sampled_from(["1", "4"]))
    def somebody_places_an_order(self, symbol: str, side: str, percent: int, shares: str) -> None:
        self._by_hand(self.market.submit, {
            "symbol": symbol, "side": side, "type": "limit", "time_in_force": "gtc", "qty": shares,
            "limit_price": str(self._near(symbol, percent)),
        }, source="app")

    @precondition(lambda self: self._priced())
    @rule(pick=PICK, percent=st.sampled_from([-2, 2, None]))
    def somebody_moves_or_cancels_an_order_of_ours(self, pick: int, percent: int | None) -> None:
        order = _choose(self._priced(), pick)
        if percent is None:
            self._by_hand(self.market.cancel, order.id)
            return
        name = "stop_price" if order.stop_price else "limit_price"
        price = (getattr(order, name) * (100 + percent) / 100).quantize(CENT)
        self._by_hand(self.market.replace, order.id, {name: str(price)}, source="app")

    # Misfortunes of the broker

    @rule(what=st.sampled_from(MISFORTUNES))
    def the_broker_misbehaves(self, what: dict[str, Any]) -> None:
        self.market.behave(**what)

    # Quiescence

    @precondition(lambda self: self._steps > 8)
    @rule()
    def rest(self) -> None:
        """Let the programs see everything in an open market without faults, and check that they then do nothing."""
        self._steps = 0
        self._nothing_misbehaves()
        session = self._session()
        if session is None or session.close - self.world.clock.now() < timedelta(minutes=5):
            self._open()
        self.market.step()
        self.world.pass_time(minutes=2)  # until then a position may lack what has just filled
        decisions: list[dict[str, Any]] = [{}]
        while decisions != (decisions := self.books.contents()["decisions"]):
            self._pass(self.world.execute)  # of several changes of one order each waits for the one before
        before: dict[str, list[dict[str, Any]]] = {}
        rounds, changed = 0, [""]
        while before != (before := self.books.contents()):
            assert rounds < ROUNDS, f"I9: no rest after {ROUNDS} rounds: {changed}"
            self._pass(self.world.monitor)
            self._pass(self.world.value)
            self.market.step()
            rounds, changed = rounds + 1, differences(before, self.books.contents())
            if rounds > 2 and self.books.hindered():
                break
        self.books.check_at_rest()
        if self.books.hindered():
            return  # every pass tries again
        said = len(self._messages())
        for run in (self.world.execute, self.world.monitor, self.world.value):
            self._pass(run)
        assert self._messages()[said:] == [], f"I9: nothing changed, and this was sent: {self._messages()[said:]}"
        changed = differences(before, self.books.contents())
        assert not changed, f"I9: nothing changed outside, but these rows did: {changed}"

    # Helpers

    def _pass(self, run: Callable[[], object]) -> None:
        self.world.pass_time(seconds=1)
        run()

    def _decision(self, symbol: str, style: str, side: str, qty: str, kind: str, time_in_force: str) -> dict[str, Any]:
        side = self._side(symbol, side)
        price, sign = self._price(symbol), 1 if side == "buy" else -1
        away = Decimal(2 if kind == "limit" else 0)
        entry = (price * (100 - sign * away) / 100).quantize(CENT)
        shares = qty if style == "TREND" and side == "buy" else str(Decimal(qty).to_integral_value())
        trade: dict[str, Any] = {
            "strategy": style, "qty": float(shares), "side": side, "type": "market" if kind == "market" else "limit",
            "time_in_force": time_in_force if "." not in shares and kind != "market" else "day",
            "stop_loss": {"stop_price": float((entry * (100 - sign * 5) / 100).quantize(CENT))},
        }
        if kind != "market":
            trade["limit_price"] = float(entry)
        if style == "SWING":
            trade["take_profit"] = {"limit_price": float((entry * (100 + sign * 6) / 100).quantize(CENT))}
        return {"symbol": symbol, "primary_action": "NEW_TRADE", "new_trade": trade}

    def _side(self, symbol: str, side: str) -> str:
        """One side for each symbol in a run: the broker nets long and short trades in one symbol."""
        return self._sides.setdefault(symbol, side)

    def _decide_about(self, order: Order, decision: dict[str, Any]) -> str:
        name = self.world.decide({"symbol": order.symbol, **decision}, ticker=order.symbol)
        self._db.execute_update(
            'UPDATE analysis_decision SET existing_order_id = %(order)s, existing_trade_journal_id = %(journal)s '
            'WHERE "Analysis_Id" = %(name)s',
            {"order": order.id, "journal": self._row(order)["trade_journal_id"], "name": name},
        )
        return name

    def _row(self, order: Order) -> dict[str, Any]:
        return self.world.one("order_execution", client_order_id=order.client_order_id)

    def _entries(self) -> list[Order]:
        """The entries at work; now and then one of them fills before anybody can cancel it."""
        return [order for order in self.market.state.live.values() if order.client_order_id.endswith("-e")]

    def _priced(self) -> list[Order]:
        """Our orders at work that have a price."""
        return [order for order in self.books.our_orders() if order.live and (order.stop_price or order.limit_price)]

    def _near(self, symbol: str, percent: int) -> Decimal:
        return (self._price(symbol) * (100 + percent) / 100).quantize(CENT)

    def _price(self, symbol: str) -> Decimal:
        return self.market.state.market.quotes[symbol].last

    def _session(self) -> Any:
        return self.market.calendar.at(self.world.clock.now())

    def _open(self) -> None:
        self._until(self.market.calendar.next_open(self.world.clock.now()) + timedelta(minutes=5))

    def _close(self) -> None:
        if (session := self._session()) is not None:
            self._until(session.close + timedelta(minutes=20))

    def _a_night(self) -> None:
        """The monitors look in at the end of the day and at the next day's beginning, as the daemon does."""
        if self._session() is not None:
            self._close()
            self.both_monitors(0)
        self._open()
        self.both_monitors(0)

    def _until(self, moment: datetime) -> None:
        self.world.clock.set(moment)

    def _messages(self) -> list[tuple[object, object, object]]:
        return [
            (seen["method"], seen["path"], seen["body"]) for seen in self.market.requests if seen["method"] != "GET"
        ]

    def _by_hand(self, action: Callable[..., object], *arguments: object, **more: object) -> None:
        with suppress(RefusalError):
            action(*arguments, **more)

    def _nothing_misbehaves(self) -> None:
        self.market.faults.clear()
        self.market.behave(**NORMAL)
        for symbol in OURS:
            self.market.set_liquidity(symbol, None)
        self.world.pass_time(minutes=2)

    def _everybody_else_leaves(self) -> None:
        ours = {order.id for order in self.books.our_orders()}
        for order in list(self.market.state.live.values()):
            if order.id not in ours:
                self._by_hand(self.market.cancel, order.id)

    def _may_split(self, symbol: str, times: Decimal) -> bool:
        """Only with whole shares and prices like before: what becomes of a fraction differs from broker to broker."""
        orders = [order for order in self.market.state.live.values() if order.symbol == symbol]
        sizes = [*self.books.positions().values(), *(order.remaining for order in orders)]
        whole = all((size * times) % 1 == 0 for size in sizes) and not any(order.filled_qty for order in orders)
        return whole and symbol in self.market.state.positions and 20 <= self._price(symbol) / times <= 1000


def _choose(things: Sequence[Thing], pick: int) -> Thing:
    return things[pick % len(things)]


@pytest.mark.no_cover
@pytest.mark.timeout(10 * PROFILE.max_examples + 300)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_books_agree_with_the_broker_whatever_happens(clones: Any, part: int) -> None:
    def make() -> OrderLife:
        return OrderLife(clones)

    if PROFILE.derandomize:
        seed(part)(make)
    run_state_machine_as_test(make, settings=settings(PROFILE, max_examples=PROFILE.max_examples // PARTS))
