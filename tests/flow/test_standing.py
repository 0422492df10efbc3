"""What the books show to stand, and above all which positions they show without protection."""

from __future__ import annotations

from typing import Any

import pytest

from standing import what_stands
from tests.flow.changes import placed
from tests.flow.exits import ORDERS, member, place
from tests.flow.stopping import flatten
from tests.flow.world import World, swing, trend


def counts(world: World) -> tuple[int, int, int, int, int]:
    """Entries at rest, positions, those without protection, unknown orders, critical alerts."""
    standing = what_stands(world.db)
    shown = standing.entries, standing.trades, standing.unprotected, standing.unknown, standing.alerts
    return tuple(map(len, shown))  # type: ignore[return-value]


@pytest.mark.parametrize("decision", [swing(), trend()])
def test_a_position_under_its_exit_is_protected(world: World, decision: dict[str, Any]) -> None:
    world.open_position(decision)
    assert counts(world) == (0, 1, 0, 0, 0)


def test_a_resting_entry_holds_nothing(world: World) -> None:
    placed(world)
    assert counts(world) == (1, 0, 0, 0, 0)


def test_a_partly_filled_entry_is_both_an_entry_and_a_position(world: World) -> None:
    place(world, swing(), filled="20")
    world.monitor()
    assert counts(world) == (1, 1, 0, 0, 0)


@pytest.mark.parametrize("change", [
    "UPDATE order_execution SET order_status = 'cancelled' WHERE order_type = 'STOP_LOSS'",
    "UPDATE order_execution SET order_status = 'cancelled' WHERE order_type <> 'ENTRY'",
    "UPDATE order_execution SET order_status = 'unknown' WHERE order_type <> 'ENTRY'",
    "UPDATE order_execution SET order_status = 'intended' WHERE order_type = 'STOP_LOSS'",
    "UPDATE order_execution SET qty = 44 WHERE order_type <> 'ENTRY'",
    "UPDATE order_execution SET side = 'buy', qty = 45 WHERE order_type <> 'ENTRY'",
    "UPDATE order_execution SET parent_order_id = NULL WHERE order_type = 'STOP_LOSS'",
])
def test_a_position_whose_exit_does_not_work_for_exactly_its_shares_is_not_protected(
    world: World, change: str,
) -> None:
    world.open_position()
    world.db.execute_update(change)
    assert counts(world)[1:3] == (1, 1)


def test_an_order_that_closes_the_position_protects_it(world: World) -> None:
    world.open_position(trend())
    world.pass_time(hours=8)
    flatten(world)
    assert member(world, "market").qty == 45
    assert counts(world) == (0, 1, 0, 0, 0)


def test_an_order_is_unknown_also_when_its_sender_died(world: World) -> None:
    world.decide(swing())
    world.fault("POST", ORDERS, "drop", executed=False)
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500)
    world.execute()
    assert counts(world) == (0, 0, 0, 1, 0)
    world.db.execute_update("UPDATE order_execution SET order_status = 'intended'")
    assert counts(world) == (0, 0, 0, 0, 0)
    world.db.execute_update("UPDATE audit.trade_executions SET status = 'submitted'")
    assert counts(world) == (0, 0, 0, 1, 0)


def test_a_position_written_by_hand_is_left_to_the_monitors_alert(world: World) -> None:
    world.db.insert("trade_journal", {
        "trade_id": "BY-HAND", "symbol": "NVDA", "side": "buy", "trade_style": "TREND", "status": "POSITION",
        "planned_stop_loss": 1, "planned_qty": 1,
    })
    assert counts(world) == (0, 0, 0, 0, 0)
    assert flatten(world).done
