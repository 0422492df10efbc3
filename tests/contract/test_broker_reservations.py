"""Section 5: shares reserved by exits, wash trades and shorts."""

from __future__ import annotations

from tests.contract.conftest import Rehearsal

BUSINESS, RULE = 40310000, 42210000


def test_5a_closing_a_protected_position_is_refused_too(desk: Rehearsal) -> None:
    desk.long()
    desk.oco()
    status, body = desk.failure(lambda: desk.api.delete("/positions/NVDA"))
    assert (status, body["code"], body["available"]) == (403, BUSINESS, "0")
    assert desk.refused(side="sell")[0] == 403


def test_5a_an_oco_reserves_its_shares_once_and_a_stop_may_have_the_rest(desk: Rehearsal) -> None:
    desk.long("15")
    desk.oco("10")
    desk.stop("124", qty="5")
    assert desk.position()["qty_available"] == "0"
    assert desk.failure(lambda: desk.stop("123", qty="1"))[0] == 403


def test_5a_the_legs_of_a_bracket_reserve_the_shares_only_once_it_is_filled(desk: Rehearsal) -> None:
    desk.bracket()
    assert desk.position()["qty_available"] == "0"
    resting = desk.bracket(type="limit", limit_price="130")
    assert desk.position()["qty_available"] == "0"
    assert desk.status(resting) == "new"


def test_5a_fractions_exit_by_separate_orders_on_disjoint_shares(desk: Rehearsal) -> None:
    desk.long("1.5")
    desk.stop("124", qty="1", time_in_force="day")
    desk.limit("sell", "145", qty="0.5")
    assert desk.failure(lambda: desk.limit("sell", "146", qty="0.1"))[0] == 403


def test_5b_an_unfilled_entry_blocks_a_plain_stop_but_not_an_oco(desk: Rehearsal) -> None:
    desk.long()
    desk.limit("buy", "130")
    status, body = desk.failure(lambda: desk.stop("124"))
    assert (status, body["reject_reason"]) == (403, "opposite side limit order exists")
    assert desk.status(desk.oco()) == "new"


def test_5b_resting_groups_block_plain_orders_only_on_request(desk: Rehearsal) -> None:
    desk.long()
    desk.oco()
    desk.broker.behave(resting_groups_block_plain=True)
    assert desk.refused()[0] == 403
    desk.broker.behave(resting_groups_block_plain=False)
    assert desk.status(desk.order()) == "filled"


def test_5c_a_sale_without_a_position_opens_a_short(desk: Rehearsal) -> None:
    sold = desk.order(side="sell")
    assert sold["position_intent"] == "sell_to_open"
    position = desk.position()
    assert (position["side"], position["qty"], position["qty_available"]) == ("short", "-10", "-10")
    assert desk.api.get("/account/activities/FILL")[0]["side"] == "sell_short"


def test_5c_no_shorting_and_position_intent_guard_against_it(desk: Rehearsal) -> None:
    status, body = desk.refused(side="sell", position_intent="sell_to_close")
    assert (status, body["code"]) == (422, RULE)
    assert body["message"] == "position intent mismatch, inferred: sell_to_open, specified: sell_to_close"
    desk.api.patch("/account/configurations", {"no_shorting": True})
    status, body = desk.refused(side="sell")
    assert (status, body["message"]) == (403, "account is not allowed to short")


def test_9_no_order_crosses_from_long_to_short_or_back(desk: Rehearsal) -> None:
    desk.long()
    assert desk.refused(side="sell", qty="11")[1]["available"] == "10"
    desk.order(side="sell")
    desk.order(side="sell", qty="5")
    assert desk.position()["qty"] == "-5"
    status, body = desk.refused(side="buy", qty="6")
    assert (status, body["existing_qty"]) == (403, "5")


def test_9_a_small_account_may_not_short(desk: Rehearsal) -> None:
    desk.broker.set_account(cash="1999")
    assert desk.refused(side="sell", qty="1")[1]["message"] == "account is not allowed to short"
