"""Positions, buying power and reserved shares."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal

from paper_broker.drafts import Draft
from paper_broker.orders import ENTRY, Order
from paper_broker.state import Activity, LateFill, Position, State
from paper_broker.values import CENT, ZERO, eastern_date, stamp, text

_SHORT_PREMIUM = Decimal("1.03")
_MINIMUM_MARGIN_EQUITY = Decimal(2000)
_LONG_MAINTENANCE, _INITIAL = Decimal("0.30"), Decimal("0.50")


def record_fill(state: State, order: Order, qty: Decimal, price: Decimal) -> None:
    """Book one execution: cash, activity, and the position (later, when positions lag)."""
    signed = qty if order.side == "buy" else -qty
    state.account.cash -= signed * price
    opens_short = order.side == "sell" and state.shares(order.symbol) <= 0
    side = "sell_short" if opens_short else order.side
    note_activity(state, "FILL", _fill(state, order, qty, price, side), order.id)
    lag = state.behaviour.positions_lag
    if lag:
        due = state.time + timedelta(seconds=float(lag))
        state.late_fills.append(LateFill(due, order.symbol, signed, price))
    else:
        move_position(state, order.symbol, signed, price)


def move_position(state: State, symbol: str, signed: Decimal, price: Decimal) -> None:
    """Change a position by a signed number of shares; its cost changes only with shares that open it."""
    held = state.positions.get(symbol)
    if held is None or (held.qty * signed < 0 and abs(signed) > abs(held.qty)):
        rest = signed if held is None else held.qty + signed
        state.positions[symbol] = Position(symbol, rest, price, price)
    elif held.qty * signed > 0:
        total = held.qty + signed
        held.avg_entry = (held.qty * held.avg_entry + signed * price) / total
        held.avg_day = (held.qty * held.avg_day + signed * price) / total
        held.qty = total
    else:
        held.qty += signed
        if not held.qty:
            del state.positions[symbol]


def held_orders(state: State, symbol: str, side: str) -> dict[str, Decimal]:
    """Shares reserved by the closing orders of one side; a group counts once, by its first live order."""
    reserved: dict[str, Decimal] = {}
    groups: dict[str, str] = {}
    for order in state.working_for(symbol):
        if order.side != side or not (order.live and order.closing and _active(state, order)):
            continue
        first = groups.setdefault(order.root or order.id, order.id)
        reserved[first] = max(reserved.get(first, ZERO), open_shares(state, order))
    for release in state.releases:
        if (release.symbol, release.side) == (symbol, side):
            reserved[release.order_id] = reserved.get(release.order_id, ZERO) + release.qty
    return reserved


def open_shares(state: State, order: Order) -> Decimal:
    """Shares an order may still trade; an order by amount is turned into shares at the last price."""
    if order.notional is None:
        return order.remaining
    last = state.market.last(order.symbol)
    return order.notional / last if last else ZERO


def _active(state: State, order: Order) -> bool:
    root = state.orders.get(order.root)
    return root is None or root.role != ENTRY or root.status == "filled"


def equity(state: State) -> Decimal:
    return state.account.cash + sum((_value(state, position) for position in state.positions.values()), ZERO)


def multiplier(state: State) -> int:
    """The effective leverage: the account's, capped by its configuration; 1 below 2,000 dollars of equity."""
    if equity(state) < _MINIMUM_MARGIN_EQUITY:
        return 1
    return min(int(state.account.multiplier), int(state.account.configuration.max_margin_multiplier))


def may_short(state: State) -> bool:
    account = state.account
    allowed = account.shorting_enabled and not account.configuration.no_shorting
    return allowed and equity(state) >= _MINIMUM_MARGIN_EQUITY


def cost(state: State, item: Order | Draft, shares: Decimal) -> Decimal:
    """The buying power an opening order binds: limit, else stop, else the quote; shorts 3 % above the ask.

    Source: the broker's description of how it values open orders.
    """
    if item.notional is not None:
        return item.notional
    price = item.limit_price or item.stop_price
    if price is not None and item.side == "buy":
        return shares * price
    quote = state.market.quotes.get(item.symbol)
    ask = (quote.ask or quote.last) if quote else ZERO
    return shares * (max(price or ask, ask * _SHORT_PREMIUM) if item.side == "sell" else ask)


def reserved_power(state: State) -> Decimal:
    """What the live opening orders cost together."""
    orders = (order for order in state.live.values() if order.live and not order.closing)
    return sum((cost(state, order, order.remaining) for order in orders), ZERO)


def buying_power(state: State) -> Decimal:
    """What new positions may cost, orders at work already taken off."""
    lever = multiplier(state)
    if lever == 1:
        longs = [position for position in state.positions.values() if position.qty < 0]
        free = state.account.cash - sum((-2 * _value(state, short) for short in longs), ZERO)
    else:
        share = _INITIAL if lever == 2 else _LONG_MAINTENANCE
        free = max(equity(state) - _gross(state) * share, ZERO) * lever
    return max(free - reserved_power(state), ZERO)


def account_json(state: State) -> dict[str, object]:
    """The account object of the trading API."""
    account, gross, worth = state.account, _gross(state), equity(state)
    long_value = sum((_value(state, p) for p in state.positions.values() if p.qty > 0), ZERO)
    short_value = sum((_value(state, p) for p in state.positions.values() if p.qty < 0), ZERO)
    power = _money(buying_power(state))
    return {
        "id": account.id,
        "account_number": account.number,
        "status": account.status,
        "crypto_status": "INACTIVE",
        "currency": "USD",
        "buying_power": power,
        "regt_buying_power": power,
        "effective_buying_power": power,
        "non_marginable_buying_power": _money(max(account.cash - reserved_power(state), ZERO)),
        "options_buying_power": "0",
        "options_approved_level": 0,
        "options_trading_level": 0,
        "cash": _money(account.cash),
        "accrued_fees": "0",
        "pending_transfer_in": "0",
        "pending_transfer_out": "0",
        "pending_reg_taf_fees": "0",
        "intraday_adjustments": "0",
        "equity": _money(worth),
        "portfolio_value": _money(worth),
        "last_equity": _money(account.last_equity),
        "long_market_value": _money(long_value),
        "short_market_value": _money(short_value),
        "position_market_value": _money(long_value + short_value),
        "initial_margin": _money(gross * _INITIAL),
        "maintenance_margin": _money(gross * _LONG_MAINTENANCE),
        "last_maintenance_margin": "0",
        "sma": "0",
        "multiplier": str(multiplier(state)),
        "shorting_enabled": may_short(state),
        "trading_blocked": account.trading_blocked,
        "transfers_blocked": account.transfers_blocked,
        "account_blocked": account.account_blocked,
        "trade_suspended_by_user": account.configuration.suspend_trade,
        "created_at": stamp(account.created_at),
        "balance_asof": eastern_date(state.time).isoformat(),
        "user_configurations": None,
    }


def configuration_json(state: State) -> dict[str, object]:
    """The account configuration object of the trading API."""
    return asdict(state.account.configuration)


def position_json(state: State, position: Position) -> dict[str, object]:
    """The position object of the trading API; a short's quantity, value and cost are negative."""
    asset = state.market.asset(position.symbol)
    price = state.market.last(position.symbol) or position.avg_entry
    lastday = state.market.previous_close(position.symbol, eastern_date(state.time)) or price
    basis, value = position.qty * position.avg_entry, position.qty * price
    day_basis = position.qty * position.avg_day
    closing_side = "sell" if position.qty > 0 else "buy"
    held = sum(held_orders(state, position.symbol, closing_side).values(), ZERO)
    available = max(abs(position.qty) - held, ZERO)
    return {
        "asset_id": asset.id,
        "symbol": asset.symbol,
        "exchange": asset.exchange,
        "asset_class": "us_equity",
        "asset_marginable": asset.marginable,
        "qty": text(position.qty),
        "qty_available": text(available if position.qty > 0 else -available),
        "avg_entry_price": text(position.avg_entry),
        "side": "long" if position.qty > 0 else "short",
        "market_value": text(value),
        "cost_basis": text(basis),
        "unrealized_pl": text(value - basis),
        "unrealized_plpc": text((value - basis) / abs(basis) if basis else ZERO),
        "unrealized_intraday_pl": text(value - day_basis),
        "unrealized_intraday_plpc": text((value - day_basis) / abs(day_basis) if day_basis else ZERO),
        "current_price": text(price),
        "lastday_price": text(lastday),
        "change_today": text((price - lastday) / lastday if lastday else ZERO),
    }


def activity_json(activity: Activity) -> dict[str, object]:
    return {"id": activity.id, "activity_type": activity.kind, **activity.data}


def note_activity(state: State, kind: str, data: dict[str, str], order_id: str = "") -> None:
    """Add an entry to the account's history (in the listings later, when activities lag).

    Its id has the form timestamp::uuid and sorts by time.
    """
    now, lag = state.time, state.behaviour.activities_lag
    entry_id = f"{now:%Y%m%d%H%M%S}{now.microsecond // 1000:03d}::{uuid.uuid4()}"
    listed_at = now + timedelta(seconds=float(lag)) if lag else None
    state.activities.append(Activity(entry_id, kind, now, order_id, data, listed_at))


def _fill(state: State, order: Order, qty: Decimal, price: Decimal, side: str) -> dict[str, str]:
    complete = order.status == "filled"
    return {
        "transaction_time": stamp(state.time),
        "type": "fill" if complete else "partial_fill",
        "price": text(price),
        "qty": text(qty),
        "side": side,
        "symbol": order.symbol,
        "leaves_qty": text(ZERO if complete else order.remaining),
        "order_id": order.id,
        "cum_qty": text(order.filled_qty),
        "order_status": "filled" if complete else "partially_filled",
    }


def _value(state: State, position: Position) -> Decimal:
    return position.qty * (state.market.last(position.symbol) or position.avg_entry)


def _gross(state: State) -> Decimal:
    return sum((abs(_value(state, position)) for position in state.positions.values()), ZERO)


def _money(value: Decimal) -> str:
    return text(round(value, 6)) if value != round(value, 2) else text(value.quantize(CENT))
