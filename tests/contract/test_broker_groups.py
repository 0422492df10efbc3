"""Sections 3 and 4: bracket, OCO and OTO orders, their lives and how they are listed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.conftest import Rehearsal

RULE = 42210000


def statuses(order: dict[str, Any]) -> list[str]:
    return [order["status"], *(leg["status"] for leg in order["legs"])]


def test_4_the_legs_of_a_bracket_wait_for_the_entry(desk: Rehearsal) -> None:
    placed = desk.bracket(type="limit", limit_price="130")
    assert statuses(placed) == ["pending_new", "held", "held"]
    assert statuses(desk.see(placed, nested=True)) == ["new", "held", "held"]
    target, stop = placed["legs"]
    assert (target["type"], target["side"], target["limit_price"]) == ("limit", "sell", "145.5")
    assert (stop["type"], stop["stop_price"], stop["limit_price"]) == ("stop", "124", None)
    assert {placed["submitted_at"], target["submitted_at"], stop["submitted_at"]} == {placed["submitted_at"]}


def test_4_after_the_entry_the_target_is_new_and_the_stop_stays_held(desk: Rehearsal) -> None:
    placed = desk.bracket()
    assert statuses(desk.see(placed, nested=True)) == ["filled", "new", "held"]


def test_4_an_entry_that_is_a_stop_keeps_both_legs_when_it_triggers(desk: Rehearsal) -> None:
    placed = desk.bracket(type="stop", stop_price="136", stop_loss={"stop_price": "130"})
    desk.broker.set_price("NVDA", "136")
    assert statuses(desk.see(placed, nested=True)) == ["filled", "new", "held"]


def test_4_a_partly_filled_entry_leaves_its_legs_inactive_and_its_cancel_ends_the_group(
    desk: Rehearsal,
) -> None:
    desk.broker.set_liquidity("NVDA", "4")
    placed = desk.bracket(type="limit", limit_price="133.50")
    assert statuses(desk.see(placed, nested=True)) == ["partially_filled", "held", "held"]
    desk.api.delete(f"/orders/{placed['id']}")
    assert statuses(desk.see(placed, nested=True)) == ["canceled", "canceled", "canceled"]
    assert desk.position()["qty"] == "4"
    desk.broker.set_price("NVDA", "100")
    assert desk.position()["qty_available"] == "4"


def test_4_an_oco_is_its_target_with_the_stop_as_a_held_leg(desk: Rehearsal) -> None:
    desk.long()
    placed = desk.oco(client_order_id="exit")
    assert (placed["type"], placed["order_class"], placed["client_order_id"]) == ("limit", "oco", "exit")
    assert placed["limit_price"] == "145.5"
    seen = desk.see(placed, nested=True)
    assert statuses(seen) == ["new", "held"]
    assert seen["legs"][0]["type"] == "stop"
    assert seen["legs"][0]["client_order_id"] != "exit"
    assert desk.see(placed)["legs"] is None


def test_4_the_target_fills_and_the_stop_is_cancelled(desk: Rehearsal) -> None:
    desk.long()
    placed = desk.oco()
    desk.broker.set_price("NVDA", "146")
    seen = desk.see(placed, nested=True)
    assert statuses(seen) == ["filled", "canceled"]
    assert seen["filled_avg_price"] == "146"


def test_4_a_partly_filled_target_shrinks_the_stop(desk: Rehearsal) -> None:
    desk.long()
    placed = desk.oco()
    desk.broker.set_liquidity("NVDA", "3")
    desk.broker.set_price("NVDA", "146")
    seen = desk.see(placed, nested=True)
    assert statuses(seen) == ["partially_filled", "held"]
    assert seen["legs"][0]["qty"] == "7"
    assert desk.position()["qty_available"] == "0"
    for price in ("120", "119", "118"):
        desk.broker.set_price("NVDA", price)
    seen = desk.see(placed, nested=True)
    assert statuses(seen) == ["canceled", "filled"]
    assert (seen["filled_qty"], seen["legs"][0]["filled_qty"]) == ("3", "7")
    assert desk.api.get("/positions") == []


@pytest.mark.parametrize("member", [0, 1])
def test_4_cancelling_one_member_ends_the_group(desk: Rehearsal, member: int) -> None:
    desk.long()
    placed = desk.oco()
    ids = [placed["id"], placed["legs"][0]["id"]]
    desk.api.delete(f"/orders/{ids[member]}")
    assert statuses(desk.see(placed, nested=True)) == ["canceled", "canceled"]
    assert desk.position()["qty_available"] == "10"


def test_4_cancelling_a_leg_of_a_filled_bracket_takes_the_other_leg_along(desk: Rehearsal) -> None:
    placed = desk.bracket()
    desk.api.delete(f"/orders/{placed['legs'][0]['id']}")
    assert statuses(desk.see(placed, nested=True)) == ["filled", "canceled", "canceled"]


def test_4_a_stop_with_a_limit_is_a_stop_limit_leg(desk: Rehearsal) -> None:
    placed = desk.bracket(stop_loss={"stop_price": "124", "limit_price": "123"})
    assert placed["legs"][1]["type"] == "stop_limit"
    desk.broker.set_price("NVDA", "120")
    seen = desk.see(placed, nested=True)
    assert statuses(seen) == ["filled", "canceled", "new"]
    assert desk.position()["qty_available"] == "0"


def test_4_day_legs_die_at_the_close_and_leave_the_position_naked(desk: Rehearsal) -> None:
    placed = desk.bracket(time_in_force="day")
    desk.eastern("2025-01-15 16:00")
    assert statuses(desk.see(placed, nested=True)) == ["filled", "expired", "expired"]
    assert desk.position()["qty_available"] == "10"


def test_3_an_oto_has_one_leg_that_becomes_new(desk: Rehearsal) -> None:
    placed = desk.bracket(order_class="oto", take_profit=None)
    assert statuses(placed) == ["pending_new", "held"]
    assert statuses(desk.see(placed, nested=True)) == ["filled", "new"]
    desk.broker.set_price("NVDA", "120")
    assert statuses(desk.see(placed, nested=True)) == ["filled", "filled"]


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"take_profit": None}, 40010001, "bracket orders require take_profit.limit_price"),
        ({"stop_loss": None}, 40010001, "bracket orders require stop_loss.stop_price"),
        ({"order_class": "oto"}, 40010001, "oto orders require either take_profit or stop_loss"),
        ({"time_in_force": "ioc"}, RULE, "bracket orders must be DAY or GTC orders"),
        (
            {"type": "limit", "limit_price": "130", "extended_hours": True},
            RULE,
            "extended hours order must be DAY limit orders",
        ),
        (
            {"take_profit": {"limit_price": "120"}, "stop_loss": {"stop_price": "121"}},
            RULE,
            "take_profit.limit_price must be > stop_loss.stop_price",
        ),
        ({"side": "sell", "order_class": "oco", "type": "limit"}, RULE, "oco orders must be exit orders"),
        (
            {
                "side": "sell",
                "order_class": "oco",
                "type": "limit",
                "take_profit": None,
                "limit_price": "145",
            },
            40010001,
            "oco orders require take_profit.limit_price",
        ),
    ],
)
def test_3_incomplete_or_impossible_groups_are_refused(
    desk: Rehearsal, fields: dict[str, Any], code: int, message: str
) -> None:
    status, body = desk.failure(lambda: desk.bracket(**fields))
    assert (status, body["code"], body["message"]) == (422, code, message)


def test_3_a_bracket_must_be_an_entry_and_an_oco_an_exit(desk: Rehearsal) -> None:
    desk.long()
    prices = {"take_profit": {"limit_price": "120"}, "stop_loss": {"stop_price": "140"}}
    status, body = desk.failure(lambda: desk.bracket(side="sell", **prices))
    assert (status, body["code"], body["message"]) == (422, RULE, "bracket orders must be entry orders")
    status, body = desk.failure(lambda: desk.oco(side="buy", **prices))
    assert (status, body["message"]) == (422, "oco orders must be exit orders")


@pytest.mark.parametrize(
    ("fields", "message", "base"),
    [
        (
            {"stop_loss": {"stop_price": "133.50"}},
            "stop_loss.stop_price must be <= base_price - 0.01",
            "133.5",
        ),
        (
            {"take_profit": {"limit_price": "133.50"}},
            "take_profit.limit_price must be >= base_price + 0.01",
            "133.5",
        ),
        (
            {"type": "limit", "limit_price": "130", "stop_loss": {"stop_price": "130"}},
            "stop_loss.stop_price must be <= base_price - 0.01",
            "130",
        ),
        (
            {"type": "limit", "limit_price": "140", "stop_loss": {"stop_price": "134"}},
            "stop_loss.stop_price must be <= base_price - 0.01",
            "133.5",
        ),
        (
            {"side": "sell", "take_profit": {"limit_price": "120"}, "stop_loss": {"stop_price": "133.50"}},
            "stop_loss.stop_price must be >= base_price + 0.01",
            "133.5",
        ),
    ],
)
def test_3_prices_of_a_group_lie_beyond_the_base_price(
    desk: Rehearsal, fields: dict[str, Any], message: str, base: str
) -> None:
    status, body = desk.failure(lambda: desk.bracket(**fields))
    assert (status, body) == (422, {"code": RULE, "message": message, "base_price": base})


def test_3_the_stop_of_an_oco_lies_below_the_market(desk: Rehearsal) -> None:
    desk.long()
    status, body = desk.failure(lambda: desk.oco(stop_loss={"stop_price": "133.50"}))
    assert (status, body["base_price"]) == (422, "133.5")


def test_4_a_short_is_protected_by_an_oco_that_buys(desk: Rehearsal) -> None:
    desk.order(side="sell")
    placed = desk.oco(side="buy", take_profit={"limit_price": "120"}, stop_loss={"stop_price": "140"})
    assert statuses(desk.see(placed, nested=True)) == ["new", "held"]
    desk.broker.set_price("NVDA", "140")
    assert statuses(desk.see(placed, nested=True)) == ["canceled", "filled"]
    assert desk.api.get("/positions") == []
