"""What the audit trail answers about one trade."""

from __future__ import annotations

import pytest

from audit_trail.trace import chain, find_decisions
from tests.flow.world import World, trend


def test_a_trade_is_found_under_every_name_a_person_may_hold(world: World) -> None:
    world.open_position(trend())
    decision, journal = world.one("trade_decisions"), world.one("trade_journal")
    entry = world.one("order_execution", order_type="ENTRY")
    stop = world.one("trade_executions", order_execution_id=world.one("order_execution", order_type="STOP_LOSS")["id"])
    names = [
        decision["decision_id"], decision["analysis_decision_id"], journal["trade_id"], journal["id"],
        entry["client_order_id"], entry["alpaca_order_id"], stop["alpaca_order_id"], stop["execution_id"],
    ]
    assert [find_decisions(world.db, str(name)) for name in names] == [[decision["id"]]] * len(names)


@pytest.mark.parametrize("name", ["", "nothing", "0", "9" * 30, "%", "'; --", "00000000-0000-0000-0000-000000000000"])
def test_a_name_nobody_knows_finds_nothing(world: World, name: str) -> None:
    world.open_position(trend())
    assert find_decisions(world.db, name) == []


def test_the_chain_tells_a_trade_from_its_decision_to_its_end(world: World) -> None:
    world.market.set_liquidity("NVDA", "20")
    name = world.open_position(trend())
    world.pass_time(minutes=5)
    world.price("NVDA", "123")
    world.monitor()
    events = [row["event"] for row in chain(world.db, find_decisions(world.db, name)[0])]
    assert events[0] == "decided"
    assert events.count("said") == events.count("heard") == 2
    assert events.count("filled") == 2
    assert "cancel asked for" in events
    assert events.index("decision executed") < events.index("trade closed") == len(events) - 1
