"""A trade as its rows tell it: what it entered, holds and is protected by, and how it ended; pure rules."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from order_life import ENDED, AdjustmentKind, ExitReason, JournalStatus, OrderRole


@dataclass(frozen=True)
class Trade:
    """A trade with its orders, oldest first, and the shares that came or went without them."""

    journal: dict[str, Any]
    entries: tuple[dict[str, Any], ...]
    exits: tuple[dict[str, Any], ...]
    adjustments: tuple[dict[str, Any], ...] = ()

    @property
    def id(self) -> int:
        return int(self.journal["id"])

    @property
    def name(self) -> str:
        """The trade's name for people (`trade_id`)."""
        return str(self.journal["trade_id"])

    @property
    def symbol(self) -> str:
        return str(self.journal["symbol"])

    @property
    def side(self) -> str:
        """The side of the entry: buy for a long trade."""
        return str(self.journal["side"])

    @property
    def entry(self) -> dict[str, Any]:
        """The entry order that still works, or else the newest one: a replaced order is followed by its successor."""
        return _live_or_newest(self.entries)

    @cached_property
    def entered(self) -> Decimal:
        """The shares that the entries brought, in today's shares after splits."""
        return Decimal(round(self._bought * self.journal["split_ratio"], 9))

    @cached_property
    def entry_price(self) -> Decimal:
        """The average price in dollars of a share of the entry, in today's shares."""
        spent = sum((
            order["filled_qty"] * order["filled_avg_price"] for order in self.entries if order["filled_avg_price"]
        ), Decimal(0))
        return Decimal(spent / self._bought / self.journal["split_ratio"])

    @cached_property
    def held(self) -> Decimal:
        """The shares held now, counted positive; negative when more left the trade than it had."""
        orders = self._net((*self.entries, *self.exits), "filled_qty")
        return orders + self._net(self.adjustments, "qty")

    @cached_property
    def realised(self) -> Decimal:
        """The profit in dollars of the shares that have left the trade, at its average entry price."""
        orders = ((row["side"], row["filled_qty"], row["filled_avg_price"]) for row in (*self.entries, *self.exits))
        others = ((row["side"], row["qty"], row["price"]) for row in self.adjustments)
        paid = sum((
            (qty if side == self.side else -qty) * (price or Decimal(0)) for side, qty, price in (*orders, *others)
        ), Decimal(0))
        return (self.held * self.entry_price - paid) * (1 if self.side == "buy" else -1)

    @property
    def position(self) -> Decimal:
        """The shares held as the broker counts them: negative for a short position."""
        return self.held if self.side == "buy" else -self.held

    @property
    def stop_price(self) -> Decimal:
        """The stop in force, in dollars for today's share."""
        current: Decimal | None = self.journal["current_stop_loss"]
        return self.journal["planned_stop_loss"] if current is None else current

    @property
    def target_price(self) -> Decimal | None:
        """The target, in dollars for today's share, or None for a trade without one.

        A target that a person moved stays where it is, until a split.
        """
        planned: Decimal | None = self.journal["planned_take_profit"]
        if planned is None:
            return None
        splits = [change["happened_at"] for change in self.adjustments if change["kind"] == AdjustmentKind.SPLIT]
        asked: list[Decimal] = [
            order["limit_price"] for order in self.exits
            if order["order_type"] == OrderRole.TAKE_PROFIT and order["alpaca_order_id"] is not None
            and (not splits or order["created_at"] > max(splits))
        ]
        return asked[-1] if asked else round(planned / self.journal["split_ratio"], 2)

    @property
    def exits_by_hand(self) -> list[dict[str, Any]]:
        """The shares that somebody else took out of the trade."""
        return [
            change for change in self.adjustments
            if change["kind"] == AdjustmentKind.MANUAL_EXIT and change["side"] != self.side
        ]

    @property
    def guesses(self) -> list[dict[str, Any]]:
        """The exits that are estimates: no execution proves them."""
        return [
            change for change in self.adjustments
            if change["kind"] == AdjustmentKind.MANUAL_EXIT and change["evidence_id"] is None
        ]

    @property
    def entry_ended(self) -> bool:
        return self.entry["order_status"] in ENDED

    @property
    def _bought(self) -> Decimal:
        """The shares that the entries brought, as they were then."""
        return sum((order["filled_qty"] for order in self.entries), Decimal(0))

    def _net(self, rows: Iterable[dict[str, Any]], column: str) -> Decimal:
        return sum((row[column] if row["side"] == self.side else -row[column] for row in rows), Decimal(0))

    @cached_property
    def exit_groups(self) -> list[dict[str, Any]]:
        """The exit orders not ended yet; an OCO counts as its target, unless that has ended and its stop has not."""
        live = {order["id"]: order for order in self.exits if order["order_status"] not in ENDED}
        return [order for order in live.values() if order["parent_order_id"] not in live]

    def leg(self, order: dict[str, Any]) -> dict[str, Any] | None:
        """Return the stop inside an OCO, the one that still works where it was replaced."""
        legs = [other for other in self.exits if other["parent_order_id"] == order["id"]]
        return _live_or_newest(legs) if legs else None


def _live_or_newest(orders: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return next((order for order in orders if order["order_status"] not in ENDED), orders[-1])


@dataclass(frozen=True)
class TradeEnd:
    """How a trade ended; prices and profit in dollars, None where nothing was ever filled."""

    status: JournalStatus
    reason: ExitReason
    ended_at: datetime
    price: Decimal | None = None
    pnl: Decimal | None = None
    estimate: bool = False


def trade_of(
    journal: dict[str, Any], orders: Sequence[dict[str, Any]], adjustments: Sequence[dict[str, Any]] = (),
) -> Trade | None:
    """Put a journal row and its orders together; None for one without an entry order, which somebody wrote by hand."""
    entries = tuple(order for order in orders if order["order_type"] == OrderRole.ENTRY)
    exits = tuple(order for order in orders if order["order_type"] != OrderRole.ENTRY)
    return Trade(journal, entries, exits, tuple(adjustments)) if entries else None
