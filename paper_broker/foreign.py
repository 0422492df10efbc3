"""What happens to an account without a request of ours: trades by hand and corporate actions."""

from __future__ import annotations

from datetime import time
from decimal import Decimal
from typing import TYPE_CHECKING

from paper_broker import desk
from paper_broker.account import activity_id
from paper_broker.drafts import Draft
from paper_broker.orders import Order
from paper_broker.rules import Approved, infer_intent
from paper_broker.sessions import eastern
from paper_broker.state import Activity, State
from paper_broker.values import CENT, eastern_date, stamp, text

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


def split(state: State, symbol: str, ratio: Decimal) -> None:
    """Multiply shares and divide prices by `ratio`; legs of groups keep their prices, as at the broker."""
    if ratio <= 0:
        raise ValueError(f"a split ratio must be above 0, not {ratio}")
    state.touch(symbol)
    quote = state.market.quotes.get(symbol)
    if quote is not None:
        last = (quote.last / ratio).quantize(CENT)
        bid, ask = (quote.bid / ratio).quantize(CENT), (quote.ask / ratio).quantize(CENT)
        state.market.set_quote(symbol, state.time, bid, ask, last)
    for order in state.working_for(symbol):
        if not order.root and order.time_in_force == "gtc":
            _adjust(order, ratio)
    position = state.positions.get(symbol)
    if position is None:
        return
    added = position.qty * ratio - position.qty
    position.qty += added
    position.avg_entry /= ratio
    position.avg_day /= ratio
    data = {
        "date": stamp(eastern(eastern_date(state.time), time(0))),
        "net_amount": "0",
        "symbol": symbol,
        "qty": text(added),
        "status": "executed",
        "description": f"split {text(ratio)} for 1",
    }
    state.activities.append(Activity(activity_id(state), "SPLIT", state.time, "", data))


def _adjust(order: Order, ratio: Decimal) -> None:
    if order.qty is not None:
        order.qty *= ratio
    order.filled_qty *= ratio
    for name in ("limit_price", "stop_price"):
        value = getattr(order, name)
        if value is not None:
            setattr(order, name, (value / ratio).quantize(CENT))
