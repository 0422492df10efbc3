"""What the flow tests see of the exits at the broker, and what they do to them there."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from alpaca_client import Broker, Request
from order_monitor import OrderMonitor
from paper_broker.orders import Order
from tests.flow.world import Killed, LineGoesDown, World

ORDERS = "/v2/orders"
REFUSALS = {
    403: {"code": 40310000, "message": "insufficient qty available for order"},
    422: {"code": 42210000, "message": "stop price must be less than current price"},
}
CRASHES = ["before its request is written", "before its first byte", "after it arrived"]


def groups(world: World, symbol: str = "NVDA") -> dict[str, list[Order]]:
    """The exit orders that work at the broker, each group with its members."""
    found: dict[str, list[Order]] = {}
    for order in world.market.state.working_for(symbol):
        if order.closing:
            found.setdefault(order.root or order.id, []).append(order)
    return found


def exits(world: World) -> list[Decimal]:
    """The shares of each exit group that works at the broker; all members of one ask for the same."""
    found = []
    for members in groups(world).values():
        (shares,) = {order.remaining for order in members}
        found.append(shares)
    return sorted(found)


def live_exits(world: World, side: str = "sell") -> list[Decimal]:
    """The quantities of the exit orders that work at the broker."""
    return [order.qty for order in world.market.state.live.values() if order.side == side]


def member(world: World, kind: str) -> Order:
    """The only exit order at work of a type: stop, limit or market."""
    (order,) = [order for members in groups(world).values() for order in members if order.type == kind]
    return order


def part(world: World, shares: str, price: str = "133.50") -> None:
    """Let so many shares trade at a price, and none before or after."""
    world.market.set_liquidity("NVDA", "0")
    world.price("NVDA", price)
    world.market.set_liquidity("NVDA", shares)
    world.market.step()
    world.market.set_liquidity("NVDA", "0")


def trade(world: World, price: str) -> None:
    """Let any number of shares trade at a price, and none before."""
    world.market.set_liquidity("NVDA", "0")
    world.price("NVDA", price)
    world.market.set_liquidity("NVDA", None)
    world.market.step()


def place(world: World, decision: dict[str, Any], filled: str | None = None, price: str = "133.50") -> Order:
    """Place an entry, fill so many of its shares, and return the broker's order; the books know nothing of it yet."""
    world.market.set_liquidity("NVDA", "0")
    world.decide(decision)
    world.execute()
    if filled:
        part(world, filled, price)
    return world.market.order_by_client_id(world.posted()[-1]["client_order_id"])


def change_by_hand(world: World, order: Order, **terms: str) -> Order:
    """What a person does in the broker's app to an order that works."""
    world.market.step()
    new = world.market.replace(order.id, terms, source="app")
    world.market.step()
    return new


def cancel_by_hand(world: World, order: Order) -> None:
    """What a person does in the broker's app to be rid of an order."""
    world.market.cancel(order.id)
    world.pass_time(minutes=1)


def refuse(world: World, text: str, times: int, code: int = 422) -> None:
    """Let the broker refuse the next orders whose body holds a text."""
    world.fault("POST", ORDERS, "status", code=code, body=REFUSALS[code], contains=text, times=times)


def monitor_until_it_dies(world: World, text: str, moment: str) -> None:
    """A pass that is killed when it is about to send, or has sent, an order whose body holds a text."""
    class Dies(Broker):
        def order_request(self, order: Any) -> Request:
            request = super().order_request(order)
            if moment == CRASHES[0] and text in (request.body or ""):
                raise Killed  # the transaction that writes the request is not committed
            return request

        def send(self, request: Request) -> Any:
            if text not in (request.body or ""):
                return super().send(request)
            if moment == CRASHES[2]:
                super().send(request)
            raise Killed

    broker = Dies(world.settings.alpaca, clock=world.clock)
    with pytest.raises(Killed):
        OrderMonitor(db=world.programs, broker=broker, clock=world.clock, settings=world.settings).run()


def monitor_with_the_line_down(world: World) -> None:
    """A pass that reaches the broker for everything but its orders."""
    with LineGoesDown(world.settings.alpaca, clock=world.clock) as broker:
        OrderMonitor(db=world.programs, broker=broker, clock=world.clock, settings=world.settings).run()


def forget(world: World, order: Order) -> list[tuple[dict[str, Order], str, Order]]:
    """Let the broker lose an order with its group, and return what `remember` needs."""
    state, lost = world.market.state, []
    for member in [other for other in state.orders.values() if order.id in (other.id, other.root)]:
        for known in (state.orders, state.live, state.live_in[member.symbol], state.by_client_id):
            lost += [(known, key, known.pop(key)) for key in (member.id, member.client_order_id) if key in known]
    return lost


def remember(lost: list[tuple[dict[str, Order], str, Order]]) -> None:
    """Let the broker find again what it had lost."""
    for known, key, order in lost:
        known[key] = order


def rival(world: World, kind: str = "limit", price: str = "100", side: str = "buy") -> Order:
    """Somebody else's order that rests in the app, beside which the broker takes no plain order of the other side."""
    return world.market.submit({
        "symbol": "NVDA", "qty": "10", "side": side, "type": kind, f"{kind}_price": price, "time_in_force": "gtc",
    }, source="app")


def sold(world: World) -> Decimal:
    """The shares that left through orders of ours."""
    return sum((row["qty"] for row in world.db.query("order_fill", {"side": "sell"})), Decimal(0))


def sent(world: World) -> list[tuple[str, str]]:
    """Everything said to the broker that changes something."""
    return [(seen["method"], seen["path"]) for seen in world.market.requests if seen["method"] != "GET"]


def stays_as_it_is(world: World, passes: int = 3) -> bool:
    """Tell whether further passes with nothing new say nothing to the broker."""
    before = sent(world)
    for _ in range(passes):
        world.pass_time(minutes=5)
        world.monitor()
    return sent(world) == before


def is_flat(world: World) -> bool:
    """Tell whether nothing is held and nothing works at the broker."""
    return world.market.state.positions == {} and not world.market.state.live
