"""The scenarios whose every side effect is an end: what happens before, and the steps that are interrupted."""

from __future__ import annotations

from kill_switch import TradingState, change_control
from tests.crash.harness import FragileWorld, Scenario
from tests.flow.changes import amend, cancel, partly_filled, placed, point
from tests.flow.disclosing import agree, priced
from tests.flow.disclosing import run as run_strategy
from tests.flow.exits import part
from tests.flow.stopping import flatten, switch
from tests.flow.world import World, swing, trend


def _decided(world: World) -> None:
    world.decide(swing())


def _filled_in_part(world: World) -> None:
    world.decide(swing())
    world.execute()
    part(world, "20")


def _the_rest_fills(world: World) -> None:
    part(world, "25")


def _to_be_cancelled(world: World) -> None:
    point(world, cancel(), placed(world)["alpaca_order_id"])


def _filled_in_part_and_to_be_cancelled(world: World) -> None:
    point(world, cancel(), partly_filled(world)["alpaca_order_id"])


def _to_be_amended(world: World) -> None:
    point(world, amend(qty=30), placed(world)["alpaca_order_id"])


def _filled_in_part_and_to_be_amended(world: World) -> None:
    point(world, amend(qty=50), partly_filled(world)["alpaca_order_id"])


def _filled(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")


def _filled_without_target(world: World) -> None:
    world.decide(trend())
    world.execute()
    world.price("NVDA", "133.50")


def _stopped_out(world: World) -> None:
    world.open_position()
    world.price("NVDA", "123")


def _at_its_target(world: World) -> None:
    world.open_position()
    world.price("NVDA", "146")


def _closed_by_hand(world: World) -> None:
    world.open_position()
    for order in list(world.market.state.live.values()):
        if order.status != "held":
            world.market.cancel(order.id)
    world.market.step()
    world.market.foreign_close("NVDA")
    world.pass_time(minutes=5)


def _to_be_flattened(world: World) -> None:
    world.open_position()
    switch(world, "HALTED", flatten=True)


def _flattened(world: World) -> None:
    assert isinstance(world, FragileWorld)
    flatten(world, world.broker, world.process_db, switched=True)


def _decided_while_halted(world: World) -> None:
    world.decide(swing())
    switch(world, "HALTED")


def _resumed(world: World) -> None:
    change_control(world.db, TradingState.ACTIVE, "drill", "tester@here", world.clock.now())


def _decided_beside_an_unknown_order(world: World) -> None:
    world.decide(swing())
    world.fault("POST", "/v2/orders", "drop")
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500, times=3)
    world.execute()
    world.decide(swing(limit_price=133.70))


def _members_agree(world: World) -> None:
    agree(world.db, world.clock.now())
    priced(world)


SCENARIOS = {
    "entry": Scenario(_decided, (World.execute,)),
    "partial entry": Scenario(_filled_in_part, (World.monitor, _the_rest_fills, World.monitor)),
    "cancel": Scenario(_to_be_cancelled, (World.execute,)),
    "cancel of a part": Scenario(_filled_in_part_and_to_be_cancelled, (World.execute, World.monitor)),
    "amend": Scenario(_to_be_amended, (World.execute,)),
    "amend of a part": Scenario(_filled_in_part_and_to_be_amended, (World.execute, World.monitor)),
    "protection by target and stop": Scenario(_filled, (World.monitor,)),
    "protection by stop": Scenario(_filled_without_target, (World.monitor,)),
    "stop hit": Scenario(_stopped_out, (World.monitor,)),
    "target hit": Scenario(_at_its_target, (World.monitor,)),
    "flatten": Scenario(_to_be_flattened, (_flattened, World.monitor)),
    "halted": Scenario(_decided_while_halted, (World.execute, _resumed, World.execute)),
    "beside an unknown order": Scenario(_decided_beside_an_unknown_order, (World.execute, World.monitor)),
    "a strategy": Scenario(_members_agree, (run_strategy, run_strategy, run_strategy)),
    "closed by hand": Scenario(_closed_by_hand, (World.value, World.monitor)),
}
