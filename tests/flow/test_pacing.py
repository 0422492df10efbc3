"""How the door to the broker keeps within the requests a minute that the broker allows."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from alpaca_client import Broker, BrokerError, Outcome, Reply
from clock import ManualClock
from tests.flow.test_alpaca_client import ORDER, answer, line, settings
from tests.flow.world import START, World

RESET = int(START.timestamp()) + 30
TOO_MANY = '{"code": 42910000, "message": "rate limit exceeded"}'


class OneTime(ManualClock):
    """The clock of a program for which waiting is waiting for the broker too."""

    def __init__(self, world: World) -> None:
        super().__init__(START)
        self._world = world

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._world.pass_time(seconds=seconds)

    @property
    def waited(self) -> float:
        return (self.now() - START).total_seconds()


def statuses(world: World) -> list[object]:
    return [seen["status"] for seen in world.market.requests]


def allowance(remaining: object, reset: object = RESET) -> str:
    return f"X-RateLimit-Limit: 200\r\nX-RateLimit-Remaining: {remaining}\r\nX-RateLimit-Reset: {reset}\r\n"


@contextmanager
def answers(*behaviours: Callable[[socket.socket], None]) -> Iterator[tuple[Broker, ManualClock]]:
    """A broker whose server gives these answers in turn and no more, with its clock at START."""
    left = iter(behaviours)
    clock = ManualClock(START)
    with line(lambda connection: next(left)(connection)) as url:
        yield Broker(settings(url), clock=clock), clock
    assert next(left, None) is None


def ok(headers: str = "") -> Callable[[socket.socket], None]:
    return answer("200 OK", '{"id": "1", "trades": {}}', headers)


def refused(headers: str = "") -> Callable[[socket.socket], None]:
    return answer("429 Too Many Requests", TOO_MANY, headers)


def seconds_waited(clock: ManualClock) -> float:
    return (clock.now() - START).total_seconds()


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_thirty_reads_in_a_row_never_exceed_the_limit(world: World, limit: int) -> None:
    clock = OneTime(world)
    world.market.behave(rate_limit=limit)
    broker = Broker(world.settings.alpaca, clock=clock)
    for _ in range(30):
        broker.account()
    assert statuses(world) == [200] * 30
    assert clock.waited > 60


def test_three_processes_that_take_turns_never_exceed_the_limit(world: World) -> None:
    clock = OneTime(world)
    world.market.behave(rate_limit=10)
    brokers = [Broker(world.settings.alpaca, clock=clock) for _ in range(3)]
    for turn in range(60):
        brokers[turn % 3].account()
    assert statuses(world) == [200] * 60


def test_nobody_waits_while_there_is_room(world: World) -> None:
    clock = OneTime(world)
    broker = Broker(world.settings.alpaca, clock=clock)
    for _ in range(10):
        broker.account()
        broker.wait_for_room()
    assert clock.waited == 0


@pytest.mark.parametrize(("remaining", "waited"), [(0, 31), (2, 31), (3, 0)])
def test_the_next_call_waits_for_a_second_after_the_reset(remaining: int, waited: int) -> None:
    with answers(ok(allowance(remaining)), ok()) as (broker, clock):
        broker.account()
        assert seconds_waited(clock) == 0
        broker.account()
        assert seconds_waited(clock) == waited


@pytest.mark.parametrize("headers", [
    "", allowance("-1"), allowance("none"), allowance("0", "soon"), allowance("0", "1e9"), allowance("0", RESET - 31),
    allowance("²"), "X-RateLimit-Remaining: 0\r\n", f"X-RateLimit-Reset: {RESET}\r\n",
])
def test_headers_that_make_no_sense_hold_nothing_up(headers: str) -> None:
    with answers(ok(headers), ok()) as (broker, clock):
        broker.account()
        broker.account()
        assert seconds_waited(clock) == 0


@pytest.mark.parametrize("reset", [RESET + 3600, RESET * 1000])
def test_a_reset_far_away_holds_one_call_up_for_a_minute_at_most(reset: int) -> None:
    with answers(ok(allowance(0, reset)), ok()) as (broker, clock):
        broker.account()
        broker.wait_for_room()
        broker.account()
        assert seconds_waited(clock) == 61


def test_a_wait_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with answers(ok(allowance(0)), ok()) as (broker, _), caplog.at_level(logging.INFO, "broker_line"):
        broker.account()
        broker.wait_for_room()
        broker.account()
    assert len([record for record in caplog.records if record.name == "broker_line"]) == 1


def test_after_waiting_for_room_a_message_leaves_at_once() -> None:
    heard = {**ORDER, "id": "1", "status": "new"}
    with answers(ok(allowance(0)), answer("200 OK", json.dumps(heard))) as (broker, clock):
        broker.account()
        broker.wait_for_room()
        written_at = clock.now()
        assert seconds_waited(clock) == 31
        assert broker.send(broker.order_request(ORDER)).outcome is Outcome.ACCEPTED
        assert clock.now() == written_at


def test_a_message_waits_for_room_like_a_read() -> None:
    with answers(ok(allowance(0)), answer("204 No Content")) as (broker, clock):
        broker.account()
        broker.send(broker.cancel_request("1"))
        assert seconds_waited(clock) == 31


def test_the_data_api_has_a_limit_of_its_own() -> None:
    with answers(ok(allowance(0)), ok(allowance(0)), ok()) as (broker, clock):
        broker.account()
        broker.latest_prices(["NVDA"])
        assert seconds_waited(clock) == 0
        broker.latest_prices(["NVDA"])
        assert seconds_waited(clock) == 31


@pytest.mark.parametrize(("headers", "waited"), [
    (allowance(0), 31), (allowance(150), 31), ("Retry-After: 7\r\n", 7), (allowance(0) + "Retry-After: 7\r\n", 31),
    (allowance(0, RESET - 60) + "Retry-After: 7\r\n", 7), ("Retry-After: Wed, 15 Jan 2025 15:00:07 GMT\r\n", 5),
    ("", 5), ("Retry-After: 86400\r\n", 61),
])
def test_a_read_refused_for_the_limit_is_asked_once_more_when_there_is_room(headers: str, waited: int) -> None:
    with answers(refused(headers), ok()) as (broker, clock):
        assert broker.account() == {"id": "1", "trades": {}}
        assert seconds_waited(clock) == waited


def test_a_read_refused_twice_is_an_error_and_the_recorder_is_told_of_both() -> None:
    told: list[Reply] = []
    with answers(refused(), refused()) as (broker, _):
        broker.record_with(lambda exchanges: told.extend(reply for _, reply in exchanges))
        with pytest.raises(BrokerError, match="HTTP 429, rate limit exceeded"):
            broker.account()
    assert [reply.http_status for reply in told] == [429, 429]


def test_another_process_that_used_the_limit_up_costs_a_read_one_repetition(world: World) -> None:
    world.market.behave(rate_limit=10)
    broker = Broker(world.settings.alpaca, clock=OneTime(world))
    broker.account()
    for _ in range(9):
        Broker(world.settings.alpaca).account()
    assert broker.list_positions() == {}
    assert statuses(world) == [200] * 10 + [429, 200]


def test_a_message_refused_for_the_limit_is_sent_once_and_proves_nothing(world: World) -> None:
    clock = OneTime(world)
    broker = Broker(world.settings.alpaca, clock=clock)
    order_id = world.market.submit({**ORDER, "type": "limit", "limit_price": "1", "client_order_id": "resting"}).id
    for request in (broker.order_request(ORDER), broker.cancel_request(order_id)):
        world.fault(request.method, request.path, "status", code=429, body=json.loads(TOO_MANY))
        assert broker.send(request).outcome is Outcome.UNKNOWN
        assert len(world.requests(request.method, request.path)) == 1
