"""The broker's book for the monitor's bench: 5,000 working orders, what 500 of them come to, and the executions.

Everything follows from the number of a trade, so that the broker's side and the database's are the same in every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum, auto
from string import ascii_uppercase
from typing import Any
from uuid import NAMESPACE_OID, uuid5

ORDERS = 5_000
SUBMITTED = datetime(2026, 11, 19, 14, 30, tzinfo=UTC)
# Long before, so that a listing of the working orders does not reach back to the entries of the positions.
OPENED = SUBMITTED - timedelta(days=30)
CHANGED = datetime(2026, 11, 20, 14, 40, tzinfo=UTC)
NOW = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)

Json = dict[str, Any]


class Fate(Enum):
    """What becomes of a working order between two passes."""

    RESTS = auto()
    ROUTED = auto()
    CANCELLED = auto()
    EXPIRED = auto()
    TARGET_HIT = auto()
    STOPPED_OUT = auto()


# By the last two digits of the number: 10 in 100 change, spread over all pages, so that no page stays as it was.
FATES = {
    0: Fate.TARGET_HIT, 5: Fate.STOPPED_OUT, 10: Fate.STOPPED_OUT, 7: Fate.ROUTED, 42: Fate.ROUTED, 83: Fate.ROUTED,
    1: Fate.CANCELLED, 51: Fate.CANCELLED, 26: Fate.EXPIRED, 76: Fate.EXPIRED,
}
FILLED = (Fate.TARGET_HIT, Fate.STOPPED_OUT)
WORDS = {Fate.ROUTED: "new", Fate.CANCELLED: "canceled", Fate.EXPIRED: "expired"}


@dataclass(frozen=True)
class Trade:
    """One trade and the place of its working order in the listing: the entry, or the exit of a position."""

    number: int

    @property
    def held(self) -> bool:
        """One in five is a position with its exit, the others are resting entries."""
        return self.number % 5 == 0

    @property
    def has_target(self) -> bool:
        """Every second position has stop and target in one OCO order, the others a stop alone."""
        return self.number % 10 == 0

    @property
    def fate(self) -> Fate:
        return FATES.get(self.number % 100, Fate.RESTS)

    @property
    def symbol(self) -> str:
        high, low = divmod(self.number, 26)
        return "Q" + "".join(ascii_uppercase[digit] for digit in (*divmod(high, 26), low))

    @property
    def qty(self) -> Decimal:
        return Decimal(10 + self.number % 90)

    @property
    def entry_price(self) -> Decimal:
        return Decimal(2_000 + self.number) / 100

    @property
    def stop_price(self) -> Decimal:
        return self.entry_price - 2

    @property
    def target_price(self) -> Decimal | None:
        return self.entry_price + 4 if self.has_target or not self.held else None

    @property
    def exit_price(self) -> Decimal | None:
        """The price at which the exit is filled between the passes, dollars."""
        if self.fate not in FILLED:
            return None
        return self.target_price if self.fate is Fate.TARGET_HIT else self.stop_price

    @property
    def submitted_at(self) -> datetime:
        """When the working order was placed; three orders at a time, so that a page ends among equals."""
        return SUBMITTED + timedelta(seconds=12 * (self.number // 3))

    @property
    def opened_at(self) -> datetime:
        return OPENED + timedelta(seconds=self.number)

    @property
    def changed_at(self) -> datetime:
        return CHANGED + timedelta(milliseconds=100 * self.number)

    def broker_id(self, order: str) -> str:
        """Return the broker's id of the trade's `entry`, `exit` or `leg`."""
        return _uuid(order, self.number)

    def client_id(self, order: str) -> str:
        """Return the client order id: ours, or for a leg the one that the broker gave it."""
        if order == "leg":
            return _uuid("leg's client id", self.number)
        return f"bench-{self.number:04}-{'e' if order == 'entry' else 'x1' if self.has_target else 's1'}"


TRADES = tuple(map(Trade, range(ORDERS)))
POSITIONS = tuple(trade for trade in TRADES if trade.held)


def listed(trade: Trade, after: bool) -> Json:
    """Return the trade's working order as the listing shows it before or after the changes."""
    fate = trade.fate if after else Fate.RESTS
    if not trade.held:
        before = "accepted" if trade.fate is Fate.ROUTED else "new"
        return _order(trade, "entry", WORDS.get(fate, before), limit_price=trade.entry_price)
    if not trade.has_target:
        return _order(trade, "exit", "filled" if fate in FILLED else "new", stop_price=trade.stop_price)
    words = {Fate.TARGET_HIT: ("filled", "canceled"), Fate.STOPPED_OUT: ("canceled", "filled")}
    parent, leg = words.get(fate, ("new", "held"))
    stop = _order(trade, "leg", leg, stop_price=trade.stop_price, order_class="oco")
    target = _order(trade, "exit", parent, limit_price=trade.target_price, order_class="oco")
    return target | {"legs": [stop]}


def fills(after: bool) -> list[Json]:
    """Return the executions, oldest first: those that opened the positions, and those between the passes."""
    known = [_fill(trade, "entry", trade.entry_price, trade.opened_at) for trade in POSITIONS]
    if not after:
        return known
    return known + [
        _fill(trade, "leg" if trade.has_target and trade.fate is Fate.STOPPED_OUT else "exit", price, trade.changed_at)
        for trade in POSITIONS if (price := trade.exit_price) is not None
    ]


def fill_id(trade: Trade, order: str) -> str:
    """Return the broker's id of the execution of the trade's `entry`, `exit` or `leg`."""
    at = trade.opened_at if order == "entry" else trade.changed_at
    return f"{at:%Y%m%d%H%M%S}000::{_uuid('fill of ' + order, trade.number)}"


def held_positions(after: bool) -> list[Json]:
    """Return the account's positions, without those closed by the changes."""
    held = [trade for trade in POSITIONS if not (after and trade.fate in FILLED)]
    return [{
        "asset_id": _uuid("asset", trade.number), "symbol": trade.symbol, "exchange": "NASDAQ",
        "asset_class": "us_equity", "asset_marginable": True, "qty": str(trade.qty), "qty_available": "0",
        "avg_entry_price": str(trade.entry_price), "side": "long", "market_value": str(trade.qty * trade.entry_price),
        "cost_basis": str(trade.qty * trade.entry_price), "unrealized_pl": "0", "unrealized_plpc": "0",
        "unrealized_intraday_pl": "0", "unrealized_intraday_plpc": "0", "current_price": str(trade.entry_price),
        "lastday_price": str(trade.entry_price), "change_today": "0",
    } for trade in held]


def latest_trades(rise: int) -> dict[str, Json]:
    """Return the last trade of every symbol that is held, so many dollars above its entry.

    Market data has numbers where orders have strings.
    """
    return {trade.symbol: {
        "t": _moment(NOW), "x": "V", "p": float(trade.entry_price + rise), "s": 100, "c": ["@"], "i": 1 + trade.number,
        "z": "C",
    } for trade in POSITIONS}


def _order(
    trade: Trade, name: str, word: str, limit_price: Decimal | None = None, stop_price: Decimal | None = None,
    order_class: str = "",
) -> Json:
    """Return the broker's order object. Source: https://docs.alpaca.markets/reference/getallorders"""
    entry, filled = name == "entry", word == "filled"
    placed, ended = _moment(trade.submitted_at), _moment(trade.changed_at)
    kind = "stop" if stop_price is not None else "limit"
    return {
        "id": trade.broker_id(name), "client_order_id": trade.client_id(name), "created_at": placed,
        "updated_at": ended if word in ("filled", "canceled", "expired") else placed, "submitted_at": placed,
        "filled_at": ended if filled else None, "expired_at": ended if word == "expired" else None,
        "canceled_at": ended if word == "canceled" else None, "failed_at": None, "replaced_at": None,
        "replaced_by": None, "replaces": None, "asset_id": _uuid("asset", trade.number), "symbol": trade.symbol,
        "asset_class": "us_equity", "notional": None, "qty": str(trade.qty),
        "filled_qty": str(trade.qty) if filled else "0", "filled_avg_price": str(trade.exit_price) if filled else None,
        "order_class": order_class, "order_type": kind, "type": kind, "side": "buy" if entry else "sell",
        "position_intent": "buy_to_open" if entry else "sell_to_close", "time_in_force": "gtc",
        "limit_price": None if limit_price is None else str(limit_price),
        "stop_price": None if stop_price is None else str(stop_price), "status": word, "extended_hours": False,
        "legs": None, "trail_percent": None, "trail_price": None, "hwm": None, "subtag": None, "source": None,
        "expires_at": _moment(SUBMITTED + timedelta(days=90)),
    }


def _fill(trade: Trade, order: str, price: Decimal, at: datetime) -> Json:
    return {
        "id": fill_id(trade, order), "activity_type": "FILL", "transaction_time": _moment(at), "type": "fill",
        "price": str(price), "qty": str(trade.qty), "side": "buy" if order == "entry" else "sell",
        "symbol": trade.symbol, "leaves_qty": "0", "order_id": trade.broker_id(order), "cum_qty": str(trade.qty),
        "order_status": "filled",
    }


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06}789Z"


def _uuid(what: str, number: int) -> str:
    return str(uuid5(NAMESPACE_OID, f"{what} {number}"))
