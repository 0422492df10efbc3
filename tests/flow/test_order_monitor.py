"""What the order monitor does with fills, positions, protection and exits."""

from decimal import Decimal

import pytest

from tests.flow.world import START, World, swing, trend

TABLES = (
    "analysis_decision", "trade_journal", "order_execution", "order_fill", "position_tracking",
    "trade_decisions", "trade_executions", "risk_checks", "alerts",
)


def books(world: World) -> dict[str, list[dict[str, object]]]:
    return {table: sorted(world.db.query(table), key=str) for table in TABLES}


def test_a_filled_entry_becomes_a_position_with_its_decision_executed(world: World) -> None:
    world.open_position()
    journal, position = world.one("trade_journal"), world.one("position_tracking")
    assert (journal["status"], journal["actual_entry"], journal["actual_qty"]) == ("POSITION", Decimal("133.5"), 45)
    assert (position["side"], position["qty"], position["avg_entry_price"]) == ("long", 45, Decimal("133.5"))
    assert position["cost_basis"] == Decimal("6007.5")
    decision = world.one("trade_decisions")
    execution = world.one("trade_executions", order_execution_id=world.one("order_execution", order_type="ENTRY")["id"])
    assert (decision["status"], decision["executed_at"]) == ("executed", START)
    assert (execution["status"], execution["filled_quantity"]) == ("filled", 45)


def test_a_swing_position_is_protected_by_one_oco_in_the_pass_that_sees_the_fill(world: World) -> None:
    world.open_position()
    (order,) = [order for order in world.posted() if order["side"] == "sell"]
    assert order["order_class"] == "oco"
    assert (order["qty"], order["time_in_force"]) == ("45", "gtc")
    assert order["take_profit"] == {"limit_price": "145.5"}
    assert order["stop_loss"] == {"stop_price": "124"}
    target = world.one("order_execution", order_type="TAKE_PROFIT")
    stop = world.one("order_execution", order_type="STOP_LOSS")
    assert stop["parent_order_id"] == target["id"]
    assert (target["broker_status"], stop["broker_status"]) == ("pending_new", "held")
    position = world.one("position_tracking")
    assert position["stop_loss_order_id"] == stop["alpaca_order_id"]
    assert position["take_profit_order_id"] == target["alpaca_order_id"]


@pytest.mark.parametrize("style", ["TREND", "DAYTRADE"])
def test_other_styles_are_protected_by_one_stop(world: World, style: str) -> None:
    world.open_position(trend(strategy=style))
    (order,) = [order for order in world.posted() if order["side"] == "sell"]
    assert (order["type"], order["stop_price"], order["qty"], order["time_in_force"]) == ("stop", "124", "45", "gtc")
    assert world.one("position_tracking")["take_profit_order_id"] is None


def test_a_fraction_is_protected_by_a_day_stop(world: World) -> None:
    world.market.define_asset("NVDA", fractionable=True)
    world.open_position(trend(qty=1.5))
    (order,) = [order for order in world.posted() if order["side"] == "sell"]
    assert (order["qty"], order["time_in_force"]) == ("1.5", "day")


def test_every_order_at_the_broker_has_its_rows_and_both_payloads(world: World) -> None:
    world.open_position()
    assert len(world.market.state.orders) == 3
    for order in world.market.state.orders.values():
        row = world.one("order_execution", alpaca_order_id=order.id)
        execution = world.one("trade_executions", alpaca_order_id=order.id)
        assert row["client_order_id"] == execution["client_order_id"] == order.client_order_id
        assert execution["order_execution_id"] == row["id"]
        request = world.one("api_payloads", id=execution["api_request_payload_id"])
        response = world.one("api_payloads", id=execution["api_response_payload_id"])
        assert (request["type"], response["type"]) == ("ApiRequest", "ApiResponse")
        assert request["payload"]["body"]["symbol"] == response["payload"]["body"]["symbol"] == "NVDA"


def test_a_target_hit_closes_the_trade_and_the_stop_is_gone(world: World) -> None:
    world.open_position()
    world.price("NVDA", "146")
    assert world.monitor()["trades closed"] == 1
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"], journal["exit_price"]) == ("CLOSED", "TARGET_HIT", 146)
    assert (journal["actual_pnl"], journal["pnl_is_estimate"]) == (Decimal("562.5"), False)
    assert world.one("order_execution", order_type="STOP_LOSS")["order_status"] == "cancelled"
    assert world.db.query("position_tracking") == []
    assert not world.market.state.live


@pytest.mark.parametrize("decision", [swing(), trend()])
def test_a_stop_closes_the_trade_with_its_loss(world: World, decision: dict[str, object]) -> None:
    world.open_position(decision)
    world.price("NVDA", "123.90")
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"]) == ("CLOSED", "STOPPED_OUT")
    assert journal["actual_pnl"] == 45 * (Decimal("123.9") - Decimal("133.5"))
    assert not world.market.state.live


def test_a_short_makes_its_profit_downwards(world: World) -> None:
    world.configure(ALLOW_SHORT="true")
    short = swing(side="sell", limit_price=136, stop_loss=145, take_profit=120)
    world.decide(short)
    world.execute()
    world.price("NVDA", "136.5")
    world.monitor()
    assert world.one("position_tracking")["side"] == "short"
    (exit_order,) = [order for order in world.posted() if order["side"] == "buy"]
    assert exit_order["order_class"] == "oco"
    world.price("NVDA", "119")
    world.monitor()
    journal = world.one("trade_journal")
    assert journal["exit_reason"] == "TARGET_HIT"
    assert journal["actual_pnl"] == 45 * (Decimal("136.5") - 119)


def test_each_execution_is_one_fill_row(world: World) -> None:
    world.market.set_liquidity("NVDA", "10")
    world.decide(swing())
    world.execute()
    for price in ("133.50", "133.40", "133.60"):
        world.price("NVDA", price)
        world.monitor()
        world.monitor()
    fills = world.db.query("order_fill")
    assert [fill["qty"] for fill in fills] == [10, 10, 10]
    assert {fill["execution_id"] for fill in fills} == {activity.id for activity in world.market.state.activities}


def test_a_growing_entry_is_always_protected_for_what_is_held(world: World) -> None:
    world.market.set_liquidity("NVDA", "20")
    world.decide(swing())
    world.execute()
    for held in (20, 40, 45):
        world.price("NVDA", "133.50")
        world.monitor()
        assert world.one("position_tracking")["qty"] == held
        live = [order for order in world.market.state.live.values() if order.side == "sell"]
        assert {order.qty for order in live} == {held}
    assert world.one("trade_journal")["actual_qty"] == 45


def test_a_partly_filled_trend_entry_gives_up_its_rest_for_the_stop(world: World) -> None:
    world.market.set_liquidity("NVDA", "20")
    world.open_position(trend())
    assert world.one("order_execution", order_type="ENTRY")["order_status"] == "cancelled"
    (order,) = [order for order in world.posted() if order["side"] == "sell"]
    assert order["qty"] == "20"


def test_profit_over_several_fills_is_the_sum_of_them(world: World) -> None:
    world.market.set_liquidity("NVDA", "20")
    world.decide(swing())
    world.execute()
    for price in ("133.50", "133.40", "133.30"):
        world.price("NVDA", price)
        world.monitor()
    for price in ("145.50", "146", "147", "147"):
        world.price("NVDA", price)
        world.monitor()
    bought = [(20, "133.5"), (20, "133.4"), (5, "133.3")]
    sold = [(fill["qty"], fill["price"]) for fill in world.db.query("order_fill", {"side": "sell"})]
    assert sum(qty for qty, _ in sold) == 45
    spent = sum(qty * Decimal(price) for qty, price in bought)
    journal = world.one("trade_journal")
    assert journal["status"] == "CLOSED"
    assert journal["actual_pnl"] == sum(qty * price for qty, price in sold) - spent


ENDS = {"expired": ("EXPIRED", "failed"), "canceled": ("CANCELLED", "cancelled"), "rejected": ("REJECTED", "failed")}


@pytest.mark.parametrize("word", ENDS)
def test_an_entry_that_ends_unfilled_ends_its_trade(world: World, word: str) -> None:
    world.decide(swing())
    if word == "rejected":
        world.market.behave(reject_next=1)
    world.execute()
    if word == "canceled":
        world.market.cancel(world.one("order_execution")["alpaca_order_id"])
    world.pass_time(hours=8 if word == "expired" else 0.1)
    world.monitor()
    reason, status = ENDS[word]
    journal, decision = world.one("trade_journal"), world.one("trade_decisions")
    assert (journal["status"], journal["exit_reason"]) == ("CANCELLED", reason)
    assert (decision["status"], world.one("order_execution")["broker_status"]) == (status, word)
    assert world.db.query("position_tracking") == []


def test_a_pass_with_nothing_new_changes_nothing_and_sends_nothing(world: World) -> None:
    world.open_position()
    world.decide(trend(limit_price=120, stop_loss=110))
    world.execute()
    world.monitor()
    before, posts = books(world), len(world.requests("POST"))
    assert world.monitor() == {}
    assert world.execute() == {}
    assert books(world) == before
    assert len(world.requests("POST")) == posts


def test_one_listing_serves_all_orders(world: World) -> None:
    for symbol in ("AAA", "BBB", "CCC", "DDD"):
        world.price(symbol, "135")
        world.decide(swing(symbol, qty=1), symbol)
    world.execute()
    world.market.requests.clear()
    world.monitor()
    assert len(world.requests("GET")) == 1
    assert len([seen for seen in world.market.requests if seen["method"] == "GET"]) == 2  # account and listing


@pytest.mark.parametrize("kind", ["status", "garbled", "drop", "empty"])
def test_a_listing_that_fails_changes_nothing(world: World, kind: str) -> None:
    from alpaca_client import BrokerError

    world.open_position()
    world.price("NVDA", "146")
    before = books(world)
    world.fault("GET", "/v2/orders", kind)
    with pytest.raises(BrokerError):
        world.monitor()
    (alert,) = world.db.query("alerts")
    assert alert["kind"] == "read_failed"
    assert books(world) == before | {"alerts": [alert]}
    assert world.monitor()["trades closed"] == 1


def test_an_order_absent_from_a_listing_is_asked_for_and_not_concluded_away(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.fault("GET", "/v2/orders", "status", code=200, body=[])
    world.monitor()
    assert world.one("order_execution")["order_status"] == "pending"
    assert len(world.requests("GET", f"/v2/orders/{world.one('order_execution')['alpaca_order_id']}")) == 1


def test_an_unknown_word_changes_nothing_and_raises_an_alert(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.fault("GET", "/v2/orders", "edit", set={"status": "pondering"})
    world.monitor()
    order = world.one("order_execution")
    assert (order["order_status"], order["broker_status"]) == ("pending", "pondering")
    assert world.one("alerts")["kind"] == "unknown_broker_status"


def test_a_position_that_the_broker_lets_nobody_protect_or_close_is_an_alert_and_tried_again(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    refusal = {"code": 40310000, "message": "no"}
    world.fault("POST", "/v2/orders", "status", code=403, body=refusal, times=4)
    world.monitor()
    alert = world.one("alerts", kind="unprotected_position")
    assert (alert["level"], alert["resolved_at"]) == ("critical", None)
    assert [order["type"] for order in world.posted()] == ["limit", "limit", "stop", "stop", "market"]
    assert world.monitor()["exits placed"] == 1
    assert world.one("alerts", kind="unprotected_position")["resolved_at"] is not None


def test_a_protection_of_unknown_outcome_is_adopted_and_not_doubled(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    world.fault("POST", "/v2/orders", "drop", executed=True)
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500)
    world.monitor()
    world.monitor()
    assert len([order for order in world.posted() if order["side"] == "sell"]) == 1
    assert world.one("order_execution", order_type="STOP_LOSS")["broker_status"] == "held"


def test_a_protection_that_never_arrived_is_sent_again_under_the_same_id(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    world.fault("POST", "/v2/orders", "drop", executed=False)
    world.monitor()
    for _ in range(3):
        world.pass_time(minutes=5)
        world.monitor()
    first, second = [order for order in world.posted() if order["side"] == "sell"]
    assert first == second
    assert world.one("order_execution", order_type="STOP_LOSS")["broker_status"] == "held"


def test_a_cancelled_stop_is_replaced(world: World) -> None:
    world.open_position(trend())
    world.market.cancel(world.one("order_execution", order_type="STOP_LOSS")["alpaca_order_id"])
    world.pass_time(minutes=5)
    world.monitor()
    stops = world.db.query("order_execution", {"order_type": "STOP_LOSS"})
    assert sorted(stop["order_status"] for stop in stops) == ["cancelled", "pending"]
    live = [order for order in world.market.state.live.values() if order.side == "sell"]
    assert [order.qty for order in live] == [45]


def test_an_oco_whose_stop_answer_came_without_legs_is_completed(world: World) -> None:
    world.decide(swing())
    world.execute()
    world.price("NVDA", "133.50")
    world.fault("POST", "/v2/orders", "edit", set={"legs": None})
    world.monitor()
    assert world.one("order_execution", order_type="STOP_LOSS")["broker_status"] == "held"
    assert len([order for order in world.posted() if order["side"] == "sell"]) == 1


def test_two_trades_in_one_symbol_keep_their_own_shares_and_exits(world: World) -> None:
    first = world.open_position(swing(qty=10))
    world.decide(swing(qty=20, limit_price=133, take_profit=150, stop_loss=120))
    world.execute()
    world.price("NVDA", "132.90")
    world.monitor()
    assert sorted(row["qty"] for row in world.db.query("position_tracking")) == [10, 20]
    world.price("NVDA", "146")
    world.monitor()
    closed = world.one("trade_journal", status="CLOSED")
    assert (closed["initial_analysis_id"], closed["actual_qty"]) == (first, 10)
    assert world.one("position_tracking")["qty"] == 20


def test_profit_waits_as_an_estimate_until_every_execution_is_known(world: World) -> None:
    world.open_position()
    world.price("NVDA", "146")
    world.fault("GET", "/v2/account/activities/FILL", "status", code=200, body=[])
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["pnl_is_estimate"], journal["actual_pnl"]) == ("CLOSED", True, Decimal("562.5"))
    world.monitor()
    journal = world.one("trade_journal")
    assert (journal["pnl_is_estimate"], journal["actual_pnl"]) == (False, Decimal("562.5"))


def test_what_still_works_after_a_trade_is_over_is_cancelled(world: World) -> None:
    world.open_position()
    world.price("NVDA", "146")
    world.fault("DELETE", "/v2/orders/*", "status", code=500, times=3)
    world.monitor()
    world.db.execute_update("UPDATE order_execution SET order_status = 'pending' WHERE order_type = 'STOP_LOSS'")
    world.monitor()
    assert world.one("order_execution", order_type="STOP_LOSS")["order_status"] == "cancelled"


def test_a_closed_market_queues_and_the_next_session_fills(world: World) -> None:
    world.pass_time(hours=8)
    world.decide(swing())
    world.execute()
    world.monitor()
    assert world.one("order_execution")["broker_status"] == "accepted"
    world.price("NVDA", "133")
    world.pass_time(hours=16)
    world.monitor()
    assert world.one("trade_journal")["status"] == "POSITION"
