"""What the door to the broker makes of answers, silence and broken lines."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from alpaca_client import Broker, BrokerError, Outcome, Reply, Request
from config import AlpacaSettings
from tests.flow.world import START, World, swing

ORDER = {"symbol": "NVDA", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day", "client_order_id": "c1"}


@contextmanager
def line(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does with each connection what it is told; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    behave(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        # Closing alone does not wake a thread that waits in accept.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def settings(url: str, timeout: float = 0.3) -> AlpacaSettings:
    return AlpacaSettings(url, url, True, "iex", "", timeout, "key", "secret")


def receive(connection: socket.socket) -> None:
    """Read a whole request: closing a line with bytes unread would reset it and lose the answer."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    head, _, body = head.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *([0-9]+)", head.lower())
    while length and len(body) < int(length.group(1)):
        body += connection.recv(65536)


def answer(status: str, body: str = "", headers: str = "") -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        receive(connection)
        length = f"Content-Length: {len(body)}\r\n"
        connection.sendall(f"HTTP/1.1 {status}\r\n{headers}{length}Connection: close\r\n\r\n{body}".encode())

    return behave


def send(behave: Callable[[socket.socket], None]) -> Reply:
    with line(behave) as url:
        broker = Broker(settings(url))
        return broker.send(broker.order_request(ORDER))


def test_a_name_that_does_not_resolve_means_not_sent() -> None:
    broker = Broker(settings("http://no-such-host.invalid"))
    assert broker.send(broker.order_request(ORDER)).outcome is Outcome.NOT_SENT


def test_a_refused_connection_means_not_sent() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        broker = Broker(settings(f"http://127.0.0.1:{unused.getsockname()[1]}"))
        reply = broker.send(broker.order_request(ORDER))
    assert (reply.outcome, reply.http_status, reply.error_code) == (Outcome.NOT_SENT, None, "transport")


@pytest.mark.parametrize("said", [
    None, b"", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", b"not http at all\r\n\r\n",
], ids=["closed at once", "closed after the request", "cut in the body", "not HTTP"])
def test_a_line_that_breaks_after_connecting_means_unknown(said: bytes | None) -> None:
    def behave(connection: socket.socket) -> None:
        if said is not None:
            receive(connection)
            connection.sendall(said)

    assert send(behave).outcome is Outcome.UNKNOWN


def test_an_answer_that_drips_ends_at_the_total_timeout() -> None:
    def drip(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(100):
            try:
                connection.sendall(b" " * 100)
            except OSError:
                return
            threading.Event().wait(0.05)

    started = time.monotonic()
    reply = send(drip)
    assert (reply.outcome, reply.http_status) == (Outcome.UNKNOWN, None)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect"])
def test_a_redirect_is_not_followed_and_proves_nothing(status: str) -> None:
    reply = send(answer(status, headers="Location: http://127.0.0.1:9/\r\n"))
    assert reply.outcome is Outcome.UNKNOWN


HEARD = {"id": "1", "status": "new", "client_order_id": "c1", "symbol": "NVDA", "side": "buy", "qty": "1.0"}
CLAIMS = {
    "another symbol": json.dumps(HEARD | {"symbol": "AMD"}),
    "another side": json.dumps(HEARD | {"side": "sell"}),
    "another quantity": json.dumps(HEARD | {"qty": "2"}),
    "another client id": json.dumps(HEARD | {"client_order_id": "c2"}),
    "no id": json.dumps(HEARD | {"id": None}),
    "a quantity that is none": json.dumps(HEARD | {"qty": "NaN"}),
    "a list": "[]",
    "NaN": "NaN",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_200_that_is_not_the_order_sent_proves_nothing(claim: str) -> None:
    assert send(answer("200 OK", CLAIMS[claim])).outcome is Outcome.UNKNOWN


def test_a_200_that_is_the_order_sent_is_an_acceptance() -> None:
    assert send(answer("200 OK", json.dumps(HEARD))).outcome is Outcome.ACCEPTED


def test_a_refusal_needs_the_brokers_json() -> None:
    assert send(answer("403 Forbidden", '{"code": 40310000, "message": "no"}')).outcome is Outcome.REFUSED
    assert send(answer("403 Forbidden", "<html>proxy</html>")).outcome is Outcome.UNKNOWN
    assert send(answer("403 Forbidden")).outcome is Outcome.UNKNOWN


def test_a_duplicate_id_is_no_refusal() -> None:
    body = '{"code": 40010001, "message": "client_order_id must be unique"}'
    assert send(answer("422 Unprocessable Entity", body)).outcome is Outcome.UNKNOWN


def test_keys_never_leave_in_an_answer() -> None:
    reply = send(answer("403 Forbidden", '{"message": "bad key: key, secret"}'))
    assert reply.error_message == "bad [redacted]: [redacted], [redacted]"


def test_an_answer_in_chunks_and_compressed_is_read_whole() -> None:
    packed = gzip.compress(b'{"message": "' + bytes(range(65, 91)) * 9000 + b'"}', mtime=0)
    parts = [packed[:100], packed[100:]]

    def behave(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(b"HTTP/1.1 403 No\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (*parts, b""):
            connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")

    reply = send(behave)
    assert (reply.outcome, len(reply.text)) == (Outcome.REFUSED, 26 * 9000 + 15)


def test_the_environments_proxy_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert send(answer("403 Forbidden", '{"message": "no"}')).http_status == 403


def test_a_cancel_is_accepted_by_an_empty_204() -> None:
    with line(answer("204 No Content")) as url:
        broker = Broker(settings(url))
        assert broker.send(broker.cancel_request("1")).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(("status", "body"), [
    ("200 OK", ""), ("200 OK", "null"), ("200 OK", "{}"), ("200 OK", "<html>"), ("200 OK", '[{"id": 1}]'),
    ("500 Oops", "[]"), ("429 Slow", '{"message": "rate limit exceeded"}'), ("401 No", '{"message": "unauthorized."}'),
])
def test_a_listing_that_makes_no_sense_is_an_error_and_no_listing(status: str, body: str) -> None:
    with line(answer(status, body)) as url, pytest.raises(BrokerError):
        Broker(settings(url)).list_orders(START)


@pytest.mark.parametrize("odd", [
    {"qty": "much"}, {"filled_at": "soon"}, {"filled_at": "2025-01-15T10:00:00"}, {"status": ""}, {"status": "a\0b"},
    {"status": "filled"}, {"filled_qty": "1"}, {"filled_qty": "-1"}, {"client_order_id": 7}, {"legs": [{"id": "2"}]},
])
def test_a_row_that_makes_no_sense_is_left_out_and_hides_no_other(odd: dict[str, object]) -> None:
    rows = [{"id": "1", "status": "new"} | odd, {"id": "9", "status": "new"}]
    with line(answer("200 OK", json.dumps(rows))) as url:
        assert [order["id"] for order in Broker(settings(url)).list_orders(START)] == ["9"]


def test_a_404_means_absent_only_when_the_broker_says_so() -> None:
    with line(answer("404 Not Found", '{"code": 40410000, "message": "order not found"}')) as url:
        assert Broker(settings(url)).get_order("1") is None
    with line(answer("404 Not Found", "<html>wrong door</html>")) as url, pytest.raises(BrokerError):
        Broker(settings(url)).get_order("1")


def test_orders_beyond_one_page_are_all_listed_once(world: World) -> None:
    broker = Broker(world.settings.alpaca)
    for number in range(1203):
        world.market.submit({**ORDER, "type": "limit", "limit_price": "1", "client_order_id": f"c{number}"})
    listed = broker.list_orders(START - timedelta(days=1))
    assert len({order["id"] for order in listed}) == len(listed) == 1203
    assert len(world.requests("GET")) == 3


def test_a_server_that_repeats_its_page_for_ever_gives_an_error(world: World) -> None:
    for number in range(500):
        world.market.submit({**ORDER, "type": "limit", "limit_price": "1", "client_order_id": f"c{number}"})
    broker = Broker(world.settings.alpaca)
    page = [{"id": str(number), "status": "new"} for number in range(500)]
    world.fault("GET", "/v2/orders", "status", code=200, body=page, times=3)
    with pytest.raises(BrokerError, match="did not come to an end"):
        broker.list_orders(START)


def test_fills_beyond_one_page_are_all_listed_once(world: World) -> None:
    world.market.set_liquidity("NVDA", "1")
    world.market.submit({**ORDER, "qty": "150"})
    for _ in range(149):
        world.price("NVDA", "135")
    fills = Broker(world.settings.alpaca).list_fills(START - timedelta(days=1))
    assert len({fill["id"] for fill in fills}) == 150
    assert fills[0]["price"] == Decimal(135)


def test_another_account_than_the_pinned_one_is_refused(world: World) -> None:
    number = Broker(world.settings.alpaca).account()["account_number"]
    assert Broker(replace(world.settings.alpaca, account_number=number)).account()["account_number"] == number
    world.decide(swing())
    world.configure(ALPACA_ACCOUNT_NUMBER="PA000000")
    with pytest.raises(BrokerError, match="another account"):
        world.execute()
    assert world.posted() == []


def test_reads_are_told_to_the_recorder_before_they_are_used(world: World) -> None:
    told: list[Request] = []
    broker = Broker(world.settings.alpaca, lambda request, _: told.append(request))
    world.fault("GET", "/v2/account", "status", code=500)
    with pytest.raises(BrokerError):
        broker.account()
    assert [request.path for request in told] == ["/v2/account"]
