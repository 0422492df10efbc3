"""Sections 2, 3, 6, 8 and 9 of the broker's reference: what an order is and which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.conftest import Rehearsal

MALFORMED, RULE, BUSINESS = 40010001, 42210000, 40310000


def test_2_a_plain_order_is_routed_after_the_answer(desk: Rehearsal) -> None:
    placed = desk.limit("buy", "130")
    assert (placed["status"], placed["order_class"], placed["legs"]) == ("pending_new", "", None)
    assert desk.status(placed) == "new"


def test_2_a_market_order_fills_at_the_quote(desk: Rehearsal) -> None:
    desk.broker.set_price("NVDA", bid="133.40", ask="133.60")
    bought = desk.see(desk.order())
    assert (bought["status"], bought["filled_avg_price"], bought["filled_qty"]) == ("filled", "133.6", "10")
    assert bought["filled_at"] is not None


def test_2_a_limit_order_waits_for_its_price_and_takes_a_better_one(desk: Rehearsal) -> None:
    resting = desk.limit("buy", "130")
    assert desk.status(resting) == "new"
    desk.broker.set_price("NVDA", "129")
    assert desk.see(resting)["filled_avg_price"] == "129"


def test_2_a_side_that_nobody_quotes_fills_nothing(desk: Rehearsal) -> None:
    desk.broker.set_price("NVDA", bid="133.40", ask="0")
    bought = desk.order()
    assert desk.status(bought) == "new"
    desk.broker.set_price("NVDA", "134")
    assert desk.status(bought) == "filled"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"qty": None}, "qty or notional is required"),
        ({"notional": "100"}, "only one of qty or notional is accepted"),
        ({"qty": "0"}, "qty must be > 0"),
        ({"qty": -3}, "qty must be > 0"),
        ({"qty": "ten"}, "invalid qty"),
        ({"qty": "NaN"}, "invalid qty"),
        ({"qty": "Infinity"}, "invalid qty"),
        ({"qty": True}, "invalid qty"),
        ({"qty": "0.0000000001"}, "qty must be > 0"),
        ({"side": None}, "side is required"),
        ({"side": "short"}, "invalid side"),
        ({"type": "iceberg"}, "invalid order type"),
        ({"time_in_force": "gtd"}, "invalid time_in_force"),
        ({"type": "limit"}, "limit orders require a limit price"),
        ({"type": "stop"}, "stop orders require only stop price"),
        ({"type": "stop_limit", "stop_price": "130"}, "stop limit orders require both stop and limit price"),
        ({"limit_price": "130"}, "market orders require no stop or limit price"),
        ({"type": "limit", "limit_price": "-1"}, "limit_price must be > 0"),
        (
            {"type": "trailing_stop", "trail_price": "1", "trail_percent": "1"},
            "trailing stop orders must specify one of trail_price or trail_percent",
        ),
        ({"client_order_id": "x" * 129}, "client_order_id must be no more than 128 characters"),
    ],
)
def test_8_malformed_parameters_are_refused_with_40010001(
    desk: Rehearsal, fields: dict[str, Any], message: str
) -> None:
    status, body = desk.refused(**fields)
    assert (status, body["code"], body["message"]) == (422, MALFORMED, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"symbol": "NOPE"}, 'asset "NOPE" not found'),
        ({"symbol": "NVDA\n"}, 'asset "NVDA\n" not found'),
        (
            {"type": "stop", "stop_price": "140", "time_in_force": "ioc"},
            "invalid time_in_force ioc for stop orders",
        ),
        ({"qty": "1.5", "time_in_force": "gtc"}, "fractional orders must be DAY orders"),
        (
            {"qty": "1.5", "type": "trailing_stop", "trail_price": "1"},
            "fractional orders must not be trailing stop orders",
        ),
        ({"qty": "0.5", "side": "sell"}, "fractional orders cannot be sold short"),
        ({"qty": None, "notional": "0.99"}, "notional amount must be >= 1.00"),
        ({"extended_hours": True}, "extended hours order must be DAY limit orders"),
        (
            {"type": "limit", "limit_price": "130", "extended_hours": True, "time_in_force": "gtc"},
            "extended hours order must be DAY limit orders",
        ),
        (
            {"type": "trailing_stop", "trail_price": "1", "time_in_force": "ioc"},
            "invalid time_in_force ioc for trailing_stop orders",
        ),
    ],
)
def test_3_combinations_that_do_not_exist_are_refused_with_42210000(
    desk: Rehearsal, fields: dict[str, Any], message: str
) -> None:
    status, body = desk.refused(**fields)
    assert (status, body["code"], body["message"]) == (422, RULE, message)


def test_3_fractions_are_day_orders_of_any_simple_type(desk: Rehearsal) -> None:
    assert desk.see(desk.order(qty="0.123456789999"))["filled_qty"] == "0.123456789"
    assert desk.order(qty=1.5, type="limit", limit_price="120")["qty"] == "1.5"
    status, body = desk.failure(lambda: desk.bracket(qty="1.5", time_in_force="day"))
    assert (status, body["message"]) == (422, "fractional orders must be simple orders")


def test_3_an_asset_may_refuse_fractions_shorts_or_everything(desk: Rehearsal) -> None:
    desk.broker.set_price("BRK.A", "700")
    desk.broker.define_asset("BRK.A", fractionable=False, shortable=False)
    status, body = desk.refused(symbol="BRK.A", qty="0.5")
    assert (status, body["message"]) == (403, 'asset "BRK.A" is not fractionable')
    status, body = desk.refused(symbol="BRK.A", qty="1", side="sell")
    assert (status, body["message"]) == (403, 'asset "BRK.A" cannot be sold short')
    desk.broker.define_asset("BRK.A", tradable=False)
    assert desk.refused(symbol="BRK.A")[0] == 422
    desk.broker.define_asset("BRK.A", status="inactive")
    assert desk.api.get("/assets/BRK.A")["status"] == "inactive"


def test_9_an_order_by_amount_buys_a_fraction(desk: Rehearsal) -> None:
    bought = desk.see(desk.order(qty=None, notional="100"))
    assert (bought["notional"], bought["qty"]) == ("100", None)
    assert (bought["status"], bought["filled_qty"]) == ("filled", "0.74906367")


@pytest.mark.parametrize(
    ("price", "accepted"),
    [("130.12", True), ("130.120", True), ("130.123", False), (130.30000000000004, False)],
)
def test_9_a_price_from_one_dollar_up_has_two_decimals(desk: Rehearsal, price: Any, accepted: bool) -> None:
    if accepted:
        assert desk.limit("buy", price)["limit_price"] == "130.12"
        return
    status, body = desk.failure(lambda: desk.limit("buy", price))
    expected = f"invalid limit_price {price}. sub-penny increment does not fulfill minimum pricing criteria"
    assert (status, body["code"], body["message"]) == (422, RULE, expected)


def test_9_a_price_below_one_dollar_has_four_decimals(desk: Rehearsal) -> None:
    desk.broker.set_price("PENNY", "0.5")
    assert desk.limit("buy", "0.1234", symbol="PENNY")["limit_price"] == "0.1234"
    assert desk.failure(lambda: desk.limit("buy", "0.12345", symbol="PENNY"))[0] == 422


def test_9_legs_have_whole_cents_too(desk: Rehearsal) -> None:
    status, body = desk.failure(lambda: desk.bracket(stop_loss={"stop_price": "124.001"}))
    assert status == 422
    assert body["message"].startswith("invalid stop_loss.stop_price 124.001. sub-penny")


def test_6_an_order_is_found_by_its_client_order_id_in_any_state(desk: Rehearsal) -> None:
    placed = desk.order(client_order_id="mine")
    found = desk.api.get("/orders:by_client_order_id", {"client_order_id": "mine"})
    assert (found["id"], found["status"]) == (placed["id"], "filled")
    status, body = desk.failure(
        lambda: desk.api.get("/orders:by_client_order_id", {"client_order_id": "other"})
    )
    assert (status, body) == (404, {"code": 40410000, "message": "order not found for other"})


def test_6_legs_and_unnamed_orders_get_ids_of_their_own(desk: Rehearsal) -> None:
    group = desk.bracket(client_order_id="entry")
    ids = {
        group["client_order_id"],
        *(leg["client_order_id"] for leg in group["legs"]),
        desk.order()["client_order_id"],
    }
    assert len(ids) == 4


def test_8_an_unknown_order_or_route_is_404(desk: Rehearsal) -> None:
    status, body = desk.failure(lambda: desk.api.get("/orders/0d3a4b3c-0000-0000-0000-000000000000"))
    assert (status, body["code"]) == (404, 40410000)
    assert desk.failure(lambda: desk.api.get("/watchlists"))[0] == 404


def test_8_a_body_that_is_not_json_is_refused(desk: Rehearsal) -> None:
    headers = {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}
    url = f"{desk.server.url}/v2/orders"
    for body in (b"{", b"", b'{"qty": NaN}'):
        answer = desk.api._session.post(url, data=body, headers=headers)
        assert (answer.status_code, answer.json()["message"]) == (400, "request body format is invalid")
    assert desk.api._session.post(url, data=b"[]", headers=headers).status_code == 422


def test_9_buying_power_is_needed_and_reserved_by_open_orders(desk: Rehearsal) -> None:
    assert desk.api.get("/account")["buying_power"] == "200000"
    desk.limit("buy", "100", qty="1500")
    assert desk.api.get("/account")["buying_power"] == "50000"
    status, body = desk.failure(lambda: desk.limit("buy", "100", qty="501"))
    assert (status, body["code"], body["message"]) == (403, BUSINESS, "insufficient buying power")
    assert (body["buying_power"], body["cost_basis"]) == ("50000", "50100")


def test_9_a_cash_account_buys_with_its_cash(desk: Rehearsal) -> None:
    desk.broker.set_account(multiplier="1")
    assert desk.api.get("/account")["buying_power"] == "100000"
    assert desk.refused(qty="800")[0] == 403


def test_9_a_fraction_worth_less_than_a_dollar_is_refused(desk: Rehearsal) -> None:
    status, body = desk.refused(qty="0.001")
    assert (status, body["message"]) == (403, "cost basis must be >= minimal amount of order 1")


def test_14_a_suspended_or_blocked_account_takes_no_orders(desk: Rehearsal) -> None:
    desk.long()
    desk.api.patch("/account/configurations", {"suspend_trade": True})
    status, body = desk.refused(side="sell")
    assert (status, body["message"]) == (403, "new orders are rejected by user request")
    assert desk.api.get("/account")["trade_suspended_by_user"] is True
    desk.api.patch("/account/configurations", {"suspend_trade": False})
    desk.broker.set_account(trading_blocked=True)
    assert desk.refused()[0] == 403


def test_3_trailing_stops_follow_the_price(desk: Rehearsal) -> None:
    desk.long()
    trailing = desk.order(side="sell", type="trailing_stop", trail_percent="10", time_in_force="gtc")
    desk.broker.set_price("NVDA", "150")
    seen = desk.see(trailing)
    assert (seen["hwm"], seen["stop_price"], seen["status"]) == ("150", "135", "new")
    desk.broker.set_price("NVDA", "134")
    assert desk.see(trailing)["filled_avg_price"] == "134"


def test_3_a_buy_stop_is_collared(desk: Rehearsal) -> None:
    resting = desk.stop("140", side="buy", qty="1")
    desk.broker.set_price("NVDA", "150")
    assert desk.status(resting) == "new"
    desk.broker.set_price("NVDA", "143.50")
    assert desk.see(resting)["filled_avg_price"] == "143.5"


def test_3_stop_limits_elect_and_then_wait_for_their_limit(desk: Rehearsal) -> None:
    desk.long()
    order = desk.order(
        side="sell", type="stop_limit", stop_price="130", limit_price="129", time_in_force="gtc"
    )
    desk.broker.set_price("NVDA", "128")
    assert desk.status(order) == "new"
    desk.broker.set_price("NVDA", "131")
    assert desk.see(order)["filled_avg_price"] == "131"


def test_3_ioc_keeps_what_it_got_and_fok_takes_all_or_nothing(desk: Rehearsal) -> None:
    desk.broker.set_liquidity("NVDA", "4")
    partly = desk.order(time_in_force="ioc")
    seen = desk.see(partly)
    assert (seen["status"], seen["filled_qty"]) == ("canceled", "4")
    desk.broker.set_liquidity("NVDA", "4")
    whole = desk.order(time_in_force="fok")
    seen = desk.see(whole)
    assert (seen["status"], seen["filled_qty"]) == ("canceled", "0")
