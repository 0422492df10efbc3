"""Rows of analysis_decision that are locked, guarded, corrected or odd: each is answered, and none harms another."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flow.exits import live_exits
from tests.flow.world import World, swing, trend

REFUSER = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'this row is guarded'; END $$;
CREATE TRIGGER guarded BEFORE UPDATE ON analysis_decision FOR EACH ROW
    WHEN (OLD."Analysis_Id" = 'GUARDED') EXECUTE FUNCTION refuse();
"""
MARKS = {
    "corrected after a refusal": ("GUARDED", """UPDATE analysis_decision SET "Remarks" = 'REJECTED: old' """),
    "an empty order id in the row": ("GUARDED", "UPDATE analysis_decision SET existing_order_id = ''"),
}


def test_a_guarded_row_keeps_its_order_followed_and_protected(world: World) -> None:
    world.db.execute_update(REFUSER)
    world.decide(swing(), name="GUARDED")
    assert world.execute() == {"placed": 1}
    assert world.one("alerts")["kind"] == "decision_row_not_marked"
    world.price("NVDA", "133.50")
    world.monitor()
    assert live_exits(world) == [45, 45]


def test_a_mark_that_failed_is_made_by_a_later_pass(world: World) -> None:
    world.db.execute_update(REFUSER)
    good, bad = world.decide(swing(), name="GUARDED"), world.decide(swing(qty=-1), name="FREE")
    world.execute()
    assert (world.analysis(good)["executed"], world.analysis(bad)["executed"]) == (None, True)
    world.db.execute_update("DROP TRIGGER guarded ON analysis_decision")
    assert world.execute() == {"marked again": 1}
    assert world.analysis(good)["existing_order_id"] == world.one("order_execution")["alpaca_order_id"]
    assert world.one("alerts")["resolved_at"] is not None
    assert len(world.posted()) == 1


def test_a_guarded_malformed_row_does_not_stop_the_one_behind_it(world: World) -> None:
    world.db.execute_update(REFUSER)
    world.decide(swing(qty=-1), name="GUARDED")
    world.decide(swing())
    assert world.execute() == {"refused": 1, "placed": 1}
    assert world.execute() == {"marked again": 1}
    assert len(world.db.query("trade_decisions", {"status": "failed"})) == 1


def test_remarks_that_are_nearly_full_make_room_for_the_refusal(world: World) -> None:
    world.db.execute_update('ALTER TABLE analysis_decision ALTER "Remarks" TYPE varchar(255)')
    name = world.decide(swing(qty=-1))
    world.db.execute_update('UPDATE analysis_decision SET "Remarks" = repeat(%s, 220)', ["x"])
    assert world.execute() == {"refused": 1}
    remarks = world.analysis(name)["Remarks"]
    assert remarks.startswith("REJECTED: qty must be")
    assert len(remarks) == 255


def test_an_analysis_id_that_is_too_long_is_refused(world: World) -> None:
    world.db.execute_update('ALTER TABLE analysis_decision ALTER "Analysis_Id" TYPE text')
    world.decide(swing(), name="x" * 300)
    world.decide(swing())
    assert world.execute() == {"refused": 1, "placed": 1}


def test_a_refused_row_that_was_corrected_is_taken_up_again(world: World) -> None:
    name = world.decide(swing(qty=-1))
    world.execute()
    corrected = 'UPDATE analysis_decision SET executed = false, "Decision" = replace("Decision", %s, %s)'
    world.db.execute_update(corrected, ['"qty": -1', '"qty": 5'])
    assert world.execute() == {"placed": 1}
    assert [decision["status"] for decision in world.db.query("trade_decisions")] == ["failed", "pending"]
    assert world.analysis(name)["existing_order_id"] is not None


def test_a_duplicate_leaves_a_failed_decision_in_the_audit_trail(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.db.execute_update("UPDATE analysis_decision SET executed = false")
    world.execute()
    failed = world.one("trade_decisions", status="failed")
    assert failed["status_reason"].startswith("duplicate: ")


def test_a_decision_whose_approval_was_withdrawn_while_the_line_was_down_is_not_sent(world: World) -> None:
    world.decide(swing())
    world.execute_with_the_line_down()
    world.db.execute_update('UPDATE analysis_decision SET "Approve" = false')
    world.execute()
    assert world.posted() == []
    assert world.one("trade_decisions")["status"] == "cancelled"


def test_a_secret_that_the_broker_echoes_with_escaped_slashes_is_not_kept(world: World) -> None:
    world.configure(ALPACA_SECRET_KEY="abc/def/canary")
    world.fault("POST", "/v2/orders", "status", code=403, body='{"message": "bad abc\\/def\\/canary"}')
    name = world.decide(swing())
    world.execute()
    assert "canary" not in str(world.analysis(name))
    assert "canary" not in str(world.db.query("trade_executions")) + str(world.db.query("api_payloads"))


def test_words_of_the_broker_that_cannot_be_stored_do_not_lose_the_refusal(world: World) -> None:
    world.fault("POST", "/v2/orders", "status", code=403, body='{"message": "no\\u0000 \\ud800 way"}')
    name = world.decide(swing())
    assert world.execute() == {"refused": 1}
    assert "way" in world.analysis(name)["Remarks"]


def test_a_market_order_that_waits_for_prices_grows_too_old(world: World) -> None:
    world.decide(trend(type="market"))
    world.pass_time(days=5)
    world.fault("GET", "/v2/stocks/trades/latest", "status", code=500)
    assert world.execute() == {"refused": 1}


@pytest.mark.parametrize("kind", MARKS)
def test_an_order_whose_mark_fails_is_no_duplicate_of_itself(world: World, kind: str) -> None:
    name = world.decide(swing(), name=MARKS[kind][0])
    world.db.execute_update(MARKS[kind][1])
    world.db.execute_update(REFUSER)
    assert world.execute() == {"placed": 1}
    for _ in range(2):
        assert world.execute() == {"marked again": 1}
    assert len(world.db.query("trade_decisions")) == 1
    world.db.execute_update("DROP TRIGGER guarded ON analysis_decision")
    world.execute()
    assert world.analysis(name)["existing_order_id"] == world.one("order_execution")["alpaca_order_id"]


def test_a_corrected_row_is_judged_anew_also_when_its_remarks_were_cleared(world: World) -> None:
    name = world.decide(swing(qty=-1))
    world.execute()
    world.db.execute_update(
        'UPDATE analysis_decision SET executed = false, "Remarks" = NULL, "Decision" = replace("Decision", %s, %s)',
        ['"qty": -1', '"qty": 5'],
    )
    assert world.execute() == {"placed": 1}
    assert world.analysis(name)["Remarks"] is None


@pytest.mark.parametrize("decision", [swing(), swing(qty=-1)])
def test_a_refusal_whose_mark_fails_is_written_once(world: World, decision: dict[str, Any]) -> None:
    world.db.execute_update("ALTER TABLE analysis_decision DROP CONSTRAINT analysis_decision_pkey")
    world.db.execute_update("ALTER TABLE analysis_decision ADD id serial PRIMARY KEY")
    world.decide(swing(), name="GUARDED")
    world.execute()
    world.db.execute_update(REFUSER)
    world.decide(decision, name="GUARDED")
    for _ in range(3):
        world.execute()
    assert len(world.db.query("trade_decisions")) == 2
    assert len(world.posted()) == 1


def test_an_approval_that_is_given_again_too_late_is_answered(world: World) -> None:
    name = world.decide(swing())
    world.execute_with_the_line_down()
    world.db.execute_update('UPDATE analysis_decision SET "Approve" = false')
    world.execute()
    assert world.analysis(name)["Remarks"] is None
    world.db.execute_update('UPDATE analysis_decision SET "Approve" = true')
    world.execute()
    assert "REJECTED: the approval was withdrawn" in world.analysis(name)["Remarks"]
    assert world.execute() == {}


def test_a_refused_row_that_was_cleared_is_judged_by_the_limits_of_now(world: World) -> None:
    name = world.decide(swing(qty=150))
    assert world.execute() == {"refused": 1}
    world.configure(MAX_ORDER_NOTIONAL="30000")
    world.db.execute_update('UPDATE analysis_decision SET executed = false, "Remarks" = NULL')
    assert world.execute() == {"placed": 1}
    assert world.analysis(name)["Remarks"] is None
