"""Strategies in the world of the flow tests: disclosures as a source brought them, and prices with a past."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from alpaca_client import Asset, Broker
from broker_answers import DailyBar
from clock import MARKET_ZONE
from config import load_settings
from db_layer import TradingDB
from exposure import Book
from paper_broker import PaperBroker
from strategies import STRATEGIES
from strategies.plan import Market, Plan
from strategies.run import StrategyRun
from strategies.sizing import Room
from tests.flow.world import START, World


def ingest(db: TradingDB, completed_at: datetime, task: str = "congress_daily", status: str = "completed") -> int:
    """Write an ingestion run that ended at this moment and return its id."""
    at = completed_at - timedelta(minutes=1)
    return int(db.insert("data_ingestion_runs", {
        "task_name": task, "data_source": "quiverquant_congress", "status": status, "started_at": at, "created_at": at,
        "completed_at": completed_at if status == "completed" else None, "updated_at": completed_at,
        "records_fetched": 1, "records_created": 1,
    }))


def disclose(db: TradingDB, at: datetime, symbol: str | None = "NVDA", **changes: Any) -> int:
    """Write a disclosure that became available at this moment and return its id."""
    day = at.astimezone(MARKET_ZONE).date()
    key = f"{symbol} {at} {sorted(changes.items(), key=str)}"
    return int(db.insert("quiver_trades", {
        "natural_key": key, "trade_key": key, "lot": 0, "source": "quiverquant_congress", "symbol": symbol,
        "asset_type": "stock", "tradable": True, "person_name": "Ada Example", "person_id": "E000901",
        "chamber": "house", "transaction_type": "Purchase", "side": "buy",
        "transaction_date": day - timedelta(days=20), "disclosure_date": day, "amount_low": 15001,
        "available_at": at, "created_at": at, "updated_at": at,
    } | changes))


def agree(db: TradingDB, at: datetime, symbol: str | None = "NVDA", members: int = 3, **changes: Any) -> list[int]:
    """Several members disclose a purchase of 50,001 dollars or more."""
    return [
        disclose(db, at, symbol, **{
            "person_id": f"E00090{number}", "person_name": f"Member {number}", "amount_low": 50001, **changes,
        })
        for number in range(members)
    ]


def still_market(symbols: Iterable[str], **changes: Any) -> Market:
    """A market in which every symbol trades at 100 dollars, and an account that can pay for much."""
    names = list(symbols)
    bars = [DailyBar(START.date() - timedelta(days=back), Decimal(101), Decimal(95)) for back in range(20, 0, -1)]
    market = Market(
        Decimal(1_000_000), Room(Decimal(1_000_000), 20), Book((), (), {}), load_settings(True, {}).limits,
        dict.fromkeys(names, Asset("active", "us_equity", True, True, True)), dict.fromkeys(names, Decimal(100)),
        dict.fromkeys(names, bars),
    )
    return replace(market, **changes)


def give_a_past(market: PaperBroker, symbol: str, low: str, high: str, before: date, sessions: int = 20) -> None:
    """Give a symbol daily bars between two prices up to the session before a day; the price of now stays."""
    days = [before - timedelta(days=back) for back in range(1, 2 * sessions + 10)]
    sessions_before = [day for day in days if market.calendar.between(day, day)][:sessions]
    lines = ["timestamp,symbol,open,high,low,close,volume"]
    lines += [f"{day},{symbol},{low},{high},{low},{high},1000" for day in reversed(sessions_before)]
    market.add_bars("\n".join(lines))


def priced(world: World, symbol: str = "NVDA", price: str = "135", low: str = "128", high: str = "136") -> None:
    """Let a symbol trade at this price after twenty sessions between low and high."""
    give_a_past(world.market, symbol, low, high, world.clock.now().date())
    world.price(symbol, price)


def strategy(world: World, name: str = "congressional", door: type[Broker] = Broker) -> StrategyRun:
    """A run of a strategy that has not begun."""
    made: StrategyRun = world._worker(partial(StrategyRun, STRATEGIES[name]), door)
    return made


def run(world: World, name: str = "congressional", door: type[Broker] = Broker) -> tuple[Plan, dict[str, int]]:
    """One run of a strategy."""
    plan, results = strategy(world, name, door).run()
    return plan, {str(result): found for result, found in Counter(results).items() if found}


def decisions(world: World) -> list[dict[str, Any]]:
    """All decisions in the books, oldest first."""
    return sorted(world.db.query("trade_decisions"), key=lambda row: int(row["id"]))


def text_of(decision: dict[str, Any]) -> dict[str, Any]:
    """What a decision says, without its digits' form."""
    return dict(json.loads(decision["source_bytes"], parse_float=Decimal))
