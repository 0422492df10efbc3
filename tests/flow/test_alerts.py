"""Alerts: what fails at every pass is one of them, and each ends when its matter is over."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from alpaca_client import BrokerError
from tests.flow.exits import cancel_by_hand, member, refuse
from tests.flow.world import World, swing, trend

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


def test_an_order_that_could_not_be_asked_for_ends_its_alert_when_it_is_listed_again(world: World) -> None:
    world.decide(swing(limit_price=130))
    world.execute()
    order = world.one("order_execution")
    world.fault("GET", "/v2/orders", "status", code=200, body=[])
    world.fault("GET", f"/v2/orders/{order['alpaca_order_id']}", "status", code=500)
    world.monitor()
    assert alert(world, "read_failed")["subject"] == order["client_order_id"]
    world.monitor()
    assert alert(world, "read_failed")["resolved_at"] is not None


@pytest.mark.parametrize("arrived", [True, False])
def test_an_order_that_was_not_settled_ends_its_alert_when_it_is(world: World, arrived: bool) -> None:
    world.fault("POST", "/v2/orders", "drop", executed=arrived)
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500)
    world.decide(swing(limit_price=130))
    world.execute()
    world.db.execute_update(
        "ALTER TABLE audit.api_call_logs ADD CONSTRAINT guard CHECK (endpoint NOT LIKE '%%client_order_id') NOT VALID",
    )
    world.pass_time(minutes=5)
    world.fault("GET", "/v2/orders", "status", code=500)
    world.execute()
    assert alert(world, "order_not_settled")["resolved_at"] is None
    world.db.execute_update("ALTER TABLE audit.api_call_logs DROP CONSTRAINT guard")
    for _ in range(3):
        world.pass_time(minutes=5)
        world.monitor()
    assert world.one("order_execution")["order_status"] == ("pending" if arrived else "cancelled")
    assert alert(world, "order_not_settled")["resolved_at"] is not None


@pytest.mark.parametrize("filled", [False, True])
def test_an_order_that_cannot_be_looked_up_is_an_alert_until_it_can(world: World, filled: bool) -> None:
    world.decide(swing(limit_price=136 if filled else 130))
    world.fault("POST", "/v2/orders", "drop", executed=True)
    for path in ("/v2/orders:by_client_order_id", "/v2/orders/*", "/v2/orders"):
        unreadable = {"set": {"filled_avg_price": None, "filled_qty": "1"}}  # shares without a price
        world.fault("GET", path, "edit", times=None, **unreadable)
    world.execute()
    levels = []
    for _ in range(3):
        world.pass_time(minutes=5)
        world.monitor()
        levels.append(alert(world, "read_failed")["level"])
    name = world.one("order_execution")["client_order_id"]
    assert (levels, alert(world, "read_failed")["subject"]) == (["warning", "warning", "critical"], name)
    world.value()
    if filled:
        external = alert(world, "external_position")
        assert external["level"] == "critical"
        assert f"45 shares of NVDA on the account were not bought or sold by a trade here, but may be of {name}" in (
            external["message"]
        )
    world.market.faults.clear()
    for run in (world.monitor, world.monitor, world.value):
        world.pass_time(minutes=5)
        run()
    assert world.one("order_execution", order_type="ENTRY")["order_status"] == ("filled" if filled else "pending")
    assert world.db.query("alerts", {"resolved_at": None}) == []


@pytest.mark.parametrize("end", ["known again", "cancelled"])
def test_a_strange_word_of_the_broker_is_an_alert_until_it_uses_a_known_one(world: World, end: str) -> None:
    world.decide(swing(limit_price=130))
    world.execute()
    world.fault("GET", "/v2/orders", "edit", set={"status": "on_holiday"})
    world.monitor()
    assert alert(world, "unknown_broker_status")["resolved_at"] is None
    if end == "cancelled":
        world.market.cancel(world.one("order_execution")["alpaca_order_id"])
        world.pass_time(minutes=1)
    world.monitor()
    assert alert(world, "unknown_broker_status")["resolved_at"] is not None


@pytest.mark.parametrize("closed_by", ["the emergency exit", "hand"])
def test_an_emergency_exit_is_an_alert_until_the_trade_is_closed(world: World, closed_by: str) -> None:
    world.open_position(trend())
    cancel_by_hand(world, member(world, "stop"))
    refuse(world, '"type": "stop"', 2)
    if closed_by == "hand":
        refuse(world, '"type": "market"', 1)
    world.monitor()
    assert alert(world, "emergency_exit")["resolved_at"] is None
    if closed_by == "hand":
        world.pass_time(minutes=1)
        world.market.foreign_fill("NVDA", "sell", Decimal(45), Decimal(136))
        world.value()
    else:
        world.monitor()
    assert world.one("trade_journal")["status"] == "CLOSED"
    assert world.db.query("alerts", {"resolved_at": None, "level": "critical"}) == []
