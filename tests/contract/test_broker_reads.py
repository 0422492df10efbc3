"""Sections 1, 10 and 11: listings, positions, account, activities, clock, calendar, assets and data."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from http.client import HTTPConnection
from typing import Any
from uuid import uuid4

import pytest
import requests

from tests.contract.conftest import Rehearsal


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def three(desk: Rehearsal) -> list[str]:
    placed = []
    for minute in range(3):
        desk.eastern(f"2025-01-15 10:0{minute}")
        placed.append(desk.limit("buy", "120")["id"])
    return placed


def test_10_orders_are_listed_newest_first_with_exclusive_bounds(desk: Rehearsal) -> None:
    first, second, third = three(desk)
    assert ids(desk.rows()) == [third, second, first]
    assert ids(desk.rows(direction="asc", limit=2)) == [first, second]
    after = "2025-01-15T10:00:00-05:00"
    assert ids(desk.rows(after=after)) == [third, second]
    assert ids(desk.rows(after=after, until="2025-01-15T15:02:00.000000000Z")) == [second]
    assert ids(desk.rows(after_order_id=first, direction="asc")) == [second, third]
    assert ids(desk.rows(before_order_id=third)) == [second, first]


def test_10_orders_are_filtered(desk: Rehearsal) -> None:
    desk.broker.set_price("AAPL", "200")
    resting, filled = desk.limit("buy", "120"), desk.order(symbol="AAPL")
    assert ids(desk.rows(status="closed")) == [filled["id"]]
    assert ids(desk.rows(status="open")) == [resting["id"]]
    assert ids(desk.rows(status="all", symbols="AAPL,MSFT")) == [filled["id"]]
    assert desk.rows(status="all", side="sell") == []
    assert desk.rows(status="all", asset_class="crypto") == []


@pytest.mark.parametrize(
    "query",
    [
        {"status": "live"},
        {"limit": "501"},
        {"limit": "0"},
        {"after": "yesterday"},
        {"nested": "maybe"},
        {"before_order_id": "a", "after_order_id": "b"},
        {"after_order_id": "a", "after": "2025-01-15"},
        {"after_order_id": "nobody"},
    ],
)
def test_10_senseless_listings_are_refused(desk: Rehearsal, query: dict[str, str]) -> None:
    status, body = desk.failure(lambda: desk.rows(**query))
    assert (status, body["code"]) == (422, 40010001)


def test_10_the_usual_page_has_fifty_orders(desk: Rehearsal) -> None:
    for _ in range(51):
        desk.broker.submit(
            {
                "symbol": "NVDA",
                "qty": "1",
                "side": "buy",
                "type": "limit",
                "limit_price": "1",
                "time_in_force": "day",
            }
        )
    assert len(desk.rows()) == 50
    assert len(desk.rows(limit=500)) == 51


@pytest.mark.parametrize("cursor", ["after_order_id", "after"])
def test_10_five_thousand_open_orders_are_read_in_pages_of_five_hundred(desk: Rehearsal, cursor: str) -> None:
    first = desk.broker.order(desk.limit("buy", "1")["id"])
    for number in range(1, 5000):
        at = first.submitted_at + timedelta(microseconds=number)
        new = replace(first, id=str(uuid4()), client_order_id=str(uuid4()), submitted_at=at)
        new.sequence = desk.broker.state.next_sequence()
        desk.broker.state.add(new)
    found: list[dict[str, Any]] = []
    while True:
        beyond = {cursor: found[-1]["id" if cursor == "after_order_id" else "submitted_at"]} if found else {}
        page = desk.rows(direction="asc", limit=500, **beyond)
        if not page:
            break
        assert len(page) == 500
        found += page
    assert ids(found) == list(desk.broker.state.orders)
    assert {row["status"] for row in found[1:]} == {"new"}


def test_10_a_position_tells_its_worth_in_strings(desk: Rehearsal) -> None:
    desk.long()
    desk.eastern("2025-01-16 10:00")
    desk.broker.set_price("NVDA", "140")
    position = desk.position()
    wanted = {
        "qty": "10",
        "side": "long",
        "avg_entry_price": "133.5",
        "cost_basis": "1335",
        "market_value": "1400",
        "unrealized_pl": "65",
        "unrealized_intraday_pl": "65",
        "current_price": "140",
        "lastday_price": "133.5",
    }
    assert {name: position[name] for name in wanted} == wanted
    by_id = desk.api.get(f"/positions/{position['asset_id']}")
    assert by_id == position
    assert desk.api.get("/positions") == [position]


def test_10_the_average_entry_survives_partial_closes_and_passes_through_zero(desk: Rehearsal) -> None:
    desk.long("10")
    desk.broker.set_price("NVDA", "136.50")
    desk.long("5")
    assert desk.position()["avg_entry_price"] == "134.5"
    desk.order(side="sell", qty="6")
    assert desk.position()["avg_entry_price"] == "134.5"
    desk.order(side="sell", qty="9")
    assert desk.failure(desk.position)[1] == {"code": 40410000, "message": "position does not exist"}
    desk.order(side="sell", qty="2")
    assert desk.position()["avg_entry_price"] == "136.5"
    desk.broker.foreign_fill("NVDA", "buy", "5", "130")
    position = desk.position()
    assert (position["qty"], position["avg_entry_price"]) == ("3", "130")


def test_10_the_account_adds_up(desk: Rehearsal) -> None:
    desk.long()
    desk.broker.set_price("NVDA", "140")
    account = desk.api.get("/account")
    assert (account["cash"], account["equity"], account["long_market_value"]) == ("98665", "100065", "1400")
    assert (account["status"], account["multiplier"], account["last_equity"]) == ("ACTIVE", "2", "100000")
    assert (account["shorting_enabled"], account["trading_blocked"]) == (True, False)
    assert not {"pattern_day_trader", "daytrade_count", "daytrading_buying_power"} & set(account)
    desk.eastern("2025-01-15 16:00")
    assert desk.api.get("/account")["last_equity"] == "100065"


def test_10_the_clock_speaks_eastern_time(desk: Rehearsal) -> None:
    desk.eastern("2025-01-17 16:00")
    assert desk.api.get("/clock") == {
        "timestamp": "2025-01-17T16:00:00-05:00",
        "is_open": False,
        "next_open": "2025-01-21T09:30:00-05:00",
        "next_close": "2025-01-21T16:00:00-05:00",
    }


def test_10_the_calendar_knows_holidays_and_half_days(desk: Rehearsal) -> None:
    days = desk.api.get("/calendar", {"start": "2025-07-03", "end": "2025-07-07"})
    assert [day["date"] for day in days] == ["2025-07-03", "2025-07-07"]
    assert days[0] == {
        "date": "2025-07-03",
        "open": "09:30",
        "close": "13:00",
        "session_open": "0400",
        "session_close": "1700",
        "settlement_date": "2025-07-07",
    }


def test_10_assets_are_what_had_a_price(desk: Rehearsal) -> None:
    asset = desk.api.get("/assets/NVDA")
    assert (asset["class"], asset["tradable"], asset["fractionable"]) == ("us_equity", True, True)
    assert desk.api.get(f"/assets/{asset['id']}") == asset
    assert desk.api.get("/assets", {"status": "active"}) == [asset]
    status, body = desk.failure(lambda: desk.api.get("/assets/NOPE"))
    assert (status, body) == (404, {"code": 40410000, "message": "asset not found for NOPE"})
    desk.control("POST", "assets", {"NVDA": {"easy_to_borrow": False}})
    assert desk.api.get("/assets/NVDA")["borrow_status"] == "hard_to_borrow"


def test_10_configurations_change_only_what_they_know(desk: Rehearsal) -> None:
    before = desk.api.get("/account/configurations")
    after = desk.api.patch(
        "/account/configurations", {"no_shorting": True, "pdt_check": None, "dtbp_check": "both"}
    )
    assert after == {**before, "no_shorting": True}
    assert desk.failure(lambda: desk.api.patch("/account/configurations", {"no_shorting": "yes"}))[0] == 422


def test_11_prices_are_numbers_and_unknown_symbols_are_absent(desk: Rehearsal) -> None:
    desk.broker.set_price("NVDA", bid="133.40", ask="133.60", last="133.55")
    query = {"symbols": "NVDA,NOPE", "feed": "iex"}
    quotes = desk.data.get("/stocks/quotes/latest", query)["quotes"]
    assert set(quotes) == {"NVDA"}
    assert (quotes["NVDA"]["bp"], quotes["NVDA"]["ap"]) == (133.40, 133.60)
    assert desk.data.get("/stocks/trades/latest", query)["trades"]["NVDA"]["p"] == 133.55
    assert desk.data.get("/stocks/bars/latest", query)["bars"]["NVDA"]["c"] == 133.55
    assert set(desk.data.get("/stocks/snapshots", query)) == {"NVDA"}


def test_11_a_side_without_quotes_has_price_zero(desk: Rehearsal) -> None:
    desk.broker.set_price("NVDA", bid="0", ask="133.60")
    quote = desk.data.get("/stocks/quotes/latest", {"symbols": "NVDA"})["quotes"]["NVDA"]
    assert (quote["bp"], quote["bs"], quote["ap"]) == (0, 0, 133.60)


def test_11_bars_are_paged_over_symbols_and_need_a_feed_that_is_paid_for(desk: Rehearsal) -> None:
    rows = "".join(
        f"2025-01-{day},{symbol},10,12,9,11,5\n" for symbol in ("AMD", "IBM") for day in (13, 14, 15)
    )
    desk.broker.add_bars("timestamp,symbol,open,high,low,close,volume\n" + rows)
    query = {"symbols": "IBM,AMD", "timeframe": "1Day", "start": "2025-01-01", "feed": "iex", "limit": 3}
    page = desk.data.get("/stocks/bars", query)
    assert {symbol: [bar["t"] for bar in bars] for symbol, bars in page["bars"].items()} == {
        "AMD": ["2025-01-13T05:00:00Z", "2025-01-14T05:00:00Z"],
        "IBM": ["2025-01-13T05:00:00Z"],
    }
    page = desk.data.get("/stocks/bars", {**query, "page_token": page["next_page_token"]})
    assert [len(bars) for bars in page["bars"].values()] == [1]
    assert page["next_page_token"] is None
    week = desk.data.get("/stocks/bars", {**query, "symbols": "AMD", "timeframe": "1Week"})
    assert [bar["v"] for bar in week["bars"]["AMD"]] == [10]
    recent = {**query, "end": "2025-01-15T15:00:00Z"}
    del recent["feed"]
    status, body = desk.failure(lambda: desk.data.get("/stocks/bars", recent))
    assert (status, body) == (403, {"message": "subscription does not permit querying recent SIP data"})
    assert desk.failure(lambda: desk.data.get("/stocks/bars", {**query, "timeframe": "90Min"}))[0] == 400
    assert desk.failure(lambda: desk.data.get("/stocks/bars", {"timeframe": "1Day"}))[0] == 400


def test_1_every_answer_has_a_request_id_and_rate_headers(desk: Rehearsal) -> None:
    headers = {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}
    for path in ("/v2/account", "/v2/orders/none", "/v2/stocks/snapshots?symbols=NVDA"):
        answer = requests.get(desk.server.url + path, headers=headers, timeout=5)
        assert answer.headers["X-Request-ID"]
        assert answer.headers["X-RateLimit-Limit"] == "200"
        assert int(answer.headers["X-RateLimit-Remaining"]) < 200
        assert int(answer.headers["X-RateLimit-Reset"]) == 1736953260


def test_8_the_rate_limit_is_kept_for_each_key_when_switched_on(desk: Rehearsal) -> None:
    desk.control("POST", "behaviour", {"rate_limit": 2})
    desk.api.get("/clock")
    desk.api.get("/clock")
    status, body = desk.failure(lambda: desk.api.get("/clock"))
    assert (status, body) == (429, {"code": 42910000, "message": "rate limit exceeded"})
    assert desk.failure(lambda: desk.data.get("/stocks/snapshots", {"symbols": "NVDA"}))[1].keys() == {
        "message"
    }
    other = {"APCA-API-KEY-ID": "other", "APCA-API-SECRET-KEY": "s"}
    assert requests.get(f"{desk.server.url}/v2/clock", headers=other, timeout=5).status_code == 200
    desk.eastern("2025-01-15 10:01")
    assert desk.api.get("/clock")["is_open"] is True


def test_1_a_connection_serves_many_requests(desk: Rehearsal) -> None:
    host = desk.server.url.removeprefix("http://")
    headers = {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}
    with closing(HTTPConnection(host, timeout=5)) as connection:
        connection.connect()
        line = connection.sock
        for _ in range(3):
            connection.request("GET", "/v2/clock", headers=headers)
            assert connection.getresponse().read()
            assert connection.sock is line
