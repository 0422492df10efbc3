"""Section 7: cancels that take time, and replacements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import Rehearsal, reloaded

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


def test_7_a_pending_cancel_may_last_while_the_market_is_closed(desk: Rehearsal, tmp_path: Path) -> None:
    desk.long()
    desk.eastern("2025-01-15 18:00")
    stop, exits = desk.stop("124", qty="4"), desk.oco("6")
    desk.control("POST", "behaviour", {"cancel_hang": True})
    cancel(desk, stop)
    cancel(desk, exits)
    desk.eastern("2025-01-16 09:00")
    for order in (stop, exits):
        assert desk.status(order) == "pending_cancel"
        status, body = desk.failure(lambda pending=order: cancel(desk, pending))
        assert (status, body) == (422, {"code": RULE, "message": "order pending cancel"})
    assert desk.position()["qty_available"] == "0"
    assert [row["body"]["held_for_orders"] for row in desk.api.delete("/positions", {"cancel_orders": True})] == ["10"]
    with reloaded(desk, tmp_path) as later:
        assert [later.status(order) for order in (stop, exits)] == ["pending_cancel"] * 2
        assert later.position()["qty_available"] == "0"
        later.control("POST", "behaviour", {"cancel_hang": False})
        assert [later.status(order) for order in (stop, exits)] == ["canceled"] * 2
        assert later.position()["qty_available"] == "10"


def test_7_closing_everything_leaves_hanging_cancels_pending(desk: Rehearsal) -> None:
    desk.long()
    stop = desk.stop("124")
    desk.broker.behave(cancel_hang=True)
    assert desk.api.delete("/positions", {"cancel_orders": True})[0]["status"] == 403
    assert desk.status(stop) == "pending_cancel"


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


def test_7_a_cancelled_order_keeps_its_partial_fill(desk: Rehearsal) -> None:
    desk.broker.set_liquidity("NVDA", "4")
    order = desk.limit("buy", "133.50")
    assert desk.status(order) == "partially_filled"
    cancel(desk, order)
    seen = desk.see(order)
    assert (seen["status"], seen["filled_qty"]) == ("canceled", "4")


def test_7_the_old_order_may_fill_first_and_the_new_one_is_rejected(desk: Rehearsal) -> None:
    old = desk.limit("buy", "130")
    desk.see(old)
    desk.broker.behave(replace_loses_to_fill=True)
    new = patch(desk, old, limit_price="131")
    assert (desk.status(old), desk.status(new)) == ("filled", "rejected")


def test_7_a_stop_that_fills_before_it_is_replaced_ends_its_target(desk: Rehearsal) -> None:
    desk.long()
    target = desk.oco()
    stop = target["legs"][0]
    desk.broker.behave(replace_loses_to_fill=True)
    patch(desk, stop, stop_price="121")
    assert (desk.status(stop), desk.status(target)) == ("filled", "canceled")


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


def test_7_the_replacement_of_a_partly_filled_order_asks_for_what_is_left(desk: Rehearsal, tmp_path: Path) -> None:
    desk.broker.set_liquidity("NVDA", "4")
    old = desk.limit("buy", "133.50", time_in_force="gtc")
    assert desk.status(old) == "partially_filled"
    desk.broker.set_price("NVDA", "140")
    new = patch(desk, old, limit_price="134")
    assert (new["replaces"], new["qty"], new["filled_qty"], new["filled_avg_price"]) == (old["id"], "6", "0", None)
    with reloaded(desk, tmp_path) as later:
        seen = later.see(old)
        assert (seen["status"], seen["replaced_by"]) == ("replaced", new["id"])
        assert (seen["qty"], seen["filled_qty"], seen["filled_avg_price"]) == ("10", "4", "133.5")
        later.broker.set_liquidity("NVDA", None)
        later.broker.set_price("NVDA", "134")
        assert (later.see(new)["filled_qty"], later.see(new)["status"]) == ("6", "filled")
        assert later.position()["qty"] == "10"


def test_7_a_partly_filled_exit_that_is_replaced_reserves_only_what_is_left(desk: Rehearsal) -> None:
    desk.long()
    desk.broker.set_liquidity("NVDA", "4")
    old = desk.limit("sell", "133", time_in_force="gtc")
    assert (desk.status(old), desk.position()["qty_available"]) == ("partially_filled", "0")
    new = patch(desk, old, limit_price="150", qty="7")
    assert (desk.see(new)["qty"], desk.position()["qty"], desk.position()["qty_available"]) == ("3", "6", "3")


def test_7_a_replaced_entry_that_was_partly_filled_keeps_the_legs_for_all_of_it(desk: Rehearsal) -> None:
    desk.broker.set_liquidity("NVDA", "4")
    old = desk.bracket(type="limit", limit_price="133.50")
    assert desk.status(old) == "partially_filled"
    desk.broker.set_price("NVDA", "140")
    desk.broker.set_liquidity("NVDA", None)
    new = patch(desk, old, limit_price="141")
    seen = desk.see(new, nested=True)
    assert (seen["status"], seen["filled_qty"]) == ("filled", "6")
    assert [(leg["status"], leg["qty"]) for leg in seen["legs"]] == [("new", "10"), ("held", "10")]
    assert desk.see(old, nested=True)["legs"] is None


def test_7_a_person_replaces_an_order_in_the_app(desk: Rehearsal) -> None:
    old = desk.limit("buy", "130", client_order_id="ours")
    wish = {"action": "replace", "order_id": old["id"], "limit_price": "129", "qty": "12"}
    new = desk.control("POST", "foreign", wish)
    assert (new["replaces"], new["limit_price"], new["qty"], new["source"]) == (old["id"], "129", "12", "app")
    seen = desk.see(old)
    assert (seen["status"], seen["replaced_by"]) == ("replaced", new["id"])
    assert [row["id"] for row in desk.rows(status="open")] == [new["id"]]
    assert patch(desk, new, limit_price="128")["source"] is None


def test_7_a_person_moves_the_stop_of_a_group_in_the_app(desk: Rehearsal) -> None:
    desk.long()
    placed = desk.oco()
    wish = {"action": "replace", "order_id": placed["legs"][0]["id"], "stop_price": "120"}
    desk.see(placed)
    moved = desk.control("POST", "foreign", wish)
    assert [leg["id"] for leg in desk.see(placed, nested=True)["legs"]] == [moved["id"]]


def test_7_a_replacement_by_a_person_is_refused_as_ours_would_be(desk: Rehearsal) -> None:
    old = desk.order()
    desk.see(old)
    wish = {"action": "replace", "order_id": old["id"], "qty": "12"}
    answer = desk.api._session.post(f"{desk.server.url}/control/foreign", json=wish)
    assert (answer.status_code, answer.json()["code"]) == (422, RULE)
    answer = desk.api._session.post(f"{desk.server.url}/control/foreign", json={"action": "replace"})
    assert (answer.status_code, answer.json()["message"]) == (400, "order_id is missing")


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
