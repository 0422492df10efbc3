"""Taking orders, cancels, replacements and closing requests into the books."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, time, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Any

from paper_broker import drafts, rules
from paper_broker.account import cost
from paper_broker.drafts import Draft, malformed, rule
from paper_broker.matching import trail
from paper_broker.orders import ENTRY, LIMIT_TYPES, STOP_LOSS, TAKE_PROFIT, Order
from paper_broker.sessions import Calendar, eastern
from paper_broker.state import Position, State
from paper_broker.values import ZERO, cut, eastern_date

_GTC_LIFE, _GTC_END = timedelta(days=90), time(16, 15)
_UNREPLACEABLE = frozenset({"accepted", "pending_new", "pending_cancel", "pending_replace"})


def place(state: State, calendar: Calendar, draft: Draft, source: str | None = None) -> Order:
    """Check a draft and enter it, with its legs, into the books; raises RefusalError."""
    order = enter(state, calendar, rules.approve(state, calendar, draft), source)
    if state.behaviour.reject_next > 0:
        state.behaviour.reject_next -= 1
        order.doomed = True
    return order


def enter(state: State, calendar: Calendar, approved: rules.Approved, source: str | None = None) -> Order:
    """Enter an approved draft without checking it again."""
    draft = approved.draft
    root = _order(state, calendar, approved, draft)
    root.source = source
    if draft.order_class != "simple":
        _enter_legs(state, calendar, approved, root)
    return root


def cancel(state: State, order: Order) -> None:
    """Ask for a cancel, which completes later; raises RefusalError (422) where the status forbids it."""
    if order.status == "canceled":
        return
    if order.status in ("pending_cancel", "pending_replace"):
        raise rule(f"order {order.status.replace('_', ' ')}")
    if not order.live:
        raise rule(f'order is already in "{order.status}" state')
    behaviour = state.behaviour
    order.status_before, order.status = order.status, "pending_cancel"
    order.updated_at = state.time
    order.cancel_due = state.time + timedelta(seconds=float(behaviour.cancel_delay_seconds))
    state.version += 1


def replace_order(
    state: State, calendar: Calendar, old: Order, fields: Mapping[str, object], source: str | None = None
) -> Order:
    """Enter an order that takes the place of a live one at the next step; raises RefusalError.

    A changed quantity is the new total; the new order asks for what of it is not filled yet.
    """
    _check_replaceable(state, old)
    changes = _changes(old, fields)
    client_id = drafts.client_id(fields)
    rules.check_client_id(state, client_id)
    for name in ("limit_price", "stop_price"):
        if name in changes:
            rules.check_increment(name, changes[name])
    now = state.time
    new = replace(
        old,
        id=str(uuid.uuid4()),
        client_order_id=client_id or str(uuid.uuid4()),
        created_at=now,
        submitted_at=now,
        updated_at=now,
        sequence=state.next_sequence(),
        status="held" if old.status == "held" else "pending_new",
        replaces=old.id,
        source=source,
        root="",
        role="",
        leg_ids=[],
        filled_qty=ZERO,
        filled_value=ZERO,
        filled_at=None,
    )
    if new.qty is not None:
        new.qty -= old.filled_qty
    for name, value in changes.items():
        setattr(new, name, value - old.filled_qty if name == "qty" else value)
    if "time_in_force" in changes:
        new.expires_at = expiry(calendar, now, new.time_in_force, new.extended_hours)
    _check_growth(state, old, new)
    old.status_before, old.status = old.status, "pending_replace"
    old.updated_at = now
    state.add(new)
    return new


def closing_draft(
    state: State, position: Position, qty: Decimal | None = None, percentage: Decimal | None = None
) -> Draft:
    """The market order that closes a position or a part of it; raises RefusalError for an impossible part."""
    held = abs(position.qty)
    shares = held if qty is None else qty
    if qty is not None and percentage is not None:
        raise malformed("only one of qty or percentage is accepted")
    if percentage is not None:
        if not 0 < percentage <= 100:
            raise malformed("percentage must be between 0 and 100")
        whole = held == held.to_integral_value()
        shares = held * percentage / 100
        shares = shares.to_integral_value(ROUND_DOWN) if whole else cut(shares)
    if shares <= 0:
        raise malformed("qty must be > 0")
    side = "sell" if position.qty > 0 else "buy"
    rules.check_available(state, position.symbol, side, shares)
    return Draft(position.symbol, side, "market", "day", qty=shares)


def expiry(calendar: Calendar, now: datetime, time_in_force: str, extended: bool) -> datetime:
    """When an order ends unfilled: its session's close, or for gtc 90 days later at 16:15 Eastern time."""
    if time_in_force == "gtc":
        return eastern(eastern_date(now) + _GTC_LIFE, _GTC_END)
    if calendar.always_open and time_in_force == "day":
        return now + timedelta(hours=24)
    if time_in_force == "opg":
        return calendar.ending_after(calendar.next_open(now)).close
    session = calendar.ending_after(now, extended=extended)
    return session.late if extended else session.close


def _order(state: State, calendar: Calendar, approved: rules.Approved, draft: Draft) -> Order:
    now = state.time
    reaches_market = calendar.at(now) or (draft.extended_hours and calendar.extended_at(now))
    order = Order(
        id=str(uuid.uuid4()),
        client_order_id=draft.client_order_id or str(uuid.uuid4()),
        symbol=draft.symbol,
        asset_id=approved.asset.id,
        side=draft.side,
        type=draft.type,
        time_in_force=draft.time_in_force,
        order_class=draft.order_class,
        position_intent=approved.intent,
        status="pending_new" if reaches_market and draft.time_in_force != "opg" else "accepted",
        created_at=now,
        submitted_at=now,
        updated_at=now,
        expires_at=expiry(calendar, now, draft.time_in_force, draft.extended_hours),
        sequence=state.next_sequence(),
        qty=draft.qty,
        notional=draft.notional,
        limit_price=draft.target_price if draft.order_class == "oco" else draft.limit_price,
        stop_price=draft.stop_price,
        trail_price=draft.trail_price,
        trail_percent=draft.trail_percent,
        extended_hours=draft.extended_hours,
    )
    last = state.market.last(draft.symbol)
    if order.type == "trailing_stop" and last is not None:
        trail(order, last)
    state.add(order)
    return order


def _enter_legs(state: State, calendar: Calendar, approved: rules.Approved, root: Order) -> None:
    draft = approved.draft
    first, *parts = _roles(draft)
    root.root, root.role = root.id, first
    exit_side = draft.side if first == TAKE_PROFIT else ("sell" if draft.side == "buy" else "buy")
    leg_draft = replace(draft, side=exit_side, order_class=draft.order_class, client_order_id="")
    intent = replace(approved, intent=f"{exit_side}_to_close")
    for part in parts:
        leg = _order(state, calendar, intent, _leg(leg_draft, part))
        leg.limit_price = draft.target_price if part == TAKE_PROFIT else draft.loss_limit
        leg.root, leg.role, leg.status = root.id, part, "held"
        root.leg_ids.append(leg.id)


def _leg(draft: Draft, part: str) -> Draft:
    if part == TAKE_PROFIT:
        return replace(draft, type="limit", stop_price=None)
    kind = "stop" if draft.loss_limit is None else "stop_limit"
    return replace(draft, type=kind, stop_price=draft.loss_stop)


def _check_replaceable(state: State, old: Order) -> None:
    if old.status == "replaced":
        raise rule("order already replaced")
    if not old.live:
        raise rule(f'order is already in "{old.status}" state')
    if old.status in _UNREPLACEABLE:
        raise rule(f"cannot replace order in {old.status} status")
    if old.status == "held" and state.group(old)[0].standing in ("accepted", "pending_new"):
        raise rule(f"cannot replace order in {state.group(old)[0].status} status")
    if old.notional is not None:
        raise rule("notional orders cannot be replaced")


def _changes(old: Order, fields: Mapping[str, object]) -> dict[str, Any]:
    """What a PATCH would alter, by field; raises RefusalError where the order has no such field."""
    found: dict[str, Any] = {
        "qty": drafts.whole_or_part(fields),
        "limit_price": drafts.price(fields, "limit_price"),
        "stop_price": drafts.price(fields, "stop_price"),
        "time_in_force": drafts.time_in_force(fields) or None,
        "trail_price" if old.trail_price is not None else "trail_percent": drafts.price(fields, "trail"),
    }
    changes = {name: value for name, value in found.items() if value not in (None, getattr(old, name))}
    if "limit_price" in changes and old.type not in LIMIT_TYPES:
        raise malformed(f"{old.type} orders must not have a limit price")
    if "stop_price" in changes and old.type not in ("stop", "stop_limit"):
        raise malformed(f"{old.type} orders must not have a stop price")
    if fields.get("trail") is not None and old.type != "trailing_stop":
        raise malformed("only trailing stop orders accept trail")
    if not changes:
        raise rule("order parameters are not changed")
    _check_qty_change(old, changes.get("qty"))
    return changes


def _check_qty_change(old: Order, qty: Decimal | None) -> None:
    if qty is None:
        return
    if old.root:
        raise rule("qty cannot be changed for advanced orders")
    if qty % 1 or (old.qty or ZERO) % 1:
        raise rule("qty of fractional orders cannot be changed")
    if qty <= old.filled_qty:
        raise rule("qty must be > filled_qty")


def _check_growth(state: State, old: Order, new: Order) -> None:
    """A replacement is measured as if its predecessor were gone already."""
    status, old.status = old.status, "replaced"
    try:
        if new.closing and not old.root:
            rules.check_available(state, new.symbol, new.side, new.remaining)
        elif not new.closing:
            rules.check_power(state, cost(state, new, new.remaining))
    finally:
        old.status = status


def _roles(draft: Draft) -> tuple[str, ...]:
    """The parts of a group in the order of its members, the first one leading."""
    if draft.order_class == "oco":
        return TAKE_PROFIT, STOP_LOSS
    parts = ((TAKE_PROFIT, draft.target_price), (STOP_LOSS, draft.loss_stop))
    return ENTRY, *(part for part, price in parts if price is not None)
