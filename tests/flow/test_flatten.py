"""Everything of ours is closed when a person asks for it, whatever the broker does and wherever the command dies."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from alpaca_client import Broker
from db_layer import DatabaseError, TradingDB
from flattening import FOLLOW, Flattening, Report
from parts import build_parts
from tests.flow.changes import Mortal, MortalBroker, MortalDB, live_entries, placed
from tests.flow.exits import (
    ORDERS,
    exits,
    is_flat,
    member,
    part,
    place,
    refuse,
    sold,
    stays_as_it_is,
    trade,
)
from tests.flow.stopping import flatten, switch
from tests.flow.world import START, Killed, SharedClock, World, swing, trend

SHORT = {"side": "sell", "limit_price": 136, "stop_loss": 145}
MARKET = '"type": "market"'


def left(report: Report) -> list[tuple[str, Decimal | None]]:
    """What is left of ours, by symbol and shares."""
    return [(row.symbol, row.shares) for row in report.ours]


def theirs(report: Report) -> list[tuple[str, Decimal | None]]:
    """What is left of other people's, by symbol and shares."""
    return [(row.symbol, row.shares) for row in report.foreign]


def never_short(world: World, shares: int = 45) -> None:
    """No more shares were sold than were bought, whatever was asked."""
    assert sold(world) <= shares
    assert world.market.state.shares("NVDA") >= 0


@pytest.mark.parametrize("decision", [swing(), trend(), trend(strategy="DAYTRADE")])
def test_a_position_is_closed_at_market_with_its_exits_gone(world: World, decision: dict[str, Any]) -> None:
    world.open_position(decision)
    world.price("NVDA", "134")
    assert flatten(world).done
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"]) == ("CLOSED", "MANUAL_EXIT")
    assert (journal["actual_pnl"], journal["pnl_is_estimate"]) == (Decimal("22.5"), False)
    assert is_flat(world)
    assert sold(world) == 45
    assert world.db.query("alerts", {"level": "critical"}) == []
    assert stays_as_it_is(world)


def test_a_short_is_bought_back(world: World) -> None:
    world.configure(ALLOW_SHORT="true")
    world.open_position(trend(**SHORT), price="136.50")
    world.monitor()
    assert flatten(world).done
    assert world.one("trade_journal")["exit_reason"] == "MANUAL_EXIT"
    assert is_flat(world)


def test_resting_entries_are_cancelled_and_their_trades_end_as_usual(world: World) -> None:
    world.open_position(swing(qty=10))
    world.price("NVDA", "135")
    placed(world, swing(limit_price=130))
    assert flatten(world).done
    assert is_flat(world)
    assert sorted((row["status"], row["exit_reason"]) for row in world.db.query("trade_journal")) == [
        ("CANCELLED", "CANCELLED"), ("CLOSED", "MANUAL_EXIT"),
    ]


@pytest.mark.parametrize("seen", [True, False])
def test_a_partly_filled_entry_is_cancelled_and_what_it_brought_is_closed(world: World, seen: bool) -> None:
    place(world, swing(), filled="20")
    if seen:
        world.monitor()
    world.price("NVDA", "135")
    world.market.set_liquidity("NVDA", None)
    assert flatten(world).done
    journal = world.one("trade_journal")
    assert (journal["status"], journal["actual_qty"], journal["exit_reason"]) == ("CLOSED", 20, "MANUAL_EXIT")
    assert is_flat(world)
    assert sold(world) == 20


def test_two_trades_in_one_symbol_are_each_closed_over_their_own_shares(world: World) -> None:
    world.open_position(swing(qty=10))
    world.open_position(swing(qty=20), price="133.40")
    world.monitor()
    assert flatten(world).done
    assert {row["exit_reason"] for row in world.db.query("trade_journal")} == {"MANUAL_EXIT"}
    assert sorted(row["qty"] for row in world.db.query("order_execution", {"exit_reason": "MANUAL_EXIT"})) == [10, 20]
    assert is_flat(world)


def test_what_is_not_ours_is_listed_and_left_alone(world: World) -> None:
    world.price("AMD", "99")
    for symbol, qty in (("NVDA", "50"), ("AMD", "7")):
        world.market.foreign_fill(symbol, "buy", qty)
    world.open_position(trend())
    foreign = world.market.submit({
        "symbol": "AMD", "qty": "5", "side": "sell", "type": "limit", "limit_price": "160", "time_in_force": "gtc",
    }, source="app")
    report = flatten(world)
    assert (report.done, theirs(report)) == (True, [("AMD", 7), ("NVDA", 50), ("AMD", -5)])
    assert (world.market.state.shares("NVDA"), foreign.live) == (50, True)
    assert world.one("trade_journal")["status"] == "CLOSED"


def test_shares_that_somebody_elses_order_reserves_are_left_with_their_reason(world: World) -> None:
    world.open_position(trend())
    world.market.cancel_at_once("NVDA")
    world.market.submit({
        "symbol": "NVDA", "qty": "30", "side": "sell", "type": "limit", "limit_price": "160", "time_in_force": "gtc",
    }, source="app")
    report = flatten(world)
    assert (report.done, left(report)) == (False, [("NVDA", 45)])
    assert "only 15 are free" in report.ours[0].why
    assert world.posted()[-1]["type"] == "stop"


def test_shares_that_are_free_only_a_moment_after_the_cancel_are_waited_for(world: World) -> None:
    world.open_position()
    world.market.behave(cancel_delay_seconds=Decimal(3), release_delay_seconds=Decimal(2))
    assert flatten(world).done
    assert is_flat(world)
    never_short(world)


def test_positions_that_lag_behind_the_fills_are_waited_for_and_are_not_taken_for_somebody_elses(world: World) -> None:
    world.open_position()
    world.market.behave(positions_lag=Decimal(4))
    report = flatten(world)
    assert (report.done, theirs(report)) == (True, [])


def test_a_cancel_that_hangs_leaves_the_position_under_its_exit_and_is_finished_later(world: World) -> None:
    world.open_position()
    began = world.clock.now()
    world.market.behave(cancel_hang=True)
    report = flatten(world)
    assert (report.done, left(report)) == (False, [("NVDA", 45)])
    assert "did not go away" in report.ours[0].why
    assert not [order for order in world.posted() if order["type"] == "market"]
    assert world.clock.now() - began < 2 * FOLLOW
    world.market.behave(cancel_hang=False)
    for _ in range(2):
        world.pass_time(minutes=5)
        world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "MANUAL_EXIT"
    assert is_flat(world)


def test_an_entry_whose_cancel_hangs_keeps_the_position_beside_it_protected(world: World) -> None:
    place(world, swing(), filled="20")
    world.monitor()
    world.price("NVDA", "135")
    world.market.set_liquidity("NVDA", None)
    world.market.behave(cancel_hang=True)
    report = flatten(world)
    assert (report.done, left(report), exits(world)) == (False, [("NVDA", 20)], [20])
    assert "has not gone away yet" in report.ours[0].why
    world.market.behave(cancel_hang=False)
    assert flatten(world, switched=True).done
    assert is_flat(world)


def test_a_closed_market_leaves_an_order_that_waits_for_the_open_and_the_next_day_closes_the_trade(
    world: World,
) -> None:
    world.open_position(trend())
    world.pass_time(hours=8)
    report = flatten(world)
    assert (report.done, left(report)) == (False, [("NVDA", 45)])
    assert "the market is closed; its order at market waits until 2025-01-16 14:30 UTC" in report.ours[0].why
    assert world.clock.now() < START.replace(hour=23, minute=1)
    assert member(world, "market").qty == 45
    assert stays_as_it_is(world)
    assert left(flatten(world)) == [("NVDA", 45)]
    assert exits(world) == [45]
    world.pass_time(hours=16)
    world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "MANUAL_EXIT"
    assert is_flat(world)


@pytest.mark.parametrize("decision", [swing(), trend()])
def test_a_symbol_that_cannot_be_sold_gets_its_exits_back_and_is_tried_again_by_every_pass(
    world: World, decision: dict[str, Any],
) -> None:
    world.open_position(decision)
    words = {"code": 40310000, "message": "trading in NVDA is halted"}
    world.fault("POST", ORDERS, "status", code=403, body=words, contains=MARKET, times=None)
    report = flatten(world)
    assert (report.done, left(report), exits(world)) == (False, [("NVDA", 45)], [45])
    assert "trading in NVDA is halted" in report.ours[0].why
    for _ in range(2):
        alerts = world.db.query("alerts", {"level": "critical", "resolved_at": None})
        assert [row["kind"] for row in alerts] == ["not_flattened"]
        world.monitor()
    world.market.faults.clear()
    for _ in range(2):
        world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "MANUAL_EXIT"
    assert world.one("alerts", kind="not_flattened")["resolved_at"] is not None
    assert is_flat(world)


def test_one_symbol_that_cannot_be_sold_keeps_no_other_open(world: World) -> None:
    world.price("AMD", "99")
    world.decide(trend("AMD", limit_price=100, stop_loss=90), "AMD")
    world.open_position()
    world.fault("POST", ORDERS, "status", code=403, body={"message": "halted"}, contains='"AMD"', times=None)
    assert left(flatten(world)) == [("AMD", 45)]
    assert world.market.state.shares("NVDA") == 0


def test_an_order_at_market_that_fills_in_part_is_followed_and_its_rest_closed_later(world: World) -> None:
    world.open_position(trend())
    world.market.set_liquidity("NVDA", "0")
    report = flatten(world)
    assert (left(report), exits(world)) == ([("NVDA", 45)], [45])
    assert "has filled 0 of 45 shares so far" in report.ours[0].why
    part(world, "20", "133")
    assert left(flatten(world, switched=True)) == [("NVDA", 25)]
    assert exits(world) == [25]
    trade(world, "133")
    assert flatten(world, switched=True).done
    assert sold(world) == 45
    assert is_flat(world)


FAULTS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("DELETE", "/v2/orders/*", "status", {"code": 500}),
    ("DELETE", "/v2/orders/*", "status", {"code": 504, "executed": True}),
    ("DELETE", "/v2/orders/*", "hang", {"seconds": 1.5}),
    ("POST", ORDERS, "status", {"code": 500, "contains": MARKET}),
    ("POST", ORDERS, "status", {"code": 502, "executed": True, "contains": MARKET}),
    ("POST", ORDERS, "drop", {"contains": MARKET}),
    ("POST", ORDERS, "drop", {"executed": True, "contains": MARKET}),
    ("POST", ORDERS, "hang", {"seconds": 1.5, "contains": MARKET}),
    ("GET", "/v2/orders/*", "status", {"code": 503, "times": 3}),
    ("GET", ORDERS, "status", {"code": 500, "times": 2}),
    ("GET", "/v2/positions/NVDA", "status", {"code": 500, "times": 2}),
    ("GET", "/v2/positions", "status", {"code": 500}),
    ("GET", "/v2/account", "status", {"code": 500}),
]


@pytest.mark.parametrize(("method", "path", "kind", "details"), FAULTS)
def test_a_broker_that_fails_in_the_middle_delays_the_close_and_sells_no_share_twice(
    world: World, method: str, path: str, kind: str, details: dict[str, Any],
) -> None:
    world.open_position()
    world.fault(method, path, kind, **details)
    report = flatten(world)
    never_short(world)
    for _ in range(3):
        if not report.done:
            world.pass_time(minutes=1)
            report = flatten(world, switched=True)
    assert report.done
    assert is_flat(world)
    assert sold(world) == 45


def test_a_broker_that_does_not_answer_leaves_the_request_and_the_next_pass_carries_it_out(world: World) -> None:
    world.open_position()
    world.fault("GET", "/v2/account", "status", code=500, times=None)
    world.fault("GET", "/v2/positions", "status", code=500, times=None)
    report = flatten(world)
    assert (report.done, left(report), exits(world)) == (False, [("NVDA", 45)], [45])
    assert "HTTP 500" in str(report.trouble)
    assert "HTTP 500" in report.ours[0].why
    world.market.faults.clear()
    for _ in range(2):
        world.monitor()
    assert is_flat(world)


def test_positions_that_cannot_be_asked_for_in_the_end_mean_that_nothing_is_sure(world: World) -> None:
    world.fault("GET", "/v2/positions", "status", code=500, times=None)
    report = flatten(world)
    assert (report.done, report.ours) == (False, [])
    assert "HTTP 500" in str(report.trouble)


def test_an_entry_of_unknown_outcome_is_left_until_it_is_settled_and_then_taken_back(world: World) -> None:
    world.decide(swing(limit_price=130))
    world.fault("POST", ORDERS, "drop", executed=False)
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500, times=None)
    world.execute()
    report = flatten(world)
    assert (left(report), report.done) == ([("NVDA", 45)], False)
    assert report.ours[0].why == "nobody knows yet whether the broker has it"
    world.market.faults.clear()
    assert flatten(world, switched=True).done
    assert (live_entries(world), world.one("trade_journal")["status"]) == ([], "CANCELLED")


def test_flattening_without_anything_to_close_says_so_and_sends_nothing(world: World) -> None:
    report = flatten(world)
    assert (report.done, report.ours, report.foreign) == (True, [], [])
    assert world.requests("POST") == []
    world.decide(swing())
    assert world.execute() == {"held back": 1}


def test_a_stop_that_fills_while_everything_is_closed_is_not_sold_again(world: World) -> None:
    world.open_position(trend())
    world.market.behave(cancel_loses_to_fill=True)
    report = flatten(world)
    assert report.done
    never_short(world)
    assert is_flat(world)


def test_shares_that_somebody_closed_by_hand_are_not_sold_a_second_time(world: World) -> None:
    world.open_position(trend())
    world.market.foreign_close("NVDA")
    report = flatten(world)
    assert (report.done, left(report)) == (False, [("NVDA", 45)])
    assert "the broker has 0" in report.ours[0].why
    assert world.market.state.shares("NVDA") == 0
    world.value()
    assert flatten(world, switched=True).done


@pytest.mark.parametrize("state", ["ACTIVE", "HALTED", "REDUCING"])
def test_a_flatten_that_is_called_off_leaves_what_remains_under_its_exits(world: World, state: str) -> None:
    world.open_position()
    refuse(world, MARKET, 100)
    assert left(flatten(world)) == [("NVDA", 45)]
    world.market.faults.clear()
    switch(world, state)
    world.monitor()
    assert (exits(world), world.one("trade_journal")["status"]) == ([45], "POSITION")
    assert world.one("alerts", kind="not_flattened")["resolved_at"] is not None
    assert stays_as_it_is(world)


def test_a_scheduled_pass_in_the_middle_works_with_the_flatten_and_places_no_exit_against_it(world: World) -> None:
    world.open_position()

    class Interrupted(Broker):
        def send(self, request: Any) -> Any:
            reply = super().send(request)
            if not passes and request.method == "DELETE":
                passes.append(1)
                world.monitor()
            return reply

    passes: list[int] = []
    report = flatten(world, Interrupted(world.settings.alpaca, clock=world.clock))
    assert passes
    assert report.done
    assert is_flat(world)
    never_short(world)


def moments(world: World, database: dict[str, Any], last: int) -> bool:
    """Flatten until the process dies at a moment; True when it came through."""
    mortal = Mortal(last)
    with MortalDB(config=database) as db:
        db.mortal = mortal
        broker = MortalBroker(world)
        broker.mortal = mortal
        try:
            flatten_with(world, db, broker)
        except Killed:
            return False
    return True


def flatten_with(world: World, db: TradingDB, broker: Broker) -> None:
    """The command's passes on another connection and line."""
    clock = SharedClock(world)
    world.clock = clock
    Flattening(build_parts(db=db, broker=broker, clock=clock, settings=world.settings)).run()


@pytest.mark.parametrize(("again", "decision"), [("flatten", swing()), ("monitor", trend()), ("called off", swing())])
@pytest.mark.parametrize("last", range(19))
@pytest.mark.no_cover
def test_a_flatten_killed_anywhere_is_finished_or_called_off_without_a_share_sold_twice(
    world: World, database: dict[str, Any], decision: dict[str, Any], again: str, last: int,
) -> None:
    world.open_position(decision)
    switch(world, "HALTED", flatten=True)
    if moments(world, database, last):
        assert is_flat(world)
        return
    if again == "called off":
        switch(world, "HALTED")
    for _ in range(4):
        world.pass_time(minutes=1)
        if again == "flatten":
            flatten(world, switched=True)
        else:
            world.monitor()
    never_short(world)
    if again == "called off" and not is_flat(world):
        assert (exits(world), world.market.state.shares("NVDA")) == ([45], 45)
    else:
        assert (is_flat(world), sold(world)) == (True, 45)
        assert world.one("trade_journal")["exit_reason"] == "MANUAL_EXIT"
    assert stays_as_it_is(world)


def test_a_database_that_is_lost_ends_the_command_with_its_error(world: World, database: dict[str, Any]) -> None:
    world.open_position()
    switch(world, "HALTED", flatten=True)

    class Lost(TradingDB):
        def execute_query(self, *arguments: Any) -> Any:
            raise DatabaseError("the server went away", lost_connection=True)

    broker = Broker(world.settings.alpaca, clock=world.clock)
    with pytest.raises(DatabaseError, match="went away"):
        flatten_with(world, Lost(config=database), broker)
