"""Section 7: cancels that take time, and replacements."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.conftest import Rehearsal

RULE = 42210000


def cancel(desk: Rehearsal, order: dict[str, Any]) -> None:
    desk.api.delete(f"/orders/{order['id']}")


def patch(desk: Rehearsal, order: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return dict(desk.api.patch(f"/orders/{order['id']}", changes))


def refused_patch(desk: Rehearsal, order: dict[str, Any], **changes: Any) -> tuple[int, int, str]:
    status, body = desk.failure(lambda: patch(desk, order, **changes))
    return status, body["code"], body["message"]


def test_7_a_cancel_is_answered_before_it_is_done(desk: Rehearsal) -> None:
    order = desk.limit("buy", "130")
    cancel(desk, order)
    assert desk.broker.order(order["id"]).status == "pending_cancel"
    assert desk.status(order) == "canceled"
    cancel(desk, order)


def test_7_what_has_ended_cannot_be_cancelled(desk: Rehearsal) -> None:
    order = desk.order()
    status, body = desk.failure(lambda: cancel(desk, order))
    assert (status, body) == (422, {"code": RULE, "message": 'order is already in "filled" state'})
    gone = {"id": "11111111-1111-1111-1111-111111111111"}
    assert desk.failure(lambda: cancel(desk, gone))[0] == 404


def test_7_a_pending_cancel_can_hang_and_keeps_its_shares(desk: Rehearsal) -> None:
    desk.long()
    stop = desk.stop("124")
    desk.control("POST", "behaviour", {"cancel_hang": True})
    cancel(desk, stop)
    assert desk.status(stop) == "pending_cancel"
    status, body = desk.failure(lambda: cancel(desk, stop))
    assert (status, body["message"]) == (422, "order pending cancel")
    assert desk.position()["qty_available"] == "0"
    assert [row["status"] for row in desk.rows(status="open")] == ["pending_cancel"]
    desk.control("POST", "behaviour", {"cancel_hang": False})
    assert desk.status(stop) == "canceled"


def test_7_an_order_may_fill_while_its_cancel_is_pending(desk: Rehearsal) -> None:
    order = desk.limit("buy", "130")
    desk.broker.behave(cancel_delay_seconds="30")
    cancel(desk, order)
    desk.broker.set_price("NVDA", "129")
    assert desk.status(order) == "filled"


def test_7_a_cancel_can_lose_against_a_fill(desk: Rehearsal) -> None:
    order = desk.limit("buy", "130")
    desk.broker.behave(cancel_loses_to_fill=True)
    cancel(desk, order)
    seen = desk.see(order)
    assert (seen["status"], seen["filled_avg_price"]) == ("filled", "130")


def test_7_a_cancelled_stop_leg_that_fills_first_ends_its_target(desk: Rehearsal) -> None:
    desk.long()
    placed = desk.oco()
    desk.broker.behave(cancel_loses_to_fill=True)
    cancel(desk, placed["legs"][0])
    seen = desk.see(placed, nested=True)
    assert (seen["status"], seen["legs"][0]["status"]) == ("canceled", "filled")
    assert desk.api.get("/positions") == []


def test_7_a_cancelled_order_keeps_its_partial_fill(desk: Rehearsal) -> None:
    desk.broker.set_liquidity("NVDA", "4")
    order = desk.limit("buy", "133.50")
    assert desk.status(order) == "partially_filled"
    cancel(desk, order)
    seen = desk.see(order)
    assert (seen["status"], seen["filled_qty"]) == ("canceled", "4")


def test_7_a_replacement_is_a_new_order(desk: Rehearsal) -> None:
    old = desk.limit("buy", "130", client_order_id="first")
    new = patch(desk, old, limit_price="131", qty="12")
    assert new["id"] != old["id"]
    assert new["client_order_id"] != "first"
    assert (new["replaces"], new["limit_price"], new["qty"], new["status"]) == (
        old["id"],
        "131",
        "12",
        "pending_new",
    )
    seen = desk.see(old)
    assert (seen["status"], seen["replaced_by"]) == ("replaced", new["id"])
    assert desk.status(new) == "new"
    assert refused_patch(desk, old, limit_price="132") == (422, RULE, "order already replaced")


def test_7_the_old_order_may_fill_first_and_the_new_one_is_rejected(desk: Rehearsal) -> None:
    old = desk.limit("buy", "130")
    desk.see(old)
    desk.broker.behave(replace_loses_to_fill=True)
    new = patch(desk, old, limit_price="131")
    assert (desk.status(old), desk.status(new)) == ("filled", "rejected")


def test_7_nothing_is_replaced_while_the_market_is_closed(desk: Rehearsal) -> None:
    desk.eastern("2025-01-15 17:00")
    order = desk.limit("buy", "130")
    assert refused_patch(desk, order, limit_price="131") == (
        422,
        RULE,
        "cannot replace order in accepted status",
    )


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"limit_price": "130"}, RULE, "order parameters are not changed"),
        ({}, RULE, "order parameters are not changed"),
        ({"stop_price": "120"}, 40010001, "limit orders must not have a stop price"),
        ({"qty": "0.5"}, RULE, "qty of fractional orders cannot be changed"),
        ({"client_order_id": "first", "limit_price": "131"}, 40010001, "client_order_id must be unique"),
        ({"limit_price": "ten"}, 40010001, "invalid limit_price"),
    ],
)
def test_7_senseless_replacements_are_refused(
    desk: Rehearsal, changes: dict[str, Any], code: int, message: str
) -> None:
    order = desk.limit("buy", "130", client_order_id="first")
    assert refused_patch(desk, order, **changes) == (422, code, message)


def test_7_the_new_quantity_must_exceed_what_is_filled(desk: Rehearsal) -> None:
    desk.broker.set_liquidity("NVDA", "4")
    order = desk.limit("buy", "133.50")
    assert refused_patch(desk, order, qty="4") == (422, RULE, "qty must be > filled_qty")
    desk.broker.set_price("NVDA", "140")
    new = patch(desk, order, qty="7")
    assert new["qty"] == "3"
    assert desk.see(order)["filled_qty"] == "4"


def test_7_a_replacement_needs_buying_power_or_shares_for_its_growth(desk: Rehearsal) -> None:
    order = desk.limit("buy", "130", qty="1000")
    desk.see(order)
    assert refused_patch(desk, order, qty="2000")[0] == 403
    desk.long()
    exit_order = desk.limit("sell", "150", qty="5")
    assert patch(desk, exit_order, qty="10")["qty"] == "10"
    desk.api.get("/clock")
    assert desk.position()["qty_available"] == "0"


def test_7_legs_change_their_prices_but_never_their_quantity(desk: Rehearsal) -> None:
    desk.long()
    placed = desk.oco()
    stop = placed["legs"][0]
    assert refused_patch(desk, placed, qty="5") == (422, RULE, "qty cannot be changed for advanced orders")
    moved = patch(desk, stop, stop_price="128")
    seen = desk.see(placed, nested=True)
    assert [(leg["id"], leg["status"], leg["stop_price"]) for leg in seen["legs"]] == [
        (moved["id"], "held", "128")
    ]
    assert desk.position()["qty_available"] == "0"
    desk.broker.set_price("NVDA", "127.90")
    assert desk.see(moved)["filled_avg_price"] == "127.9"
    assert desk.status(placed) == "canceled"


def test_7_a_replaced_parent_keeps_its_leg(desk: Rehearsal) -> None:
    desk.long()
    placed = desk.oco()
    desk.see(placed)
    moved = patch(desk, placed, limit_price="133")
    assert desk.see(moved)["filled_avg_price"] == "133.5"
    seen = desk.see(moved, nested=True)
    assert [leg["status"] for leg in seen["legs"]] == ["canceled"]


def test_14_cancel_all_answers_each_order(desk: Rehearsal) -> None:
    first, second = desk.limit("buy", "130"), desk.limit("buy", "129")
    desk.see(first)
    rows = desk.api.delete("/orders")
    assert rows == [{"id": first["id"], "status": 200}, {"id": second["id"], "status": 200}]
    assert [desk.status(first), desk.status(second)] == ["canceled", "canceled"]
    assert desk.api.delete("/orders") == []
    assert desk.api._session.delete(f"{desk.server.url}/v2/orders").status_code == 401


def test_14_closing_everything_needs_the_orders_cancelled(desk: Rehearsal) -> None:
    desk.broker.set_price("AAPL", "200")
    desk.long()
    desk.long("5", "AAPL")
    desk.oco()
    rows = desk.api.delete("/positions")
    assert [(row["symbol"], row["status"]) for row in rows] == [("AAPL", 200), ("NVDA", 403)]
    assert rows[1]["body"]["available"] == "0"
    rows = desk.api.delete("/positions", {"cancel_orders": True})
    assert [(row["symbol"], row["status"]) for row in rows] == [("NVDA", 200)]
    assert desk.api.get("/positions") == []


@pytest.mark.parametrize(
    ("held", "query", "sold"),
    [
        ("10", {}, "10"),
        ("10", {"qty": "4"}, "4"),
        ("10", {"percentage": "25"}, "2"),
        ("1.5", {"percentage": "50"}, "0.75"),
    ],
)
def test_14_a_position_is_closed_whole_or_in_part(
    desk: Rehearsal, held: str, query: dict[str, str], sold: str
) -> None:
    desk.long(held)
    order = desk.api.delete("/positions/NVDA", query)
    assert (order["type"], order["side"], order["qty"]) == ("market", "sell", sold)
    assert desk.status(order) == "filled"


def test_14_a_position_that_is_not_there_cannot_be_closed(desk: Rehearsal) -> None:
    status, body = desk.failure(lambda: desk.api.delete("/positions/NVDA"))
    assert (status, body) == (404, {"code": 40410000, "message": "position does not exist"})
