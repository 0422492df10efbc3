"""How many shares of a signal, at what limit, stop and target: whole shares, from equity, limits and the recent range.

Nothing is read or asked here. The rules with their numbers: docs/strategies.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

from alpaca_client import DailyBar
from config import Limits
from decision import NewTrade, OrderType, Side, TimeInForce, TradeStyle
from order_life import decimal_text

SESSIONS = 20  # whose range is looked at
FEWEST_SESSIONS = 10
LIMIT_OVER_LAST = Decimal("1.005")  # what the price may move before the order is there
NEAREST_STOP, FARTHEST_STOP = Decimal("0.97"), Decimal("0.85")  # of the limit
REWARD = 2  # the target is that many times as far away as the stop
RISK_OF_EQUITY = Decimal("0.01")  # what the stop may cost a signal of strength 1
MOST_OF_EQUITY = Decimal("0.10")  # in one symbol
CENT, SMALL_TICK = Decimal("0.01"), Decimal("0.0001")


@dataclass(frozen=True)
class Room:
    """What may still be spent in this run: dollars, and how many new symbols."""

    dollars: Decimal
    symbols: int

    def less(self, trade: NewTrade) -> "Room":
        """Return what is left beside an order."""
        return Room(self.dollars - trade.qty * (trade.limit_price or Decimal(0)), self.symbols - 1)


@dataclass(frozen=True)
class Levels:
    """Limit, stop and target of a purchase, in dollars, and the range of the sessions looked at."""

    limit: Decimal
    stop: Decimal
    target: Decimal
    low: Decimal
    high: Decimal


def levels_of(last: Decimal, bars: Sequence[DailyBar]) -> Levels:
    """Return the levels of a purchase at this price; the stop is the range's low unless that is too near or too far."""
    recent = bars[-SESSIONS:]
    low, high = min(bar.low for bar in recent), max(bar.high for bar in recent)
    limit = in_ticks(last * LIMIT_OVER_LAST)
    stop = in_ticks(min(max(low, limit * FARTHEST_STOP), limit * NEAREST_STOP))
    return Levels(limit, stop, in_ticks(limit + REWARD * (limit - stop)), low, high)


def size(
    strength: Decimal, levels: Levels, equity: Decimal, limits: Limits, room: Room, pattern: str,
) -> NewTrade | str:
    """Return the order for a signal, or why not a single share fits."""
    if room.symbols < 1:
        return f"MAX_OPEN_POSITIONS={limits.max_open_positions} is reached"
    shares = {
        f"{RISK_OF_EQUITY:.0%} of the equity at risk for a strength of 1":
            equity * RISK_OF_EQUITY * strength / (levels.limit - levels.stop),
        f"{MOST_OF_EQUITY:.0%} of the equity in one symbol": equity * MOST_OF_EQUITY / levels.limit,
        "MAX_ORDER_NOTIONAL": limits.max_order_notional / levels.limit,
        "MAX_ORDER_QTY": limits.max_order_qty,
        "MAX_SYMBOL_EXPOSURE": limits.max_symbol_exposure / levels.limit,
        "what MAX_GROSS_EXPOSURE and the buying power leave": room.dollars / levels.limit,
    }
    tightest = min(shares, key=lambda name: shares[name])
    qty = max(shares[tightest], Decimal(0)).to_integral_value(ROUND_DOWN)
    if qty < 1:
        return f"not one share at {decimal_text(levels.limit)} fits: {tightest}"
    return NewTrade(
        TradeStyle.SWING, pattern, qty, Side.BUY, OrderType.LIMIT, TimeInForce.DAY, levels.limit, levels.stop,
        levels.target,
    )


def in_ticks(price: Decimal) -> Decimal:
    """Return a price in steps that the exchange takes, rounded down."""
    return price.quantize(CENT if price >= 1 else SMALL_TICK, ROUND_DOWN)
