"""Every answer fits the documents the broker publishes about its API (OpenAPI)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.contract.conftest import Rehearsal

DOCUMENTS = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "openapi"
ORDER_PATH = "/v2/orders/{order_id}"


class Document:
    """One OpenAPI document that can judge answers."""

    def __init__(self, content: dict[str, Any], uri: str) -> None:
        self.content = content
        self.uri = uri
        resource = Resource.from_contents(content, default_specification=DRAFT202012)
        self.registry: Registry[Any] = Registry().with_resource(uri, resource)

    def faults(self, method: str, path: str, status: int, body: object) -> list[str]:
        """What is wrong with an answer; it is a fault of its own when the document knows no such answer."""
        operation = self.content["paths"][path][method.lower()]
        answer = operation["responses"].get(str(status))
        if answer is None:
            return [f"{method} {path} has no answer {status}"]
        if "content" not in answer:
            return [] if body is None else [f"{method} {path} {status} has no body"]
        pointer = "/".join(
            part.replace("~", "~0").replace("/", "~1")
            for part in (
                "paths",
                path,
                method.lower(),
                "responses",
                str(status),
                "content",
                "application/json",
                "schema",
            )
        )
        schema = {"$ref": f"{self.uri}#/{pointer}"}
        validator = Draft202012Validator(schema, registry=self.registry, format_checker=FormatChecker())
        return [
            f"{method} {path} {error.json_path}: {error.message}" for error in validator.iter_errors(body)
        ]


def load(name: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the broker's documents")
    path = DOCUMENTS / name
    if not path.exists():
        pytest.skip(f"the broker's documents are kept beside the repository, and {path.name} is not there")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content: dict[str, Any] = yaml.load(path.read_text("utf-8"), loader)
    return content


@pytest.fixture(scope="module")
def trading() -> Document:
    content = load("trading.yaml")
    # The document says in words that this is always null, but its tool could only write "object".
    content["components"]["schemas"]["OrderLeg"]["properties"]["legs"] = {"type": "null"}
    return Document(content, "urn:trading")


@pytest.fixture(scope="module")
def market_data() -> Document:
    content = load("market-data.yaml")
    with_nulls(content)
    return Document(content, "urn:market-data")


def with_nulls(node: Any) -> None:
    """Say `nullable` of OpenAPI 3.0 in the words of JSON Schema."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        with_nulls(child)
    if isinstance(node, dict) and node.pop("nullable", False) is True and isinstance(node.get("type"), str):
        node["type"] = [node["type"], "null"]


def ask(desk: Rehearsal, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    headers = {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}
    answer = desk.api._session.request(method, desk.server.url + path, json=body, headers=headers)
    return answer.status_code, answer.json() if answer.content else None


def every_order(desk: Rehearsal) -> Iterator[dict[str, Any]]:
    """Orders of every kind and in every state that can be reached."""
    desk.broker.set_liquidity("NVDA", "25")
    for fields in (
        {"qty": "20"},
        {"qty": None, "notional": "100"},
        {"qty": "100", "type": "limit", "limit_price": "133.50"},
    ):
        yield desk.order(**fields)
    desk.broker.set_liquidity("NVDA", None)
    yield desk.oco("5")
    yield desk.stop("124", qty="2")
    yield desk.order(side="sell", qty="1", type="trailing_stop", trail_price="3")
    yield desk.order(side="sell", qty="1", type="stop_limit", stop_price="120", limit_price="119")
    bracket = desk.bracket(type="limit", limit_price="130", qty="1", client_order_id="group")
    yield bracket
    desk.see(bracket)
    yield desk.api.patch(f"/orders/{bracket['id']}", {"limit_price": "129"})
    desk.broker.behave(reject_next=1)
    yield desk.bracket(qty="1")
    desk.broker.behave(cancel_hang=True)
    hanging = desk.bracket(type="limit", limit_price="110", stop_loss={"stop_price": "100"}, qty="1")
    desk.api.delete(f"/orders/{hanging['id']}")
    yield desk.see(hanging, nested=True)


def test_orders_fit_the_document(desk: Rehearsal, trading: Document) -> None:
    found: list[str] = []
    for order in every_order(desk):
        found += trading.faults("POST", "/v2/orders", 200, order)
        found += trading.faults("GET", ORDER_PATH, 200, desk.see(order, nested=True))
    for path in ("/v2/orders?status=all", "/v2/orders?status=all&nested=true"):
        status, rows = ask(desk, "GET", path)
        assert len(rows) > 10
        found += trading.faults("GET", "/v2/orders", status, rows)
    assert {"filled", "canceled", "pending_cancel", "replaced", "rejected", "held"} <= {
        order.status for order in desk.broker.state.orders.values()
    }
    assert found == []


@pytest.mark.parametrize(
    ("method", "path", "known_as"),
    [
        ("GET", "/v2/account", ""),
        ("GET", "/v2/account/configurations", ""),
        ("PATCH", "/v2/account/configurations", ""),
        ("GET", "/v2/account/activities", ""),
        ("GET", "/v2/account/activities/FILL", "/v2/account/activities/{activity_type}"),
        ("GET", "/v2/account/activities/SPLIT", "/v2/account/activities/{activity_type}"),
        ("GET", "/v2/assets", ""),
        ("GET", "/v2/assets/NVDA", "/v2/assets/{symbol_or_asset_id}"),
        ("GET", "/v2/calendar", ""),
        ("GET", "/v2/clock", ""),
        ("GET", "/v2/orders:by_client_order_id?client_order_id=mine", ""),
        ("GET", "/v2/positions", ""),
        ("GET", "/v2/positions/NVDA", "/v2/positions/{symbol_or_asset_id}"),
        ("DELETE", "/v2/positions/NVDA?qty=1", "/v2/positions/{symbol_or_asset_id}"),
        ("DELETE", "/v2/positions?cancel_orders=true", ""),
        ("DELETE", "/v2/orders", ""),
    ],
)
def test_trading_answers_fit_the_document(
    desk: Rehearsal, trading: Document, method: str, path: str, known_as: str
) -> None:
    desk.order(client_order_id="mine")
    desk.limit("sell", "300", qty="3")
    desk.broker.set_price("AMD", "120")
    desk.order(symbol="AMD", side="sell", qty="3")
    desk.broker.split("NVDA", "2")
    status, body = ask(desk, method, path, {} if method == "PATCH" else None)
    assert body
    assert trading.faults(method, known_as or path.partition("?")[0], status, body) == []


@pytest.mark.parametrize(
    "path",
    [
        "/v2/stocks/quotes/latest?symbols=NVDA",
        "/v2/stocks/trades/latest?symbols=NVDA&feed=iex",
        "/v2/stocks/bars/latest?symbols=NVDA",
        "/v2/stocks/snapshots?symbols=NVDA,NOPE",
        "/v2/stocks/bars?symbols=NVDA,NOPE&timeframe=1Day&start=2025-01-01&limit=1",
    ],
)
def test_data_answers_fit_the_document(desk: Rehearsal, market_data: Document, path: str) -> None:
    rows = "".join(f"2025-01-{day},NVDA,130.25,136,129,133.5,1000\n" for day in (13, 14))
    desk.broker.add_bars("timestamp,symbol,open,high,low,close,volume\n" + rows)
    status, body = ask(desk, "GET", path)
    assert "NVDA" in str(body)
    assert market_data.faults("GET", re.sub(r"\?.*", "", path), status, body) == []


def test_the_judge_finds_faults(trading: Document) -> None:
    assert trading.faults("GET", "/v2/clock", 200, {"is_open": "yes"})
    assert trading.faults("GET", "/v2/clock", 204, None)
