"""The trading API: one handler for each route under /v2."""

from __future__ import annotations

from dataclasses import fields
from datetime import date

from paper_broker.account import account_json, configuration_json, position_json
from paper_broker.drafts import RefusalError, malformed
from paper_broker.engine import PaperBroker
from paper_broker.listing import activity_kinds, list_activities, list_orders
from paper_broker.market import Asset
from paper_broker.orders import Order, order_json
from paper_broker.sessions import Session
from paper_broker.state import Configuration, State
from paper_broker.values import NEW_YORK, eastern_date
from paper_broker.wire import Reply, Request, Routes, decimal, flag, names, ok

ROUTES = Routes()


@ROUTES.add("POST", "/v2/orders")
def create_order(broker: PaperBroker, request: Request) -> Reply:
    return ok(_with_legs(broker.state, broker.submit(request.json())))


@ROUTES.add("GET", "/v2/orders")
def get_orders(broker: PaperBroker, request: Request) -> Reply:
    return ok(list_orders(broker.state, request.query))


@ROUTES.add("DELETE", "/v2/orders")
def cancel_orders(broker: PaperBroker, request: Request) -> Reply:
    return ok([{"id": order.id, "status": 200} for order in broker.cancel_all()], 207)


@ROUTES.add("GET", "/v2/orders:by_client_order_id")
def get_order_by_client_id(broker: PaperBroker, request: Request) -> Reply:
    client_order_id = request.query.get("client_order_id")
    if not client_order_id:
        raise malformed("client_order_id is required")
    return ok(order_json(broker.order_by_client_id(client_order_id)))


@ROUTES.add("GET", "/v2/orders/{order_id}")
def get_order(broker: PaperBroker, request: Request, order_id: str) -> Reply:
    order = broker.order(order_id)
    return ok(_with_legs(broker.state, order) if flag(request.query, "nested") else order_json(order))


@ROUTES.add("DELETE", "/v2/orders/{order_id}")
def cancel_order(broker: PaperBroker, request: Request, order_id: str) -> Reply:
    broker.cancel(order_id)
    return Reply(204)


@ROUTES.add("PATCH", "/v2/orders/{order_id}")
def replace_order(broker: PaperBroker, request: Request, order_id: str) -> Reply:
    body = request.json()
    if not isinstance(body, dict):
        raise malformed("request body format is invalid")
    return ok(_with_legs(broker.state, broker.replace(order_id, body)))


@ROUTES.add("GET", "/v2/positions")
def get_positions(broker: PaperBroker, request: Request) -> Reply:
    state = broker.state
    return ok([position_json(state, state.positions[symbol]) for symbol in sorted(state.positions)])


@ROUTES.add("DELETE", "/v2/positions")
def close_positions(broker: PaperBroker, request: Request) -> Reply:
    if flag(request.query, "cancel_orders"):
        broker.cancel_at_once()
    rows: list[dict[str, object]] = []
    for symbol in sorted(broker.state.positions):
        try:
            status, body = 200, order_json(broker.close_position(symbol))
        except RefusalError as refusal:
            status, body = refusal.status, refusal.body
        rows.append({"symbol": symbol, "status": status, "body": body})
    return ok(rows, 207)


@ROUTES.add("GET", "/v2/positions/{symbol}")
def get_position(broker: PaperBroker, request: Request, symbol: str) -> Reply:
    return ok(position_json(broker.state, broker.position(symbol)))


@ROUTES.add("DELETE", "/v2/positions/{symbol}")
def close_position(broker: PaperBroker, request: Request, symbol: str) -> Reply:
    qty, percentage = decimal(request.query, "qty"), decimal(request.query, "percentage")
    return ok(order_json(broker.close_position(symbol, qty, percentage)))


@ROUTES.add("GET", "/v2/account")
def get_account(broker: PaperBroker, request: Request) -> Reply:
    return ok(account_json(broker.state))


@ROUTES.add("GET", "/v2/account/configurations")
def get_configuration(broker: PaperBroker, request: Request) -> Reply:
    return ok(configuration_json(broker.state))


@ROUTES.add("PATCH", "/v2/account/configurations")
def change_configuration(broker: PaperBroker, request: Request) -> Reply:
    body = request.json()
    if not isinstance(body, dict):
        raise malformed("request body format is invalid")
    configuration = broker.state.account.configuration
    known = {field.name for field in fields(Configuration)}
    # Clients that send every field of an old model send nulls and names that are gone: both change nothing.
    changes = {name: value for name, value in body.items() if name in known and value is not None}
    for name, value in changes.items():
        if type(value) is not type(getattr(configuration, name)):
            raise malformed(f"invalid {name}")
    if changes.get("max_margin_multiplier", "1") not in ("1", "2", "4"):
        raise malformed("invalid max_margin_multiplier")
    for name, value in changes.items():
        setattr(configuration, name, value)
    broker.state.version += 1
    return ok(configuration_json(broker.state))


@ROUTES.add("GET", "/v2/account/activities")
def get_activities(broker: PaperBroker, request: Request) -> Reply:
    return ok(list_activities(broker.state, request.query, activity_kinds(request.query)))


@ROUTES.add("GET", "/v2/account/activities/{kind}")
def get_activities_of_kind(broker: PaperBroker, request: Request, kind: str) -> Reply:
    return ok(list_activities(broker.state, request.query, [kind.upper()]))


@ROUTES.add("GET", "/v2/clock")
def get_clock(broker: PaperBroker, request: Request) -> Reply:
    now, calendar = broker.state.time, broker.calendar
    content = {
        "timestamp": now.astimezone(NEW_YORK).isoformat(),
        "is_open": calendar.at(now) is not None,
        "next_open": calendar.next_open(now).astimezone(NEW_YORK).isoformat(),
        "next_close": calendar.ending_after(now).close.astimezone(NEW_YORK).isoformat(),
    }
    return ok(content)


@ROUTES.add("GET", "/v2/calendar")
def get_calendar(broker: PaperBroker, request: Request) -> Reply:
    today = eastern_date(broker.state.time)
    start = _date(request, "start") or today.replace(month=1, day=1)
    end = _date(request, "end") or today.replace(month=12, day=31)
    return ok([_calendar_day(broker, session) for session in broker.calendar.between(start, end)])


@ROUTES.add("GET", "/v2/assets")
def get_assets(broker: PaperBroker, request: Request) -> Reply:
    query, assets = request.query, broker.state.market.assets
    attributes = set(names(query, "attributes"))
    found = [
        _asset(asset)
        for _, asset in sorted(assets.items())
        if query.get("status", "") in ("", asset.status)
        and query.get("asset_class", "") in ("", "us_equity")
        and query.get("exchange", "") in ("", asset.exchange)
        and (not attributes or attributes & set(asset.attributes))
    ]
    return ok(found)


@ROUTES.add("GET", "/v2/assets/{symbol}")
def get_asset(broker: PaperBroker, request: Request, symbol: str) -> Reply:
    return ok(_asset(broker.asset(symbol)))


def _with_legs(state: State, order: Order) -> dict[str, object]:
    return order_json(order, state.legs(order))


def _date(request: Request, name: str) -> date | None:
    raw = request.query.get(name)
    if not raw:
        return None
    try:
        return date.fromisoformat(raw[:10])
    except ValueError as error:
        raise malformed(f"invalid {name}") from error


def _calendar_day(broker: PaperBroker, session: Session) -> dict[str, str]:
    open_, close = session.open.astimezone(NEW_YORK), session.close.astimezone(NEW_YORK)
    early, late = session.early.astimezone(NEW_YORK), session.late.astimezone(NEW_YORK)
    if broker.calendar.always_open:
        # The form knows no 24:00, so an endless day ends one minute early.
        close = late = close.replace(hour=23, minute=59)
    following = broker.calendar.ending_after(session.late).day
    return {
        "date": session.day.isoformat(),
        "open": f"{open_:%H:%M}",
        "close": f"{close:%H:%M}",
        "session_open": f"{early:%H%M}",
        "session_close": f"{late:%H%M}",
        "settlement_date": following.isoformat(),
    }


def _asset(asset: Asset) -> dict[str, object]:
    return {
        "id": asset.id,
        "class": "us_equity",
        "exchange": asset.exchange,
        "symbol": asset.symbol,
        "name": asset.name,
        "status": asset.status,
        "tradable": asset.tradable,
        "marginable": asset.marginable,
        "shortable": asset.shortable,
        "easy_to_borrow": asset.easy_to_borrow,
        "borrow_status": "easy_to_borrow" if asset.easy_to_borrow else "hard_to_borrow",
        "fractionable": asset.fractionable,
        "maintenance_margin_requirement": 30,
        "margin_requirement_long": "30",
        "margin_requirement_short": "30",
        "attributes": asset.attributes,
    }
