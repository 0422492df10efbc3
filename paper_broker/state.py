"""Everything the broker remembers, as plain records."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from paper_broker.market import Market
from paper_broker.orders import ENTRY, Order
from paper_broker.values import ZERO


@dataclass
class Position:
    """Shares held (negative: short), what one cost on average, and what it was worth before today."""

    symbol: str
    qty: Decimal
    avg_entry: Decimal
    avg_day: Decimal


@dataclass
class Activity:
    """One entry of the account's history: an execution, or a change made by a corporate action.

    `listed_at` is when a late entry first appears in the listings, None for one that never lagged.
    """

    id: str
    kind: str
    at: datetime
    order_id: str
    data: dict[str, str]
    listed_at: datetime | None = None


@dataclass
class LateFill:
    """An execution that the positions do not show yet."""

    due: datetime
    symbol: str
    signed_qty: Decimal
    price: Decimal


@dataclass
class Release:
    """Shares that stay reserved for a moment after their order ended."""

    due: datetime
    symbol: str
    side: str
    qty: Decimal
    order_id: str


@dataclass
class Configuration:
    """The account settings a user may change, as the trading API names them."""

    disable_overnight_trading: bool = False
    fractional_trading: bool = True
    max_margin_multiplier: str = "4"
    max_options_trading_level: int = 0
    no_shorting: bool = False
    ptp_no_exception_entry: bool = False
    suspend_trade: bool = False
    trade_confirm_email: str = "all"


@dataclass
class Account:
    """Money and flags of the one account."""

    cash: Decimal
    last_equity: Decimal
    created_at: datetime
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    number: str = "PA3PAPER0001"
    status: str = "ACTIVE"
    multiplier: str = "2"
    trading_blocked: bool = False
    account_blocked: bool = False
    transfers_blocked: bool = False
    shorting_enabled: bool = True
    configuration: Configuration = field(default_factory=Configuration)


@dataclass
class Behaviour:
    """How the broker misbehaves when asked to; the README says what each field does."""

    cancel_delay_seconds: Decimal = ZERO
    cancel_hang: bool = False
    cancel_loses_to_fill: bool = False
    replace_loses_to_fill: bool = False
    release_delay_seconds: Decimal = ZERO
    positions_lag: Decimal = ZERO
    activities_lag: Decimal = ZERO
    reject_next: int = 0
    tp_status_on_stop: str = "canceled"
    both_legs_fill: bool = False
    resting_groups_block_plain: bool = False
    sip_subscription: bool = False
    rate_limit: int = 0
    invent_prices: bool = False


@dataclass
class State:
    """The broker's whole memory. `time` is how far the market has been played."""

    time: datetime
    account: Account
    simulated: bool = False
    market: Market = field(default_factory=Market)
    orders: dict[str, Order] = field(default_factory=dict)
    positions: dict[str, Position] = field(default_factory=dict)
    activities: list[Activity] = field(default_factory=list)
    late_fills: list[LateFill] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    behaviour: Behaviour = field(default_factory=Behaviour)
    sequence: int = 0

    def __post_init__(self) -> None:
        self.version = 0
        self.live = {order.id: order for order in self.orders.values() if order.live}
        self.live_in: dict[str, dict[str, Order]] = {}
        for order in self.live.values():
            self.live_in.setdefault(order.symbol, {})[order.id] = order
        self.touched = set(self.live_in)
        self.by_client_id = {order.client_order_id: order for order in self.orders.values()}

    def add(self, order: Order) -> None:
        self.orders[order.id] = self.by_client_id[order.client_order_id] = self.live[order.id] = order
        self.live_in.setdefault(order.symbol, {})[order.id] = order
        self.touch(order.symbol)

    def retire(self, order: Order) -> None:
        """Take an order that has ended out of the live ones."""
        self.live.pop(order.id, None)
        self.live_in[order.symbol].pop(order.id, None)

    def touch(self, symbol: str) -> None:
        """Note that something about a symbol changed, so that it is matched and saved."""
        self.touched.add(symbol)
        self.version += 1

    def next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence

    def group(self, order: Order) -> list[Order]:
        """The order with all current members of its group, the first order leading; alone when simple."""
        if not order.root:
            return [order]
        root = self.orders[order.root]
        return [root, *(self.orders[leg] for leg in root.leg_ids)]

    def exits(self, order: Order) -> list[Order]:
        """The members of an order's group that would close a position."""
        return [member for member in self.group(order) if member.role != ENTRY]

    def legs(self, order: Order) -> list[Order] | None:
        return [self.orders[leg] for leg in order.leg_ids] or None

    def working_for(self, symbol: str) -> Iterator[Order]:
        """The live orders of a symbol, the oldest first."""
        return iter(list(self.live_in.get(symbol, {}).values()))

    def shares(self, symbol: str) -> Decimal:
        position = self.positions.get(symbol)
        return ZERO if position is None else position.qty
