"""Strategies end to end: what was disclosed becomes decisions first and orders then, once, strongest first."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from db_layer import DatabaseError
from strategies import run as strategy_run
from strategies.written import write_plan
from tests.flow.disclosing import agree, decisions, disclose, ingest, priced, run, strategy, text_of
from tests.flow.stopping import switch
from tests.flow.world import START, Killed, LineGoesDown, World

NO_POWER = {"code": 40310000, "message": "insufficient buying power"}


def test_members_who_agree_become_a_decision_and_an_order_with_a_stop_from_the_recent_range(world: World) -> None:
    at = START - timedelta(hours=2)
    run_id = ingest(world.db, at)
    ingest(world.db, at + timedelta(minutes=5), "insider_daily")
    ids = agree(world.db, at, data_ingestion_run_id=run_id)
    priced(world)
    plan, results = run(world)
    assert (len(plan.planned), results) == (1, {"placed": 1})
    (decision,) = decisions(world)
    assert (decision["strategy_name"], decision["strategy_version"]) == ("congressional", "1.0.0")
    assert (decision["status"], decision["analysis_decision_id"]) == ("pending", None)
    assert (decision["primary_ingestion_run_id"], decision["primary_quiver_trade_id"]) == (run_id, ids[0])
    trade = text_of(decision)["new_trade"]
    assert trade["limit_price"] == Decimal("135.67")  # half a per cent above the last price
    assert trade["stop_loss"]["stop_price"] == Decimal("128")  # the low of twenty sessions
    assert trade["take_profit"]["limit_price"] == Decimal("151.01")
    (order,) = world.posted()
    assert (order["symbol"], order["side"], Decimal(order["qty"])) == ("NVDA", "buy", decision["quantity"])
    assert Decimal(order["limit_price"]) == decision["limit_price"] == Decimal("135.67")
    noted = world.db.query("trade_decision_disclosures")
    assert sorted(row["quiver_trade_id"] for row in noted) == ids
    assert {row["trade_decision_id"] for row in noted} == {decision["id"]}
    why = decision["decision_rationale"]
    assert why["trigger_event"]["quiver_trade_id"] == ids[0]
    known = [found["task_name"] for found in why["data_lineage"]["ingestion_runs"]]
    assert known == ["insider_daily", "congress_daily"]


def test_a_second_run_on_the_same_data_decides_and_orders_nothing(world: World) -> None:
    agree(world.db, START)
    priced(world)
    run(world)
    world.monitor()
    for _ in range(2):
        plan, results = run(world)
        assert (plan.planned, plan.skipped, results) == ((), (), {})
    assert (len(decisions(world)), len(world.posted())) == (1, 2)  # the entry, and its exits as one order


def test_the_strongest_go_first_and_one_that_fails_does_not_stop_the_others(world: World) -> None:
    for symbol, members in (("WEAK", 2), ("BAD", 3), ("BEST", 4)):
        agree(world.db, START, symbol, members)
        priced(world, symbol)
    world.fault("POST", "/v2/orders", "status", code=403, body=NO_POWER, skip=1)
    _, results = run(world)
    assert [order["symbol"] for order in world.posted()] == ["BEST", "BAD", "WEAK"]
    assert results == {"placed": 2, "refused": 1}
    assert [(row["symbol"], row["status"]) for row in decisions(world)] == [
        ("BEST", "pending"), ("BAD", "failed"), ("WEAK", "pending"),
    ]
    run(world)
    assert len(world.posted()) == 3


def test_every_decision_of_a_run_is_committed_before_the_first_order_leaves(
    world: World, monkeypatch: pytest.MonkeyPatch,
) -> None:
    for symbol in ("AAA", "BBB", "CCC"):
        agree(world.db, START, symbol)
        priced(world, symbol)

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(strategy_run.OrderExecutor, "run", killed)
        with pytest.raises(Killed):
            run(world)
    assert [row["status"] for row in decisions(world)] == ["pending"] * 3
    assert world.posted() == []
    plan, results = run(world)  # the next run decides nothing anew and carries out what was left
    assert (list(plan.planned), results) == ([], {"placed": 3})
    assert (len(decisions(world)), len(world.posted())) == (3, 3)


def test_what_waits_too_long_is_refused_by_its_age(world: World) -> None:
    agree(world.db, START)
    priced(world)
    switch(world, "HALTED")
    assert run(world)[1] == {"held back": 1}
    world.pass_time(hours=97)
    switch(world, "ACTIVE")
    assert run(world)[1] == {"refused": 1}
    (decision,) = decisions(world)
    assert (decision["status"], world.posted()) == ("failed", [])
    assert "hours old; DECISION_MAX_AGE_HOURS=96" in decision["status_reason"]


@pytest.mark.parametrize("following", [lambda world: run(world)[1], World.execute], ids=["its own", "the executor's"])
def test_an_order_that_never_left_is_sent_by_the_next_pass_under_the_same_id(world: World, following: Any) -> None:
    agree(world.db, START)
    priced(world)
    assert run(world, door=LineGoesDown)[1] == {"not sent": 1}
    name = world.one("order_execution")["client_order_id"]
    assert following(world) == {"placed": 1}
    assert [order["client_order_id"] for order in world.posted()] == [name]


def test_the_executor_of_the_rows_leaves_a_strategys_decisions_alone(world: World) -> None:
    agree(world.db, START)
    priced(world)
    switch(world, "HALTED")
    run(world)
    switch(world, "ACTIVE")
    assert world.execute() == {}
    assert [row["status"] for row in decisions(world)] == ["pending"]
    assert world.posted() == []


def test_plan_only_writes_and_sends_nothing(world: World) -> None:
    agree(world.db, START)
    priced(world)
    asked = len(world.db.query("api_call_logs"))
    plan, waiting = strategy(world).preview()
    assert ([found.signal.symbol for found in plan.planned], waiting) == (["NVDA"], [])
    assert (decisions(world), world.posted(), len(world.db.query("api_call_logs"))) == ([], [], asked)
    switch(world, "HALTED")
    run(world)
    plan, waiting = strategy(world).preview()
    assert list(plan.planned) == []
    assert waiting[0].startswith("NVDA: buy ")
    assert "would be held back" in waiting[0]


def _blocked(world: World) -> None:
    world.db.insert("blocked_assets", {
        "symbol": "NVDA", "reason": "earnings", "blocked_at": START, "expires_at": START + timedelta(days=7),
    })


def _no_place(world: World) -> None:
    world.configure(MAX_OPEN_POSITIONS="1")
    world.price("AMD", "100")
    world.market.foreign_fill("AMD", "buy", "1")


SKIPPED = {
    "blocked": (_blocked, "blocked: earnings (until 2025-01-22)"),
    "not tradable": (lambda world: world.market.define_asset("NVDA", tradable=False), "it cannot be traded at the bro"),
    "denied": (lambda world: world.configure(SYMBOL_DENYLIST="NVDA"), "it is on SYMBOL_DENYLIST"),
    "held": (lambda world: world.market.foreign_fill("NVDA", "buy", "10"), "dollars are held or ordered in it already"),
    "too dear": (lambda world: world.configure(MAX_ORDER_NOTIONAL="100"), "not one share at 135.67 fits: MAX_ORDER_"),
    "no place": (_no_place, "MAX_OPEN_POSITIONS=1 is reached"),
    "no money": (lambda world: world.market.set_account(cash="0"), "not one share at 135.67 fits: "),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_what_cannot_be_bought_now_is_left_alone_with_a_reason_and_not_decided(world: World, case: str) -> None:
    hinder, words = SKIPPED[case]
    agree(world.db, START)
    priced(world)
    hinder(world)
    plan, results = run(world)
    (skipped,) = plan.skipped
    assert words in skipped.reason
    assert (list(plan.planned), results, decisions(world), world.posted()) == ([], {}, [], [])


def test_a_symbol_the_broker_does_not_trade_is_blocked_for_a_week_and_not_asked_about(world: World) -> None:
    agree(world.db, START)
    priced(world)
    world.market.define_asset("NVDA", status="inactive", tradable=False)
    for _ in range(2):
        run(world)
    blocked = world.one("blocked_assets")
    assert (blocked["symbol"], blocked["expires_at"]) == ("NVDA", START + timedelta(days=7))
    assert len(world.requests("GET", "/v2/assets/NVDA")) == 1
    world.market.define_asset("NVDA", status="active", tradable=True)
    world.pass_time(days=7)
    assert run(world)[1] == {"placed": 1}


def test_a_symbol_without_a_price_or_worth_cents_is_left_alone_and_one_without_a_past_is_not(world: World) -> None:
    for symbol, price in (("YOUNG", "20"), ("PENNY", "0.99"), ("MUTE", None)):
        agree(world.db, START, symbol)
        world.market.define_asset(symbol)
        if price:
            world.price(symbol, price)
    plan, results = run(world)
    assert {found.signal.symbol: found.reason for found in plan.skipped} == {
        "MUTE": "the broker has no price for it", "PENNY": "it trades at 0.99, below 1 dollar",
    }
    (planned,) = plan.planned
    assert (planned.trade.stop_price, results) == (Decimal("18.49"), {"placed": 1})


def test_without_the_brokers_answer_nothing_is_decided(world: World) -> None:
    agree(world.db, START)
    priced(world)
    for path in ("/v2/stocks/bars", "/v2/account", "/v2/positions"):
        world.fault("GET", path, "status", code=500)
        with pytest.raises(Exception, match=path):
            run(world)
    assert decisions(world) == []
    assert run(world)[1] == {"placed": 1}


def test_a_later_disclosure_counts_alone(world: World) -> None:
    agree(world.db, START, members=3)
    priced(world)
    run(world)
    world.monitor()
    world.price("NVDA", "152")
    world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "TARGET_HIT"
    disclose(world.db, world.clock.now(), person_id="E000999", amount_low=1001)
    assert run(world)[0].planned == ()


def test_the_database_refuses_to_decide_on_a_disclosure_twice(world: World) -> None:
    agree(world.db, START)
    priced(world)
    plan, _ = strategy(world).preview()
    for expected in (nullcontext(), pytest.raises(DatabaseError, match="trade_decision_disclosures")):
        with expected, world.programs.transaction():
            write_plan(world.programs, plan, START)
    assert len(decisions(world)) == 1


def test_insiders_are_another_strategy_on_the_same_machinery(world: World) -> None:
    at = START - timedelta(hours=1)
    day = (START - timedelta(days=2)).date()
    for number, role in enumerate(("is_officer", "is_director", "is_ten_percent_owner")):
        disclose(world.db, at, person_id=None, person_name=f"INSIDER {number}", source="quiverquant_insider",
                 amount_low=None, shares=2000, price=130, transaction_date=day, disclosure_date=day, **{role: True})
    priced(world)
    assert run(world, "congressional")[0].planned == ()
    plan, results = run(world, "insider")
    assert (plan.planned[0].signal.people, results) == (["INSIDER 0", "INSIDER 1"], {"placed": 1})
    assert decisions(world)[0]["strategy_name"] == "insider"


@pytest.mark.parametrize("symbol", ["../account", "A?b=c", None])
def test_a_symbol_that_nobody_could_trade_keeps_no_other_from_being_bought(world: World, symbol: str | None) -> None:
    agree(world.db, START)
    agree(world.db, START, symbol=symbol)  # past the program that fetches disclosures
    priced(world)
    _, results = run(world)
    assert results == {"placed": 1}
