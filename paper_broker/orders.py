"""The order record, its statuses and its JSON form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from paper_broker.values import ZERO, optional_stamp, optional_text, stamp, text

WORKING = frozenset({"new", "partially_filled", "pending_cancel", "pending_replace"})
LIVE = WORKING | {"accepted", "pending_new", "held"}

STOP_TYPES = frozenset({"stop", "stop_limit", "trailing_stop"})
LIMIT_TYPES = frozenset({"limit", "stop_limit"})

ENTRY, TAKE_PROFIT, STOP_LOSS = "entry", "take_profit", "stop_loss"


@dataclass
class Order:
    """One order as the broker keeps it.

    `root` is the id of the group's first order, `role` the part played in that group; both are empty for a
    simple order. `elected` says that a stop was touched. `cancel_due` is when a requested cancel completes,
    `status_before` what the order was until then. `doomed` orders are rejected instead of routed.
    """

    id: str
    client_order_id: str
    symbol: str
    asset_id: str
    side: str
    type: str
    time_in_force: str
    order_class: str
    position_intent: str
    status: str
    created_at: datetime
    submitted_at: datetime
    updated_at: datetime
    expires_at: datetime
    sequence: int
    qty: Decimal | None = None
    notional: Decimal | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail_price: Decimal | None = None
    trail_percent: Decimal | None = None
    hwm: Decimal | None = None
    extended_hours: bool = False
    filled_qty: Decimal = ZERO
    filled_value: Decimal = ZERO
    filled_at: datetime | None = None
    canceled_at: datetime | None = None
    expired_at: datetime | None = None
    failed_at: datetime | None = None
    replaced_at: datetime | None = None
    replaced_by: str | None = None
    replaces: str | None = None
    root: str = ""
    role: str = ""
    leg_ids: list[str] = field(default_factory=list)
    elected: bool = False
    cancel_due: datetime | None = None
    status_before: str = ""
    doomed: bool = False
    source: str | None = None

    @property
    def live(self) -> bool:
        return self.status in LIVE

    @property
    def standing(self) -> str:
        """The status without a cancel that is still on its way."""
        return self.status_before if self.status == "pending_cancel" else self.status

    @property
    def closing(self) -> bool:
        return self.position_intent.endswith("_to_close")

    @property
    def average(self) -> Decimal | None:
        return self.filled_value / self.filled_qty if self.filled_qty else None

    @property
    def remaining(self) -> Decimal:
        """Shares still to be traded; of an order by amount only what its fills cannot tell, so zero."""
        return ZERO if self.qty is None else self.qty - self.filled_qty


def order_json(order: Order, legs: Iterable[Order] | None = None) -> dict[str, object]:
    """The order object of the trading API; `legs` None gives the un-nested form."""
    return {
        "id": order.id,
        "client_order_id": order.client_order_id,
        "created_at": stamp(order.created_at),
        "updated_at": stamp(order.updated_at),
        "submitted_at": stamp(order.submitted_at),
        "filled_at": optional_stamp(order.filled_at),
        "expired_at": optional_stamp(order.expired_at),
        "expires_at": stamp(order.expires_at),
        "canceled_at": optional_stamp(order.canceled_at),
        "failed_at": optional_stamp(order.failed_at),
        "replaced_at": optional_stamp(order.replaced_at),
        "replaced_by": order.replaced_by,
        "replaces": order.replaces,
        "asset_id": order.asset_id,
        "symbol": order.symbol,
        "asset_class": "us_equity",
        "notional": optional_text(order.notional),
        "qty": optional_text(order.qty),
        "filled_qty": text(order.filled_qty),
        "filled_avg_price": optional_text(order.average),
        "order_class": "" if order.order_class == "simple" else order.order_class,
        "order_type": order.type,
        "type": order.type,
        "side": order.side,
        "position_intent": order.position_intent,
        "time_in_force": order.time_in_force,
        "limit_price": optional_text(order.limit_price),
        "stop_price": optional_text(order.stop_price),
        "status": order.status,
        "extended_hours": order.extended_hours,
        "legs": [order_json(leg) for leg in legs] if legs is not None else None,
        "trail_percent": optional_text(order.trail_percent),
        "trail_price": optional_text(order.trail_price),
        "hwm": optional_text(order.hwm),
        "subtag": None,
        "source": order.source,
    }
