"""Sections 3 and 9: sessions, expiry, auctions, extended hours, and bars replayed as time passes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from paper_broker import PaperBroker, SimulatedClock, serve
from paper_broker.bars import BarError, read_csv
from tests.contract.conftest import OPEN, Rehearsal, reloaded

HEADER = "timestamp,symbol,open,high,low,close,volume\n"
DAYS = (
    "# made-up prices\n"
    + HEADER
    + "2025-01-15,AMD,120,121,119,120,1000\n"
    + "2025-01-16,AMD,118,126,110,124,1000\n"
    + "2025-01-17,AMD,125,130,124,128,1000\n"
)


@pytest.fixture
def endless() -> Iterator[Rehearsal]:
    """A market without nights, as test mode uses it."""
    broker = PaperBroker(clock=SimulatedClock(OPEN), hours="always", cash=Decimal("100000"))
    with serve(broker) as server:
        rehearsal = Rehearsal(server)
        broker.set_price("NVDA", "133.50")
        yield rehearsal
        rehearsal.close()


def test_9_a_day_order_expires_at_the_close(desk: Rehearsal) -> None:
    order = desk.limit("buy", "130")
    desk.eastern("2025-01-15 15:59:59")
    assert desk.status(order) == "new"
    desk.eastern("2025-01-15 16:00")
    seen = desk.see(order)
    assert (seen["status"], seen["expired_at"]) == ("expired", "2025-01-15T21:00:00.000000Z")


def test_9_a_half_day_ends_at_one(desk: Rehearsal) -> None:
    desk.eastern("2025-07-03 10:00")
    order = desk.limit("buy", "130")
    assert order["expires_at"] == "2025-07-03T17:00:00.000000Z"
    assert desk.api.get("/clock")["next_close"] == "2025-07-03T13:00:00-04:00"
    desk.eastern("2025-07-03 13:00")
    assert desk.status(order) == "expired"


def test_9_a_gtc_order_lives_ninety_days(desk: Rehearsal) -> None:
    order = desk.limit("buy", "100", time_in_force="gtc")
    assert order["expires_at"] == "2025-04-15T20:15:00.000000Z"
    desk.eastern("2025-04-15 16:14")
    assert desk.status(order) == "new"
    desk.eastern("2025-04-15 16:15")
    assert desk.status(order) == "expired"


def test_9_the_legs_of_gtc_groups_end_with_them_after_ninety_days(desk: Rehearsal, tmp_path: Path) -> None:
    bracket = desk.bracket()
    desk.long()
    exits, unfilled = desk.oco(), desk.bracket(type="limit", limit_price="130")
    groups = (bracket, exits, unfilled)
    ends = {leg["expires_at"] for group in groups for leg in (group, *group["legs"])}
    assert ends == {"2025-04-15T20:15:00.000000Z"}
    desk.eastern("2025-04-15 16:14:59")
    assert desk.position()["qty_available"] == "0"
    with reloaded(desk, tmp_path) as later:
        assert later.see(bracket, nested=True)["legs"][0]["status"] == "new"
        later.eastern("2025-04-15 16:15")
        found = [later.see(group, nested=True) for group in groups]
        legs = [order for group in found for order in (group, *group["legs"]) if order["id"] != bracket["id"]]
        assert {order["status"] for order in legs} == {"expired"}
        assert {order["expired_at"] for order in legs} == {"2025-04-15T20:15:00.000000Z"}
        assert (found[0]["status"], later.position()["qty_available"]) == ("filled", "20")


def test_9_an_oco_for_the_day_dies_at_the_close_with_both_legs(desk: Rehearsal) -> None:
    desk.long()
    exits = desk.oco(time_in_force="day")
    desk.eastern("2025-01-15 16:00")
    seen = desk.see(exits, nested=True)
    assert (seen["status"], [leg["status"] for leg in seen["legs"]]) == ("expired", ["expired"])
    assert seen["legs"][0]["expired_at"] == "2025-01-15T21:00:00.000000Z"
    assert desk.position()["qty_available"] == "10"


def test_9_stops_elect_only_in_regular_hours(desk: Rehearsal) -> None:
    desk.long()
    stop = desk.stop("124")
    desk.eastern("2025-01-15 17:00")
    desk.broker.set_price("NVDA", "120")
    assert desk.status(stop) == "new"
    desk.eastern("2025-01-16 09:30")
    assert desk.see(stop)["filled_avg_price"] == "120"


def test_3_extended_hours_orders_trade_until_eight(desk: Rehearsal) -> None:
    desk.eastern("2025-01-15 17:00")
    early = desk.limit("buy", "134", extended_hours=True)
    plain = desk.limit("buy", "133")
    assert (desk.status(early), desk.status(plain)) == ("filled", "accepted")
    late = desk.limit("buy", "130", extended_hours=True)
    assert late["expires_at"] == "2025-01-16T01:00:00.000000Z"
    desk.eastern("2025-01-15 20:00")
    assert desk.status(late) == "expired"


def test_3_opening_orders_are_taken_at_their_hours_and_trade_at_the_open(desk: Rehearsal) -> None:
    status, body = desk.refused(time_in_force="opg")
    assert (status, body["code"]) == (403, 40310000)
    desk.eastern("2025-01-15 19:00")
    market, limit = desk.order(time_in_force="opg"), desk.limit("buy", "130", time_in_force="opg")
    desk.eastern("2025-01-16 09:29")
    assert desk.status(market) == "accepted"
    assert desk.refused(time_in_force="opg")[0] == 403
    desk.eastern("2025-01-16 09:30")
    assert (desk.status(market), desk.status(limit)) == ("filled", "canceled")


def test_3_closing_orders_are_taken_at_their_hours_and_trade_at_the_close(desk: Rehearsal) -> None:
    market, limit = desk.order(time_in_force="cls"), desk.limit("buy", "130", time_in_force="cls")
    desk.eastern("2025-01-15 15:50")
    assert desk.refused(time_in_force="cls")[0] == 403
    assert desk.status(market) == "new"
    desk.eastern("2025-01-15 16:00")
    assert (desk.status(market), desk.status(limit)) == ("filled", "canceled")
    assert desk.see(market)["filled_at"] == "2025-01-15T21:00:00.000000Z"


def test_9_an_endless_market_keeps_day_orders_a_day(endless: Rehearsal) -> None:
    endless.eastern("2025-01-18 23:00")  # a Saturday
    assert endless.api.get("/clock")["is_open"] is True
    filled, resting = endless.order(), endless.limit("buy", "130")
    assert endless.status(filled) == "filled"
    endless.eastern("2025-01-19 22:59")
    assert endless.status(resting) == "new"
    endless.eastern("2025-01-19 23:00")
    assert endless.status(resting) == "expired"


def test_9_an_endless_market_has_a_calendar_without_gaps(endless: Rehearsal) -> None:
    days = endless.typed.get_calendar()
    assert len(days) == 365
    clock = endless.api.get("/clock")
    assert clock["next_open"] == clock["next_close"] == "2025-01-16T00:00:00-05:00"


def test_bars_are_played_in_order_when_the_clock_jumps(desk: Rehearsal) -> None:
    desk.broker.add_bars(DAYS)
    desk.eastern("2025-01-15 16:30")
    bought = desk.order(symbol="AMD")
    stop_first = desk.bracket(
        symbol="AMD",
        type="limit",
        limit_price="117",
        take_profit={"limit_price": "125"},
        stop_loss={"stop_price": "112"},
    )
    desk.eastern("2025-01-17 17:00")
    assert desk.see(bought)["filled_avg_price"] == "118"
    group = desk.see(stop_first, nested=True)
    assert [group["filled_avg_price"], *(leg["status"] for leg in group["legs"])] == [
        "117",
        "canceled",
        "filled",
    ]
    stop = group["legs"][1]
    assert (stop["filled_avg_price"], stop["filled_at"]) == ("112", "2025-01-16T16:40:00.000000Z")
    assert desk.position("AMD")["current_price"] == "128"


def test_bars_before_the_open_meet_only_extended_hours_orders(desk: Rehearsal) -> None:
    desk.broker.add_bars(HEADER + "2025-01-16T12:00:00Z,NVDA,133,133,131,132,10\n")
    desk.eastern("2025-01-15 21:00")
    early, plain = desk.limit("buy", "132", extended_hours=True), desk.limit("buy", "131.50")
    assert early["status"] == "accepted"
    desk.eastern("2025-01-16 09:00")
    assert desk.see(early)["filled_avg_price"] == "132"
    assert desk.status(plain) == "accepted"


def test_bars_gap_at_the_open(desk: Rehearsal) -> None:
    desk.broker.add_bars(DAYS)
    desk.long(symbol="AMD")
    stop = desk.stop("118.50", symbol="AMD")
    desk.eastern("2025-01-15 16:00")
    assert desk.status(stop) == "new"
    desk.eastern("2025-01-16 09:30")
    assert desk.see(stop)["filled_avg_price"] == "118"


def test_bars_touch_the_stop_of_a_short_at_the_high_first(desk: Rehearsal) -> None:
    desk.broker.add_bars(DAYS)
    desk.eastern("2025-01-15 15:59")
    desk.order(symbol="AMD", side="sell")
    exits = desk.oco(
        symbol="AMD", side="buy", take_profit={"limit_price": "111"}, stop_loss={"stop_price": "125"}
    )
    desk.eastern("2025-01-16 16:00")
    group = desk.see(exits, nested=True)
    assert (group["status"], group["legs"][0]["filled_avg_price"]) == ("canceled", "125")


def test_bars_within_the_day_end_where_the_next_begins(desk: Rehearsal) -> None:
    prices = {"symbol": "AMD", "open": 10, "high": 12, "low": 9, "volume": 5}
    hours = (("2025-01-15T16:00:00Z", 11), ("2025-01-15T17:00:00Z", 10))
    rows = [{"timestamp": at, "close": close, **prices} for at, close in hours]
    desk.control("POST", "bars", rows)
    assert desk.api.get("/assets/AMD")["tradable"] is True
    order = desk.order(symbol="AMD")
    assert desk.status(order) == "new"
    desk.eastern("2025-01-15 11:59")
    assert desk.see(order)["filled_avg_price"] == "10"
    desk.eastern("2025-01-15 12:00")
    assert desk.data.get("/stocks/bars", {"symbols": "AMD", "timeframe": "1Hour", "feed": "iex"})["bars"][
        "AMD"
    ][0] == {"t": "2025-01-15T16:00:00Z", "o": 10, "h": 12, "l": 9, "c": 11, "v": 5, "n": 1, "vw": 10.666667}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("time,symbol\n", "line 1: timestamp, open, high, low, close, volume missing; the header must name "),
        (HEADER + "2025-01-15,AMD,1,2,1,x,0\n", "line 2: not a number: 'x'"),
        (
            "# note\n" + HEADER + "2025-01-15,AMD,3,2,1,1,0\n",
            "line 3: prices of AMD do not fit together: 3, 2, 1, 1",
        ),
        (HEADER + "2025-01-20,AMD,1,1,1,1,0\n", "line 2: 2025-01-20 is not a trading day"),
        (HEADER + "2025-01-15T10:00,AMD,1,1,1,1,0\n", "line 2: not an RFC 3339 time: '2025-01-15T10:00'"),
    ],
)
def test_bars_that_make_no_sense_are_refused_with_their_line(
    desk: Rehearsal, content: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace("'", ".")):
        desk.broker.add_bars(content)


def test_bars_play_again_after_the_clock_was_set_back(desk: Rehearsal) -> None:
    desk.eastern("2025-03-01 12:00")
    desk.broker.add_bars(DAYS)
    desk.eastern("2025-01-15 17:00")
    assert desk.last_trade("AMD") == 120.0
    assert desk.last_trade("NVDA") == 133.5
    desk.eastern("2025-01-16 09:30")
    assert desk.last_trade("AMD") == 118.0


def test_a_bar_file_of_the_past_leaves_its_last_price(tmp_path: Path) -> None:
    broker = PaperBroker(clock=SimulatedClock(datetime(2025, 3, 1, tzinfo=UTC)))
    broker.add_bars(DAYS)
    assert broker.state.market.last("AMD") == 128


def test_a_symbol_without_price_trades_at_the_first_limit_when_prices_may_be_invented(desk: Rehearsal) -> None:
    assert desk.refused(symbol="XYZ", type="limit", limit_price="20.10")[1]["message"] == 'asset "XYZ" not found'
    desk.control("POST", "behaviour", {"invent_prices": True})
    order = desk.order(symbol="XYZ", type="limit", limit_price="20.10")
    assert desk.status(order) == "filled"
    assert desk.last_trade("XYZ") == 20.1
    assert desk.data.get("/stocks/trades/latest", {"symbols": "ZZZ"})["trades"] == {}
    assert desk.status(desk.order(symbol="ZZZ", type="market")) == "filled"
    assert desk.last_trade("ZZZ") == 100


def test_bars_of_one_symbol_are_read_from_a_file_named_after_it(desk: Rehearsal) -> None:
    text = "Date,Close,High,Low,Open,Volume,Dividends\n2025-01-16,124,126,110,118,1000,0.0\n"
    (bar,) = read_csv(text, desk.broker.calendar, "AMD")
    assert (bar.symbol, bar.open, bar.high, bar.low, bar.close, bar.volume) == ("AMD", 118, 126, 110, 124, 1000)
    with pytest.raises(BarError, match="symbol missing"):
        read_csv(text, desk.broker.calendar)
