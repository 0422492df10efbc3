"""The kill switch while passes run: nothing new is sent, what rests is cancelled, and exits go on."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from alpaca_client import Broker, Request
from environment import ConfigError
from limit_raises import RAISABLE, current_raises, limits_in_force, raise_limit
from order_executor import OrderExecutor
from tests.flow.changes import amend, cancel, live_entries, placed, point
from tests.flow.exits import exits, part, place, stays_as_it_is
from tests.flow.stopping import control_alerts, switch
from tests.flow.world import World, swing, trend

STOPPED = ["HALTED", "REDUCING"]


def executor(world: World, broker: type[Broker] = Broker, kind: type[OrderExecutor] = OrderExecutor) -> OrderExecutor:
    line = broker(world.settings.alpaca, clock=world.clock)
    return kind(db=world.programs, broker=line, clock=world.clock, settings=world.settings)


@pytest.mark.parametrize("state", STOPPED)
def test_a_switch_between_two_decisions_of_a_pass_holds_the_second_back(world: World, state: str) -> None:
    world.decide(swing(qty=10))
    second = world.decide(swing(qty=20))

    class Switched(Broker):
        def send(self, request: Request) -> Any:
            reply = super().send(request)
            switch(world, state)
            return reply

    assert {str(result): count for result, count in executor(world, Switched).run().items()} == {
        "placed": 1, "held back": 1,
    }
    assert [order["qty"] for order in world.posted()] == ["10"]
    assert world.analysis(second)["executed"] is None


@pytest.mark.parametrize("state", STOPPED)
def test_a_switch_between_the_claim_and_the_message_holds_the_order_back_until_resumed(
    world: World, state: str,
) -> None:
    world.decide(swing())

    class Claimed(OrderExecutor):
        def _submit(self, order_id: int) -> Any:
            switch(world, state)
            return super()._submit(order_id)

    executor(world, kind=Claimed).run()
    assert world.posted() == []
    for _ in range(2):
        assert world.execute().keys() == {"held back"}
    assert world.posted() == []
    switch(world, "ACTIVE")
    assert world.execute()["placed"] == 1
    assert len(world.posted()) == 1


@pytest.mark.parametrize("state", STOPPED)
def test_what_was_held_back_for_too_long_is_refused_when_trading_is_resumed(world: World, state: str) -> None:
    name = world.decide(swing())
    switch(world, state)
    world.pass_time(days=5)
    world.execute()
    assert world.analysis(name)["executed"] is None
    switch(world, "ACTIVE")
    assert world.execute() == {"refused": 1}
    assert "DECISION_MAX_AGE_HOURS" in world.analysis(name)["Remarks"]


def test_a_halt_leaves_resting_entries_and_reducing_cancels_them_and_ends_their_trades(world: World) -> None:
    placed(world)
    switch(world, "HALTED")
    world.monitor()
    assert live_entries(world) == [45]
    switch(world, "REDUCING")
    assert world.monitor()["resting entries cancelled"] == 1
    journal = world.one("trade_journal")
    assert (live_entries(world), journal["status"], journal["exit_reason"]) == ([], "CANCELLED", "CANCELLED")
    assert world.one("trade_decisions")["status"] == "cancelled"
    assert stays_as_it_is(world)


def test_reducing_leaves_positions_their_exits_and_protects_what_a_cancelled_entry_had_filled(world: World) -> None:
    world.open_position(swing(qty=10))
    place(world, swing(qty=30), filled="20")
    switch(world, "REDUCING")
    world.monitor()
    assert (exits(world), live_entries(world)) == ([10, 20], [])
    part(world, "30", "146")
    world.monitor()
    assert {row["exit_reason"] for row in world.db.query("trade_journal")} == {"TARGET_HIT"}


def test_an_entry_of_unknown_outcome_is_settled_and_then_cancelled_while_reducing(world: World) -> None:
    world.decide(swing())
    world.fault("POST", "/v2/orders", "drop", executed=True)
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500)
    assert world.execute() == {"unknown outcome": 1}
    switch(world, "REDUCING")
    world.monitor()
    assert (live_entries(world), world.one("trade_journal")["status"]) == ([], "CANCELLED")


def test_an_entry_that_the_broker_has_under_a_strange_word_is_cancelled_while_reducing(world: World) -> None:
    world.fault("*", "/v2/orders*", "edit", set={"status": "pondering"}, times=None)
    world.decide(swing())
    world.execute()
    assert world.one("order_execution")["order_status"] == "unknown"
    switch(world, "REDUCING")
    world.monitor()
    assert live_entries(world) == []
    world.market.faults.clear()
    world.monitor()
    assert world.one("trade_journal")["status"] == "CANCELLED"


def test_a_cancel_of_reducing_that_the_broker_did_not_answer_is_made_by_the_next_pass(world: World) -> None:
    placed(world)
    switch(world, "REDUCING")
    world.fault("DELETE", "/v2/orders/*", "status", code=500)
    world.monitor()
    assert live_entries(world) == [45]
    world.monitor()
    assert live_entries(world) == []


def test_an_amend_while_reducing_has_its_old_order_cancelled_and_no_new_one_sent(world: World) -> None:
    old = placed(world)
    name = point(world, amend(), old["alpaca_order_id"])
    switch(world, "REDUCING")
    world.execute()
    world.monitor()
    assert world.execute() == {"held back": 1}
    assert (live_entries(world), len(world.posted())) == ([], 1)
    switch(world, "ACTIVE")
    assert world.execute() == {"refused": 1}
    assert "already cancelled" in world.analysis(name)["Remarks"]


def test_an_amend_whose_cancel_is_under_way_sends_its_new_order_only_when_resumed(world: World) -> None:
    old = placed(world)
    point(world, amend(qty=40), old["alpaca_order_id"])

    class Switched(Broker):
        def send(self, request: Request) -> Any:
            switch(world, "REDUCING")
            return super().send(request)

    executor(world, Switched).run()
    world.monitor()
    assert (live_entries(world), len(world.posted())) == ([], 1)
    switch(world, "ACTIVE")
    world.execute()
    assert live_entries(world) == [40]


def test_a_cancel_of_an_entry_that_reducing_took_away_says_so(world: World) -> None:
    old = placed(world)
    switch(world, "REDUCING")
    world.monitor()
    name = point(world, cancel(), old["alpaca_order_id"])
    assert world.execute() == {"refused": 1}
    assert "already cancelled" in world.analysis(name)["Remarks"]


def test_each_change_is_an_alert_and_resuming_ends_those_of_older_states(world: World) -> None:
    switch(world, "HALTED")
    switch(world, "HALTED")
    assert control_alerts(world) == [("HALTED", True)]
    switch(world, "REDUCING")
    assert control_alerts(world) == [("HALTED", False), ("REDUCING", True)]
    switch(world, "ACTIVE")
    assert control_alerts(world) == [("HALTED", False), ("REDUCING", False), ("ACTIVE", False)]
    assert len(world.db.query("trading_control")) == 4


def test_a_raised_limit_lets_a_decision_pass_until_it_expires_and_is_in_its_checks(world: World) -> None:
    raise_limit(
        world.programs, world.settings.limits, "MAX_ORDER_NOTIONAL", Decimal(30000), timedelta(hours=1), "block", "me",
        world.clock.now(),
    )
    world.decide(swing(qty=151))
    assert world.execute() == {"placed": 1}
    assert world.one("risk_checks", check_name="max_order_notional")["limit_value"] == "30000"
    world.pass_time(hours=1)
    world.decide(swing(qty=151))
    words = "20203.8 dollars is over MAX_ORDER_NOTIONAL=20000; order less, or raise the limit"
    assert world.preview() == [f"A2: would be refused: {words}"]
    assert world.execute() == {"refused": 1}


def test_of_several_raises_of_a_limit_the_latest_counts(world: World) -> None:
    now, limits = world.clock.now(), world.settings.limits
    for value in ("90000", "30000.5"):
        raise_limit(world.programs, limits, "MAX_ORDER_NOTIONAL", Decimal(value), timedelta(hours=2), "r", "me", now)
    raised = limits_in_force(world.db, limits, now)
    assert raised.max_order_notional == Decimal("30000.5")
    assert raised.max_order_qty == limits.max_order_qty
    assert [change.value for change in current_raises(world.db, now)] == [Decimal("30000.5")]
    assert limits_in_force(world.db, limits, now + timedelta(hours=2)) == limits


def test_a_raise_is_taken_back_by_the_setting_and_an_older_one_never_returns(world: World) -> None:
    now, limits = world.clock.now(), world.settings.limits
    for value, hours in (("90000", 168), ("20000", 1)):
        lasting = timedelta(hours=hours)
        raise_limit(world.programs, limits, "MAX_ORDER_NOTIONAL", Decimal(value), lasting, "r", "me", now)
    for later in (0, 2):
        assert limits_in_force(world.db, limits, now + timedelta(hours=later)) == limits


def test_a_raise_never_lowers_a_limit_nor_lifts_it_beyond_ten_times_the_setting(world: World) -> None:
    now = world.clock.now()
    world.configure(MAX_ORDER_QTY="1000")
    raise_limit(world.programs, world.settings.limits, "MAX_ORDER_QTY", Decimal(10000), timedelta(1), "r", "me", now)
    for setting, in_force in (("20000", 20000), ("10", 100)):
        world.configure(MAX_ORDER_QTY=setting)
        assert limits_in_force(world.db, world.settings.limits, now).max_order_qty == in_force


@pytest.mark.parametrize(("name", "value", "hours", "words"), [
    ("MAX_ORDER_QTY", "100000.1", 1, "can be raised to at most 100000"),
    ("MAX_ORDER_QTY", "9999", 1, "can be raised to at most 100000"),
    ("MAX_ORDER_QTY", "20000.0000001", 1, "at most six decimals"),
    ("MAX_ORDER_QTY", "20000", 169, "at most 168 hours"),
    ("MAX_ORDER_QTY", "20000", 0, "more than 0"),
    ("DUPLICATE_WINDOW_MINUTES", "20", 1, "no limit that can be raised"),
    ("ALLOW_SHORT", "1", 1, "no limit that can be raised"),
    ("SYMBOL_DENYLIST", "1", 1, "no limit that can be raised"),
    ("DAYTRADE_FLATTEN_MINUTES_BEFORE_CLOSE", "1", 1, "no limit that can be raised"),
])
def test_a_raise_out_of_bounds_is_refused_with_the_bound(
    world: World, name: str, value: str, hours: int, words: str,
) -> None:
    with pytest.raises(ConfigError, match=words):
        raise_limit(
            world.programs, world.settings.limits, name, Decimal(value), timedelta(hours=hours), "r", "me",
            world.clock.now(),
        )
    assert world.db.query("limit_raises") == []


def test_every_limit_that_can_be_raised_is_a_setting(world: World) -> None:
    assert {"MAX_ORDER_NOTIONAL", "MAX_ORDER_QTY", "DECISION_MAX_AGE_HOURS"} <= RAISABLE.keys()
    world.configure(**dict.fromkeys(RAISABLE, "5"))
    assert {getattr(world.settings.limits, field) for field in RAISABLE.values()} == {5}


def test_a_raised_age_limit_also_holds_for_an_order_that_could_not_be_sent(world: World) -> None:
    world.decide(trend())
    world.execute_with_the_line_down()
    world.pass_time(hours=97)
    raise_limit(
        world.programs, world.settings.limits, "DECISION_MAX_AGE_HOURS", Decimal(120), timedelta(hours=1),
        "long weekend", "me", world.clock.now(),
    )
    assert world.execute()["placed"] == 1


@pytest.mark.parametrize(("now", "words"), [
    ({}, "6021 dollars is over MAX_ORDER_NOTIONAL=5000"),
    ({"MAX_ORDER_NOTIONAL": "20000", "SYMBOL_DENYLIST": "NVDA"}, "NVDA is on SYMBOL_DENYLIST"),
    ({"MAX_ORDER_NOTIONAL": "20000", "MAX_ORDER_QTY": "44"}, "45 shares is over MAX_ORDER_QTY=44"),
])
def test_an_order_that_could_not_be_sent_is_given_up_where_a_limit_forbids_it_by_now(
    world: World, now: dict[str, str], words: str,
) -> None:
    world.configure(MAX_ORDER_NOTIONAL="5000")
    raise_limit(
        world.programs, world.settings.limits, "MAX_ORDER_NOTIONAL", Decimal(7000), timedelta(hours=1), "for an hour",
        "me", world.clock.now(),
    )
    name = world.decide(swing())
    assert world.execute_with_the_line_down() == {"not sent": 1}
    world.pass_time(hours=2)
    world.configure(**{"MAX_ORDER_NOTIONAL": "5000"} | now)
    assert world.execute() == {"refused": 1}
    assert words in world.analysis(name)["Remarks"]
    assert world.posted() == []
