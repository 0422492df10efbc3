"""Unlucky rows, odd brokers, other processes: one of them never harms the rest, and no share stays without a stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from alpaca_client import Broker
from db_layer import TradingDB
from order_executor import OrderExecutor
from order_monitor import OrderMonitor
from tests.flow.world import World, swing, trend

REFUSER = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'this row is guarded'; END $$;
CREATE TRIGGER guarded BEFORE UPDATE ON analysis_decision FOR EACH ROW
    WHEN (OLD."Analysis_Id" = 'GUARDED') EXECUTE FUNCTION refuse();
"""


class Interrupted(Broker):
    """Does something else between the request's commit and its first byte."""

    def __init__(self, world: World, meanwhile: Callable[[], object]) -> None:
        super().__init__(world.settings.alpaca)
        self.meanwhile = meanwhile

    def send(self, request: Any) -> Any:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return super().send(request)


def executor(world: World, broker: Broker, db: TradingDB | None = None) -> OrderExecutor:
    return OrderExecutor(db=db or world.programs, broker=broker, clock=world.clock, settings=world.settings)


def live_exits(world: World, side: str = "sell") -> list[Decimal]:
    """The quantities of the exit orders that work at the broker."""
    return [order.qty for order in world.market.state.live.values() if order.side == side]


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


def test_a_process_that_slept_too_long_does_not_send(world: World) -> None:
    world.decide(swing())
    clock, woken = world.clock, []

    class Waking:
        """A clock that jumps an hour once the request is committed."""

        def now(self) -> Any:
            submitted = world.db.query("trade_executions", {"status": "submitted"})
            if submitted and not woken:
                woken.append(True)
                world.pass_time(hours=1)
            return clock.now()

        def sleep(self, seconds: float) -> None:
            clock.sleep(seconds)

    broker = Broker(world.settings.alpaca)
    worker = OrderExecutor(db=world.programs, broker=broker, clock=Waking(), settings=world.settings)
    assert {str(result) for result in worker.run()} == {"not sent"}
    assert world.posted() == []
    assert world.one("order_execution")["order_status"] == "intended"


def test_an_order_taken_after_it_was_given_up_is_a_critical_alert(world: World) -> None:
    world.decide(swing())

    def meanwhile() -> None:
        for _ in range(3):
            world.monitor()
            world.pass_time(minutes=5)

    executor(world, Interrupted(world, meanwhile)).run()
    assert world.one("trade_journal")["status"] == "CANCELLED"
    assert (world.one("alerts", kind="late_order")["level"]) == "critical"


@pytest.mark.usefixtures("without_turns")
def test_two_executors_that_resume_one_intent_send_one_order(world: World, database: dict[str, Any]) -> None:
    world.decide(swing())
    world.execute_with_the_line_down()
    start = threading.Barrier(2)

    def resume() -> None:
        with TradingDB(config=database) as db:
            worker = executor(world, Broker(world.settings.alpaca), db)
            start.wait(5)
            worker.run()

    _together(resume, resume)
    assert len(world.posted()) == 1


@pytest.mark.usefixtures("without_turns")
def test_two_rows_with_one_analysis_id_and_two_executors_give_one_order(
    world: World, database: dict[str, Any],
) -> None:
    world.db.execute_update("ALTER TABLE analysis_decision DROP CONSTRAINT analysis_decision_pkey")
    world.db.execute_update("ALTER TABLE analysis_decision ADD id serial PRIMARY KEY")
    for _ in range(2):
        world.decide(swing(), name="SAME")
    start = threading.Barrier(2)

    def run() -> None:
        with TradingDB(config=database) as db:
            worker = executor(world, Broker(world.settings.alpaca), db)
            start.wait(5)
            worker.run()

    _together(run, run)
    world.execute()
    assert len(world.posted()) == 1


@pytest.mark.usefixtures("without_turns")
def test_two_monitors_at_once_place_one_exit(world: World, database: dict[str, Any]) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    start = threading.Barrier(2)

    def run() -> None:
        with TradingDB(config=database) as db:
            broker = Broker(world.settings.alpaca)
            worker = OrderMonitor(db=db, broker=broker, clock=world.clock, settings=world.settings)
            start.wait(5)
            worker.run()

    _together(run, run)
    world.monitor()
    assert live_exits(world) == [45, 45]


def test_a_position_closed_by_hand_gets_no_exit_that_would_open_a_short(world: World) -> None:
    world.open_position(trend())
    world.market.cancel(world.one("order_execution", order_type="STOP_LOSS")["alpaca_order_id"])
    world.market.step()
    world.market.foreign_close("NVDA")
    world.pass_time(minutes=5)
    world.monitor()
    assert not world.market.state.live
    assert world.one("alerts", kind="broker_mismatch")["level"] == "critical"


def test_a_stop_moved_by_hand_is_followed(world: World) -> None:
    world.open_position(trend())
    world.monitor()
    stop = world.one("order_execution", order_type="STOP_LOSS")
    world.market.replace(stop["alpaca_order_id"], {"stop_price": "128"})
    world.pass_time(minutes=5)
    world.monitor()
    followed = world.one("order_execution", order_type="STOP_LOSS", order_status="pending")
    assert followed["stop_price"] == 128
    assert followed["alpaca_order_id"] != stop["alpaca_order_id"]
    assert world.one("trade_journal")["current_stop_loss"] == 128
    assert live_exits(world) == [45]
    world.price("NVDA", "127")
    world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "STOPPED_OUT"


def test_another_decisions_resting_entry_gives_way_to_a_stop(world: World) -> None:
    world.decide(trend())
    world.decide(trend(limit_price=125, stop_loss=110, time_in_force="gtc", qty=10))
    world.execute()
    world.price("NVDA", "133.50")
    world.monitor()
    assert live_exits(world) == [45]
    world.monitor()
    assert world.one("trade_journal", status="CANCELLED")["planned_qty"] == 10


def test_missing_executions_do_not_delay_protection(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    world.fault("GET", "/v2/account/activities/FILL", "status", code=500, times=None)
    world.monitor()
    assert live_exits(world) == [45, 45]


def test_an_order_that_cannot_be_looked_up_does_not_delay_the_protection_of_others(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("AMD", "99")
    world.fault("POST", "/v2/orders", "drop", executed=False)
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500, times=None)
    world.decide(trend("AMD", limit_price=100, stop_loss=90), "AMD")
    assert world.execute() == {"unknown outcome": 1}
    world.price("NVDA", "133.50")
    world.monitor()
    assert live_exits(world) == [45, 45]


def test_a_mismatch_that_went_away_is_no_longer_an_open_alert(world: World) -> None:
    world.decide(trend())
    world.execute()
    world.price("NVDA", "133.50")
    world.market.step()
    world.fault("GET", "/v2/positions/NVDA", "status", code=404, body={"message": "position does not exist"}, times=6)
    world.monitor()
    assert world.one("alerts")["resolved_at"] is None
    world.monitor()
    assert world.one("alerts")["resolved_at"] is not None
    assert live_exits(world) == [45]


def test_a_trade_somebody_wrote_by_hand_does_not_stop_the_monitor(world: World) -> None:
    world.db.insert("trade_journal", {
        "trade_id": "BY-HAND", "symbol": "NVDA", "side": "buy", "trade_style": "TREND", "status": "POSITION",
        "planned_stop_loss": 1, "planned_qty": 1,
    })
    world.open_position()
    assert live_exits(world) == [45, 45]
    assert world.one("alerts")["subject"] == "BY-HAND"


def test_a_price_beyond_the_stop_closes_a_swing_by_its_stop(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    world.price("NVDA", "120")
    world.monitor()
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"]) == ("CLOSED", "STOPPED_OUT")
    assert world.one("alerts", kind="target_not_placed")["level"] == "warning"


@pytest.mark.parametrize("word", ["canceled", "replaced"])
def test_a_stop_that_fills_in_parts_is_followed_to_its_end(world: World, word: str) -> None:
    world.market.behave(tp_status_on_stop=word)
    world.open_position()
    world.market.set_liquidity("NVDA", "20")
    posts = len(world.posted())
    for price in ("123", "122.50", "122"):
        world.price("NVDA", price)
        world.monitor()
    assert len(world.posted()) == posts
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"]) == ("CLOSED", "STOPPED_OUT")
    assert journal["actual_pnl"] == 20 * Decimal(123) + 20 * Decimal("122.50") + 5 * 122 - 45 * Decimal("133.50")


def test_a_partly_filled_target_leaves_the_rest_tracked(world: World) -> None:
    world.open_position()
    world.market.set_liquidity("NVDA", "20")
    world.price("NVDA", "146")
    world.monitor()
    assert world.one("position_tracking")["qty"] == 25
    world.value()
    assert world.one("position_tracking")["unrealized_pnl"] == 25 * (146 - Decimal("133.50"))


def test_an_order_that_makes_no_sense_hides_neither_the_others_nor_its_own_executions(world: World) -> None:
    for symbol in ("AAA", "BBB"):
        world.price(symbol, "133")
        world.decide(swing(symbol), symbol)
    world.execute()
    first = world.one("order_execution", id=1)["alpaca_order_id"]

    class Odd(Broker):
        def _read(self, *arguments: Any, **options: Any) -> Any:
            answer = super()._read(*arguments, **options)
            for order in answer if isinstance(answer, list) else [answer]:
                if order and order.get("id") == first and "filled_avg_price" in order:
                    order["filled_avg_price"] = None
            return answer

    worker = OrderMonitor(
        db=world.programs, broker=Odd(world.settings.alpaca), clock=world.clock, settings=world.settings,
    )
    events = {str(event): count for event, count in worker.run().items() if count}
    assert events["positions opened"] == 2
    assert events["orders left alone because the broker did not answer"] == 1
    assert live_exits(world) == [45, 45, 45, 45]


def test_a_fill_after_the_end_of_its_trade_is_a_critical_alert(world: World) -> None:
    world.decide(swing(limit_price=130))
    world.decide(swing(limit_price=125))
    world.execute()
    entry = world.db.query("order_execution")[0]
    world.market.cancel(entry["alpaca_order_id"])
    world.pass_time(minutes=1)
    world.monitor()
    late = {"status": "canceled", "filled_qty": "20", "filled_avg_price": "130"}
    world.fault("GET", "/v2/orders", "edit", set=late)
    world.monitor()
    alert = next(alert for alert in world.db.query("alerts", {"kind": "late_fill"}) if "20 shares" in alert["message"])
    assert alert["level"] == "critical"


def test_a_late_fill_of_a_cancelled_remainder_is_protected(world: World) -> None:
    world.market.set_liquidity("NVDA", "20")
    world.open_position(trend())
    entry = world.one("order_execution", order_type="ENTRY")
    assert (entry["order_status"], entry["filled_qty"]) == ("cancelled", 20)
    world.market.foreign_fill("NVDA", "buy", "5", "133.50")

    class Late(Broker):
        def _read(self, *arguments: Any, **options: Any) -> Any:
            answer = super()._read(*arguments, **options)
            for order in answer if isinstance(answer, list) else []:
                if order.get("id") == entry["alpaca_order_id"] and "filled_qty" in order:
                    order["filled_qty"] = "25"
            return answer

    broker = Late(world.settings.alpaca)
    OrderMonitor(db=world.programs, broker=broker, clock=world.clock, settings=world.settings).run()
    assert live_exits(world) == [25]


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


def test_a_slow_listing_takes_no_filled_shares_back(world: World) -> None:
    world.market.set_liquidity("NVDA", "20")
    world.decide(swing(qty=100))
    world.execute()
    world.price("NVDA", "133.50")
    world.monitor()

    class Slow(Broker):
        def list_orders(self, after: Any, news: Any = None) -> Any:
            world.market.set_liquidity("NVDA", "5")
            world.price("NVDA", "133.50")
            heard = super().list_orders(after, news)
            world.market.set_liquidity("NVDA", "15")
            world.price("NVDA", "133.50")
            world.monitor()
            return heard

    broker = Slow(world.settings.alpaca)
    OrderMonitor(db=world.programs, broker=broker, clock=world.clock, settings=world.settings).run()
    held = world.market.position("NVDA").qty
    assert world.one("order_execution", order_type="ENTRY")["filled_qty"] == held
    world.monitor()
    assert live_exits(world) == [held, held]


@pytest.mark.parametrize("fills_lag", [True, False])
def test_what_a_second_exit_took_too_much_is_brought_back(world: World, fills_lag: bool) -> None:
    world.open_position()
    stop = world.one("order_execution", order_type="STOP_LOSS")["alpaca_order_id"]
    world.market.behave(both_legs_fill=True)
    world.price("NVDA", "123")
    world.market.step()
    behind = {"filled_qty": "0", "status": "held", "filled_avg_price": None, "filled_at": None}

    class Lagging(Broker):
        def _read(self, client: Any, request: Any, absent: int | None = None, heard: Any = None) -> Any:
            answer = super()._read(client, request, absent, heard)
            if not isinstance(answer, list):
                return answer
            for order in answer:
                for leg in order.get("legs") or []:
                    leg |= behind if leg["id"] == stop else {}
            return [row for row in answer if not (fills_lag and row.get("order_id") == stop)]

    broker = Lagging(world.settings.alpaca)
    OrderMonitor(db=world.programs, broker=broker, clock=world.clock, settings=world.settings).run()
    for _ in range(3):
        world.monitor()
    assert {alert["level"] for alert in world.db.query("alerts")} == {"critical"}
    journal = world.one("trade_journal")
    assert (journal["status"], journal["pnl_is_estimate"]) == ("CLOSED", False)
    assert world.market.state.positions == {}


MARKS = {
    "corrected after a refusal": ("GUARDED", """UPDATE analysis_decision SET "Remarks" = 'REJECTED: old' """),
    "an empty order id in the row": ("GUARDED", "UPDATE analysis_decision SET existing_order_id = ''"),
}


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


@pytest.mark.parametrize("answer", [{"filled_avg_price": "1e13"}, {"status": "replaced", "replaced_by": "self"}])
def test_one_order_nobody_can_store_keeps_no_other_from_its_stop(world: World, answer: dict[str, Any]) -> None:
    for symbol in ("AAA", "BBB"):
        world.price(symbol, "133")
        world.decide(swing(symbol), symbol)
    world.execute()
    first, second = (row["alpaca_order_id"] for row in world.db.query("order_execution"))
    odd = answer | ({"replaced_by": second} if "replaced_by" in answer else {})

    class Odd(Broker):
        def _read(self, client: Any, request: Any, absent: int | None = None, heard: Any = None) -> Any:
            rows = super()._read(client, request, absent, heard)
            for order in rows if isinstance(rows, list) else [rows]:
                if order and order.get("id") == first and "filled_qty" in order:
                    order |= odd | ({"filled_qty": "0", "filled_avg_price": None} if "replaced_by" in odd else {})
            return rows

    OrderMonitor(db=world.programs, broker=Odd(world.settings.alpaca), clock=world.clock, settings=world.settings).run()
    assert "BBB" in [row["symbol"] for row in world.db.query("position_tracking")]
    assert live_exits(world)[-2:] == [45, 45]


def test_a_change_the_database_refuses_is_an_alert_and_the_others_are_written(world: World) -> None:
    for symbol in ("AAA", "BBB"):
        world.price(symbol, "133")
        world.decide(swing(symbol), symbol)
    world.execute()
    first = world.db.query("order_execution")[0]
    world.db.execute_update(f"ALTER TABLE order_execution ADD CHECK (id <> {first['id']} OR filled_qty = 0)")
    world.monitor()
    assert [row["symbol"] for row in world.db.query("position_tracking")] == ["BBB"]
    assert world.one("alerts", kind="order_not_recorded")["level"] == "critical"


def test_an_alert_about_a_trade_that_could_not_be_attended_to_ends_when_it_can(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    world.db.execute_update("ALTER TABLE position_tracking ADD CONSTRAINT guard CHECK (qty = 0)")
    world.monitor()
    assert world.one("alerts", kind="not_attended_to")["resolved_at"] is None
    world.db.execute_update("ALTER TABLE position_tracking DROP CONSTRAINT guard")
    world.monitor()
    assert world.one("alerts", kind="not_attended_to")["resolved_at"] is not None
    assert live_exits(world) == [45, 45]


def _together(*works: Callable[[], None]) -> None:
    """Run pieces of work at the same time; what goes wrong in one is the test's."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - it is reported below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
