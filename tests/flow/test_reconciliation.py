"""Shares that leave or come without an order of ours: followed on evidence, never concluded from absence."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from alpaca_client import Broker, BrokerError
from db_layer import TradingDB
from paper_broker.account import record_fill
from paper_broker.orders import Order
from position_monitor import PositionMonitor
from tests.flow.exits import sent
from tests.flow.world import World, swing, trend

NOTHING: list[Any] = []


def by_hand(world: World, side: str, qty: str, price: str | None = None, symbol: str = "NVDA") -> None:
    """What a person does in the broker's app: give up the orders on the shares, then trade them."""
    for order in list(world.market.state.live.values()):
        if order.symbol == symbol and order.side == side:
            world.market.cancel(order.id)
    world.market.foreign_fill(symbol, side, Decimal(qty), None if price is None else Decimal(price))


def lose(world: World, symbol: str) -> None:
    """Let a position disappear at the broker without a trace, and the orders on it."""
    for order in [order for order in world.market.state.live.values() if order.symbol == symbol]:
        if order.live:
            world.market.cancel(order.id)
    world.market.step()
    del world.market.state.positions[symbol]


def another_account(world: World) -> None:
    """Let the keys be those of an account that knows nothing of ours."""
    for symbol in list(world.market.state.positions):
        lose(world, symbol)
    world.market.state.orders.clear()


def two_positions(world: World) -> None:
    for symbol in ("AAA", "BBB"):
        world.price(symbol, "133")
        world.decide(swing(symbol), symbol)
    world.execute()
    world.monitor()


def test_a_position_closed_by_hand_is_closed_at_the_price_of_its_executions(world: World) -> None:
    world.open_position()
    by_hand(world, "sell", "45", "136")
    world.value()
    journal = world.one("trade_journal")
    assert (journal["status"], journal["exit_reason"], journal["exit_price"]) == ("CLOSED", "MANUAL_EXIT", 136)
    assert journal["actual_pnl"] == 45 * (Decimal(136) - journal["actual_entry"])
    assert not journal["pnl_is_estimate"]
    assert world.db.query("position_tracking") == NOTHING
    assert world.one("order_fill", side="sell")["external_order_id"] is not None


def test_several_partial_closes_add_up_and_the_rest_stays_protected(world: World) -> None:
    world.open_position()
    by_hand(world, "sell", "20", "136")
    world.value()
    assert world.one("position_tracking")["qty"] == 25
    assert world.one("trade_journal")["status"] == "POSITION"
    world.monitor()
    assert [order.qty for order in world.market.state.live.values()] == [25, 25]
    by_hand(world, "sell", "25", "138")
    world.value()
    journal = world.one("trade_journal")
    assert (journal["exit_reason"], journal["pnl_is_estimate"]) == ("MANUAL_EXIT", False)
    assert journal["actual_pnl"] == 20 * 136 + 25 * 138 - 45 * journal["actual_entry"]


def test_a_close_that_two_trades_share_goes_to_the_first_first(world: World) -> None:
    for qty in (10, 20):
        world.open_position(swing(qty=qty))
    by_hand(world, "sell", "15", "136")
    world.value()
    first, second = sorted(world.db.query("trade_journal"), key=lambda row: row["id"])
    assert (first["status"], first["exit_reason"], second["status"]) == ("CLOSED", "MANUAL_EXIT", "POSITION")
    assert world.one("position_tracking")["qty"] == 15
    shares = {row["trade_journal_id"]: row["qty"] for row in world.db.query("position_adjustment")}
    assert shares == {first["id"]: 10, second["id"]: 5}


def test_a_short_bought_back_by_hand_is_closed_with_its_profit(world: World) -> None:
    world.configure(ALLOW_SHORT="true")
    short = trend(side="sell", limit_price=134, stop_loss={"stop_price": 140})
    world.open_position(short, price="136")
    by_hand(world, "buy", "45", "130")
    world.value()
    journal = world.one("trade_journal")
    assert journal["exit_reason"] == "MANUAL_EXIT"
    assert journal["actual_pnl"] == 45 * (journal["actual_entry"] - 130)


def test_a_close_by_hand_takes_what_still_works_for_the_trade_with_it(world: World) -> None:
    world.open_position()
    world.market.foreign_fill("NVDA", "sell", Decimal(45), Decimal(136))
    world.value()
    assert world.one("trade_journal")["exit_reason"] == "MANUAL_EXIT"
    assert world.market.state.live == {}
    world.price("NVDA", "120")
    world.monitor()
    assert world.market.state.positions == {}


def test_an_order_of_somebody_elses_is_followed_however_long_before_it_was_placed(world: World) -> None:
    world.price("AMD", "120")
    order = world.market.submit({
        "symbol": "AMD", "side": "buy", "type": "limit", "time_in_force": "gtc", "qty": "1", "limit_price": "100",
    }, source="app")
    world.open_position()
    world.pass_time(days=6)
    by_hand(world, "sell", "45", "136")
    world.monitor()
    world.value()
    world.db.execute_update("UPDATE external_order SET created_at = %(now)s", {"now": world.clock.now()})
    world.open_position()
    world.market.cancel(order.id)
    world.monitor()
    assert world.one("external_order", alpaca_order_id=order.id)["broker_status"] == "canceled"


@pytest.mark.parametrize("kind", ["status", "garbled", "drop", "empty"])
def test_a_failed_answer_closes_nothing(world: World, kind: str) -> None:
    world.open_position()
    world.fault("GET", "/v2/positions", kind, times=None)
    world.value()
    assert world.one("trade_journal")["status"] == "POSITION"
    assert world.db.query("position_adjustment") == NOTHING


def test_an_empty_answer_closes_nothing(world: World) -> None:
    two_positions(world)
    world.fault("GET", "/v2/positions", "status", code=200, body=[], times=None)
    world.pass_time(minutes=10)
    for _ in range(3):
        world.value()
    assert {row["status"] for row in world.db.query("trade_journal")} == {"POSITION"}
    assert world.db.query("alerts", {"level": "critical"})


def test_a_truncated_answer_closes_nothing(world: World) -> None:
    two_positions(world)
    one = {"symbol": "AAA", "qty": "45", "side": "long", "qty_available": "0"}
    world.fault("GET", "/v2/positions", "status", code=200, body=[one], times=None)
    world.pass_time(minutes=10)
    world.value()
    assert {row["status"] for row in world.db.query("trade_journal")} == {"POSITION"}
    assert world.one("alerts", kind="position_mismatch")["subject"] == "BBB"


def test_another_account_closes_nothing(world: World) -> None:
    world.open_position()
    world.configure(ALPACA_ACCOUNT_NUMBER="OTHER")
    lose(world, "NVDA")
    with pytest.raises(BrokerError):
        world.value()
    world.configure()
    world.market.state.orders.clear()
    world.market.state.live.clear()
    world.pass_time(minutes=10)
    for _ in range(3):
        world.value()
    assert world.one("trade_journal")["status"] == "POSITION"
    assert world.one("alerts", kind="position_mismatch")["level"] == "critical"


def test_what_somebody_sold_on_another_account_closes_nothing_of_ours(world: World) -> None:
    two_positions(world)
    another_account(world)
    world.market.foreign_fill("AAA", "sell", Decimal(45), Decimal("136"))
    world.pass_time(minutes=10)
    world.value()
    assert world.db.query("position_adjustment") == NOTHING
    assert "AAA" in {alert["subject"] for alert in world.db.query("alerts", {"kind": "position_mismatch"})}


def test_a_split_on_another_account_restates_nothing_of_ours(world: World) -> None:
    world.open_position()
    another_account(world)
    world.market.foreign_fill("NVDA", "buy", Decimal(100), Decimal("134"))
    world.pass_time(hours=1)
    world.market.split("NVDA", "2")
    world.pass_time(minutes=10)
    world.value()
    assert world.db.query("position_adjustment") == NOTHING


def test_a_truncated_answer_closes_nothing_where_somebody_sold_shares_of_his_own(world: World) -> None:
    world.market.foreign_fill("BBB", "buy", Decimal(45), Decimal("130"))
    world.pass_time(minutes=5)
    two_positions(world)
    world.pass_time(minutes=5)
    world.market.foreign_fill("BBB", "sell", Decimal(45), Decimal("136"))
    one = {"symbol": "AAA", "qty": "45", "side": "long", "qty_available": "0"}
    world.fault("GET", "/v2/positions", "status", code=200, body=[one], times=None)
    world.pass_time(minutes=10)
    world.value()
    assert world.db.query("position_adjustment") == NOTHING
    assert world.one("alerts", kind="position_mismatch")["subject"] == "BBB"


def test_what_somebody_sold_before_our_entry_filled_closes_nothing_while_the_position_lags(world: World) -> None:
    world.market.foreign_fill("NVDA", "buy", Decimal(45), Decimal("135"))
    world.pass_time(minutes=5)
    world.decide(swing())
    world.execute()
    world.pass_time(minutes=5)
    world.market.foreign_fill("NVDA", "sell", Decimal(45), Decimal("136"))
    world.pass_time(minutes=5)
    world.market.behave(positions_lag="3")
    world.price("NVDA", "133.50")
    world.monitor()
    world.value()
    assert world.db.query("position_adjustment") == NOTHING
    world.pass_time(minutes=5)
    world.monitor()
    world.value()
    assert world.one("trade_journal")["status"] == "POSITION"
    assert world.db.query("alerts", {"kind": "position_mismatch"}) == NOTHING


def test_one_position_that_vanished_without_executions_is_closed_as_an_estimate(world: World) -> None:
    two_positions(world)
    lose(world, "AAA")
    world.price("AAA", "135")
    world.pass_time(minutes=10)
    world.value()
    journal = world.one("trade_journal", symbol="AAA")
    assert (journal["status"], journal["exit_reason"], journal["pnl_is_estimate"]) == ("CLOSED", "MANUAL_EXIT", True)
    assert journal["exit_price"] == 135
    assert world.one("trade_journal", symbol="BBB")["status"] == "POSITION"


def test_when_everything_vanishes_at_once_a_second_look_and_an_alert_come_first(world: World) -> None:
    two_positions(world)
    lose(world, "AAA")
    lose(world, "BBB")
    world.pass_time(minutes=10)
    world.value()
    assert {row["status"] for row in world.db.query("trade_journal")} == {"POSITION"}
    assert len(world.db.query("alerts", {"kind": "position_vanished"})) == 2
    world.pass_time(minutes=10)
    world.value()
    assert {row["exit_reason"] for row in world.db.query("trade_journal")} == {"MANUAL_EXIT"}


def test_an_estimate_gives_way_to_the_executions_when_they_come(world: World) -> None:
    two_positions(world)
    world.market.behave(activities_lag=3600)
    by_hand(world, "sell", "45", "137", symbol="AAA")
    world.pass_time(minutes=10)
    world.value()
    assert world.one("trade_journal", symbol="AAA")["pnl_is_estimate"]
    world.pass_time(hours=2)
    world.monitor()
    world.value()
    journal = world.one("trade_journal", symbol="AAA")
    assert (journal["exit_price"], journal["pnl_is_estimate"]) == (137, False)
    assert journal["actual_pnl"] == 45 * (137 - journal["actual_entry"])


def test_fewer_shares_without_executions_are_an_alert_and_nothing_more(world: World) -> None:
    world.open_position()
    world.market.state.positions["NVDA"].qty = Decimal(40)
    world.pass_time(minutes=10)
    world.value()
    assert world.one("position_tracking")["qty"] == 45
    assert world.one("alerts", kind="position_mismatch")["level"] == "critical"
    world.market.state.positions["NVDA"].qty = Decimal(45)
    world.value()
    assert world.one("alerts", kind="position_mismatch")["resolved_at"] is not None


def test_shares_that_somebody_else_bought_are_told_and_left_alone(world: World) -> None:
    world.open_position()
    by_hand(world, "buy", "5", symbol="NVDA")
    world.price("AMD", "120")
    by_hand(world, "buy", "7", symbol="AMD")
    world.value()
    assert {alert["subject"] for alert in world.db.query("alerts", {"kind": "external_position"})} == {"NVDA", "AMD"}
    assert world.one("position_tracking")["qty"] == 45
    by_hand(world, "sell", "5", symbol="NVDA")
    world.monitor()
    world.value()
    assert world.one("position_tracking")["qty"] == 45
    assert world.one("alerts", kind="external_position", subject="NVDA")["resolved_at"] is not None


@pytest.mark.parametrize(("ratio", "shares"), [("10", 450), ("1/5", 9)])
def test_a_split_restates_shares_prices_and_exits_but_not_the_profit(world: World, ratio: str, shares: int) -> None:
    world.open_position()
    entry = world.one("trade_journal")["actual_entry"]
    world.pass_time(hours=14)  # the market is closed, as it is when companies split
    world.market.split("NVDA", ratio)
    world.value()
    factor = Decimal(shares) / 45
    tracked, journal = world.one("position_tracking"), world.one("trade_journal")
    assert (tracked["qty"], tracked["cost_basis"]) == (shares, 45 * entry)
    assert journal["current_stop_loss"] == round(124 / factor, 2)
    assert world.one("alerts", kind="split")["subject"] == "NVDA"
    world.monitor()
    world.pass_time(hours=10)
    stop, target = sorted(world.market.state.live.values(), key=lambda order: order.stop_price is None)
    assert (stop.qty, stop.stop_price) == (shares, round(124 / factor, 2))
    assert (target.qty, target.limit_price) == (shares, round(Decimal("145.50") / factor, 2))
    world.price("NVDA", str(target.limit_price))
    world.monitor()
    journal = world.one("trade_journal")
    assert journal["exit_reason"] == "TARGET_HIT"
    assert journal["actual_pnl"] == shares * target.limit_price - 45 * entry


@pytest.mark.parametrize(("ratio", "factor"), [("10", Decimal(10)), ("1/5", Decimal("0.2"))])
def test_an_entry_that_rests_through_a_split_takes_its_plan_along(world: World, ratio: str, factor: Decimal) -> None:
    world.decide(swing(limit_price=130, time_in_force="gtc"))
    world.execute()
    world.pass_time(hours=14)
    world.market.split("NVDA", ratio)
    world.monitor()
    world.pass_time(hours=10)
    (entry,) = world.market.state.live.values()
    world.price("NVDA", str(entry.limit_price))
    world.monitor()
    stop, target = sorted(world.market.state.live.values(), key=lambda order: order.stop_price is None)
    assert (stop.qty, stop.stop_price) == (45 * factor, round(124 / factor, 2))
    assert (target.qty, target.limit_price) == (45 * factor, round(Decimal("145.50") / factor, 2))
    assert {alert["kind"] for alert in world.db.query("alerts")} == {"split"}


def test_exits_stay_as_the_broker_made_them_until_a_split_is_followed(world: World) -> None:
    world.open_position(trend())
    world.pass_time(hours=14)
    world.market.split("NVDA", "10")
    before = sent(world)
    world.monitor()
    assert sent(world) == before
    world.value()
    world.monitor()
    (stop,) = world.market.state.live.values()
    assert (stop.qty, stop.stop_price) == (450, Decimal("12.40"))
    assert sent(world) == before


def test_what_was_traded_after_a_split_is_told_from_the_split(world: World) -> None:
    world.open_position()
    entry = world.one("trade_journal")["actual_entry"]
    world.pass_time(hours=14)
    world.market.split("NVDA", "10")
    world.pass_time(hours=10)  # the stop inside the OCO was not adjusted, and sells 45 of the 450 at the open
    assert world.market.position("NVDA").qty == 405
    world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "STOPPED_OUT"
    world.value()
    assert (world.one("trade_journal")["status"], world.one("position_tracking")["qty"]) == ("POSITION", 405)
    world.monitor()
    assert {order.qty for order in world.market.state.live.values()} == {405}
    world.price("NVDA", "14.60")
    world.monitor()
    stopped = world.one("order_fill", qty=45, side="sell")["price"]
    journal = world.one("trade_journal")
    assert (journal["exit_reason"], world.market.state.positions) == ("TARGET_HIT", {})
    sold = sum(row["qty"] * row["price"] for row in world.db.query("order_fill", {"side": "sell"}))
    assert journal["actual_pnl"] == sold - 45 * entry
    assert sold > 45 * stopped


def test_a_profit_counts_what_a_split_unseen_until_the_end_and_a_person_did(world: World) -> None:
    """The target was not adjusted to the reverse split and sold 45 of the 9; a person bought the 36 back."""
    world.open_position()
    entry = world.one("trade_journal")["actual_entry"]
    world.pass_time(hours=14)
    world.market.split("NVDA", "1/5")
    world.pass_time(hours=10)
    assert world.market.state.shares("NVDA") == -36
    world.market.foreign_fill("NVDA", "buy", Decimal(36), Decimal(670))
    world.monitor()
    assert world.one("trade_journal")["exit_reason"] == "TARGET_HIT"
    world.value()
    sold = world.one("order_fill", side="sell")["price"]
    journal = world.one("trade_journal")
    assert (journal["status"], journal["actual_pnl"]) == ("CLOSED", 45 * (sold - entry) - 36 * 670)


def test_what_was_sold_before_a_trade_existed_closes_nothing_of_it(world: World) -> None:
    world.market.foreign_fill("NVDA", "buy", Decimal(45))
    world.decide(swing("AMD"), "AMD")
    world.market.foreign_fill("NVDA", "sell", Decimal(45))
    world.pass_time(minutes=5)
    world.open_position()
    world.market.state.positions["NVDA"].qty = Decimal(40)
    world.pass_time(minutes=10)
    world.value()
    assert world.one("trade_journal", status="POSITION")["symbol"] == "NVDA"
    assert world.db.query("position_adjustment") == NOTHING
    assert world.one("alerts", kind="position_mismatch")["level"] == "critical"


def test_what_somebody_bought_while_our_entry_rested_hides_no_later_close(world: World) -> None:
    world.market.behave(positions_lag="60")
    world.market.foreign_fill("NVDA", "sell", Decimal(12))
    world.pass_time(seconds=2)
    world.decide(swing())
    assert world.execute() == {"placed": 1}
    world.market.behave(positions_lag="0")
    world.pass_time(minutes=5)
    world.market.foreign_fill("NVDA", "buy", Decimal(12))
    world.pass_time(minutes=5)
    world.price("NVDA", "133.50")
    world.monitor()
    world.pass_time(minutes=5)
    by_hand(world, "sell", "1", "136")
    world.value()
    assert world.one("position_tracking")["qty"] == 44
    assert world.one("position_adjustment")["kind"] == "MANUAL_EXIT"


def test_a_close_by_hand_is_followed_at_once_although_the_end_of_the_entry_is_news(world: World) -> None:
    world.market.set_liquidity("NVDA", "10")
    world.open_position()
    entry = world.one("order_execution", order_type="ENTRY")
    world.pass_time(minutes=5)
    world.market.cancel(entry["alpaca_order_id"])
    by_hand(world, "sell", "10", "136")
    world.pass_time(minutes=3)
    world.monitor()
    world.value()
    assert world.one("trade_journal")["exit_reason"] == "MANUAL_EXIT"


def test_what_somebody_sold_before_an_exit_sold_all_is_missing_from_the_trade_that_came_later(world: World) -> None:
    world.open_position()
    world.decide(swing(qty=10, limit_price=125, stop_loss={"stop_price": 110}, take_profit=None, strategy="TREND"))
    world.execute()
    world.pass_time(minutes=5)
    world.market.foreign_fill("NVDA", "sell", Decimal(1), Decimal("133.50"))
    world.pass_time(minutes=5)
    world.price("NVDA", "124.50")
    world.price("NVDA", "123.90")
    world.monitor()
    world.pass_time(minutes=10)
    world.value()
    assert world.one("position_tracking")["qty"] == 9


def test_a_split_is_followed_beside_shares_that_were_there_before_us(world: World) -> None:
    world.market.foreign_fill("NVDA", "buy", Decimal(10))
    world.pass_time(days=6)
    world.open_position()
    world.db.execute_update("ALTER TABLE order_fill DISABLE TRIGGER recorded_stays")
    world.db.execute_update("DELETE FROM order_fill WHERE external_order_id IS NOT NULL")
    world.db.execute_update("DELETE FROM external_order")
    world.pass_time(hours=14)
    world.market.split("NVDA", "10")
    world.value()
    assert world.one("position_tracking")["qty"] == 450
    assert world.one("trade_journal")["current_stop_loss"] == Decimal("12.40")
    before = world.db.query("position_adjustment")
    world.value()
    assert world.db.query("position_adjustment") == before


@pytest.mark.parametrize("sold", [None, 15])
def test_a_split_that_was_somebody_elses_alone_stands_in_the_way_of_no_later_one(
    world: World, sold: int | None,
) -> None:
    world.market.foreign_fill("NVDA", "buy", Decimal(10))
    world.pass_time(hours=14)
    world.market.split("NVDA", "2")
    world.pass_time(hours=10)
    world.price("NVDA", "135")
    world.open_position()
    world.pass_time(hours=14)
    world.market.split("NVDA", "2")
    if sold:
        world.market.foreign_fill("NVDA", "sell", Decimal(sold))
    world.value()
    assert world.one("position_tracking")["qty"] == 90
    assert world.one("trade_journal")["current_stop_loss"] == 62


def test_what_a_split_brought_to_somebody_else_is_his_to_sell(world: World) -> None:
    world.market.foreign_fill("NVDA", "buy", Decimal(10))
    world.open_position()
    for shares in (90, 180):
        world.pass_time(hours=14)
        world.market.split("NVDA", "2")
        world.market.foreign_fill("NVDA", "sell", Decimal(5))
        world.value()
        assert world.one("position_tracking")["qty"] == shares
        world.monitor()
        world.pass_time(hours=10)
    world.market.foreign_fill("NVDA", "sell", Decimal(25 + 70))
    world.value()
    assert world.one("position_tracking")["qty"] == 110


def test_splits_that_come_before_anybody_looks_are_followed_one_by_one(world: World) -> None:
    world.market.foreign_fill("NVDA", "buy", Decimal(10))
    world.open_position()
    world.pass_time(hours=14)
    for ratio in ("10", "1/5"):
        world.market.split("NVDA", ratio)
        world.pass_time(hours=1)
    world.value()
    assert world.one("position_tracking")["qty"] == 90
    assert [(row["side"], row["qty"]) for row in world.db.query("position_adjustment")] == [("buy", 405), ("sell", 360)]


def test_no_split_is_guessed_from_what_somebody_else_traded_since(world: World) -> None:
    """He sold as many as make the rest look like a third: what he had before us is known to nobody."""
    world.market.foreign_fill("NVDA", "buy", Decimal(100))
    world.pass_time(days=6)
    world.open_position(swing(qty=10))
    world.db.execute_update("ALTER TABLE order_fill DISABLE TRIGGER recorded_stays")
    world.db.execute_update("DELETE FROM order_fill WHERE external_order_id IS NOT NULL")
    world.db.execute_update("DELETE FROM external_order")
    world.pass_time(hours=14)
    world.market.split("NVDA", "2")
    world.market.foreign_fill("NVDA", "sell", Decimal(55))
    world.value()
    assert world.one("position_tracking")["qty"] == 10


@pytest.mark.usefixtures("without_turns")
def test_two_monitors_restate_a_split_once(world: World, database: dict[str, Any]) -> None:
    world.open_position()
    world.pass_time(hours=14)
    world.market.split("NVDA", "10")

    class Meanwhile(Broker):
        def list_splits(self, after: Any) -> Any:
            splits = super().list_splits(after)
            with TradingDB(config=database) as other:
                others = Broker(world.settings.alpaca)
                PositionMonitor(db=other, broker=others, clock=world.clock, settings=world.settings).run()
            return splits

    broker = Meanwhile(world.settings.alpaca)
    PositionMonitor(db=world.programs, broker=broker, clock=world.clock, settings=world.settings).run()
    journal = world.one("trade_journal")
    assert (world.one("position_tracking")["qty"], journal["current_stop_loss"]) == (450, Decimal("12.40"))
    assert journal["split_ratio"] == 10


def test_a_split_whose_ratio_is_none_is_left_to_a_person(world: World) -> None:
    world.open_position()
    world.pass_time(hours=14)
    world.market.split("NVDA", "4/45")
    world.value()
    assert world.one("trade_journal")["split_ratio"] == 1
    assert world.one("alerts", kind="position_mismatch")["level"] == "critical"


def test_the_entry_price_of_a_partly_closed_position_is_split_too(world: World) -> None:
    world.open_position()
    by_hand(world, "sell", "20", "136")
    world.value()
    world.monitor()
    entry = world.one("position_tracking")["avg_entry_price"]
    world.pass_time(hours=14)
    world.market.split("NVDA", "10")
    world.value()
    tracked = world.one("position_tracking")
    assert (tracked["qty"], tracked["avg_entry_price"]) == (250, entry / 10)


def test_a_position_whose_exit_still_works_at_the_broker_is_not_taken_for_gone(world: World) -> None:
    two_positions(world)
    del world.market.state.positions["AAA"]
    world.pass_time(minutes=10)
    for _ in range(3):
        world.value()
    assert world.one("trade_journal", symbol="AAA")["status"] == "POSITION"
    assert world.one("alerts", kind="position_mismatch")["subject"] == "AAA"


def test_a_later_trade_of_somebody_else_settles_no_estimate(world: World) -> None:
    two_positions(world)
    lose(world, "AAA")
    world.pass_time(minutes=10)
    world.value()
    estimate = world.one("trade_journal", symbol="AAA")
    assert estimate["pnl_is_estimate"]
    world.pass_time(days=1)
    world.market.foreign_fill("AAA", "buy", Decimal(45), Decimal(150))
    world.market.foreign_fill("AAA", "sell", Decimal(45), Decimal(200))
    for _ in range(2):
        world.monitor()
        world.value()
    assert world.one("trade_journal", symbol="AAA") == estimate


def test_a_pass_with_nothing_new_writes_and_sends_nothing(world: World) -> None:
    world.open_position()
    by_hand(world, "sell", "20", "136")
    for _ in range(2):
        world.value()
        world.monitor()
    tables = ("trade_journal", "order_execution", "order_fill", "position_adjustment", "position_tracking")
    before = [world.db.query(table) for table in tables]
    sent = len(world.posted())
    world.pass_time(minutes=5)
    world.value()
    world.monitor()
    assert [world.db.query(table) for table in tables] == before
    assert len(world.posted()) == sent


def tell_late(world: World, order: Order, qty: Decimal, price: Decimal) -> None:
    """Let the broker say now that an order had sold shares which its positions have not shown for long."""
    order.filled_qty += qty
    order.filled_value += qty * price
    record_fill(world.market.state, order, qty, price)
    del world.market.state.positions[order.symbol]


@pytest.mark.parametrize("late", [45, 20])
@pytest.mark.parametrize("first", ["order monitor", "position monitor"])
def test_an_estimate_gives_way_to_a_late_fill_of_our_own_order(world: World, first: str, late: int) -> None:
    """The stop had sold the shares before it was cancelled, and the broker says so only later."""
    for symbol in ("AAA", "BBB"):
        world.price(symbol, "133")
        world.decide(trend(symbol), symbol)
    world.execute()
    world.monitor()
    stop = next(row for row in world.db.query("order_execution", {"order_type": "STOP_LOSS"}))
    journal = world.one("trade_journal", id=stop["trade_journal_id"])
    lose(world, journal["symbol"])
    world.pass_time(minutes=10)
    world.monitor()
    world.value()
    assert world.one("trade_journal", id=journal["id"])["pnl_is_estimate"]
    tell_late(world, world.market.state.orders[stop["alpaca_order_id"]], Decimal(late), Decimal(124))
    world.market.foreign_fill("NVDA", "buy", Decimal(1), Decimal(135))  # makes the position monitor ask for the orders
    for run in (world.monitor, world.value) if first == "order monitor" else (world.value, world.monitor):
        world.pass_time(minutes=5)
        run()
    guesses = [row["qty"] for row in world.db.query("position_adjustment")]
    assert guesses == ([] if late == 45 else [25])
    after = world.one("trade_journal", id=journal["id"])
    assert after["status"] == "CLOSED"
    assert after["pnl_is_estimate"] == (late != 45)
    if late == 45:
        assert (after["exit_reason"], after["exit_price"]) == ("STOPPED_OUT", 124)
        assert world.one("alerts", kind="position_vanished")["resolved_at"] is not None
    assert world.db.query("alerts", {"kind": "too_many_exits"}) == NOTHING


def test_a_split_is_found_although_a_stop_and_a_person_sold_as_many_shares_as_we_know_of(world: World) -> None:
    world.open_position(trend())
    world.pass_time(hours=14)
    world.market.split("NVDA", "2")
    world.pass_time(hours=10)
    world.market.set_liquidity("NVDA", "45")
    world.price("NVDA", "60")
    world.market.set_liquidity("NVDA", "0")
    world.market.foreign_fill("NVDA", "sell", Decimal(45))
    world.pass_time(minutes=10)
    for _ in range(2):
        world.monitor()
        world.value()
    assert world.market.state.positions == {}
    assert sorted((row["kind"], row["side"], row["qty"]) for row in world.db.query("position_adjustment")) == [
        ("MANUAL_EXIT", "sell", 45), ("SPLIT", "buy", 45),
    ]
    assert world.one("trade_journal")["status"] == "CLOSED"
