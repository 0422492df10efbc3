"""The life of an order and of a trade as pure rules: words, allowed moves, and profit or loss."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import TypeVar

S = TypeVar("S", bound=StrEnum)


class OrderStatus(StrEnum):
    """Our word for where an order stands (`order_execution.order_status`)."""

    INTENDED = "intended"
    UNKNOWN = "unknown"
    PENDING = "pending"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    REPLACED = "replaced"


class OrderRole(StrEnum):
    """What an order is for (`order_execution.order_type`)."""

    ENTRY = "ENTRY"
    STOP_LOSS = "STOP_LOSS"
    TAKE_PROFIT = "TAKE_PROFIT"
    EXIT = "EXIT"


class JournalStatus(StrEnum):
    """Where a trade stands (`trade_journal.status`)."""

    ORDERED = "ORDERED"
    POSITION = "POSITION"
    CLOSED = "CLOSED"
    CANCELLED = "CANCELLED"


class ExitReason(StrEnum):
    """Why a trade ended (`trade_journal.exit_reason`)."""

    STOPPED_OUT = "STOPPED_OUT"
    TARGET_HIT = "TARGET_HIT"
    MANUAL_EXIT = "MANUAL_EXIT"
    CANCELLED = "CANCELLED"
    AMENDED = "AMENDED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"
    EOD_EXIT = "EOD_EXIT"
    EMERGENCY_EXIT = "EMERGENCY_EXIT"


class AdjustmentKind(StrEnum):
    """Why shares came or went without an order of ours (`position_adjustment.kind`)."""

    MANUAL_EXIT = "MANUAL_EXIT"
    SPLIT = "SPLIT"


class ExecutionStatus(StrEnum):
    """What an attempt to place an order came to (`trade_executions.status`)."""

    SUBMITTED = "submitted"
    ACCEPTED = "accepted"
    FILLED = "filled"
    PARTIAL_FILL = "partial_fill"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    NOT_PLACED = "not_placed"


class DecisionStatus(StrEnum):
    """What became of a decision (`trade_decisions.status`)."""

    PENDING = "pending"
    EXECUTED = "executed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({
    OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.EXPIRED, OrderStatus.REJECTED, OrderStatus.REPLACED,
})
AT_BROKER = frozenset({OrderStatus.PENDING, OrderStatus.PARTIALLY_FILLED})

_HEARD: Mapping[str, OrderStatus] = {
    "accepted": OrderStatus.PENDING,
    "accepted_for_bidding": OrderStatus.PENDING,
    "calculated": OrderStatus.PENDING,
    "done_for_day": OrderStatus.PENDING,
    "held": OrderStatus.PENDING,
    "new": OrderStatus.PENDING,
    "pending_cancel": OrderStatus.PENDING,
    "pending_new": OrderStatus.PENDING,
    "pending_replace": OrderStatus.PENDING,
    "pending_review": OrderStatus.PENDING,
    "stopped": OrderStatus.PENDING,
    "suspended": OrderStatus.PENDING,
    "partially_filled": OrderStatus.PARTIALLY_FILLED,
    "filled": OrderStatus.FILLED,
    "canceled": OrderStatus.CANCELLED,
    "expired": OrderStatus.EXPIRED,
    "rejected": OrderStatus.REJECTED,
    "replaced": OrderStatus.REPLACED,
}

# A late fill can complete an order that was already heard to be cancelled or expired; nothing follows the rest.
ORDER_MOVES: Mapping[OrderStatus, frozenset[OrderStatus]] = {
    OrderStatus.INTENDED: frozenset({OrderStatus.UNKNOWN}) | AT_BROKER | ENDED,
    OrderStatus.UNKNOWN: AT_BROKER | ENDED,
    OrderStatus.PENDING: frozenset({OrderStatus.PARTIALLY_FILLED}) | ENDED,
    OrderStatus.PARTIALLY_FILLED: ENDED,
    OrderStatus.CANCELLED: frozenset({OrderStatus.FILLED}),
    OrderStatus.EXPIRED: frozenset({OrderStatus.FILLED}),
    OrderStatus.FILLED: frozenset(),
    OrderStatus.REJECTED: frozenset(),
    OrderStatus.REPLACED: frozenset(),
}

# Shares that are filled after a trade was over make it a position again.
JOURNAL_MOVES: Mapping[JournalStatus, frozenset[JournalStatus]] = {
    JournalStatus.ORDERED: frozenset({JournalStatus.POSITION, JournalStatus.CANCELLED}),
    JournalStatus.POSITION: frozenset({JournalStatus.CLOSED}),
    JournalStatus.CLOSED: frozenset({JournalStatus.POSITION}),
    JournalStatus.CANCELLED: frozenset({JournalStatus.POSITION}),
}

# The first filled share makes a decision executed, however late it is heard of.
DECISION_MOVES: Mapping[DecisionStatus, frozenset[DecisionStatus]] = {
    DecisionStatus.PENDING: frozenset({
        DecisionStatus.EXECUTED, DecisionStatus.FAILED, DecisionStatus.CANCELLED,
    }),
    DecisionStatus.EXECUTED: frozenset(),
    DecisionStatus.FAILED: frozenset({DecisionStatus.EXECUTED}),
    DecisionStatus.CANCELLED: frozenset({DecisionStatus.EXECUTED}),
}

EXECUTION_OF_ORDER: Mapping[OrderStatus, ExecutionStatus] = {
    OrderStatus.INTENDED: ExecutionStatus.NOT_PLACED,
    OrderStatus.UNKNOWN: ExecutionStatus.UNKNOWN,
    OrderStatus.PENDING: ExecutionStatus.ACCEPTED,
    OrderStatus.PARTIALLY_FILLED: ExecutionStatus.PARTIAL_FILL,
    OrderStatus.FILLED: ExecutionStatus.FILLED,
    OrderStatus.CANCELLED: ExecutionStatus.CANCELLED,
    OrderStatus.EXPIRED: ExecutionStatus.EXPIRED,
    OrderStatus.REJECTED: ExecutionStatus.REJECTED,
    OrderStatus.REPLACED: ExecutionStatus.CANCELLED,
}

UNFILLED_END: Mapping[OrderStatus, ExitReason] = {
    OrderStatus.CANCELLED: ExitReason.CANCELLED,
    OrderStatus.EXPIRED: ExitReason.EXPIRED,
    OrderStatus.REJECTED: ExitReason.REJECTED,
    OrderStatus.REPLACED: ExitReason.CANCELLED,
}

FILLED_EXIT: Mapping[OrderRole, ExitReason] = {
    OrderRole.STOP_LOSS: ExitReason.STOPPED_OUT,
    OrderRole.TAKE_PROFIT: ExitReason.TARGET_HIT,
    OrderRole.EXIT: ExitReason.MANUAL_EXIT,
}


def heard_status(broker_status: str, filled_qty: Decimal) -> OrderStatus | None:
    """Translate the broker's word; None for a word nobody knows, which must change nothing.

    Source: the broker's list of order statuses; only filled, canceled, expired, rejected and replaced are final.
    """
    status = _HEARD.get(broker_status)
    if status is OrderStatus.PENDING and filled_qty > 0:
        return OrderStatus.PARTIALLY_FILLED
    return status


def before(moves: Mapping[S, frozenset[S]], status: S) -> list[str]:
    """Return the statuses from which this one may be reached."""
    return [str(earlier) for earlier, later in moves.items() if status in later]


def pairs(moves: Mapping[S, frozenset[S]]) -> dict[str, list[str]]:
    """Return the allowed moves as two lists, `earlier` and `later`, for statements that move many rows at once."""
    found = [(str(earlier), str(later)) for earlier, ends in moves.items() for later in sorted(ends)]
    return {"earlier": [pair[0] for pair in found], "later": [pair[1] for pair in found]}


def decimal_text(number: Decimal) -> str:
    """Return a number in plain digits, without exponent and without zeros that say nothing."""
    return format(number.normalize(), "f")


def opposite(side: str) -> str:
    """Return the side that closes what this side opened."""
    return "sell" if side == "buy" else "buy"


def is_ratio_of_a_split(ratio: Decimal) -> bool:
    """Tell a split from a coincidence: n for 1, 1 for n, or small numbers such as 3 for 2."""
    exact = Fraction(ratio).limit_denominator(10_000)
    few, many = sorted((exact.numerator, exact.denominator))
    return ratio != 1 and few > 0 and (few == 1 or many <= 5)


@dataclass(frozen=True)
class Fill:
    """One execution: shares, dollars a share, and when it happened where that is known."""

    qty: Decimal
    price: Decimal
    at: datetime | None = None


def total_qty(fills: Iterable[Fill]) -> Decimal:
    """Return the shares of all fills."""
    return sum((fill.qty for fill in fills), Decimal(0))


def average_price(fills: Iterable[Fill]) -> Decimal | None:
    """Return the average price of the fills in dollars, or None without fills."""
    fills = list(fills)
    shares = total_qty(fills)
    return sum((fill.qty * fill.price for fill in fills), Decimal(0)) / shares if shares else None


def realised_pnl(entry_side: str, entries: Iterable[Fill], exits: Iterable[Fill]) -> Decimal:
    """Return the profit (negative: loss) in dollars of a trade whose entries and exits balance.

    Raises ValueError when the shares bought and sold differ. Source: docs/architecture.md, profit and loss.
    """
    entries, exits = list(entries), list(exits)
    if total_qty(entries) != total_qty(exits):
        raise ValueError(f"{total_qty(entries)} shares entered but {total_qty(exits)} left")
    spent = sum((fill.qty * fill.price for fill in entries), Decimal(0))
    earned = sum((fill.qty * fill.price for fill in exits), Decimal(0))
    return earned - spent if entry_side == "buy" else spent - earned
