"""Misfortunes on request beyond section 15, and the control routes by which they are asked for."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import pytest
import requests
from alpaca.common.exceptions import APIError

from tests.contract.conftest import Rehearsal

ORDER = {"method": "POST", "path": "/v2/orders"}


def fault(desk: Rehearsal, kind: str, **fields: Any) -> None:
    desk.control("POST", "faults", [{**ORDER, "kind": kind, **fields}])


def order_count(desk: Rehearsal) -> int:
    return len(desk.broker.state.orders)


@pytest.mark.parametrize("executed", [False, True])
def test_the_line_may_drop_before_or_after_the_order_is_taken(desk: Rehearsal, executed: bool) -> None:
    fault(desk, "drop", executed=executed)
    with pytest.raises(requests.exceptions.ConnectionError):
        desk.order(client_order_id="mine")
    assert order_count(desk) == int(executed)
    log = desk.control("GET", "requests")
    assert [(entry["method"], entry["path"], entry["status"]) for entry in log] == [
        ("POST", "/v2/orders", None)
    ]
    assert '"client_order_id": "mine"' in log[0]["body"]


@pytest.mark.parametrize(("kind", "fields"), [("garbled", {}), ("garbled", {"body": "<!doctype html>"})])
def test_a_success_may_be_unreadable(desk: Rehearsal, kind: str, fields: dict[str, Any]) -> None:
    fault(desk, kind, **fields)
    with pytest.raises(requests.exceptions.JSONDecodeError):
        desk.order()
    assert order_count(desk) == 1


def test_a_success_may_be_empty(desk: Rehearsal) -> None:
    fault(desk, "empty")
    with pytest.raises(TypeError):
        desk.order()
    assert order_count(desk) == 1


def test_an_order_may_arrive_long_after_the_line_dropped(desk: Rehearsal) -> None:
    fault(desk, "late", seconds=300)
    with pytest.raises(requests.exceptions.ConnectionError):
        desk.order(client_order_id="mine")
    desk.eastern("2025-01-15 10:04")
    assert desk.rows(status="all") == []
    desk.eastern("2025-01-15 10:05")
    assert [row["client_order_id"] for row in desk.rows(status="all")] == ["mine"]
    desk.eastern("2025-01-15 10:30")
    assert len(desk.rows(status="all")) == 1


def test_an_answer_may_have_headers_of_its_own(desk: Rehearsal) -> None:
    limit = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1736953230", "Retry-After": "30"}
    fault(desk, "status", code=429, body={"code": 42910000, "message": "rate limit exceeded"}, headers=limit)
    with pytest.raises(APIError) as caught:
        desk.order()
    assert limit.items() <= caught.value.response.headers.items()
    assert order_count(desk) == 0
    desk.order()


@pytest.mark.parametrize("executed", [False, True])
def test_a_failure_of_the_broker_says_nothing_about_the_order(desk: Rehearsal, executed: bool) -> None:
    fault(desk, "status", code=503, executed=executed)
    assert desk.failure_status(lambda: desk.order()) == 503
    assert order_count(desk) == int(executed)
    assert [entry["executed"] for entry in desk.server.requests] == [executed]


@pytest.mark.parametrize("executed", [False, True])
def test_an_answer_may_hang_until_nobody_waits_for_it(desk: Rehearsal, executed: bool) -> None:
    fault(desk, "hang", seconds=60, executed=executed)
    body = {"symbol": "NVDA", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
    headers = {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}
    with requests.Session() as session, pytest.raises(requests.exceptions.ReadTimeout):
        session.post(f"{desk.server.url}/v2/orders", json=body, headers=headers, timeout=0.3)
    assert order_count(desk) == int(executed)


def test_a_fault_strikes_only_the_requests_it_is_meant_for(desk: Rehearsal) -> None:
    fault(desk, "status", code=500, contains='"sell"', skip=1)
    desk.order()
    desk.order(side="sell", qty="1")
    assert desk.failure_status(lambda: desk.order(side="sell", qty="1")) == 500
    desk.order(side="sell", qty="1")
    fault(desk, "status", code=500, times=None)
    desk.control("DELETE", "faults")
    desk.order(side="sell", qty="1")


@pytest.mark.parametrize("raw", [{"kind": "explode"}, {"kind": "drop", "pfad": "/"}, {}, []])
def test_control_mistakes_are_answered_with_a_sentence(desk: Rehearsal, raw: Any) -> None:
    answer = desk.api._session.post(f"{desk.server.url}/control/faults", json=[raw])
    assert answer.status_code == 400
    assert answer.json()["message"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("prices", {"NVDA": "cheap"}, "not a number: 'cheap'"),
        ("prices", {"NVDA": {"bid": "2", "ask": "1"}}, "NVDA cannot be quoted at bid 2, ask 1"),
        ("clock", {}, "now is missing"),
        ("clock", {"now": "2025-01-15 10:00"}, "not an RFC 3339 time"),
        ("clock", {"now": "2205-01-15T10:00:00Z"}, "no trading sessions are known after 2040-12-31"),
        ("behaviour", {"cancel_hangs": True}, "unknown field cancel_hangs"),
        ("behaviour", {"cancel_hang": 1}, "cancel_hang must be a bool, not 1"),
        ("split", {"symbol": "NVDA", "ratio": "1/0"}, "a split ratio must be above 0, not 1/0"),
        ("split", {"symbol": "NVDA", "ratio": "half"}, "not a number: 'half'"),
        ("foreign", {"action": "steal"}, "action must be order, fill, close, cancel or replace, not 'steal'"),
    ],
)
def test_control_names_what_is_wrong(desk: Rehearsal, path: str, body: Any, message: str) -> None:
    answer = desk.api._session.post(f"{desk.server.url}/control/{path}", json=body)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(message)


def test_control_moves_prices_and_time(desk: Rehearsal) -> None:
    desk.control("POST", "prices", {"NVDA": "140", "AMD": {"bid": 119.5, "ask": "120", "last": "119.8"}})
    assert desk.broker.state.market.last("AMD") == desk.broker.state.market.quotes["AMD"].last
    health = desk.control("POST", "clock", {"now": "2025-01-15T18:00:00-05:00"})
    assert (health["now"], health["is_open"], health["simulated"]) == (
        "2025-01-15T23:00:00.000000Z",
        False,
        True,
    )
    assert desk.control("POST", "clock", {"real": True})["simulated"] is False
    assert desk.control("POST", "liquidity", {"NVDA": "10"}) == {"NVDA": "10"}
    assert desk.control("POST", "liquidity", {"NVDA": None}) == {}
    assert desk.control("POST", "account", {"cash": "5000"})["equity"] == "5000"
    assert desk.control("GET", "health")["status"] == "ok"


def test_control_keeps_a_log_of_requests_but_no_keys(desk: Rehearsal) -> None:
    desk.limit("buy", "130", client_order_id="mine")
    desk.rows(status="all", nested=True)
    log = desk.server.requests
    assert [(entry["method"], entry["path"], entry["query"], entry["status"]) for entry in log] == [
        ("POST", "/v2/orders", "", 200),
        ("GET", "/v2/orders", "status=all&nested=True", 200),
    ]
    assert log[0]["at"] == "2025-01-15T15:00:00.000000Z"
    assert "secret" not in str(log)
    assert desk.control("DELETE", "requests") == []
    assert desk.control("GET", "requests") == []


def test_many_clients_may_speak_at_once(desk: Rehearsal) -> None:
    def trade() -> None:
        headers = {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}
        body = {"symbol": "NVDA", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
        with requests.Session() as session:
            for _ in range(10):
                session.post(f"{desk.server.url}/v2/orders", json=body, headers=headers, timeout=10)

    threads = [threading.Thread(target=trade) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert desk.position()["qty"] == "60"
    assert len(desk.api.get("/account/activities/FILL")) == 60


def test_a_stopped_server_lets_nobody_wait(desk: Rehearsal) -> None:
    desk.control("POST", "faults", {"kind": "hang", "seconds": 60})
    answered = threading.Event()

    def ask() -> None:
        with suppress(requests.exceptions.ConnectionError):
            while True:
                desk.api.get("/clock")
        answered.set()

    waiting = threading.Thread(target=ask)
    waiting.start()
    while not desk.server.requests:
        time.sleep(0.001)
    desk.server.stop()
    waiting.join(5)
    assert answered.is_set()
