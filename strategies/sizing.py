"""How many shares of a signal, at what limit, stop and target: whole shares, from equity, limits and the recent range.

Nothing is read or asked here. The rules with their numbers: docs/strategies.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

from broker_answers import DailyBar
from config import Limits
from decision import NewTrade, OrderType, Side, TimeInForce, TradeStyle
from order_life import decimal_text

SESSIONS = 20  # whose range is looked at
FEWEST_SESSIONS = 5  # that make a range
LOWEST_PRICE = Decimal(1)  # below it a cent is too much of the price
LIMIT_OVER_LAST = Decimal("1.005")  # what the price may move before the order is there
NEAREST_STOP, FARTHEST_STOP = Decimal("0.97"), Decimal("0.85")  # of the limit
STOP_WITHOUT_RANGE = Decimal("0.92")
REWARD = 2  # the target is that many times as far away as the stop
RISK_OF_EQUITY = Decimal("0.01")  # what the stop may cost a signal of strength 1
MOST_OF_EQUITY = Decimal("0.10")  # in one symbol
CENT = Decimal("0.01")


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
    """Limit, stop and target of a purchase, in dollars, and the range of the sessions looked at, None without one."""

    limit: Decimal
    stop: Decimal
    target: Decimal
    low: Decimal | None
    high: Decimal | None


def levels_of(last: Decimal, bars: Sequence[DailyBar]) -> Levels:
    """Return the levels of a purchase at this price; the stop is the range's low unless that is too near or too far."""
    recent = bars[-SESSIONS:] if len(bars) >= FEWEST_SESSIONS else ()
    low, high = min((bar.low for bar in recent), default=None), max((bar.high for bar in recent), default=None)
    limit = in_cents(last * LIMIT_OVER_LAST)
    wanted = limit * STOP_WITHOUT_RANGE if low is None else low
    stop = in_cents(min(max(wanted, limit * FARTHEST_STOP), limit * NEAREST_STOP))
    return Levels(limit, stop, limit + REWARD * (limit - stop), low, high)


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


def in_cents(price: Decimal) -> Decimal:
    """Return a price in whole cents, rounded down."""
    return price.quantize(CENT, ROUND_DOWN)
