"""What the broker says about an account and some symbols at the beginning of a pass, asked once for all decisions."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from alpaca_client import Asset, Broker, BrokerError, Holding, JsonObject, LastTrade
from broker_answers import MarketHours
from decision import Decision, OrderType, TradeStyle
from risk_checks import Account, is_fresh
from risk_gate import read_account

T = TypeVar("T")

log = logging.getLogger("market_view")


@dataclass(frozen=True)
class MarketView:
    """The account, its positions, and what may be done with which symbol at what price.

    `assets` lacks the symbols the broker gave no answer about, and has None for those it does not know. `trades` lacks
    what has never traded, and has None for a price that makes no sense. `trades` and `holdings` are None when there was
    no answer, `hours` when there was none or nobody needed one.
    """

    account: Account
    asked_at: datetime
    assets: Mapping[str, Asset | None] = field(default_factory=dict)
    trades: Mapping[str, LastTrade | None] | None = None
    holdings: Mapping[str, Holding] | None = None
    hours: MarketHours | None = None

    def is_priced(self, symbol: str) -> bool:
        """Tell whether the broker said a price of this symbol that makes sense, or that it has none."""
        return self.trades is not None and (symbol not in self.trades or self.trades[symbol] is not None)

    def missing(self, symbol: str) -> str | None:
        """Say what an order in this symbol needs and the broker did not answer, or None."""
        if self.holdings is None:
            return "the broker did not say what the account holds; the next pass asks again"
        if symbol not in self.assets:
            return f"the broker did not say whether {symbol} can be traded; the next pass asks again"
        return None


def look(
    broker: Broker, account: JsonObject, decisions: Collection[Decision], now: datetime, flattens: bool = False,
    holdings: Mapping[str, Holding] | None = None,
) -> MarketView:
    """Ask what these decisions need: one call a symbol, and one each for prices and positions, if any trades at all.

    A read that fails leaves its part unknown; `holdings` that are known are not asked for. `flattens`: day trades are
    closed before the market closes.
    """
    trading = [decision for decision in decisions if decision.trade is not None]
    symbols = sorted({decision.symbol for decision in trading})
    if not symbols:
        return MarketView(read_account(account), now)
    assets = _assets(broker, symbols)
    trades = _ask("prices", lambda: broker.latest_trades(name for name in symbols if assets.get(name) is not None))
    holdings = _ask("positions", broker.list_holdings) if holdings is None else holdings
    stale = any(
        decision.trade is not None and decision.trade.order_type is OrderType.MARKET
        and (last := (trades or {}).get(decision.symbol)) is not None and not is_fresh(last, now)
        for decision in trading
    )
    timed = flattens and any(decision.trade.style is TradeStyle.DAYTRADE for decision in trading if decision.trade)
    hours = _ask("market hours", broker.market_hours) if stale or timed else None
    return MarketView(read_account(account), now, assets, trades, holdings, hours)


def _assets(broker: Broker, symbols: Iterable[str]) -> dict[str, Asset | None]:
    found = {}
    for symbol in symbols:
        try:
            found[symbol] = broker.asset(symbol)
        except BrokerError as error:
            log.warning("no answer about a symbol, so entries in it wait", extra={"symbol": symbol, "error": error})
    return found


def _ask(what: str, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except BrokerError as error:
        log.warning("no answer, so entries that need it wait for the next pass", extra={"asked": what, "error": error})
        return None
