"""Section 10: the account's history of executions and splits, and listings that are late, short or long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.contract.conftest import Rehearsal, reloaded

ACTIVITIES = "/account/activities"


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def pages(desk: Rehearsal, **query: Any) -> list[dict[str, Any]]:
    """Every activity, read page by page until one is short."""
    found: list[dict[str, Any]] = []
    while True:
        token = {"page_token": found[-1]["id"]} if found else {}
        page = desk.api.get(ACTIVITIES, {**query, **token})
        found += page
        if len(page) < query["page_size"]:
            return found


def split(desk: Rehearsal, ratio: str) -> None:
    desk.control("POST", "split", {"symbol": "NVDA", "ratio": ratio})


def test_10_every_execution_is_an_activity(desk: Rehearsal) -> None:
    desk.broker.set_liquidity("NVDA", "4")
    order = desk.order()
    desk.see(order)
    desk.broker.set_price("NVDA", "134")
    desk.broker.set_price("NVDA", "135")
    fills = desk.api.get("/account/activities/FILL", {"direction": "asc"})
    steps = [
        (fill["qty"], fill["cum_qty"], fill["leaves_qty"], fill["type"], fill["price"]) for fill in fills
    ]
    assert steps == [
        ("4", "4", "6", "partial_fill", "133.5"),
        ("4", "8", "2", "partial_fill", "134"),
        ("2", "10", "0", "fill", "135"),
    ]
    assert {fill["order_id"] for fill in fills} == {order["id"]}
    assert all(fill["id"].startswith("20250115150000000::") for fill in fills)
    assert "client_order_id" not in fills[0]


def test_10_activities_are_paged_by_the_last_id(desk: Rehearsal) -> None:
    for minute in range(3):
        desk.eastern(f"2025-01-15 10:0{minute}")
        desk.long("1")
    path = "/account/activities"
    newest_first = ids(desk.api.get(path))
    assert len(newest_first) == 3
    page = desk.api.get(path, {"page_size": 2, "direction": "asc"})
    assert ids(page) == newest_first[:0:-1]
    rest = desk.api.get(path, {"page_size": 2, "direction": "asc", "page_token": page[-1]["id"]})
    assert ids(rest) == [newest_first[0]]
    assert len(desk.api.get(path, {"after": "2025-01-15T15:00:30Z", "until": "2025-01-15T15:02:00Z"})) == 1
    assert len(desk.api.get(path, {"date": "2025-01-15", "activity_types": "FILL"})) == 3
    assert desk.api.get(path, {"category": "non_trade_activity"}) == []
    one = desk.api.get(path, {"order_id": page[0]["order_id"]})
    assert ids(one) == [page[0]["id"]]
    assert desk.failure(lambda: desk.api.get(path, {"page_size": 101}))[0] == 422
    assert desk.failure(lambda: desk.api.get(path, {"page_token": "x"}))[0] == 422


def test_10_pages_miss_nothing_among_activities_of_one_instant(desk: Rehearsal) -> None:
    for _ in range(5):
        desk.long("1")
    split(desk, "2")
    forward = pages(desk, page_size=2, direction="asc")
    assert len({row["id"] for row in forward}) == 6
    assert [row["activity_type"] for row in forward] == ["FILL"] * 5 + ["SPLIT"]
    assert len({row["id"].partition("::")[0] for row in forward}) == 1
    assert ids(pages(desk, page_size=2, direction="desc")) == ids(forward)[::-1]
    assert ids(pages(desk, page_size=1, direction="desc", activity_types="FILL")) == ids(forward)[4::-1]


def test_10_what_a_person_does_is_found_from_its_activities_and_in_the_listing(
    desk: Rehearsal, tmp_path: Path
) -> None:
    desk.long()
    sold = desk.control("POST", "foreign", {"action": "fill", "symbol": "NVDA", "side": "sell", "qty": "4"})
    closed = desk.control("POST", "foreign", {"action": "close", "symbol": "NVDA"})
    with reloaded(desk, tmp_path) as later:
        for view in (desk, later):
            fills = view.api.get("/account/activities/FILL")
            assert [row["order_id"] for row in fills[:2]] == [closed["id"], sold["id"]]
            assert [row["qty"] for row in fills[:2]] == ["6", "4"]
            assert ids(view.rows(status="all"))[:2] == [closed["id"], sold["id"]]
            assert view.see(sold)["filled_avg_price"] == "133.5"


def test_10_a_trade_by_hand_takes_no_more_liquidity_than_there_is(desk: Rehearsal) -> None:
    desk.broker.set_liquidity("NVDA", "4")
    desk.control("POST", "foreign", {"action": "fill", "symbol": "NVDA", "side": "buy", "qty": "10"})
    order = desk.order(qty="5")
    assert desk.see(order)["filled_qty"] == "0"
    desk.broker.set_price("NVDA", "134")
    assert desk.see(order)["filled_qty"] == "4"


def test_10_activities_may_be_listed_late(desk: Rehearsal, tmp_path: Path) -> None:
    desk.long("1")
    desk.control("POST", "behaviour", {"activities_lag": "60"})
    late = desk.order(qty="2")
    assert (desk.status(late), desk.position()["qty"]) == ("filled", "3")
    desk.control("POST", "behaviour", {"activities_lag": "0"})
    desk.eastern("2025-01-15 10:00:30")
    desk.long("3")
    assert [row["qty"] for row in desk.api.get(ACTIVITIES)] == ["3", "1"]
    desk.eastern("2025-01-15 10:00:59")
    assert desk.api.get("/account/activities/FILL", {"order_id": late["id"]}) == []
    with reloaded(desk, tmp_path) as later:
        assert [row["qty"] for row in later.api.get(ACTIVITIES)] == ["3", "1"]
        later.eastern("2025-01-15 10:01")
        rows = later.api.get(ACTIVITIES)
    assert [row["qty"] for row in rows] == ["3", "2", "1"]
    assert rows[1]["transaction_time"] == "2025-01-15T15:00:00.000000Z"


def test_10_listings_may_be_empty_once_or_short_for_a_while(desk: Rehearsal) -> None:
    desk.broker.set_price("AMD", "120")
    desk.long()
    desk.long("5", "AMD")
    whole = desk.api.get("/positions")
    answer = {"kind": "status", "code": 200, "path": "/v2/positions"}
    desk.control("POST", "faults", {**answer, "body": []})
    assert [desk.api.get("/positions"), desk.api.get("/positions")] == [[], whole]
    desk.control("POST", "faults", {**answer, "body": whole[:1], "times": None})
    assert [len(desk.api.get("/positions")) for _ in range(3)] == [1, 1, 1]
    assert desk.position()["qty"] == "10"
    desk.control("DELETE", "faults")
    assert desk.api.get("/positions") == whole
    desk.control("POST", "faults", {**answer, "path": "/v2/account/activities*", "body": []})
    assert [len(desk.api.get("/account/activities/FILL")) for _ in range(2)] == [0, 2]


def test_10_a_split_is_an_activity_and_changes_the_position(desk: Rehearsal) -> None:
    desk.long()
    resting = desk.limit("sell", "150", time_in_force="gtc", qty="4")
    desk.control("POST", "split", {"symbol": "NVDA", "ratio": "10"})
    position = desk.position()
    assert (position["qty"], position["avg_entry_price"], position["current_price"]) == (
        "100",
        "13.35",
        "13.35",
    )
    seen = desk.see(resting)
    assert (seen["qty"], seen["limit_price"]) == ("40", "15")
    activity = desk.api.get("/account/activities/SPLIT")[0]
    assert (activity["symbol"], activity["qty"]) == ("NVDA", "90")


def test_10_splits_are_listed_by_type_and_time(desk: Rehearsal) -> None:
    desk.long()
    split(desk, "2")
    desk.eastern("2025-01-16 10:00")
    split(desk, "1/4")
    query = {"activity_types": "SPLIT", "direction": "asc"}
    rows = desk.api.get(ACTIVITIES, query)
    assert [(row["activity_sub_type"], row["qty"]) for row in rows] == [("FSPLIT", "10"), ("RSPLIT", "-15")]
    assert [row["date"] for row in rows] == ["2025-01-15T05:00:00.000000Z", "2025-01-16T05:00:00.000000Z"]
    assert [row["created_at"] for row in rows] == ["2025-01-15T15:00:00.000000Z", "2025-01-16T15:00:00.000000Z"]
    assert ids(desk.api.get(ACTIVITIES, {**query, "after": "2025-01-15T15:00:00Z"})) == ids(rows)[1:]
    assert ids(desk.api.get(ACTIVITIES, {**query, "after": "2025-01-15T14:59:59Z"})) == ids(rows)
    assert [row["activity_type"] for row in desk.api.get(ACTIVITIES)] == ["SPLIT", "SPLIT", "FILL"]
    assert desk.api.get(ACTIVITIES, {"category": "non_trade_activity", "until": "2025-01-16"}) == rows[:1]


def test_4_the_legs_of_groups_keep_their_terms_through_a_split(desk: Rehearsal, tmp_path: Path) -> None:
    desk.long()
    exits, entry = desk.oco("6"), desk.bracket(type="limit", limit_price="130")
    plain = desk.limit("sell", "150", time_in_force="gtc", qty="4")
    desk.eastern("2025-01-15 21:00")
    split(desk, "10")
    with reloaded(desk, tmp_path) as later:
        for group in (exits, entry):
            seen = later.see(group, nested=True)
            for before, after in zip((group, *group["legs"]), (seen, *seen["legs"]), strict=True):
                terms = ("qty", "limit_price", "stop_price")
                assert [after[name] for name in terms] == [before[name] for name in terms]
        assert (later.see(plain)["qty"], later.see(plain)["limit_price"]) == ("40", "15")
        assert later.position()["qty_available"] == "54"
        later.eastern("2025-01-16 09:30")
        stop = later.see(exits, nested=True)["legs"][0]
        assert (stop["status"], stop["filled_qty"], stop["filled_avg_price"]) == ("filled", "6", "13.35")


def test_10_a_reverse_split_may_leave_a_fraction(desk: Rehearsal, tmp_path: Path) -> None:
    desk.long("25")
    exits, stop, small = desk.oco("4"), desk.stop("124", qty="16"), desk.stop("120", qty="5")
    desk.eastern("2025-01-15 21:00")
    split(desk, "1/10")
    with reloaded(desk, tmp_path) as later:
        position = later.position()
        assert (position["qty"], position["avg_entry_price"], position["lastday_price"]) == ("2.5", "1335", "1335")
        assert position["qty_available"] == "0"
        assert (later.see(stop)["qty"], later.see(stop)["stop_price"]) == ("1", "1240")
        assert later.status(small) == "canceled"
        seen = later.see(exits, nested=True)
        assert (seen["qty"], seen["limit_price"], seen["legs"][0]["stop_price"]) == ("4", "145.5", "124")


def test_10_a_partly_filled_order_is_split_with_what_it_filled(desk: Rehearsal) -> None:
    desk.broker.set_liquidity("NVDA", "4")
    order = desk.limit("buy", "133.50", time_in_force="gtc")
    assert desk.status(order) == "partially_filled"
    desk.eastern("2025-01-15 21:00")
    split(desk, "1/5")
    seen = desk.see(order)
    assert (seen["qty"], seen["filled_qty"], seen["filled_avg_price"]) == ("1.8", "0.8", "667.5")
    assert desk.position()["qty"] == "0.8"


def test_10_a_trailing_stop_follows_the_new_price_after_a_split(desk: Rehearsal) -> None:
    desk.long()
    order = desk.order(side="sell", type="trailing_stop", trail_price="10", time_in_force="gtc")
    split(desk, "10")
    seen = desk.see(order)
    assert [seen[name] for name in ("qty", "hwm", "trail_price", "stop_price", "status")] == [
        "100",
        "13.35",
        "1",
        "12.35",
        "new",
    ]
