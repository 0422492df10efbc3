"""Pages of orders and activities, with the broker's peculiarities."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from paper_broker.account import activity_json
from paper_broker.drafts import malformed
from paper_broker.orders import Order, order_json
from paper_broker.state import Activity, State
from paper_broker.wire import choice, flag, instant, integer, names

_MOST_ORDERS, _MOST_ACTIVITIES = 500, 100


def list_orders(state: State, query: Mapping[str, str]) -> list[dict[str, object]]:
    """Answer GET /v2/orders.

    Un-nested, every order is a row, except that `held` legs are missing from status=open. Nested, only first
    orders are rows, so an open listing shows nothing of a bracket whose entry filled.
    """
    nested = flag(query, "nested")
    status = choice(query, "status", ("open", "closed", "all"), "open")
    limit = integer(query, "limit", 50, _MOST_ORDERS)
    symbols, side = names(query, "symbols"), query.get("side", "")
    classes = names(query, "asset_class")
    wanted = _between(state, query)
    rows = [
        order
        for order in state.orders.values()
        if _has_status(order, status, nested)
        and (not symbols or order.symbol in symbols)
        and side in ("", order.side)
        and (not classes or {"us_equity", "all"} & set(classes))
        and wanted(order)
    ]
    newest_first = choice(query, "direction", ("asc", "desc"), "desc") == "desc"
    rows.sort(key=lambda order: (order.submitted_at, order.sequence), reverse=newest_first)
    return [order_json(order, state.legs(order) if nested else None) for order in rows[:limit]]


def list_activities(state: State, query: Mapping[str, str], kinds: list[str]) -> list[dict[str, object]]:
    """Answer GET /v2/account/activities; `page_token` is the id of the last entry of the page before."""
    size = integer(query, "page_size", _MOST_ACTIVITIES, _MOST_ACTIVITIES)
    after, until = instant(query, "after"), instant(query, "until")
    day, order_id = instant(query, "date"), query.get("order_id", "")
    rows = [
        activity
        for activity in state.activities
        if (activity.listed_at is None or activity.listed_at <= state.time)
        and (not kinds or activity.kind in kinds)
        and order_id in ("", activity.order_id)
        and (after is None or activity.at > after)
        and (until is None or activity.at < until)
        and (day is None or day.date() == activity.at.date())
    ]
    if choice(query, "direction", ("asc", "desc"), "desc") == "desc":
        rows.reverse()
    start = _after_token(rows, query.get("page_token", ""))
    return [activity_json(activity) for activity in rows[start : start + size]]


def activity_kinds(query: Mapping[str, str]) -> list[str]:
    """The activity types asked for by type or by category; [] means all of them."""
    kinds = [kind.upper() for kind in names(query, "activity_types")]
    category = choice(query, "category", ("", "trade_activity", "non_trade_activity"), "")
    if kinds and category:
        raise malformed("activity_types and category are mutually exclusive")
    return kinds or {"trade_activity": ["FILL"], "non_trade_activity": ["SPLIT"]}.get(category, [])


def _has_status(order: Order, status: str, nested: bool) -> bool:
    if nested and order.root and order.root != order.id:
        return False
    if status == "open":
        return order.live and order.status != "held"
    return status == "all" or not order.live


def _between(state: State, query: Mapping[str, str]) -> Callable[[Order], bool]:
    after, until = instant(query, "after"), instant(query, "until")
    before_id, after_id = query.get("before_order_id"), query.get("after_order_id")
    if before_id and after_id:
        raise malformed("before_order_id and after_order_id are mutually exclusive")
    if (before_id or after_id) and (after or until):
        raise malformed("order id cursors cannot be combined with after or until")
    before = _cursor(state, before_id, "before_order_id")
    beyond = _cursor(state, after_id, "after_order_id")
    return lambda order: (
        (after is None or order.submitted_at > after)
        and (until is None or order.submitted_at < until)
        and (before is None or order.sequence < before)
        and (beyond is None or order.sequence > beyond)
    )


def _cursor(state: State, order_id: str | None, name: str) -> int | None:
    if not order_id:
        return None
    if order_id not in state.orders:
        raise malformed(f"invalid {name}")
    return state.orders[order_id].sequence


def _after_token(rows: list[Activity], token: str) -> int:
    if not token:
        return 0
    found = next((n for n, activity in enumerate(rows) if activity.id == token), None)
    if found is None:
        raise malformed("invalid page_token")
    return found + 1
