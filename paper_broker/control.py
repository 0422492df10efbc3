"""The control routes, by which a test or a rehearsal moves the market and asks for misfortunes.

They need no keys, are not in the request log and suffer no faults. Mistakes are answered 400 with a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from paper_broker import values
from paper_broker.account import equity
from paper_broker.bars import read_rows
from paper_broker.drafts import RefusalError
from paper_broker.engine import PaperBroker
from paper_broker.faults import read_fault
from paper_broker.orders import order_json
from paper_broker.wire import Reply, Request, Routes, ok

ROUTES = Routes()


@ROUTES.add("GET", "/control/health")
def health(broker: PaperBroker, request: Request) -> Reply:
    state = broker.state
    content = {
        "status": "ok",
        "now": values.stamp(state.time),
        "simulated": state.simulated,
        "is_open": broker.calendar.at(state.time) is not None,
        "hours": "always" if broker.calendar.always_open else "nyse",
        "open_orders": len(state.live),
        "positions": len(state.positions),
        "symbols": len(state.market.assets),
        "equity": values.text(equity(state)),
    }
    return ok(content)


@ROUTES.add("POST", "/control/prices")
def prices(broker: PaperBroker, request: Request) -> Reply:
    for symbol, price in _object(request).items():
        if isinstance(price, dict):
            known = {name: price.get(name) for name in ("price", "bid", "ask", "last")}
            broker.set_price(symbol, known.pop("price"), **known)
        else:
            broker.set_price(symbol, price)  # type: ignore[arg-type]
    return ok({"now": values.stamp(broker.state.time)})


@ROUTES.add("POST", "/control/bars")
def bars(broker: PaperBroker, request: Request) -> Reply:
    if request.body.lstrip()[:1] == b"[":
        broker.add_bars(read_rows(cast("list[Mapping[str, object]]", request.json()), broker.calendar))
    else:
        broker.add_bars(request.text)
    return ok({"symbols": {symbol: len(rows) for symbol, rows in broker.state.market.bars.items()}})


@ROUTES.add("POST", "/control/clock")
def clock(broker: PaperBroker, request: Request) -> Reply:
    wish = _object(request)
    if wish.get("real") is True:
        broker.use_system_time()
    else:
        broker.set_time(values.moment(str(wish["now"])))
    return health(broker, request)


@ROUTES.add("POST", "/control/assets")
def assets(broker: PaperBroker, request: Request) -> Reply:
    for symbol, flags in _object(request).items():
        broker.define_asset(symbol, **cast("dict[str, object]", flags))
    return ok({"assets": sorted(broker.state.market.assets)})


@ROUTES.add("POST", "/control/liquidity")
def liquidity(broker: PaperBroker, request: Request) -> Reply:
    for symbol, shares in _object(request).items():
        broker.set_liquidity(symbol, shares)  # type: ignore[arg-type]
    return ok({symbol: values.text(cap) for symbol, cap in broker.state.market.caps.items()})


@ROUTES.add("POST", "/control/account")
def account(broker: PaperBroker, request: Request) -> Reply:
    broker.set_account(**_object(request))
    return health(broker, request)


@ROUTES.add("POST", "/control/behaviour")
def behaviour(broker: PaperBroker, request: Request) -> Reply:
    broker.behave(**_object(request))
    return ok({name: _plain(value) for name, value in vars(broker.state.behaviour).items()})


@ROUTES.add("POST", "/control/faults")
def add_faults(broker: PaperBroker, request: Request) -> Reply:
    wish = request.json()
    for raw in wish if isinstance(wish, list) else [wish]:
        broker.faults.append(read_fault(_mapping(raw)))
    return ok({"faults": len(broker.faults)})


@ROUTES.add("DELETE", "/control/faults")
def drop_faults(broker: PaperBroker, request: Request) -> Reply:
    broker.faults.clear()
    return ok({"faults": 0})


@ROUTES.add("POST", "/control/foreign")
def foreign(broker: PaperBroker, request: Request) -> Reply:
    wish = _object(request)
    action = wish.pop("action", None)
    if action == "order":
        order = broker.submit(wish, source="app")
    elif action == "fill":
        order = broker.foreign_fill(
            str(wish["symbol"]),
            str(wish["side"]),
            cast("str", wish["qty"]),
            cast("str | None", wish.get("price")),
        )
    elif action == "close":
        order = broker.foreign_close(str(wish["symbol"]), cast("str | None", wish.get("price")))
    elif action == "cancel":
        broker.cancel(str(wish["order_id"]))
        order = broker.order(str(wish["order_id"]))
    elif action == "replace":
        order = broker.replace(str(wish.pop("order_id")), wish, source="app")
    else:
        raise ValueError(f"action must be order, fill, close, cancel or replace, not {action!r}")
    return ok(order_json(order, broker.state.legs(order)))


@ROUTES.add("POST", "/control/split")
def split(broker: PaperBroker, request: Request) -> Reply:
    wish = _object(request)
    broker.split(str(wish["symbol"]), str(wish["ratio"]))
    return health(broker, request)


@ROUTES.add("GET", "/control/requests")
def requests(broker: PaperBroker, request: Request) -> Reply:
    return ok(broker.requests)


@ROUTES.add("DELETE", "/control/requests")
def forget_requests(broker: PaperBroker, request: Request) -> Reply:
    broker.requests.clear()
    return ok([])


def call(broker: PaperBroker, request: Request) -> Reply:
    """Answer a control request; every mistake in it becomes a 400 with a sentence."""
    try:
        return ROUTES.call(broker, request)
    except KeyError as error:
        raise RefusalError(400, None, f"{error.args[0]} is missing") from error
    except (ValueError, TypeError) as error:
        raise RefusalError(400, None, str(error)) from error


def _object(request: Request) -> dict[str, object]:
    return _mapping(request.json())


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError("a JSON object is needed")
    return value


def _plain(value: object) -> object:
    return value if isinstance(value, bool | int | str) else str(value)
