"""What a strategy would do now: each of its signals as an order to be decided, or with the reason why not."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from alpaca_client import Asset, Broker, BrokerError
from broker_answers import DailyBar
from config import Limits
from db_layer import TradingDB
from decision import NewTrade
from exposure import Book, load_book
from order_life import decimal_text
from risk_checks import POWER_BUFFER, SHARES
from risk_gate import read_account
from strategies.signals import Signal, Snapshot, Strategy
from strategies.sizing import LOWEST_PRICE, SESSIONS, Levels, Room, levels_of, size

MOST_DECISIONS = 10  # a run
BARS_OVER_DAYS = 2 * SESSIONS  # with weekends and holidays
NO_REPETITIONS = timedelta(0)  # of them the gate knows

BLOCKED = "SELECT symbol, reason, expires_at FROM blocked_assets WHERE blocked_at <= %(now)s AND expires_at > %(now)s"


@dataclass(frozen=True)
class Planned:
    """A signal that is to be bought, and what it was sized by."""

    signal: Signal
    trade: NewTrade
    levels: Levels
    last_price: Decimal
    equity: Decimal


@dataclass(frozen=True)
class Skipped:
    """A signal that is left alone now, and why; `blocks` where its symbol should be left alone for some days."""

    signal: Signal
    reason: str
    blocks: bool = False


@dataclass(frozen=True)
class Plan:
    """What a strategy would do at a moment, strongest first; it rests on nothing that became known later."""

    strategy: Strategy
    as_of: datetime
    planned: Sequence[Planned] = ()
    skipped: Sequence[Skipped] = ()


@dataclass(frozen=True)
class Market:
    """What the broker says about the symbols of the signals, the account, and what is at stake."""

    equity: Decimal
    room: Room
    book: Book
    limits: Limits
    assets: Mapping[str, Asset | None]
    prices: Mapping[str, Decimal]
    bars: Mapping[str, Sequence[DailyBar]]
    blocked: Mapping[str, str] = field(default_factory=dict)
    waiting: Collection[str] = ()  # symbols of earlier decisions of the strategy that have no order yet


def make_plan(
    db: TradingDB, broker: Broker, strategy: Strategy, snapshot: Snapshot, limits: Limits, waiting: Collection[str],
) -> Plan:
    """Return what a strategy would do about a snapshot; reads only. Raises DatabaseError and BrokerError."""
    signals = strategy.signals(snapshot)
    if not signals:
        return Plan(strategy, snapshot.now)
    market = look(db, broker, [signal.symbol for signal in signals], snapshot, limits, waiting)
    return judge(strategy, snapshot.now, signals, market)


def judge(strategy: Strategy, as_of: datetime, signals: Sequence[Signal], market: Market) -> Plan:
    """Return what becomes of signals, strongest first; each takes its part of the room. Nothing is read or asked."""
    planned: list[Planned] = []
    skipped: list[Skipped] = []
    room = market.room
    for signal in signals:
        found = _judge(strategy, signal, market, room, full=len(planned) == MOST_DECISIONS)
        if isinstance(found, Skipped):
            skipped.append(found)
        else:
            planned.append(found)
            room = room.less(found.trade)
    return Plan(strategy, as_of, planned, skipped)


def _judge(strategy: Strategy, signal: Signal, market: Market, room: Room, full: bool) -> Planned | Skipped:
    symbol = signal.symbol
    if (reason := _why_not(symbol, market)) is not None:
        return Skipped(signal, reason)
    if (reason := _untradable(symbol, market.assets.get(symbol))) is not None:
        return Skipped(signal, reason, blocks=True)
    price = market.prices.get(symbol)
    if price is None:
        return Skipped(signal, "the broker has no price for it")
    if price < LOWEST_PRICE:
        return Skipped(signal, f"it trades at {decimal_text(price)}, below {LOWEST_PRICE} dollar")
    if full:
        return Skipped(signal, f"{MOST_DECISIONS} stronger ones are enough for a run")
    levels = levels_of(price, market.bars.get(symbol, ()))
    trade = size(signal.strength, levels, market.equity, market.limits, room, strategy.name)
    return Skipped(signal, trade) if isinstance(trade, str) else Planned(signal, trade, levels, price, market.equity)


def _why_not(symbol: str, market: Market) -> str | None:
    if symbol in market.blocked:
        return f"blocked: {market.blocked[symbol]}"
    if symbol in market.limits.symbol_denylist:
        return "it is on SYMBOL_DENYLIST"
    if symbol in market.waiting:
        return "an earlier decision about it still waits"
    if market.book.in_symbol(symbol) > 0:
        return f"{decimal_text(round(market.book.in_symbol(symbol), 2))} dollars are held or ordered in it already"
    return None


def _untradable(symbol: str, asset: Asset | None) -> str | None:
    if asset is None:
        return f"the broker does not know {symbol}"
    if asset.asset_class != SHARES:
        return f"it is {asset.asset_class} at the broker"
    if asset.status != "active" or not asset.tradable:
        return f"it cannot be traded at the broker ({asset.status}, {'' if asset.tradable else 'not '}tradable)"
    return None


def look(
    db: TradingDB, broker: Broker, symbols: Sequence[str], snapshot: Snapshot, limits: Limits,
    waiting: Collection[str],
) -> Market:
    """Ask what signals are judged by. Raises DatabaseError, and BrokerError where the broker did not answer."""
    account = read_account(broker.account())
    if account.equity is None or account.buying_power is None:
        raise BrokerError("the broker's answer about the account has no equity or no buying power")
    holdings = broker.list_holdings()
    book = load_book(db, snapshot.now, NO_REPETITIONS, holdings, snapshot.now)
    blocked = {
        row["symbol"]: f"{row['reason']} (until {row['expires_at']:%Y-%m-%d})"
        for row in db.execute_query(BLOCKED, {"now": snapshot.now})
    }
    # What is blocked is not asked about again and again; that is what the block is for.
    assets = {symbol: broker.asset(symbol) for symbol in symbols if symbol not in blocked}
    known = [symbol for symbol, asset in assets.items() if asset is not None]
    dollars = min(limits.max_gross_exposure - book.gross(""), account.buying_power / POWER_BUFFER - book.not_at_broker)
    taken = book.symbols_with("") - 1
    return Market(
        account.equity, Room(dollars, limits.max_open_positions - taken), book, limits, assets,
        broker.latest_prices(known), broker.daily_bars(known, snapshot.today - timedelta(days=BARS_OVER_DAYS)),
        blocked, waiting,
    )
