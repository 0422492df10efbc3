"""One message, one POST, whatever the line or the broker does; and what is concluded from it."""

import json
from datetime import timedelta
from decimal import Decimal

import pytest

from alpaca_client import Broker
from order_executor import OrderExecutor
from tests.flow.world import START, Killed, World, swing, trend

ORDERS = "/v2/orders"
# What the broker does with the POST: fault kind, its details, the result, and the execution's status afterwards.
ANSWERS = {
    "200": (None, {}, "placed", "accepted"),
    "400": ("status", {"code": 400, "body": {"code": 40010000, "message": "bad"}}, "refused", "rejected"),
    "401": ("status", {"code": 401, "body": {"message": "unauthorized."}}, "refused", "rejected"),
    "403": ("status", {"code": 403, "body": {"code": 40310000, "message": "no"}}, "refused", "rejected"),
    "422": ("status", {"code": 422, "body": {"code": 42210000, "message": "no"}}, "refused", "rejected"),
    "408": ("status", {"code": 408, "executed": False}, "unknown outcome", "unknown"),
    "429": ("status", {"code": 429, "executed": False}, "unknown outcome", "unknown"),
    "500": ("status", {"code": 500, "executed": False}, "unknown outcome", "unknown"),
    "502 as HTML": (
        "status", {"code": 502, "body": "<html>", "content_type": "text/html", "executed": False}, "unknown outcome",
        "unknown",
    ),
    "503": ("status", {"code": 503, "executed": False}, "unknown outcome", "unknown"),
    "504": ("status", {"code": 504, "executed": False}, "unknown outcome", "unknown"),
    "504 but executed": ("status", {"code": 504, "executed": True}, "placed", "accepted"),
    "429 but executed": ("status", {"code": 429, "executed": True}, "placed", "accepted"),
    "a dropped line": ("drop", {"executed": False}, "unknown outcome", "unknown"),
    "a dropped line after the order": ("drop", {"executed": True}, "placed", "accepted"),
    "a timeout": ("hang", {"seconds": 3, "executed": False}, "unknown outcome", "unknown"),
    "a timeout after the order": ("hang", {"seconds": 3, "executed": True}, "placed", "accepted"),
    "a garbled 200": ("garbled", {"executed": True}, "placed", "accepted"),
    "an empty 200": ("empty", {"executed": True}, "placed", "accepted"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_one_submitted_order_is_one_post(world: World, kind: str) -> None:
    fault, details, result, status = ANSWERS[kind]
    name = world.decide(swing())
    if fault:
        world.fault("POST", ORDERS, fault, **details)
    assert world.execute() == {result: 1}
    assert len(world.requests("POST")) == 1
    execution = world.one("trade_executions")
    assert (execution["status"], execution["attempt_number"]) == (status, 1)
    assert execution["api_request_payload_id"] is not None
    assert execution["api_response_payload_id"] is not None
    decision, row = world.one("trade_decisions"), world.analysis(name)
    assert (decision["status"], bool(row["executed"])) == {
        "placed": ("pending", True), "refused": ("failed", True), "unknown outcome": ("pending", False),
    }[result]
    world.execute()
    assert len(world.requests("POST")) == 1


def test_a_refused_order_ends_its_trade_with_the_brokers_words(world: World) -> None:
    world.fault("POST", ORDERS, "status", code=403, body={"code": 40310000, "message": "insufficient buying power"})
    name = world.decide(swing())
    world.execute()
    journal, order = world.one("trade_journal"), world.one("order_execution")
    assert (journal["status"], journal["exit_reason"], order["order_status"]) == ("CANCELLED", "REJECTED", "rejected")
    assert world.analysis(name)["Remarks"] == (
        "REJECTED: the broker refused the order (40310000): insufficient buying power"
    )
    execution = world.one("trade_executions")
    assert (execution["http_status_code"], execution["error_code"]) == (403, "40310000")
    assert execution["rejected_at"] == START


def test_a_refusal_does_not_stop_the_next_decision(world: World) -> None:
    world.fault("POST", ORDERS, "status", code=422, body={"code": 42210000, "message": "no"})
    world.decide(swing())
    world.price("MSFT", "400")
    world.decide(trend("MSFT", limit_price=390, stop_loss=380, qty=10), "MSFT")
    assert world.execute() == {"refused": 1, "placed": 1}


def test_an_unknown_order_is_adopted_when_the_broker_turns_out_to_have_it(world: World) -> None:
    world.fault("POST", ORDERS, "drop", executed=True)
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500)
    name = world.decide(swing())
    assert world.execute() == {"unknown outcome": 1}
    assert world.one("order_execution")["order_status"] == "unknown"
    world.monitor()
    order = world.one("order_execution")
    assert order["order_status"] == "pending"
    assert world.analysis(name)["existing_order_id"] == order["alpaca_order_id"]
    assert len(world.requests("POST")) == 1


def test_an_entry_the_broker_never_received_ends_as_not_placed_and_is_not_sent_again(world: World) -> None:
    world.fault("POST", ORDERS, "drop", executed=False)
    name = world.decide(swing())
    world.execute()
    world.monitor()
    assert world.one("order_execution")["order_status"] == "unknown"
    for _ in range(2):
        world.pass_time(minutes=5)
        world.monitor()
    assert world.one("order_execution")["order_status"] == "cancelled"
    assert world.one("trade_journal")["status"] == "CANCELLED"
    decision = world.one("trade_decisions")
    assert (decision["status"], decision["status_reason"].split(":")[0]) == ("failed", "not_placed")
    assert world.analysis(name)["executed"] is True
    assert world.one("trade_executions")["status"] == "not_placed"
    world.execute()
    assert len(world.requests("POST")) == 1


def test_what_never_left_stays_pending_and_goes_under_the_same_id_next_time(world: World) -> None:
    name = world.decide(swing())
    assert world.execute_with_the_line_down() == {"not sent": 1}
    assert world.requests("POST") == []
    assert world.one("trade_decisions")["status"] == "pending"
    assert world.one("order_execution")["order_status"] == "intended"
    assert world.one("trade_executions")["status"] == "not_placed"
    assert not world.analysis(name)["executed"]
    world.pass_time(minutes=5)
    assert world.execute() == {"placed": 1}
    first, second = sorted(world.db.query("trade_executions"), key=lambda row: row["attempt_number"])
    assert (first["client_order_id"], second["attempt_number"]) == (world.posted()[0]["client_order_id"], 2)
    assert (first["status"], second["status"]) == ("not_placed", "accepted")


def test_a_market_order_that_never_left_waits_for_the_session(world: World) -> None:
    world.pass_time(hours=5, minutes=58)
    world.price("NVDA", "135")
    world.decide(trend(type="market", limit_price=None))
    assert world.execute_with_the_line_down() == {"not sent": 1}
    world.pass_time(hours=1)
    assert world.execute() == {"waiting": 1}
    world.pass_time(hours=17)
    world.fault("GET", "/v2/clock", "status", code=500)
    world.execute()
    assert world.posted() == []
    world.execute()
    assert [order["type"] for order in world.posted()] == ["market"]


def test_what_could_not_be_sent_until_it_was_too_old_fails(world: World) -> None:
    name = world.decide(swing())
    world.execute_with_the_line_down()
    world.pass_time(days=5)
    assert world.execute() == {"refused": 1}
    assert world.posted() == []
    assert world.one("trade_journal")["exit_reason"] == "EXPIRED"
    assert "REJECTED: not_placed" in world.analysis(name)["Remarks"]


def test_an_id_the_broker_has_already_is_looked_up_and_adopted(world: World) -> None:
    world.fault("POST", ORDERS, "drop", executed=True)
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500)
    world.decide(swing())
    world.execute()
    # As if the record of the request had been lost: the intent is sent again under its id.
    world.db.execute_update("UPDATE order_execution SET order_status = 'intended'")
    world.db.execute_update("UPDATE audit.trade_executions SET status = 'not_placed'")
    world.fault("GET", "/v2/orders", "status", code=200, body=[])
    assert world.execute() == {"placed": 1}
    assert len(world.requests("POST")) == 2
    assert world.one("order_execution")["order_status"] == "pending"
    assert len(world.market.state.orders) == 1


def test_a_crash_between_request_and_answer_counts_as_sent(world: World) -> None:
    world.decide(swing())

    class DiesOnTheWire(Broker):
        def send(self, request):  # type: ignore[no-untyped-def]
            super().send(request)
            raise Killed

    worker = OrderExecutor(
        db=world.programs, broker=DiesOnTheWire(world.settings.alpaca), clock=world.clock, settings=world.settings,
    )
    with pytest.raises(Killed):
        worker.run()
    assert world.one("trade_executions")["status"] == "submitted"
    world.execute()
    assert len(world.requests("POST")) == 1
    assert world.one("order_execution")["order_status"] == "pending"


def test_the_stored_request_holds_the_very_bytes_that_arrived(world: World) -> None:
    world.decide(swing())
    world.execute()
    execution = world.one("trade_executions")
    stored = world.db.execute_query(
        "SELECT payload::text AS text FROM audit.api_payloads WHERE id = %s", [execution["api_request_payload_id"]],
    )[0]["text"]
    assert f'"body": {world.requests("POST")[0]["body"]}}}' in stored


EXACT = {
    "133.8": "124", "133.80": "124.0", "0.30": "0.20", "100": "90", "1000.00": "990", "0.3333": "0.3",
    "0.0201": "0.0101", "19.99": "18.5", "1e2": "9e1",
}


@pytest.mark.parametrize("price", EXACT)
def test_prices_arrive_exactly_as_decided(world: World, price: str) -> None:
    world.price("NVDA", f"{Decimal(price):f}")
    text = json.dumps(trend(qty=7, limit_price="LIMIT", stop_loss="STOP"))
    world.decide(text.replace('"LIMIT"', price).replace('"STOP"', EXACT[price]))
    assert world.execute() == {"placed": 1}
    sent = world.posted()[0]["limit_price"]
    assert isinstance(sent, str)
    assert "e" not in sent.lower()
    assert Decimal(sent) == Decimal(price)


@pytest.mark.parametrize("qty", ["0.1", "0.3", "0.30", "1.123456789", "12", "0.000000001"])
def test_quantities_arrive_exactly_as_decided(world: World, qty: str) -> None:
    world.decide(json.dumps(trend(qty=0)).replace('"qty": 0', f'"qty": {qty}'))
    world.execute()
    sent = world.posted()[0]["qty"]
    assert isinstance(sent, str)
    assert Decimal(sent) == Decimal(qty)


def test_a_price_with_the_noise_of_binary_arithmetic_is_refused_and_not_rounded(world: World) -> None:
    name = world.decide(trend(limit_price=0.1 + 0.2, stop_loss=0.2))
    assert world.execute() == {"refused": 1}
    assert "decimals" in world.analysis(name)["Remarks"]


def test_no_key_is_in_any_table(world: World) -> None:
    key, secret = "AKCANARYKEY123", "canary-secret-456"
    world.configure(ALPACA_API_KEY=key, ALPACA_SECRET_KEY=secret)
    echo = {"message": f"keys {key} and {secret} are not welcome"}
    world.fault("POST", ORDERS, "status", code=403, body=echo)
    world.decide(swing())
    world.execute()
    world.monitor()
    tables = world.db.execute_query(
        "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE schemaname IN ('public', 'audit')",
    )
    dump = "".join(
        str(row["row"]) for table in tables
        for row in world.db.execute_query(f"SELECT t::text AS row FROM {table['name']} t")
    )
    assert "not welcome" in dump
    assert key not in dump
    assert secret not in dump


def test_with_the_audit_trail_off_only_digests_are_kept(world: World) -> None:
    world.configure(USE_AUDIT_TRAIL="false")
    world.decide(swing())
    world.execute()
    payloads = world.db.query("api_payloads")
    assert payloads
    assert all(payload["payload"] is None and len(payload["sha256"]) == 64 for payload in payloads)
    assert world.one("trade_executions")["status"] == "accepted"


def test_every_read_that_was_relied_on_is_recorded(world: World) -> None:
    world.open_position()
    reads = {row["endpoint"] for row in world.db.query("api_call_logs")}
    assert {"GET /v2/account", "GET /v2/orders", "GET /v2/account/activities/FILL"} <= reads


def test_an_old_answer_of_the_clock_is_no_reason_to_give_an_order_up_early(world: World) -> None:
    world.fault("POST", ORDERS, "drop", executed=False)
    world.decide(swing())
    world.execute()
    for _ in range(5):
        world.clock.set(world.clock.now() + timedelta(milliseconds=300))
        world.monitor()
    assert world.one("order_execution")["order_status"] == "unknown"


def test_a_row_deleted_while_its_order_was_on_the_wire_does_not_lose_the_order(world: World) -> None:
    world.decide(swing())

    class RowGoesMeanwhile(Broker):
        def send(self, request):  # type: ignore[no-untyped-def]
            world.db.execute_update("DELETE FROM analysis_decision")
            return super().send(request)

    OrderExecutor(
        db=world.programs, broker=RowGoesMeanwhile(world.settings.alpaca), clock=world.clock, settings=world.settings,
    ).run()
    assert world.one("order_execution")["order_status"] == "pending"
    assert world.one("alerts")["kind"] == "decision_row_not_marked"


def test_a_second_executor_in_the_middle_of_the_first_sends_nothing(world: World) -> None:
    world.decide(swing())
    inner: list[dict[str, int]] = []

    class SecondRunsMeanwhile(Broker):
        def send(self, request):  # type: ignore[no-untyped-def]
            inner.append(world.execute())
            return super().send(request)

    broker = SecondRunsMeanwhile(world.settings.alpaca)
    OrderExecutor(db=world.programs, broker=broker, clock=world.clock, settings=world.settings).run()
    world.monitor()
    assert inner == [{"waiting": 1}]
    assert len(world.requests("POST")) == 1
    assert world.one("order_execution")["order_status"] == "pending"


def test_a_row_the_database_will_not_take_does_not_stop_the_next(world: World) -> None:
    world.db.execute_update("ALTER TABLE trade_journal ADD CHECK (pattern <> 'POISON')")
    name = world.decide(swing(pattern="POISON"))
    world.decide(swing())
    assert world.execute() == {"refused": 1, "placed": 1}
    assert world.analysis(name)["Remarks"].startswith("REJECTED: the decision cannot be stored: ")
