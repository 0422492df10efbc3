"""Whether a well-formed order may be placed: every refusal with its HTTP status, code and message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from decimal import Decimal

from paper_broker.account import buying_power, cost, held_orders, may_short
from paper_broker.drafts import Draft, business, malformed, rule
from paper_broker.market import Asset
from paper_broker.orders import Order
from paper_broker.sessions import Calendar
from paper_broker.state import State
from paper_broker.values import CENT, NEW_YORK, ZERO, text, tick

_EVENING = time(19, 0)
_OPG_CUTOFF, _CLS_CUTOFF = time(9, 28), timedelta(minutes=10)


@dataclass(frozen=True)
class Approved:
    """A draft that may be placed, with what the checks found out about it."""

    draft: Draft
    asset: Asset
    intent: str


def approve(state: State, calendar: Calendar, draft: Draft) -> Approved:
    """Pass a draft through every rule in the broker's order; raises RefusalError at the first broken one."""
    check_account(state)
    asset = check_asset(state, draft.symbol)
    draft = replace(draft, symbol=asset.symbol)
    check_client_id(state, draft.client_order_id)
    _check_combination(draft, asset)
    if draft.time_in_force in ("opg", "cls") and not calendar.always_open:
        _check_auction_window(draft.time_in_force, state.time, calendar)
    for name, value in _prices(draft):
        check_increment(name, value)
    intent = infer_intent(state, draft)
    _check_group(state, draft, intent)
    if draft.position_intent and draft.position_intent != intent:
        specified = draft.position_intent
        raise rule(f"position intent mismatch, inferred: {intent}, specified: {specified}")
    if intent.endswith("_to_close"):
        check_available(state, draft.symbol, draft.side, _shares(state, draft))
    elif intent == "sell_to_open":
        _check_short(state, draft, asset)
    _check_wash(state, draft)
    if intent.endswith("_to_open"):
        _check_cost(state, draft)
    return Approved(draft, asset, intent)


def check_account(state: State) -> None:
    """Source: the account's flags and the user's own suspension refuse every new order."""
    account = state.account
    if account.configuration.suspend_trade:
        raise business("new orders are rejected by user request")
    if account.account_blocked or account.trading_blocked:
        raise business("account is restricted from trading")
    if account.status != "ACTIVE":
        raise business("account is not active")


def check_asset(state: State, symbol: str) -> Asset:
    asset = state.market.find_asset(symbol)
    if asset is None:
        raise rule(f'asset "{symbol}" not found')
    if asset.status != "active":
        raise rule(f'asset "{symbol}" is not active')
    if not asset.tradable:
        raise rule(f'asset "{symbol}" is not tradable')
    return asset


def check_client_id(state: State, client_order_id: str) -> None:
    if client_order_id and client_order_id in state.by_client_id:
        raise malformed("client_order_id must be unique")


def check_increment(name: str, value: Decimal) -> None:
    """Two decimals from one dollar up, four below it."""
    if value % tick(value):
        shown = format(value, "f")
        raise rule(f"invalid {name} {shown}. sub-penny increment does not fulfill minimum pricing criteria")


def infer_intent(state: State, draft: Draft) -> str:
    held = state.shares(draft.symbol)
    closes = held < 0 if draft.side == "buy" else held > 0
    return f"{draft.side}_to_{'close' if closes else 'open'}"


def check_available(state: State, symbol: str, side: str, wanted: Decimal) -> None:
    """An exit needs shares that no other exit holds (section on share reservation)."""
    held = abs(state.shares(symbol))
    reserved = held_orders(state, symbol, side)
    taken = sum(reserved.values(), ZERO)
    available = max(held - taken, ZERO)
    if wanted > available:
        raise business(
            f"insufficient qty available for order (requested: {text(wanted)}, available: {text(available)})",
            available=text(available),
            existing_qty=text(held),
            held_for_orders=text(taken),
            related_orders=list(reserved),
            symbol=symbol,
        )


def _prices(draft: Draft) -> list[tuple[str, Decimal]]:
    named = {
        "limit_price": draft.limit_price,
        "stop_price": draft.stop_price,
        "take_profit.limit_price": draft.target_price,
        "stop_loss.stop_price": draft.loss_stop,
        "stop_loss.limit_price": draft.loss_limit,
    }
    return [(name, value) for name, value in named.items() if value is not None]


def _check_combination(draft: Draft, asset: Asset) -> None:
    kind, tif, group = draft.type, draft.time_in_force, draft.order_class
    if draft.fractional:
        _check_fraction(draft, asset)
    if tif in ("ioc", "fok", "opg", "cls") and kind not in ("market", "limit"):
        raise rule(f"invalid time_in_force {tif} for {kind} orders")
    if kind == "trailing_stop" and (tif not in ("day", "gtc") or group != "simple"):
        raise rule("trailing stop orders must be simple DAY or GTC orders")
    if group != "simple" and tif not in ("day", "gtc"):
        raise rule(f"{group} orders must be DAY or GTC orders")
    if draft.extended_hours and (group != "simple" or kind != "limit" or tif != "day"):
        raise rule("extended hours order must be DAY limit orders")
    if "ipo" in asset.attributes and kind != "limit":
        raise rule("ipo assets accept limit orders only")


def _check_fraction(draft: Draft, asset: Asset) -> None:
    if not asset.fractionable:
        raise business(f'asset "{asset.symbol}" is not fractionable')
    if draft.order_class != "simple":
        raise rule("fractional orders must be simple orders")
    if draft.type == "trailing_stop":
        raise rule("fractional orders must not be trailing stop orders")
    if draft.notional is not None and draft.type not in ("market", "limit"):
        raise rule("notional orders must be market or limit orders")
    if draft.time_in_force != "day":
        raise rule("fractional orders must be DAY orders")


def _check_auction_window(tif: str, now: datetime, calendar: Calendar) -> None:
    """opg is taken from 19:00 to 09:28, cls from 19:00 to ten minutes before the close, Eastern time."""
    local = now.astimezone(NEW_YORK)
    if local.time() >= _EVENING:
        return
    session = next(iter(calendar.between(local.date(), local.date())), None)
    cutoff = session.close - _CLS_CUTOFF if session else datetime.combine(local, time(15, 50), NEW_YORK)
    late = local.time() >= _OPG_CUTOFF if tif == "opg" else now >= cutoff
    if late:
        raise business(f"{tif} orders are not accepted at this time")


def _check_group(state: State, draft: Draft, intent: str) -> None:
    """Source: the broker's pages on bracket, OCO and OTO orders, with the base price rule."""
    group = draft.order_class
    if group == "simple":
        return
    closing = intent.endswith("_to_close")
    if group == "oco" and not closing:
        raise rule("oco orders must be exit orders")
    if group != "oco" and closing:
        raise rule(f"{group} orders must be entry orders")
    # The exits of a long position sell: the target lies above the base price and the stop below it.
    long = draft.side == ("sell" if group == "oco" else "buy")
    target, stop = draft.target_price, draft.loss_stop
    if target is not None and stop is not None and (target <= stop if long else target >= stop):
        raise rule("take_profit.limit_price must be " + ("> " if long else "< ") + "stop_loss.stop_price")
    for base in _base_prices(state, draft):
        if stop is not None:
            _check_beyond("stop_loss.stop_price", stop, base, below=long)
    entry = draft.limit_price or draft.stop_price or state.market.last(draft.symbol)
    if group != "oco" and target is not None and entry is not None:
        _check_beyond("take_profit.limit_price", target, entry, below=not long)


def _base_prices(state: State, draft: Draft) -> list[Decimal]:
    own = draft.target_price if draft.order_class == "oco" else draft.limit_price or draft.stop_price
    return [base for base in (own, state.market.last(draft.symbol)) if base is not None]


def _check_beyond(name: str, value: Decimal, base: Decimal, *, below: bool) -> None:
    if below and value > base - CENT:
        raise rule(f"{name} must be <= base_price - 0.01", base_price=text(base))
    if not below and value < base + CENT:
        raise rule(f"{name} must be >= base_price + 0.01", base_price=text(base))


def _shares(state: State, draft: Draft) -> Decimal:
    if draft.qty is not None:
        return draft.qty
    last = state.market.last(draft.symbol)
    return (draft.notional or ZERO) / last if last else ZERO


def _check_short(state: State, draft: Draft, asset: Asset) -> None:
    """Source: the broker's page on margin and short selling."""
    if not may_short(state):
        raise business("account is not allowed to short")
    if draft.fractional:
        raise rule("fractional orders cannot be sold short")
    if not (asset.shortable and asset.easy_to_borrow):
        raise business(f'asset "{asset.symbol}" cannot be sold short')


def _check_wash(state: State, draft: Draft) -> None:
    """Source: the broker's table of opposite-side pairs on its page about user protection."""
    if draft.order_class != "simple" or draft.type == "trailing_stop":
        return
    exempt = _exempt(state)
    for order in state.working_for(draft.symbol):
        if order.side == draft.side or order.status == "held" or exempt(order):
            continue
        hard = order.type in ("market", "stop")
        if hard or draft.type in ("market", "stop") or _crosses(draft, order):
            raise business(
                "potential wash trade detected. use complex orders",
                reject_reason=f"opposite side {'market/stop' if hard else 'limit'} order exists",
                existing_order_id=order.id,
            )


def _exempt(state: State) -> Callable[[Order], bool]:
    if state.behaviour.resting_groups_block_plain:
        return lambda order: order.type == "trailing_stop"
    return lambda order: order.type == "trailing_stop" or bool(order.root)


def _crosses(draft: Draft, order: Order) -> bool:
    if draft.limit_price is None or order.limit_price is None:
        return False
    buy, sell = draft.limit_price, order.limit_price
    return buy >= sell if draft.side == "buy" else sell >= buy


def check_power(state: State, needed: Decimal) -> None:
    """An opening order needs free buying power for its whole cost."""
    power = buying_power(state)
    if needed > power:
        raise business(
            "insufficient buying power", buying_power=text(round(power, 2)), cost_basis=text(needed)
        )


def _check_cost(state: State, draft: Draft) -> None:
    needed = cost(state, draft, draft.qty or ZERO)
    if draft.fractional and state.market.last(draft.symbol) and needed < 1:
        raise business("cost basis must be >= minimal amount of order 1", cost_basis=text(needed))
    check_power(state, needed)
