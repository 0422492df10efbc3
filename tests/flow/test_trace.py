"""What the audit trail answers about one trade."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from audit_trail import Operation, create_decision, log_data_ingestion
from audit_trail.trace import chain, chains, find_decisions
from tests.bench.samples import decision as bench_decision
from tests.db.ledger import Ledger
from tests.flow.changes import amend, cancel, in_order, placed, point
from tests.flow.world import World, swing, trend


def close_by_hand(world: World, price: Decimal) -> None:
    """What a person does in the broker's app: give up the orders on the shares, then sell them."""
    for order in list(world.market.state.live.values()):
        world.market.cancel(order.id)
    world.market.foreign_fill("NVDA", "sell", Decimal(45), price)
    world.value()


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


def test_the_chain_of_a_cancel_shows_its_order_and_what_the_broker_was_asked(world: World) -> None:
    entry = placed(world)
    point(world, cancel(), entry["alpaca_order_id"])
    world.execute()
    rows = chain(world.db, world.one("trade_decisions", action="cancel")["id"])
    found = {row["event"]: row for row in rows}
    assert found["about"]["what"] == f"the ENTRY of {world.one('trade_journal')['trade_id']}"
    assert entry["alpaca_order_id"] in found["about"]["detail"]
    assert found["cancel asked for"]["detail"].startswith("HTTP 204, ")
    events = [row["event"] for row in rows]
    assert events[:2] == ["decided", "about"]
    assert events.index("cancel asked for") < events.index("decision executed")


def test_the_chain_of_an_amend_shows_the_old_order_before_the_new_one(world: World) -> None:
    entry = placed(world)
    point(world, amend(), entry["alpaca_order_id"])
    world.execute()
    old, new = in_order(world, "trade_journal")
    rows = chain(world.db, new["trade_decision_id"])
    events = [row["event"] for row in rows]
    assert rows[events.index("about")]["what"] == f"the ENTRY of {old['trade_id']}"
    assert events.index("cancel asked for") < events.index("said")


def test_a_trade_that_came_to_nothing_has_no_profit_in_its_chain(world: World) -> None:
    entry = placed(world)
    point(world, cancel(), entry["alpaca_order_id"])
    world.execute()
    last = chain(world.db, entry["trade_decision_id"])[-1]
    assert (last["event"], last["what"]) == ("trade cancelled", "CANCELLED")


def test_the_chain_of_a_trade_closed_by_hand_shows_what_closed_it(world: World) -> None:
    name = world.open_position(swing())
    decision_id = world.one("trade_decisions", analysis_decision_id=name)["id"]
    close_by_hand(world, Decimal(134))
    (change,) = [row for row in chain(world.db, decision_id) if row["event"] == "adjusted"]
    assert change["what"] == "MANUAL_EXIT sell 45 at 134"
    assert change["detail"] == f"evidence {world.one('position_adjustment')['evidence_id']}"


def test_the_end_of_a_trade_is_logged_with_its_profit_in_plain_digits(
    world: World, caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "trade_book")
    world.open_position(swing())
    close_by_hand(world, world.one("trade_journal")["actual_entry"])
    placed(world, swing(limit_price=130))
    world.pass_time(hours=9)
    world.monitor()
    assert [vars(line)["pnl"] for line in caplog.records if line.getMessage() == "trade over"] == ["0", "-"]


def test_the_chain_of_a_decision_begins_with_what_was_known(world: World) -> None:
    ledger = Ledger(world.db)
    now = world.clock.now()
    run = ledger.run(now - timedelta(hours=3))
    disclosed = ledger.disclosed(run, now - timedelta(hours=3))
    decision = create_decision(world.db, replace(bench_decision("A1"), primary_quiver_trade_id=disclosed), now)
    rows = chain(world.db, decision)
    assert [row["event"] for row in rows] == ["known", "known", "decided"]
    assert "Nancy Example buy NVDA" in rows[0]["what"]
    run_id = world.one("data_ingestion_runs")["run_id"]
    assert [run_id in row["detail"] for row in rows] == [True, True, False]


def test_a_run_is_found_by_its_id_with_its_calls_and_what_rests_on_it(world: World) -> None:
    with log_data_ingestion("congress_daily", "quiverquant_congress", world.db, world.clock) as run:
        run.log_call("/beta/live", {}, 200, {}, "[1]", 7)
        run.log_records("quiver_trades", {Operation.CREATED: [1, 2], Operation.SKIPPED: [3]})
        world.clock.sleep(60)
    create_decision(world.db, bench_decision("A1"), world.clock.now())
    (rows,) = chains(world.db, run.run_id, payloads=True)
    assert [(row["event"], row["what"]) for row in rows if row["event"] != "called"] == [
        ("run began", "congress_daily from quiverquant_congress"), ("created", "2 quiver_trades"),
        ("skipped", "1 quiver_trades"), ("run completed", "3 fetched, 2 new, 0 changed, 1 known"),
        ("decided upon it", "new_trade buy 45 NVDA"),
    ]
    (call,) = [row for row in rows if row["event"] == "called"]
    assert call["detail"].startswith("HTTP 200 after 7 ms, payloads ")
    assert ["[1]" in text for text in call["texts"].values()] == [False, True]


def test_a_trace_brings_back_the_exact_texts_when_asked(world: World) -> None:
    name = world.open_position(trend())
    (rows,) = chains(world.db, name, payloads=True)
    texts = [text for row in rows if row["event"] == "said" for text in row["texts"].values()]
    assert len(texts) == 2
    assert all('"endpoint"' in text for text in texts)
