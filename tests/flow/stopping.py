"""What the tests of the kill switch share."""

from __future__ import annotations

from typing import Any

from alpaca_client import Broker
from flattening import Flattening, Report
from kill_switch import TradingState, change_control
from parts import build_parts
from tests.flow.world import SharedClock, World


def switch(world: World, state: str, flatten: bool = False) -> None:
    """Turn the kill switch."""
    change_control(world.programs, TradingState(state), "drill", "tester@here", world.clock.now(), flatten)


def flatten(world: World, broker: Broker | None = None, db: Any = None, switched: bool = False) -> Report:
    """The command to close everything, its switch included unless that was turned already."""
    if not switched:
        switch(world, "HALTED", flatten=True)
    clock = SharedClock(world)
    world.clock = clock
    parts = build_parts(
        db=db or world.programs, broker=broker or Broker(world.settings.alpaca, clock=clock), clock=clock,
        settings=world.settings,
    )
    return Flattening(parts).run()


def control_alerts(world: World) -> list[tuple[str, bool]]:
    """The alerts about the switch as they were raised, and whether each is open."""
    rows = sorted(world.db.query("alerts", {"kind": "trading_control"}), key=lambda row: row["id"])
    return [(row["subject"], row["resolved_at"] is None) for row in rows]
