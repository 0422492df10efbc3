"""What the door to the broker makes of answers, silence and broken lines."""

from __future__ import annotations

import gzip
import json
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import chain

import pytest

import alpaca_client
from alpaca_client import (
    Broker,
    BrokerError,
    MarketHours,
    Outcome,
    Position,
    Reply,
    Request,
    get_data_client,
    get_trading_client,
)
from broker_answers import DailyBar
from clock import ManualClock
from config import AlpacaSettings
from order_monitor import OrderMonitor
from tests.flow.disclosing import give_a_past
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


def test_a_closed_door_leaves_no_connection_open() -> None:
    ended: queue.Queue[bytes] = queue.Queue()

    def behave(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        ended.put(connection.recv(1))

    with line(behave) as url:
        with Broker(settings(url)) as broker:
            broker.account()
            assert ended.empty()
        assert ended.get(timeout=5) == b""
        with Broker(settings(url)) as broker, pytest.raises(BrokerError, match="no trades"):
            broker.latest_prices(["NVDA"])
        assert ended.get(timeout=5) == b""


def test_what_a_worker_builds_it_closes_and_what_it_is_given_it_does_not(
    world: World, monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[Broker] = []
    monkeypatch.setattr(Broker, "close", lambda broker: closed.append(broker))
    monitor = OrderMonitor(db=world.db, settings=world.settings)
    monitor.run()
    monitor.close()
    assert len(closed) == 1
    given = Broker(world.settings.alpaca)
    OrderMonitor(db=world.db, broker=given, settings=world.settings).close()
    assert given not in closed
    assert world.db.query("alerts") == []


def test_a_name_that_does_not_resolve_means_not_sent() -> None:
    broker = Broker(settings("http://no-such-host.invalid"))
    assert broker.send(broker.order_request(ORDER)).outcome is Outcome.NOT_SENT


def test_a_refused_connection_means_not_sent() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        broker = Broker(settings(f"http://127.0.0.1:{unused.getsockname()[1]}"))
        reply = broker.send(broker.order_request(ORDER))
    assert (reply.outcome, reply.http_status, reply.error_code) == (Outcome.NOT_SENT, None, "transport")


def test_an_unreachable_data_api_is_named_by_its_own_setting() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        broker = Broker(settings(f"http://127.0.0.1:{unused.getsockname()[1]}"))
        with pytest.raises(BrokerError, match="ALPACA_DATA_URL"):
            broker.latest_prices(["NVDA"])


@pytest.mark.parametrize("said", [
    None, b"", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", b"not http at all\r\n\r\n",
], ids=["closed at once", "closed after the request", "cut in the body", "not HTTP"])
def test_a_line_that_breaks_after_connecting_means_unknown(said: bytes | None) -> None:
    def behave(connection: socket.socket) -> None:
        if said is not None:
            receive(connection)
            connection.sendall(said)

    assert send(behave).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("begun", [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX:"])
def test_an_answer_that_drips_ends_at_the_total_timeout(begun: bytes) -> None:
    def drip(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(begun)
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
        Broker(settings(url), clock=ManualClock(START)).list_orders(START)


@pytest.mark.parametrize("odd", [
    {"qty": "much"}, {"filled_at": "soon"}, {"filled_at": "2025-01-15T10:00:00"}, {"status": ""}, {"status": "a\0b"},
    {"status": "filled"}, {"filled_qty": "1"}, {"filled_qty": "-1"}, {"client_order_id": 7}, {"legs": [{"id": "2"}]},
    {"legs": 5}, {"filled_at": "0001-01-01T00:00:00+14:00"},
])
def test_a_row_that_makes_no_sense_is_left_out_and_hides_no_other(odd: dict[str, object]) -> None:
    rows = [{"id": "1", "status": "new"} | odd, {"id": "9", "status": "new"}]
    with line(answer("200 OK", json.dumps(rows))) as url:
        assert [order["id"] for order in Broker(settings(url)).list_orders(START)] == ["9"]


def test_a_symbol_leads_to_no_other_address(world: World) -> None:
    broker = Broker(world.settings.alpaca)
    assert broker.asset("../account") is None
    assert broker.position("../account").qty == 0
    asked = [str(seen["path"]) for seen in world.market.requests]
    assert [path.split("/")[2] for path in asked] == ["assets", "positions"]


def test_a_404_means_absent_only_when_the_broker_says_so() -> None:
    with line(answer("404 Not Found", '{"code": 40410000, "message": "order not found"}')) as url:
        assert Broker(settings(url)).get_order("1") is None
    for body in ("<html>wrong door</html>", '{"message": "no such route"}', '{"code": 5, "message": "not found"}'):
        with line(answer("404 Not Found", body)) as url, pytest.raises(BrokerError):
            Broker(settings(url)).get_order("1")


@pytest.mark.no_cover
def test_orders_beyond_one_page_are_all_listed_once_and_recorded_some_pages_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("order_listing.RECORDED_AT_ONCE", 2)
    records: list[int] = []
    broker = Broker(world.settings.alpaca, recorder=lambda exchanges: records.append(len(exchanges)))
    for number in range(1203):
        world.market.submit({**ORDER, "type": "limit", "limit_price": "1", "client_order_id": f"c{number}"})
    listed = broker.list_orders(START - timedelta(days=1))
    assert len({order["id"] for order in listed}) == len(listed) == 1203
    assert len(world.requests("GET")) == 3
    assert records == [2, 1]


def test_a_server_that_repeats_its_page_for_ever_gives_an_error(world: World) -> None:
    for number in range(500):
        world.market.submit({**ORDER, "type": "limit", "limit_price": "1", "client_order_id": f"c{number}"})
    broker = Broker(world.settings.alpaca)
    page = [{"id": str(number), "status": "new"} for number in range(500)]
    world.fault("GET", "/v2/orders", "status", code=200, body=page, times=3)
    with pytest.raises(BrokerError, match="did not come to an end"):
        broker.list_orders(START)


def trade_in_single_shares(world: World, count: int) -> None:
    world.market.set_liquidity("NVDA", "1")
    world.market.submit({**ORDER, "qty": str(count)})
    for _ in range(count - 1):
        world.price("NVDA", "135")


def test_fills_beyond_one_page_are_all_listed_once(world: World) -> None:
    trade_in_single_shares(world, 150)
    fills = list(chain(*Broker(world.settings.alpaca).fill_pages(START - timedelta(days=1))))
    assert [fill["cum_qty"] for fill in fills] == [str(number) for number in range(150, 0, -1)]
    assert fills[0]["price"] == Decimal(135)


def test_pages_of_fills_come_newest_first_and_only_as_far_as_they_are_wanted(world: World) -> None:
    trade_in_single_shares(world, 220)
    pages = Broker(world.settings.alpaca).fill_pages(START - timedelta(days=1))
    assert next(pages)[0]["cum_qty"] == "220"
    assert len(world.requests("GET", "/v2/account/activities/FILL")) == 1
    assert [len(page) for page in pages] == [100, 20]
    assert list(Broker(world.settings.alpaca).fill_pages(START + timedelta(days=1))) == [[]]


def test_as_many_pages_as_the_expected_fills_need_come_as_one_and_are_recorded_together_before(world: World) -> None:
    trade_in_single_shares(world, 220)
    records: list[int] = []
    broker = Broker(world.settings.alpaca, recorder=lambda exchanges: records.append(len(exchanges)))
    pages = broker.fill_pages(START - timedelta(days=1), expected=101)
    assert [fill["cum_qty"] for fill in next(pages)] == [str(number) for number in range(220, 20, -1)]
    assert records == [2]
    assert [len(page) for page in pages] == [20]
    assert records == [2, 1]


def test_pages_of_fills_before_one_that_fails_are_given_nevertheless(world: World) -> None:
    trade_in_single_shares(world, 101)
    records: list[int] = []
    broker = Broker(world.settings.alpaca, recorder=lambda exchanges: records.append(len(exchanges)))
    world.fault("GET", "/v2/account/activities/FILL", "status", code=500, skip=1)
    pages = broker.fill_pages(START - timedelta(days=1), expected=101)
    assert len(next(pages)) == 100
    with pytest.raises(BrokerError, match="500"):
        next(pages)
    assert records == [2]


def test_a_full_page_of_fills_is_followed_by_an_empty_one(world: World) -> None:
    trade_in_single_shares(world, 100)
    pages = Broker(world.settings.alpaca).fill_pages(START - timedelta(days=1))
    assert [len(page) for page in pages] == [100, 0]


FILL = {"id": "1", "order_id": "7", "qty": "1", "price": "2", "transaction_time": "2025-01-15T10:00:00.123456789-05:00"}


@pytest.mark.parametrize("odd", [
    {"order_id": None}, {"qty": "0"}, {"qty": "-1"}, {"price": "0"}, {"price": "1e9"}, {"transaction_time": None},
    {"transaction_time": "2025-01-15"},
])
def test_a_fill_that_makes_no_sense_is_left_out_and_hides_no_other(odd: dict[str, object]) -> None:
    with line(answer("200 OK", json.dumps([FILL | odd, FILL | {"id": "9"}]))) as url:
        ((fill,),) = Broker(settings(url)).fill_pages(START)
    assert (fill["id"], fill["qty"], fill["price"]) == ("9", 1, 2)
    assert fill["transaction_time"] == datetime(2025, 1, 15, 15, 0, 0, 123456, tzinfo=UTC)


def test_pages_of_fills_without_an_end_are_an_error(world: World) -> None:
    page = [FILL | {"id": str(number)} for number in range(100)]
    world.fault("GET", "/v2/account/activities/FILL", "status", code=200, body=page, times=3)
    pages = Broker(world.settings.alpaca).fill_pages(START)
    assert len(next(pages)) == 100
    with pytest.raises(BrokerError, match="did not come to an end"):
        list(pages)


def test_splits_are_listed_with_the_shares_they_added_oldest_first(world: World) -> None:
    world.market.submit({**ORDER, "qty": "45"})
    world.price("NVDA", "135")
    for ratio in ("10", "0.1"):
        world.pass_time(minutes=1)
        world.market.split("NVDA", Decimal(ratio))
    broker = Broker(world.settings.alpaca)
    splits = broker.list_splits(START - timedelta(days=1))
    assert [(split["symbol"], split["qty"]) for split in splits] == [("NVDA", 405), ("NVDA", -405)]
    assert all(isinstance(split["id"], str) and split["date"].startswith("2025-01-15") for split in splits)
    assert broker.list_splits(START + timedelta(minutes=1)) == splits[1:]


SPLIT = {"id": "1", "activity_type": "SPLIT", "symbol": "NVDA", "qty": "405", "date": "2025-01-15"}


@pytest.mark.parametrize("odd", [
    {"activity_type": "DIV"}, {"symbol": ""}, {"qty": None}, {"qty": "many"}, {"date": None}, {"date": 20250115},
])
def test_a_split_that_makes_no_sense_is_left_out_with_a_warning(
    odd: dict[str, object], caplog: pytest.LogCaptureFixture,
) -> None:
    with line(answer("200 OK", json.dumps([SPLIT | odd, SPLIT | {"id": "9"}]))) as url:
        assert Broker(settings(url)).list_splits(START) == [
            SPLIT | {"id": "9", "qty": Decimal(405), "at": datetime(2025, 1, 15, 5, tzinfo=UTC)},
        ]
    assert [record.levelname for record in caplog.records if record.name == "broker_answers"] == ["WARNING"]


def test_positions_are_signed_shares_by_symbol(world: World) -> None:
    broker = Broker(world.settings.alpaca)
    assert broker.list_positions() == {}
    world.price("AMD", "120")
    world.market.submit({**ORDER, "qty": "1.5"})
    world.market.submit({**ORDER, "symbol": "AMD", "qty": "3", "side": "sell", "client_order_id": "c2"})
    assert broker.list_positions() == {"AMD": -3, "NVDA": Decimal("1.5")}
    assert [broker.position(symbol).qty for symbol in ("AMD", "NVDA", "INTC")] == [-3, Decimal("1.5"), 0]


def test_a_short_position_is_negative_also_when_only_its_side_says_so() -> None:
    rows = [{"symbol": "A", "qty": "3", "side": "short"}, {"symbol": "B", "qty": "-3", "side": "short"}]
    with line(answer("200 OK", json.dumps(rows))) as url:
        assert Broker(settings(url)).list_positions() == {"A": -3, "B": -3}
    with line(answer("200 OK", json.dumps(rows[0]))) as url:
        assert Broker(settings(url)).position("A").qty == -3


def test_a_position_says_how_many_of_its_shares_no_order_has_reserved(world: World) -> None:
    broker = Broker(world.settings.alpaca)
    world.market.submit({**ORDER, "qty": "45"})
    assert broker.position("NVDA") == Position(Decimal(45), Decimal(45))
    stop = {"side": "sell", "type": "stop", "stop_price": "120", "client_order_id": "c2"}
    world.market.submit({**ORDER, "qty": "40", **stop})
    assert broker.position("NVDA") == Position(Decimal(45), Decimal(5))
    assert broker.position("INTC") == Position(Decimal(0), Decimal(0))


HOLDING = {"symbol": "NVDA", "qty": "45", "side": "long"}


@pytest.mark.parametrize("body", [
    {}, {"message": "no"}, [HOLDING, HOLDING], [HOLDING, None], [HOLDING, {"symbol": "AMD"}],
    [HOLDING, {"qty": "1"}], [HOLDING, {"symbol": "", "qty": "1"}], [HOLDING, {"symbol": "AMD", "qty": "NaN"}],
], ids=str)
def test_one_position_that_makes_no_sense_spoils_the_whole_answer(body: object) -> None:
    with line(answer("200 OK", json.dumps(body))) as url, pytest.raises(BrokerError):
        Broker(settings(url)).list_positions()


def test_the_market_hours_are_the_brokers(world: World) -> None:
    broker = Broker(world.settings.alpaca)
    closes = datetime(2025, 1, 15, 21, 0, tzinfo=UTC)
    opens = datetime(2025, 1, 16, 14, 30, tzinfo=UTC)
    assert broker.market_hours() == MarketHours(True, opens, closes, START)
    world.pass_time(hours=7)
    assert broker.market_hours() == MarketHours(False, opens, closes + timedelta(days=1), START + timedelta(hours=7))


HOURS = {
    "is_open": True, "next_open": "2025-01-16T09:30:00-05:00", "next_close": "2025-01-15T16:00:00-05:00",
    "timestamp": "2025-01-15T10:00:00-05:00",
}


@pytest.mark.parametrize("odd", [
    {"is_open": "yes"}, {"is_open": None}, {"timestamp": None}, {"next_open": None}, {"next_close": "16:00"},
    {"next_close": "2025-01-15T16:00:00"},
])
def test_market_hours_that_make_no_sense_are_an_error(odd: dict[str, object]) -> None:
    with line(answer("200 OK", json.dumps(HOURS | odd))) as url, pytest.raises(BrokerError):
        Broker(settings(url)).market_hours()


@pytest.mark.parametrize("body", ["{}", '{"id": null, "status": "new"}', "[]", "null"])
def test_an_answer_that_is_no_order_does_not_mean_absent(body: str) -> None:
    with line(answer("200 OK", body)) as url:
        broker = Broker(settings(url))
        for ask in (broker.get_order, broker.find_order, broker.position):
            with pytest.raises(BrokerError):
                ask("1")


def test_an_order_found_under_our_id_is_there_although_its_own_id_is_not_known_yet(world: World) -> None:
    order = world.market.submit({**ORDER, "type": "limit", "limit_price": "1"})
    world.fault("GET", f"/v2/orders/{order.id}", "status", code=404, body={"code": 40410000, "message": "no"})
    found = Broker(world.settings.alpaca).find_order("c1")
    assert found is not None
    assert found["id"] == order.id


def test_a_number_beyond_all_measure_is_no_price() -> None:
    endless = '{"trades": {"NVDA": {"p": 1e9999999999999999999}}}'
    with line(answer("200 OK", endless)) as url, pytest.raises(BrokerError):
        Broker(settings(url)).latest_prices(["NVDA"])
    with line(answer("200 OK", '{"trades": {"NVDA": {"p": 1e12}, "AMD": {"p": 120.5}}}')) as url:
        assert Broker(settings(url)).latest_prices(["NVDA", "AMD"]) == {"AMD": Decimal("120.5")}


def test_a_client_handed_out_gives_readable_answers(world: World) -> None:
    account = get_trading_client(world.settings.alpaca).get_account()
    assert isinstance(account, dict)
    assert account["status"] == "ACTIVE"
    trades = get_data_client(world.settings.alpaca).get("/stocks/trades/latest", {"symbols": "NVDA"})
    assert trades["trades"]["NVDA"]["p"] == 135


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
    broker = Broker(world.settings.alpaca)
    broker.record_with(lambda exchanges: told.extend(request for request, _ in exchanges))
    world.fault("GET", "/v2/account", "status", code=500)
    with pytest.raises(BrokerError):
        broker.account()
    assert [request.path for request in told] == ["/v2/account"]


def test_daily_bars_come_by_symbol_over_all_pages_with_todays(
    world: World, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alpaca_client, "BARS_PAGE_SIZE", 5)
    for symbol, sessions in (("NVDA", 7), ("AMD", 4)):
        give_a_past(world.market, symbol, "90", "101", START.date(), sessions)
    with Broker(world.settings.alpaca) as broker:
        bars = broker.daily_bars(["NVDA", "AMD", "NONE"], START.date() - timedelta(days=30))
        assert broker.daily_bars([], START.date()) == {}
    assert {symbol: len(found) for symbol, found in bars.items()} == {"NVDA": 7, "AMD": 4, "NONE": 0}
    assert bars["AMD"][-1] == DailyBar(date(2025, 1, 14), Decimal(101), Decimal(90))
    assert [bar.day for bar in bars["NVDA"]] == sorted(bar.day for bar in bars["NVDA"])
    asked = world.requests("GET", "/v2/stocks/bars")
    assert len(asked) == 3


@pytest.mark.parametrize("body", [[], {"bars": [1]}, {"bars": {}, "next_page_token": 7}, "x"])
def test_an_answer_that_is_no_page_of_bars_concludes_nothing(world: World, body: object) -> None:
    world.fault("GET", "/v2/stocks/bars", "status", code=200, body=body)
    with Broker(world.settings.alpaca) as broker, pytest.raises(BrokerError):
        broker.daily_bars(["NVDA"], START.date())


def test_a_bar_that_makes_no_sense_is_left_out(world: World) -> None:
    good = {"t": "2025-01-14T05:00:00Z", "h": 11, "l": 10.5}
    rows = [good, good | {"h": 10}, good | {"l": 0}, good | {"t": "yesterday"}, good | {"h": "11"}, 7, {}]
    for found in (None, {"NVDA": rows, "AMD": 3}):
        world.fault("GET", "/v2/stocks/bars", "status", code=200, body={"bars": found, "next_page_token": None})
        with Broker(world.settings.alpaca) as broker:
            bars = broker.daily_bars(["NVDA"], START.date())["NVDA"]
        assert bars == ([DailyBar(date(2025, 1, 14), Decimal(11), Decimal("10.5"))] if found else [])
