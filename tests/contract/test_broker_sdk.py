"""Section 12: alpaca-py with its models on parses every answer."""

from __future__ import annotations

from datetime import UTC, datetime

from alpaca.data.historical.stock import StockHistoricalDataClient
from alpaca.data.requests import (
    StockBarsRequest,
    StockLatestBarRequest,
    StockLatestQuoteRequest,
    StockLatestTradeRequest,
    StockSnapshotRequest,
)
from alpaca.data.timeframe import TimeFrame
from alpaca.trading.enums import OrderClass, OrderSide, OrderStatus, QueryOrderStatus, TimeInForce
from alpaca.trading.requests import (
    ClosePositionRequest,
    GetCalendarRequest,
    GetOrderByIdRequest,
    GetOrdersRequest,
    LimitOrderRequest,
    MarketOrderRequest,
    ReplaceOrderRequest,
    StopLossRequest,
    StopOrderRequest,
    TakeProfitRequest,
    TrailingStopOrderRequest,
)

from tests.contract.conftest import Rehearsal

DAY, GTC = TimeInForce.DAY, TimeInForce.GTC
BUY, SELL = OrderSide.BUY, OrderSide.SELL


def test_12_orders_of_every_type_are_parsed(desk: Rehearsal) -> None:
    submit = desk.typed.submit_order
    bought = submit(MarketOrderRequest(symbol="NVDA", qty=10, side=BUY, time_in_force=DAY))
    assert bought.order_class == OrderClass.SIMPLE
    assert desk.typed.get_order_by_id(bought.id).status == OrderStatus.FILLED
    stop = submit(StopOrderRequest(symbol="NVDA", qty=4, side=SELL, time_in_force=GTC, stop_price=124))
    trailing = submit(
        TrailingStopOrderRequest(symbol="NVDA", qty=1, side=SELL, time_in_force=GTC, trail_percent=5)
    )
    assert trailing.hwm is not None
    exits = submit(
        LimitOrderRequest(
            symbol="NVDA",
            qty=5,
            side=SELL,
            time_in_force=GTC,
            order_class=OrderClass.OCO,
            take_profit=TakeProfitRequest(limit_price=145.5),
            stop_loss=StopLossRequest(stop_price=124.0),
        )
    )
    nested = desk.typed.get_order_by_id(exits.id, GetOrderByIdRequest(nested=True))
    assert [leg.status for leg in nested.legs] == [OrderStatus.HELD]
    listed = desk.typed.get_orders(
        GetOrdersRequest(status=QueryOrderStatus.ALL, nested=True, symbols=["NVDA"])
    )
    assert len(listed) == 4
    replaced = desk.typed.replace_order_by_id(stop.id, ReplaceOrderRequest(stop_price=125.0))
    assert replaced.replaces == stop.id
    assert [row.status for row in desk.typed.cancel_orders()] == [200, 200, 200]
    assert desk.typed.get_order_by_client_id(exits.client_order_id).status == OrderStatus.CANCELED


def test_12_positions_and_their_closing_are_parsed(desk: Rehearsal) -> None:
    desk.long()
    stop = desk.stop("124", qty="5")
    assert desk.typed.get_open_position("NVDA").qty_available == "5"
    assert len(desk.typed.get_all_positions()) == 1
    part = desk.typed.close_position("NVDA", ClosePositionRequest(qty="2"))
    assert part.qty == "2"
    refused = desk.typed.close_all_positions()
    assert refused[0].body.code == 40310000
    closed = desk.typed.close_all_positions(cancel_orders=True)
    assert (closed[0].status, closed[0].body.qty) == (200, "8")
    assert desk.status(stop) == "canceled"


def test_12_account_clock_calendar_and_assets_are_parsed(desk: Rehearsal) -> None:
    assert desk.typed.get_account().status.value == "ACTIVE"
    assert desk.typed.get_account_configurations().no_shorting is False
    assert desk.typed.get_clock().is_open is True
    days = desk.typed.get_calendar(GetCalendarRequest(start=datetime(2025, 7, 3, tzinfo=UTC).date()))
    assert days[0].close.hour == 13
    assert desk.typed.get_asset("NVDA").easy_to_borrow is True
    assert len(desk.typed.get_all_assets()) == 1


def test_12_market_data_is_parsed(desk: Rehearsal) -> None:
    desk.broker.add_bars(
        "timestamp,symbol,open,high,low,close,volume\n2025-01-14,NVDA,130,136,129,133,1000\n"
    )
    client = StockHistoricalDataClient("key", "secret", url_override=desk.server.url)
    client._session.trust_env = False
    with client._session:
        symbols = ["NVDA", "NOPE"]
        assert (
            client.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols=symbols))[
                "NVDA"
            ].bid_price
            == 133.5
        )
        assert (
            client.get_stock_latest_trade(StockLatestTradeRequest(symbol_or_symbols=symbols))["NVDA"].price
            == 133.5
        )
        assert (
            client.get_stock_latest_bar(StockLatestBarRequest(symbol_or_symbols=symbols))["NVDA"].close
            == 133.5
        )
        snapshot = client.get_stock_snapshot(StockSnapshotRequest(symbol_or_symbols=symbols))["NVDA"]
        assert snapshot.daily_bar.close == 133.5
        request = StockBarsRequest(
            symbol_or_symbols=symbols, timeframe=TimeFrame.Day, start=datetime(2025, 1, 1, tzinfo=UTC)
        )
        assert [bar.close for bar in client.get_stock_bars(request).data["NVDA"]] == [133.0]
