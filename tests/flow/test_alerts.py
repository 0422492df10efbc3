"""Alerts: what fails at every pass is one of them, and each ends when its matter is over."""

from __future__ import annotations

from typing import Any

import pytest

from alpaca_client import BrokerError
from tests.flow.world import World, trend

READS = {
    "account": ("/v2/account", World.execute),
    "account of the order monitor": ("/v2/account", World.monitor),
    "account of the position monitor": ("/v2/account", World.value),
    "orders": ("/v2/orders", World.monitor),
    "prices": ("/v2/stocks/trades/latest", World.value),
}


def alert(world: World, kind: str) -> dict[str, Any]:
    return world.one("alerts", kind=kind)


@pytest.mark.parametrize("read", READS)
def test_a_read_that_fails_at_every_pass_is_an_alert_until_one_succeeds(world: World, read: str) -> None:
    path, run = READS[read]
    world.open_position(trend())
    world.fault("GET", path, "status", code=500, times=3)
    levels = []
    for _ in range(3):
        with pytest.raises(BrokerError):
            run(world)
        levels.append(alert(world, "read_failed")["level"])
    assert levels == ["warning", "warning", "critical"]
    assert alert(world, "read_failed")["subject"] == read.split()[0]
    run(world)
    assert alert(world, "read_failed")["resolved_at"] is not None


@pytest.mark.parametrize(("path", "subject"), [
    ("/v2/positions", "positions"), ("/v2/account/activities/FILL", "fills"),
])
def test_a_read_that_others_need_not_wait_for_is_an_alert_until_it_succeeds(
    world: World, path: str, subject: str,
) -> None:
    world.decide(trend())
    world.execute()
    world.price("NVDA", "133.50")
    run = world.value if subject == "positions" else world.monitor
    world.fault("GET", path, "status", code=500, times=1)
    run()
    assert (alert(world, "read_failed")["subject"], alert(world, "read_failed")["resolved_at"]) == (subject, None)
    run()
    assert alert(world, "read_failed")["resolved_at"] is not None


def test_a_position_that_gets_no_stop_because_the_broker_does_not_answer_is_an_alert(world: World) -> None:
    world.decide(trend())
    world.execute()
    world.price("NVDA", "133.50")
    world.fault("GET", "/v2/positions/NVDA", "status", code=500, times=1)
    world.monitor()
    assert alert(world, "read_failed")["subject"] == world.one("trade_journal")["trade_id"]
    world.monitor()
    assert alert(world, "read_failed")["resolved_at"] is not None
