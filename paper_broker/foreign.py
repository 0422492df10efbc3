"""What happens to an account without a request of ours: trades by hand and corporate actions."""

from __future__ import annotations

from datetime import time
from decimal import ROUND_DOWN, Decimal
from typing import TYPE_CHECKING

from paper_broker import desk
from paper_broker.account import note_activity
from paper_broker.drafts import Draft
from paper_broker.market import divided
from paper_broker.orders import Order
from paper_broker.rules import Approved, infer_intent
from paper_broker.sessions import eastern
from paper_broker.values import eastern_date, number, stamp, text

if TYPE_CHECKING:
    from paper_broker.engine import PaperBroker


def fill(broker: PaperBroker, symbol: str, side: str, qty: Decimal, price: Decimal | None) -> Order:
    """Execute a market order past all rules; raises ValueError without side, quantity or price."""
    state = broker.state
    at = price if price is not None else state.market.last(symbol)
    if side not in ("buy", "sell") or qty <= 0 or at is None:
        raise ValueError(f"a fill needs a side, a quantity and a price: {side} {qty} {symbol} at {at}")
    draft = Draft(symbol, side, "market", "day", qty=qty)
    approved = Approved(draft, state.market.asset(symbol), infer_intent(state, draft))
    order = desk.enter(state, broker.calendar, approved, source="app")
    order.status = "new"
    broker.matching.execute(order, qty, at)
    return order


def close(broker: PaperBroker, symbol: str, price: Decimal | None) -> Order:
    """Cancel what works on a symbol and close its position; raises RefusalError (404) when there is none."""
    position = broker.position(symbol)
    broker.cancel_at_once(position.symbol)
    side = "sell" if position.qty > 0 else "buy"
    return fill(broker, position.symbol, side, abs(position.qty), price)


def read_ratio(raw: object) -> Decimal:
    """Read a split ratio such as "4" or "1/4"; raises ValueError when it is none."""
    new, _, old = str(raw).partition("/")
    shares, each = number(new), number(old or "1")
    if shares <= 0 or each <= 0:
        raise ValueError(f"a split ratio must be above 0, not {raw}")
    return shares / each


def split(broker: PaperBroker, symbol: str, ratio: Decimal) -> None:
    """Multiply shares and divide prices by `ratio`; legs of groups keep their terms, as at the broker."""
    state = broker.state
    state.touch(symbol)
    state.market.split(symbol, ratio)
    for order in state.working_for(symbol):
        if not order.root and order.time_in_force == "gtc":
            _adjust(order, ratio)
            if not order.remaining:
                broker.matching.end(order, "canceled")
    position = state.positions.get(symbol)
    if position is None:
        return
    before, position.qty = position.qty, round(position.qty * ratio, 9)
    position.avg_entry /= ratio
    position.avg_day /= ratio
    data = {
        "activity_sub_type": "FSPLIT" if ratio > 1 else "RSPLIT",
        "date": stamp(eastern(eastern_date(state.time), time(0))),
        "created_at": stamp(state.time),
        "net_amount": "0",
        "symbol": symbol,
        "qty": text(position.qty - before),
        "status": "executed",
        "description": f"split {text(ratio)} for 1",
    }
    note_activity(state, "SPLIT", data)


def _adjust(order: Order, ratio: Decimal) -> None:
    """Bring a simple order to the new shares; it asks for whole ones, a fraction of one is given up."""
    rest = (order.remaining * ratio).to_integral_value(ROUND_DOWN)
    order.filled_qty = round(order.filled_qty * ratio, 9)
    order.qty = order.filled_qty + rest
    for name in ("limit_price", "stop_price", "trail_price", "hwm"):
        value = getattr(order, name)
        if value is not None:
            setattr(order, name, divided(value, ratio))
