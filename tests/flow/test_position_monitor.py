"""What the position monitor writes about open positions."""

from decimal import Decimal

import pytest

from alpaca_client import BrokerError
from tests.flow.world import World, swing


def test_a_long_position_is_valued_at_the_last_trade(world: World) -> None:
    world.open_position()
    world.price("NVDA", "140.25")
    world.value()
    position = world.one("position_tracking")
    assert (position["current_price"], position["market_value"]) == (Decimal("140.25"), Decimal("6311.25"))
    assert position["unrealized_pnl"] == Decimal("303.75")


def test_a_short_position_gains_when_the_price_falls(world: World) -> None:
    world.configure(ALLOW_SHORT="true")
    world.open_position(swing(side="sell", limit_price=136, stop_loss=145, take_profit=120), price="136.50")
    world.price("NVDA", "130")
    world.value()
    position = world.one("position_tracking")
    assert (position["side"], position["qty"], position["market_value"]) == ("short", 45, 5850)
    assert position["unrealized_pnl"] == Decimal("292.5")


def test_one_call_prices_all_symbols(world: World) -> None:
    for symbol in ("AAA", "BBB", "CCC"):
        world.price(symbol, "133")
        world.decide(swing(symbol, qty=1), symbol)
    world.execute()
    world.monitor()
    world.market.requests.clear()
    result = world.value()
    assert (result.symbols, result.changed, result.unpriced) == (3, 3, ())
    paths = [seen["path"] for seen in world.market.requests]
    assert paths == ["/v2/account", "/v2/positions", "/v2/stocks/trades/latest", "/v2/calendar"]


def test_a_symbol_without_a_price_keeps_its_row_and_is_named(world: World) -> None:
    world.open_position()
    world.value()
    before = world.db.query("position_tracking")
    world.fault("GET", "/v2/stocks/trades/latest", "status", code=200, body={"trades": {}})
    result = world.value()
    assert (result.changed, result.unpriced) == (0, ("NVDA",))
    assert world.db.query("position_tracking") == before


@pytest.mark.parametrize("price", [0, -1, None, "133", True])
def test_a_price_that_is_none_is_no_price(world: World, price: object) -> None:
    world.open_position()
    world.fault("GET", "/v2/stocks/trades/latest", "status", code=200, body={"trades": {"NVDA": {"p": price}}})
    assert world.value().unpriced == ("NVDA",)


def test_a_failed_price_call_changes_nothing(world: World) -> None:
    world.open_position()
    before = world.db.query("position_tracking")
    world.fault("GET", "/v2/stocks/trades/latest", "status", code=500)
    with pytest.raises(BrokerError):
        world.value()
    assert world.db.query("position_tracking") == before


def test_valuing_twice_at_one_price_writes_once(world: World) -> None:
    world.open_position()
    assert world.value().changed == 1
    before = world.db.query("position_tracking"), world.db.query("trade_journal")
    world.clock.sleep(60)
    assert world.value().changed == 0
    assert (world.db.query("position_tracking"), world.db.query("trade_journal")) == before


def test_days_open_are_trading_days(world: World) -> None:
    world.open_position()
    world.pass_time(days=5)  # over a weekend, into a holiday
    world.value()
    journal = world.one("trade_journal")
    assert (journal["days_open"], journal["last_review_date"].isoformat()) == (2, "2025-01-17")
    world.pass_time(days=1)
    world.value()
    journal = world.one("trade_journal")
    assert (journal["days_open"], journal["last_review_date"].isoformat()) == (3, "2025-01-21")


def test_days_open_count_to_the_end_of_a_trade_closed_before_its_review(world: World) -> None:
    world.open_position()
    world.value()
    world.pass_time(days=2)
    world.price("NVDA", "146")
    world.monitor()
    world.pass_time(days=1)
    world.value()
    journal = world.one("trade_journal")
    assert journal["status"] == "CLOSED"
    assert (journal["days_open"], journal["last_review_date"].isoformat()) == (2, "2025-01-17")
    world.value()
    assert world.one("trade_journal") == journal


def test_days_open_count_across_a_change_of_clocks(world: World) -> None:
    world.pass_time(days=51)  # to the Friday before clocks go forward
    world.open_position()
    world.pass_time(days=3)
    world.value()
    journal = world.one("trade_journal")
    assert (journal["days_open"], journal["last_review_date"].isoformat()) == (1, "2025-03-10")


def test_no_positions_need_no_prices(world: World) -> None:
    assert world.value().symbols == 0
    assert [seen["path"] for seen in world.market.requests] == ["/v2/account", "/v2/positions"]
