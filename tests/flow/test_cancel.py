"""What the executor does with decisions to cancel."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from alpaca_client import Broker, Reply, Request
from order_executor import OrderExecutor
from tests.flow.changes import (
    Watched,
    amend,
    books,
    cancel,
    deleted,
    halt,
    in_order,
    live_entries,
    partly_filled,
    placed,
    point,
    reuse,
    two_executors,
)
from tests.flow.world import START, Killed, SharedClock, World, executor, swing, trend

REFUSER = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'this row is guarded'; END $$;
CREATE TRIGGER guarded BEFORE UPDATE ON analysis_decision FOR EACH ROW
    WHEN (OLD."Analysis_Id" = 'GUARDED' AND NEW.executed) EXECUTE FUNCTION refuse();
"""


@pytest.mark.parametrize("by", ["order", "journal", "both"])
def test_a_working_entry_is_cancelled_by_its_order_or_its_journal(world: World, by: str) -> None:
    entry = placed(world)
    name = point(
        world, cancel(), entry["alpaca_order_id"] if by != "journal" else None,
        entry["trade_journal_id"] if by != "order" else None,
    )
    assert world.execute() == {"cancelled": 1}
    assert live_entries(world) == []
    row, journal = world.analysis(name), world.one("trade_journal")
    assert (row["executed"], row["Remarks"]) == (True, None)
    assert row["execution_time"] == START.replace(tzinfo=None)
    assert (row["existing_order_id"], row["existing_trade_journal_id"]) == (entry["alpaca_order_id"], journal["id"])
    assert (journal["status"], journal["exit_reason"]) == ("CANCELLED", "CANCELLED")
    assert world.one("order_execution")["order_status"] == "cancelled"


def test_a_cancel_is_executed_and_the_decision_it_takes_back_is_cancelled(world: World) -> None:
    entry = placed(world)
    point(world, cancel(), entry["alpaca_order_id"])
    world.execute()
    first, second = in_order(world, "trade_decisions")
    assert (first["status"], first["status_reason"]) == ("cancelled", "cancelled before any fill, as A2 decided")
    assert (second["action"], second["status"], second["target_order_id"]) == ("cancel", "executed", entry["id"])
    world.monitor()
    assert [decision["status"] for decision in in_order(world, "trade_decisions")] == ["cancelled", "executed"]


def test_a_cancel_is_executed_only_when_the_broker_confirms_it(world: World) -> None:
    entry = placed(world)
    world.clock = SharedClock(world)
    world.market.behave(cancel_delay_seconds="3")
    point(world, cancel(), entry["alpaca_order_id"])
    seen = []

    class Looking(Broker):
        def get_order(self, order_id: str) -> Any:
            seen.append(world.one("trade_decisions", action="cancel")["status"])
            return super().get_order(order_id)

    executor(world, Looking(world.settings.alpaca)).run()
    assert len(seen) > 3
    assert set(seen) == {"pending"}
    assert world.one("trade_decisions", action="cancel")["status"] == "executed"


def test_a_cancel_that_hangs_is_asked_for_once_and_taken_up_again(world: World) -> None:
    entry = placed(world)
    world.market.behave(cancel_hang=True)
    name = point(world, cancel(), entry["alpaca_order_id"])
    assert world.execute() == {"waiting": 1}
    assert world.analysis(name)["executed"] is None
    before = books(world)
    assert world.execute() == {"waiting": 1}
    assert books(world) == before
    assert deleted(world) == 1
    world.market.behave(cancel_hang=False)
    assert world.execute() == {"cancelled": 1}
    assert deleted(world) == 1
    assert world.analysis(name)["executed"] is True


def test_a_cancel_that_loses_to_a_fill_is_failed_and_the_position_protected(world: World) -> None:
    entry = placed(world)
    world.market.behave(cancel_loses_to_fill=True)
    name = point(world, cancel(), entry["alpaca_order_id"])
    assert world.execute() == {"refused": 1}
    assert "could not be cancelled: it is already filled" in world.analysis(name)["Remarks"]
    assert world.one("trade_decisions", action="cancel")["status"] == "failed"
    world.monitor()
    assert world.one("trade_journal")["status"] == "POSITION"
    assert world.one("trade_decisions", action="new_trade")["status"] == "executed"
    assert world.one("position_tracking")["stop_loss_order_id"] is not None


def test_what_was_filled_before_a_cancel_stays_a_position(world: World) -> None:
    entry = partly_filled(world)
    name = point(world, cancel(), entry["alpaca_order_id"])
    assert world.execute() == {"cancelled": 1}
    decision = world.one("trade_decisions", action="cancel")
    assert (decision["status"], decision["status_reason"]) == ("executed", "20 of 45 shares were filled before")
    assert world.analysis(name)["Remarks"] is None
    assert world.one("trade_journal")["status"] == "ORDERED"
    world.monitor()
    assert world.one("trade_journal")["status"] == "POSITION"
    assert world.one("position_tracking")["qty"] == 20
    assert [order.qty for order in world.market.state.live.values()] == [20, 20]


def test_an_entry_that_was_never_sent_is_cancelled_in_our_books_alone(world: World) -> None:
    first = world.decide(swing())
    world.execute_with_the_line_down()
    halt(world)
    name = point(world, cancel(), journal_id=world.one("trade_journal")["id"])
    assert world.execute() == {"held back": 1, "cancelled": 1}
    assert (world.posted(), deleted(world)) == ([], 0)
    assert world.one("trade_journal")["exit_reason"] == "CANCELLED"
    assert world.analysis(name)["executed"] is True
    halt(world, "ACTIVE")
    world.execute()
    assert world.posted() == []
    assert world.one("trade_decisions", analysis_decision_id=first)["status"] == "cancelled"


def test_an_entry_of_unknown_outcome_is_cancelled_once_it_is_found(world: World) -> None:
    world.fault("POST", "/v2/orders", "drop", executed=True)
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500, times=2)
    world.decide(swing())
    assert world.execute() == {"unknown outcome": 1}
    name = point(world, cancel(), journal_id=world.one("trade_journal")["id"])
    world.fault("GET", "/v2/orders", "status", code=500)
    assert world.execute() == {"waiting": 1, "broker did not answer": 1}
    assert world.one("trade_decisions")["action"] == "new_trade"
    assert world.execute() == {"cancelled": 1}
    assert live_entries(world) == []
    assert world.analysis(name)["executed"] is True


@pytest.mark.parametrize("state", ["HALTED", "REDUCING"])
def test_a_cancel_goes_through_whatever_the_kill_switch_says(world: World, state: str) -> None:
    entry = placed(world)
    halt(world, state)
    point(world, cancel(), entry["alpaca_order_id"])
    assert world.execute() == {"cancelled": 1}
    assert live_entries(world) == []


def test_a_cancel_that_is_too_old_is_refused(world: World) -> None:
    entry = placed(world, swing(time_in_force="gtc"))
    world.pass_time(days=5)
    name = point(world, cancel(), entry["alpaca_order_id"], at=START)
    assert world.execute() == {"refused": 1}
    assert "DECISION_MAX_AGE_HOURS" in world.analysis(name)["Remarks"]
    assert live_entries(world) == [45]


def test_the_row_of_an_order_can_be_turned_into_its_cancel(world: World) -> None:
    entry = placed(world)
    name = entry["analysis_decision_id"]
    reuse(world, name, cancel())
    assert world.execute() == {"cancelled": 1}
    row = world.analysis(name)
    assert (row["executed"], row["existing_order_id"]) == (True, entry["alpaca_order_id"])
    assert [decision["action"] for decision in in_order(world, "trade_decisions")] == ["new_trade", "cancel"]


def test_a_carried_out_cancel_set_back_to_unexecuted_is_only_marked_again(world: World) -> None:
    entry = placed(world)
    name = point(world, cancel(), entry["alpaca_order_id"])
    world.execute()
    world.db.execute_update('UPDATE analysis_decision SET executed = false WHERE "Analysis_Id" = %s', [name])
    decisions = in_order(world, "trade_decisions")
    assert world.execute() == {"marked again": 1}
    assert world.analysis(name)["executed"] is True
    assert world.analysis(name)["Remarks"] is None
    assert (in_order(world, "trade_decisions"), deleted(world)) == (decisions, 1)


def test_a_cancel_whose_mark_fails_is_marked_by_a_later_pass(world: World) -> None:
    entry = placed(world)
    world.db.execute_update(REFUSER)
    point(world, cancel(), entry["alpaca_order_id"], name="GUARDED")
    assert world.execute() == {"cancelled": 1}
    assert world.one("alerts")["kind"] == "decision_row_not_marked"
    assert world.execute() == {"marked again": 1}
    world.db.execute_update("DROP TRIGGER guarded ON analysis_decision")
    assert world.execute() == {"marked again": 1}
    assert world.analysis("GUARDED")["executed"] is True
    assert world.one("alerts")["resolved_at"] is not None
    assert deleted(world) == 1


def test_a_row_that_cancelled_one_order_can_cancel_another(world: World) -> None:
    first, second = placed(world), placed(world, swing(qty=10))
    name = point(world, cancel(), first["alpaca_order_id"])
    world.execute()
    world.db.execute_update(
        'UPDATE analysis_decision SET executed = false, existing_order_id = %s, existing_trade_journal_id = NULL '
        'WHERE "Analysis_Id" = %s', [second["alpaca_order_id"], name],
    )
    assert world.execute() == {"cancelled": 1}
    assert live_entries(world) == []


def test_an_approval_withdrawn_before_the_cancel_was_sent_leaves_the_order_alone(world: World) -> None:
    entry = placed(world)
    point(world, cancel(), entry["alpaca_order_id"])

    class Dying(OrderExecutor):
        def handle_cancel(self, decision_id: int) -> Any:
            raise Killed

    with pytest.raises(Killed):
        Dying(db=world.programs, broker=Broker(world.settings.alpaca), clock=world.clock, settings=world.settings).run()
    world.db.execute_update('UPDATE analysis_decision SET "Approve" = false')
    assert world.execute() == {"refused": 1}
    decision = world.one("trade_decisions", action="cancel")
    assert (decision["status"], deleted(world), live_entries(world)) == ("cancelled", 0, [45])
    world.db.execute_update("""UPDATE analysis_decision SET "Approve" = true WHERE "Analysis_Id" = 'A2'""")
    assert world.execute() == {"cancelled": 1}


@pytest.mark.parametrize("before", [True, False], ids=["before it left", "after it left"])
def test_a_cancel_that_was_interrupted_goes_on_though_its_approval_is_gone(world: World, before: bool) -> None:
    entry = placed(world)
    name = point(world, cancel(), entry["alpaca_order_id"])
    _killed(world, before)
    world.db.execute_update('UPDATE analysis_decision SET "Approve" = false')
    assert world.execute() == {"cancelled": 1}
    assert live_entries(world) == []
    assert world.one("trade_decisions", analysis_decision_id=name)["status"] == "executed"
    assert world.one("trade_journal")["exit_reason"] == "CANCELLED"


def test_a_cancel_whose_line_is_down_is_sent_at_the_next_pass(world: World) -> None:
    entry = placed(world)
    point(world, cancel(), entry["alpaca_order_id"])
    assert world.execute_with_the_line_down() == {"waiting": 1}
    assert (deleted(world), live_entries(world)) == (0, [45])
    assert world.execute() == {"cancelled": 1}


def test_a_cancel_goes_on_after_the_monitor_has_ended_the_trade(world: World) -> None:
    entry = placed(world)
    point(world, cancel(), entry["alpaca_order_id"])
    _killed(world, before=False)
    world.monitor()
    assert world.one("trade_journal")["status"] == "CANCELLED"
    assert world.execute() == {"cancelled": 1}
    assert [row["status"] for row in in_order(world, "trade_decisions")] == ["cancelled", "executed"]


def test_an_order_that_expires_while_its_cancel_hangs_is_a_failed_cancel(world: World) -> None:
    entry = placed(world)
    world.market.behave(cancel_hang=True)
    name = point(world, cancel(), entry["alpaca_order_id"])
    world.execute()
    world.pass_time(hours=9)
    assert world.execute() == {"refused": 1}
    assert "could not be cancelled: it has already expired" in world.analysis(name)["Remarks"]
    world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "EXPIRED"


def test_a_broker_that_does_not_answer_about_one_order_holds_up_no_other_row(world: World) -> None:
    entry = placed(world)
    world.fault("GET", f"/v2/orders/{entry['alpaca_order_id']}", "status", code=500)
    point(world, cancel(), entry["alpaca_order_id"])
    world.decide(swing(qty=10))
    assert world.execute() == {"broker did not answer": 1, "placed": 1}
    assert world.execute() == {"cancelled": 1}


def test_a_change_that_the_broker_does_not_answer_about_when_it_goes_on_is_counted_once(world: World) -> None:
    entry = placed(world)
    point(world, cancel(), entry["alpaca_order_id"])
    world.fault("GET", f"/v2/orders/{entry['alpaca_order_id']}", "status", code=500, times=2)
    assert world.execute() == {"broker did not answer": 1}
    assert world.execute() == {"broker did not answer": 1}
    assert world.execute() == {"cancelled": 1}


def test_a_dry_run_says_that_an_unfinished_cancel_is_taken_up_again(world: World) -> None:
    entry = placed(world)
    name = point(world, cancel(), entry["alpaca_order_id"])
    _killed(world, before=False)
    assert world.preview() == [f"{name}: would be taken up again (its cancel or amend is not finished yet)"]


def test_a_cancel_that_is_done_does_not_say_that_it_is_under_way(world: World) -> None:
    entry = placed(world)
    point(world, cancel(), entry["alpaca_order_id"])
    world.execute()
    assert world.one("trade_decisions", action="cancel")["status_reason"] == "0 of 45 shares were filled before"


def test_a_cancel_whose_trade_is_gone_is_an_alert_and_holds_up_no_other_row(world: World) -> None:
    entry = placed(world)
    name = point(world, cancel(), entry["alpaca_order_id"])
    _killed(world, before=True)
    world.db.execute_update("DELETE FROM trade_journal WHERE id = %(id)s", {"id": entry["trade_journal_id"]})
    world.decide(swing(qty=10))
    assert world.execute() == {"waiting": 1, "placed": 1}
    alert = world.one("alerts", kind="decision_left_alone")
    assert alert["message"].endswith(f"the trade with the journal id {entry['trade_journal_id']} is gone")
    assert alert["subject"] == name


@pytest.mark.usefixtures("without_turns")
def test_two_executors_at_once_carry_a_cancel_out_once(world: World, database: dict[str, Any]) -> None:
    entry = placed(world, trend())
    name = point(world, cancel(), entry["alpaca_order_id"])
    results = two_executors(world, database)
    assert results.count("cancelled") == 1
    assert set(results) <= {"cancelled", "waiting", "marked again"}
    assert world.one("trade_decisions", analysis_decision_id=name)["status"] == "executed"
    assert live_entries(world) == []


def test_a_dry_run_says_what_would_be_cancelled_and_changes_nothing(world: World) -> None:
    entry = placed(world)
    trade_id = world.one("trade_journal")["trade_id"]
    point(world, cancel(), entry["alpaca_order_id"], name="CANCEL")
    point(world, amend(qty=10), entry["alpaca_order_id"], name="AMEND")
    point(world, cancel(), "unknown", name="BAD")
    halt(world)
    before, order = books(world), f"the order {entry['alpaca_order_id']} of {trade_id}"
    assert world.preview() == [
        f"CANCEL: cancel {order}: would be sent",
        f"AMEND: replace {order} by buy 10 NVDA at 130, less what it has filled: would be held back, "
        "trading is HALTED: test",
        "BAD: would be refused: order unknown is not an order of ours",
    ]
    assert (books(world), live_entries(world)) == (before, [Decimal(45)])


def _killed(world: World, before: bool) -> None:
    """Run a pass whose process ends just before or just after its cancel leaves."""

    def around(_: Request, send: Callable[[], Reply]) -> Reply:
        if not before:
            send()
        raise Killed

    with pytest.raises(Killed):
        executor(world, Watched(world, around)).run()


def test_a_cancel_that_a_crash_left_without_answer_gets_one_that_says_so_once(world: World) -> None:
    entry = placed(world)
    point(world, cancel(), entry["alpaca_order_id"])

    def dies(request: Request, send: Callable[[], Reply]) -> Reply:
        raise Killed

    with pytest.raises(Killed):
        executor(world, Watched(world, dies)).run()
    endpoint = f"DELETE /v2/orders/{entry['alpaca_order_id']}"
    assert world.execute() == {"cancelled": 1}
    (second,) = world.db.query("api_call_logs", {"endpoint": endpoint})  # the first may still be on its way
    for _ in range(2):
        world.pass_time(minutes=5)
        world.execute()
    first = world.one("api_call_logs", endpoint=endpoint, http_status_code=None)
    assert second["http_status_code"] == 204
    answer = world.db.get_by_id("api_payloads", first["api_response_payload_id"])
    assert answer["payload"]["error"].startswith("no answer was written down")
    assert len(world.db.query("api_call_logs", {"endpoint": endpoint})) == 2
