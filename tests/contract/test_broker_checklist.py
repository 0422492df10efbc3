"""Section 15 of the broker's reference, rule by rule.

15.1 strings go out, numbers or strings come in; 15.2 a boolean is True, true or 1; 15.3 a cancel is 204 and empty;
15.4 answers to many are 207 and a list; 15.5 exits reserve their shares, released with a delay; 15.6 the table of wash
trades; 15.7 client order ids are unique for ever; 15.8 held legs and how they are listed; 15.9 a PATCH makes a new
order, not while accepted; 15.10 a rejection after the answer; 15.11 a fill races a cancel; 15.12 partial fills; 15.13
both legs fill; 15.14 the target ends as replaced; 15.15 positions lag fills; 15.16 429 with its headers; 15.17 a 504
that hides an order; 15.18 a 502 in HTML; 15.19 an answer that hangs; 15.20 a 401 without a code; 15.21 unknown words;
15.22 orders wait for the open; 15.23 orders and closes that are not ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
from alpaca.common.exceptions import APIError

from tests.contract.conftest import Rehearsal, reloaded

MALFORMED, RULE, BUSINESS = 40010001, 42210000, 40310000
KEYS = {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}


def fault(desk: Rehearsal, kind: str, **fields: Any) -> None:
    desk.control("POST", "faults", {"method": "POST", "path": "/v2/orders", "kind": kind, **fields})


def statuses(order: dict[str, Any]) -> list[str]:
    return [order["status"], *(leg["status"] for leg in order["legs"])]


def cancel(desk: Rehearsal, order: dict[str, Any]) -> None:
    desk.api.delete(f"/orders/{order['id']}")


def patch(desk: Rehearsal, order: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return dict(desk.api.patch(f"/orders/{order['id']}", changes))


@pytest.mark.parametrize(("qty", "price"), [(5, 130.5), ("5", "130.50"), (5.0, "130.5")])
def test_15_01_strings_go_out_and_numbers_or_strings_come_in(desk: Rehearsal, qty: Any, price: Any) -> None:
    placed = desk.limit("buy", price, qty=qty)
    assert (placed["qty"], placed["limit_price"], placed["filled_qty"]) == ("5", "130.5", "0")
    desk.broker.set_price("NVDA", "130")
    seen, position, fill = desk.see(placed), desk.position(), desk.api.get("/account/activities")[0]
    assert (seen["filled_qty"], seen["filled_avg_price"]) == ("5", "130")
    assert (position["qty"], position["avg_entry_price"], position["market_value"]) == ("5", "130", "650")
    assert (fill["qty"], fill["price"], desk.api.get("/account")["cash"]) == ("5", "130", "99350")


@pytest.mark.parametrize("yes", [True, "True", "true", "1"])
def test_15_02_a_boolean_is_written_in_any_usual_way(desk: Rehearsal, yes: Any) -> None:
    desk.long()
    placed = desk.oco()
    assert statuses(desk.see(placed, nested=yes)) == ["new", "held"]
    assert [statuses(row) for row in desk.rows(status="open", nested=yes)] == [["new", "held"]]
    assert [row["symbol"] for row in desk.api.delete("/positions", {"cancel_orders": yes})] == ["NVDA"]
    assert desk.api.get("/positions") == []


def test_15_03_a_cancel_is_answered_204_and_empty(desk: Rehearsal) -> None:
    order = desk.limit("buy", "130")
    answer = desk.api._session.delete(f"{desk.server.url}/v2/orders/{order['id']}", headers=KEYS)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "Content-Type" not in answer.headers


def test_15_04_cancelling_all_is_answered_207_with_a_row_for_each_order(desk: Rehearsal) -> None:
    first, second = desk.limit("buy", "130"), desk.limit("buy", "129")
    desk.see(first)
    answer = desk.api._session.delete(f"{desk.server.url}/v2/orders", headers=KEYS)
    assert answer.status_code == 207
    assert answer.json() == [{"id": first["id"], "status": 200}, {"id": second["id"], "status": 200}]
    assert [desk.status(first), desk.status(second)] == ["canceled", "canceled"]
    assert desk.api.delete("/orders") == []


def test_15_04_closing_everything_is_answered_207_with_a_row_for_each_position(desk: Rehearsal) -> None:
    desk.broker.set_price("AAPL", "200")
    desk.long()
    desk.long("5", "AAPL")
    desk.oco()
    answer = desk.api._session.delete(f"{desk.server.url}/v2/positions", headers=KEYS)
    rows = answer.json()
    assert answer.status_code == 207
    assert [(row["symbol"], row["status"]) for row in rows] == [("AAPL", 200), ("NVDA", 403)]
    assert (rows[0]["body"]["side"], rows[1]["body"]["available"]) == ("sell", "0")
    rows = desk.api.delete("/positions", {"cancel_orders": True})
    assert [(row["symbol"], row["status"]) for row in rows] == [("NVDA", 200)]
    assert desk.api.get("/positions") == []


def test_15_05_a_second_exit_for_the_same_shares_is_refused(desk: Rehearsal) -> None:
    desk.long()
    stop = desk.stop("124")
    assert desk.position()["qty_available"] == "0"
    status, body = desk.failure(lambda: desk.limit("sell", "145.50", time_in_force="gtc"))
    assert status == 403
    assert body == {
        "code": BUSINESS,
        "message": "insufficient qty available for order (requested: 10, available: 0)",
        "available": "0",
        "existing_qty": "10",
        "held_for_orders": "10",
        "related_orders": [stop["id"]],
        "symbol": "NVDA",
    }


def test_15_05_an_exit_reserves_shares_of_its_own_symbol_only(desk: Rehearsal) -> None:
    desk.broker.set_price("AAPL", "200")
    desk.long()
    desk.long("10", "AAPL")
    desk.stop("124")
    assert desk.position("AAPL")["qty_available"] == "10"
    assert desk.status(desk.limit("sell", "220", symbol="AAPL")) == "new"


def test_15_05_shares_are_free_again_after_the_cancel_is_done(desk: Rehearsal) -> None:
    desk.long()
    stop = desk.stop("124")
    desk.broker.behave(cancel_delay_seconds="5")
    cancel(desk, stop)
    assert desk.status(stop) == "pending_cancel"
    assert desk.position()["qty_available"] == "0"
    assert desk.refused(side="sell")[0] == 403
    desk.eastern("2025-01-15 10:00:05")
    assert desk.status(stop) == "canceled"
    assert desk.position()["qty_available"] == "10"
    assert desk.status(desk.order(side="sell")) == "filled"


def test_15_05_the_release_of_shares_may_lag_the_confirmed_cancel(desk: Rehearsal) -> None:
    desk.long()
    stop = desk.stop("124")
    desk.broker.behave(release_delay_seconds="2")
    cancel(desk, stop)
    assert desk.status(stop) == "canceled"
    assert desk.position()["qty_available"] == "0"
    assert desk.refused(side="sell")[0] == 403
    desk.eastern("2025-01-15 10:00:02")
    assert desk.position()["qty_available"] == "10"


MARKET = {"type": "market"}
STOP = {"type": "stop", "stop_price": "124"}
HIGH_STOP = {"type": "stop", "stop_price": "140"}


def limited(price: str, stop: str | None = None) -> dict[str, str]:
    """The terms of a limit order, or of a stop-limit order."""
    kind = {"type": "limit"} if stop is None else {"type": "stop_limit", "stop_price": stop}
    return {**kind, "limit_price": price}


@pytest.mark.parametrize(
    ("side", "resting", "new", "reason"),
    [
        ("sell", STOP, MARKET, "market/stop"),
        ("sell", STOP, limited("100"), "market/stop"),
        ("sell", STOP, HIGH_STOP, "market/stop"),
        ("sell", limited("145"), MARKET, "limit"),
        ("sell", limited("145"), HIGH_STOP, "limit"),
        ("sell", limited("145"), limited("145"), "limit"),
        ("sell", limited("145"), limited("146", "144"), "limit"),
        ("sell", limited("123", "124"), limited("123"), "limit"),
        ("buy", limited("130"), MARKET, "limit"),
        ("buy", limited("130"), STOP, "limit"),
        ("buy", limited("130"), limited("130"), "limit"),
        ("buy", HIGH_STOP, limited("150"), "market/stop"),
    ],
)
def test_15_06_opposite_orders_that_could_meet_are_refused(
    desk: Rehearsal, side: str, resting: dict[str, str], new: dict[str, str], reason: str
) -> None:
    desk.long()
    order = desk.order(side=side, **resting)
    status, body = desk.refused(side="buy" if side == "sell" else "sell", **new)
    assert status == 403
    assert body == {
        "code": BUSINESS,
        "message": "potential wash trade detected. use complex orders",
        "reject_reason": f"opposite side {reason} order exists",
        "existing_order_id": order["id"],
    }


def test_15_06_limits_that_cannot_meet_and_complex_orders_are_taken(desk: Rehearsal) -> None:
    desk.long()
    desk.limit("sell", "145", qty="5")
    desk.limit("buy", "130")
    desk.limit("buy", "130")
    trailing = desk.order(side="sell", qty="5", type="trailing_stop", trail_price="3")
    bracket = desk.bracket(qty="1", take_profit={"limit_price": "150"})
    assert (desk.status(trailing), desk.status(bracket)) == ("new", "filled")


def test_15_07_a_client_order_id_is_taken_for_ever(desk: Rehearsal, tmp_path: Path) -> None:
    first = desk.limit("buy", "120", client_order_id="mine")
    cancel(desk, first)
    assert desk.status(first) == "canceled"
    status, body = desk.refused(client_order_id="mine")
    assert (status, body) == (422, {"code": MALFORMED, "message": "client_order_id must be unique"})
    desk.order(client_order_id="bought")
    desk.eastern("2025-03-03 10:00")
    with reloaded(desk, tmp_path) as later:
        for name in ("mine", "bought"):
            assert later.refused(client_order_id=name)[1]["message"] == "client_order_id must be unique"


def test_15_08_listings_show_brackets_as_the_real_broker_does(desk: Rehearsal) -> None:
    placed = desk.bracket(type="limit", limit_price="130")
    assert [row["id"] for row in desk.rows(status="open")] == [placed["id"]]
    nested = desk.rows(status="open", nested=True)
    assert [len(row["legs"]) for row in nested] == [2]
    desk.broker.set_price("NVDA", "129")
    assert desk.rows(status="open", nested=True) == []
    assert [row["id"] for row in desk.rows(status="open")] == [placed["legs"][0]["id"]]
    everything = desk.rows(status="all", nested=True, symbols="NVDA")
    assert [statuses(row) for row in everything] == [["filled", "new", "held"]]
    assert len(desk.rows(status="all")) == 3


def test_15_08_an_open_listing_shows_the_held_stop_of_an_oco_only_when_nested(desk: Rehearsal) -> None:
    desk.long()
    placed = desk.oco()
    assert [statuses(row) for row in desk.rows(status="open", nested=True)] == [["new", "held"]]
    rows = desk.rows(status="open")
    assert [(row["id"], row["legs"]) for row in rows] == [(placed["id"], None)]
    assert desk.status(placed["legs"][0]) == "held"


def test_15_09_a_replacement_is_a_new_order(desk: Rehearsal) -> None:
    old = desk.limit("buy", "130", client_order_id="first")
    new = patch(desk, old, limit_price="131", qty="12")
    assert new["id"] != old["id"]
    assert new["client_order_id"] != "first"
    assert (new["replaces"], new["limit_price"], new["qty"]) == (old["id"], "131", "12")
    assert new["status"] == "pending_new"
    seen = desk.see(old)
    assert (seen["status"], seen["replaced_by"]) == ("replaced", new["id"])
    assert desk.status(new) == "new"
    status, body = desk.failure(lambda: patch(desk, old, limit_price="132"))
    assert (status, body) == (422, {"code": RULE, "message": "order already replaced"})


def test_15_09_nothing_is_replaced_while_it_is_only_accepted(desk: Rehearsal) -> None:
    desk.eastern("2025-01-15 17:00")
    order = desk.limit("buy", "130")
    status, body = desk.failure(lambda: patch(desk, order, limit_price="131"))
    assert (status, body) == (422, {"code": RULE, "message": "cannot replace order in accepted status"})


def test_15_10_an_order_may_be_rejected_after_it_was_taken(desk: Rehearsal) -> None:
    desk.control("POST", "behaviour", {"reject_next": 1})
    placed = desk.bracket()
    assert placed["status"] == "pending_new"
    seen = desk.see(placed, nested=True)
    assert seen["status"] == "rejected"
    assert seen["failed_at"] is not None
    assert {leg["status"] for leg in seen["legs"]} == {"canceled"}
    assert desk.status(desk.order()) == "filled"


def test_15_11_an_order_may_fill_while_its_cancel_is_pending(desk: Rehearsal) -> None:
    order = desk.limit("buy", "130")
    desk.broker.behave(cancel_delay_seconds="30")
    cancel(desk, order)
    desk.broker.set_price("NVDA", "129")
    assert desk.status(order) == "filled"


def test_15_11_a_cancel_can_lose_against_a_fill(desk: Rehearsal) -> None:
    order = desk.limit("buy", "130")
    desk.broker.behave(cancel_loses_to_fill=True)
    cancel(desk, order)
    seen = desk.see(order)
    assert (seen["status"], seen["filled_avg_price"]) == ("filled", "130")
    assert desk.position()["qty"] == "10"


def test_15_11_a_cancelled_stop_leg_that_fills_first_ends_its_target(desk: Rehearsal) -> None:
    desk.long()
    placed = desk.oco()
    desk.broker.behave(cancel_loses_to_fill=True)
    cancel(desk, placed["legs"][0])
    seen = desk.see(placed, nested=True)
    assert (seen["status"], seen["legs"][0]["status"]) == ("canceled", "filled")
    assert desk.api.get("/positions") == []


def test_15_12_partial_fills_follow_the_liquidity_of_each_price(desk: Rehearsal) -> None:
    desk.control("POST", "liquidity", {"NVDA": "4"})
    order = desk.order()
    seen = desk.see(order)
    assert (seen["status"], seen["filled_qty"], seen["filled_at"]) == ("partially_filled", "4", None)
    desk.broker.set_price("NVDA", "134")
    desk.broker.set_price("NVDA", "135")
    seen = desk.see(order)
    assert (seen["status"], seen["filled_qty"], seen["filled_avg_price"]) == ("filled", "10", "134")


def test_15_13_both_legs_may_fill_in_a_fast_market(desk: Rehearsal) -> None:
    desk.control("POST", "behaviour", {"both_legs_fill": True})
    desk.long()
    placed = desk.oco()
    desk.broker.set_price("NVDA", "120")
    assert statuses(desk.see(placed, nested=True)) == ["filled", "filled"]
    assert desk.position()["qty"] == "-10"
    assert [fill["qty"] for fill in desk.api.get("/account/activities/FILL")] == ["10", "10", "10"]


@pytest.mark.parametrize("target_status", ["canceled", "replaced"])
def test_15_14_when_the_stop_triggers_the_target_ends_canceled_or_replaced(
    desk: Rehearsal, target_status: str
) -> None:
    desk.control("POST", "behaviour", {"tp_status_on_stop": target_status})
    placed = desk.bracket()
    desk.broker.set_price("NVDA", "123.45")
    seen = desk.see(placed, nested=True)
    assert statuses(seen) == ["filled", target_status, "filled"]
    assert seen["legs"][1]["filled_avg_price"] == "123.45"


def test_15_15_positions_may_lag_the_fills(desk: Rehearsal) -> None:
    desk.control("POST", "behaviour", {"positions_lag": "3"})
    bought = desk.order()
    assert desk.status(bought) == "filled"
    assert desk.api.get("/positions") == []
    assert desk.failure(desk.oco)[1]["message"] == "oco orders must be exit orders"
    desk.eastern("2025-01-15 10:00:03")
    assert desk.position()["qty"] == "10"
    assert desk.oco()["order_class"] == "oco"


def test_15_16_a_429_has_the_rate_headers(desk: Rehearsal) -> None:
    fault(desk, "status", code=429, body={"code": 42910000, "message": "rate limit exceeded"}, times=2)
    for _ in range(2):
        with pytest.raises(APIError) as caught:
            desk.order()
        assert caught.value.status_code == 429
        assert "X-RateLimit-Reset" in caught.value.response.headers
    assert desk.order()["status"] == "pending_new"


def test_15_17_a_504_may_hide_an_accepted_order(desk: Rehearsal) -> None:
    fault(desk, "status", code=504, body="upstream timed out", content_type="text/plain", executed=True)
    with pytest.raises(APIError) as caught:
        desk.order(client_order_id="mine")
    assert caught.value.status_code == 504
    found = desk.api.get("/orders:by_client_order_id", {"client_order_id": "mine"})
    assert found["status"] == "filled"
    assert desk.refused(client_order_id="mine")[1]["message"] == "client_order_id must be unique"


def test_15_18_a_502_in_html_comes_without_the_order(desk: Rehearsal) -> None:
    fault(desk, "status", code=502, body="<html>Bad Gateway</html>", content_type="text/html")
    with pytest.raises(APIError) as caught:
        desk.order()
    assert caught.value.status_code == 502
    assert caught.value.response.headers["Content-Type"] == "text/html"
    assert "<html>" in str(caught.value)
    assert desk.rows(status="all") == []
    assert desk.status(desk.order()) == "filled"


def test_15_19_a_hanging_answer_runs_into_the_clients_timeout(desk: Rehearsal) -> None:
    fault(desk, "hang", seconds=30)
    body = {"symbol": "NVDA", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(f"{desk.server.url}/v2/orders", json=body, headers=KEYS, timeout=0.2)
    assert len(desk.rows(status="all")) == 1


def test_15_20_requests_without_keys_are_refused_without_a_code(desk: Rehearsal) -> None:
    for headers in ({}, {"APCA-API-KEY-ID": "k"}, {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": ""}):
        answer = requests.get(f"{desk.server.url}/v2/account", headers=headers, timeout=5)
        assert (answer.status_code, answer.json()) == (401, {"message": "unauthorized."})


def test_15_21_an_answer_may_hold_words_nobody_knows(desk: Rehearsal) -> None:
    fault(desk, "edit", method="*", path="/v2/orders*", set={"status": "pondering"}, times=2)
    placed = desk.order()
    assert placed["status"] == "pondering"
    assert [row["status"] for row in desk.rows(status="all")] == ["pondering"]
    assert desk.status(placed) == "filled"


def test_15_22_orders_wait_for_the_next_session_as_accepted(desk: Rehearsal) -> None:
    desk.eastern("2025-01-17 18:00")
    order = desk.order()
    assert order["status"] == "accepted"
    assert order["expires_at"] == "2025-01-21T21:00:00.000000Z"
    desk.eastern("2025-01-20 12:00")  # Martin Luther King Day
    assert desk.status(order) == "accepted"
    desk.eastern("2025-01-21 09:30")
    seen = desk.see(order)
    assert (seen["status"], seen["filled_at"]) == ("filled", "2025-01-21T14:30:00.000000Z")


def test_15_22_reservations_and_wash_rules_apply_while_the_market_is_closed(desk: Rehearsal) -> None:
    desk.long()
    desk.eastern("2025-01-15 18:00")
    desk.stop("124")
    assert desk.position()["qty_available"] == "0"
    assert desk.failure(lambda: desk.stop("123"))[0] == 403
    assert desk.failure(lambda: desk.limit("buy", "120"))[1]["code"] == BUSINESS


def test_15_23_a_close_may_come_from_outside(desk: Rehearsal) -> None:
    desk.long()
    exits = desk.oco()
    closing = desk.control("POST", "foreign", {"action": "close", "symbol": "NVDA", "price": "140"})
    assert (closing["status"], closing["filled_avg_price"], closing["source"]) == ("filled", "140", "app")
    assert desk.status(exits) == "canceled"
    assert desk.api.get("/positions") == []
    assert desk.api.get("/account/activities/FILL")[0]["order_id"] == closing["id"]
    assert desk.rows(status="all")[0]["id"] == closing["id"]


def test_15_23_orders_may_come_from_outside(desk: Rehearsal) -> None:
    bought = desk.control("POST", "foreign", {"action": "fill", "symbol": "NVDA", "side": "buy", "qty": "3"})
    assert desk.position()["qty"] == "3"
    assert desk.api.get("/account/activities/FILL")[0]["order_id"] == bought["id"]
    wish = {"symbol": "NVDA", "qty": "1", "side": "buy", "type": "limit", "limit_price": "1", "time_in_force": "gtc"}
    resting = desk.control("POST", "foreign", {"action": "order", **wish})
    assert [(row["id"], row["source"]) for row in desk.rows(status="all")] == [
        (resting["id"], "app"),
        (bought["id"], "app"),
    ]
    assert desk.status(resting) == "new"
    desk.control("POST", "foreign", {"action": "cancel", "order_id": resting["id"]})
    assert desk.status(resting) == "canceled"
