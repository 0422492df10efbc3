"""What the broker says of orders held against their rows: what is new, and which order replaced which; pure rules."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from db_layer import Row
from order_life import ENDED, ORDER_MOVES, OrderStatus, heard_status

TERMS = ("qty", "limit_price", "stop_price")
Heard = Mapping[str, Any]


@dataclass(frozen=True)
class Successor:
    """An order of the broker that replaced the order of a row."""

    row: Row
    order: Heard


@dataclass(frozen=True)
class Change:
    """What the broker says about one row that the row does not say yet."""

    row: Row
    status: OrderStatus
    order: Heard


def find_changes(rows: Sequence[Row], orders: Iterable[Heard]) -> list[Change]:
    """Compare rows with the broker's orders (legs under their parents) and return what is new.

    A row whose order is not among them is left alone, and so is one whose order claims fewer fills than before.
    """
    known = {member["id"]: member for order in orders for member in (order, *order["legs"])}
    told = known.keys() | {row["alpaca_order_id"] for row in rows}
    rows = [row for row in rows if row["alpaca_order_id"] is None or row["alpaca_order_id"] in known]
    by_client_id = {order.get("client_order_id"): order for order in known.values()}
    found = {row["id"]: order for row in rows if (order := _order_of(row, known, by_client_id))}
    pairs = [(row, found.get(row["id"]) or _leg_of(row, found.get(row["parent_order_id"]))) for row in rows]
    # An order is not over while the one that replaced it is not known: the trade would end with it.
    changes = [
        _change(row, order) for row, order in pairs
        if order is not None and (order.get("replaced_by") is None or order["replaced_by"] in told)
    ]
    return [change for change in changes if change is not None]


def find_successors(rows: Iterable[Row], orders: Iterable[Heard]) -> list[Successor]:
    """Return the orders that replaced orders of these rows (by hand, or by the broker) and have no row yet.

    A listing may show the leg of an OCO only as it is now.
    """
    successors = [member for order in orders for member in (order, *order["legs"]) if member.get("replaces")]
    if not successors:
        return []
    by_id = {row["alpaca_order_id"]: row for row in rows if row["alpaca_order_id"] is not None}
    found = []
    for new in successors:
        old = by_id.get(new["replaces"])
        if old is not None and new["id"] not in by_id and replaces(old, new):
            found.append(Successor(old, new))
    return found


def replaces(old: Row, new: Heard) -> bool:
    """Tell whether an order of the broker took the place of ours: it names it, and is for the same symbol and side."""
    heard = new.get("replaces"), new.get("symbol"), new.get("side")
    return heard[0] is not None and heard == (old["alpaca_order_id"], old["symbol"], old["side"])


def end_of_replaced(successor: Successor, orders: Iterable[Heard]) -> Change | None:
    """Return the end of an order that was replaced and is not listed any more, or None where the listing tells it."""
    row, new = successor.row, successor.order
    listed = {member["id"] for order in orders for member in (order, *order["legs"])}
    if row["alpaca_order_id"] in listed or new["status"] == "rejected" or OrderStatus(row["order_status"]) in ENDED:
        return None
    unchanged = ("filled_qty", "filled_avg_price", "filled_at", "client_order_id", *TERMS)
    old = {name: row[name] for name in unchanged} | {"id": row["alpaca_order_id"], "status": "replaced"}
    return Change(row, OrderStatus.REPLACED, old)


def end_of_lost(row: Row) -> Change:
    """Return the presumed end of an order that the broker does not know any more: cancelled, without its word."""
    said = ("filled_qty", "filled_avg_price", "filled_at", "client_order_id", *TERMS)
    return Change(row, OrderStatus.CANCELLED, {name: row[name] for name in said} | {
        "id": row["alpaca_order_id"], "status": None,
    })


def is_strange(word: str | None) -> bool:
    """Tell whether a word of the broker for where an order stands is one that nobody here knows."""
    return word is not None and heard_status(word, Decimal(0)) is None


def _order_of(
    row: Row, known: Mapping[str, Heard], by_client_id: Mapping[str | None, Heard],
) -> Heard | None:
    order = known.get(row["alpaca_order_id"])
    if order is None and row["alpaca_order_id"] is None:
        claimed = by_client_id.get(row["client_order_id"])
        same = claimed is not None and (claimed["qty"], claimed.get("side")) == (row["qty"], row["side"])
        order = claimed if same else None
    return order


def _leg_of(row: Row, parent: Heard | None) -> Heard | None:
    if parent is None or row["parent_order_id"] is None or row["alpaca_order_id"] is not None:
        return None
    return next((leg for leg in parent["legs"] if leg["stop_price"] is not None), None)


def _change(row: Row, order: Heard) -> Change | None:
    present = OrderStatus(row["order_status"])
    status = heard_status(order["status"], order["filled_qty"])
    if status is None:
        status = OrderStatus.UNKNOWN if present is OrderStatus.INTENDED else present
    elif status is not present and status not in ORDER_MOVES[_presumed(row)]:
        status = present
    if order["filled_qty"] < row["filled_qty"]:
        # Shares once filled stay filled: an old listing says less, and only an end is news all the same.
        if status not in ENDED:
            return None
        order = {**order, "filled_qty": row["filled_qty"], "filled_avg_price": row["filled_avg_price"]}
    known = (row["alpaca_order_id"], row["order_status"], row["broker_status"], row["filled_qty"], *map(row.get, TERMS))
    terms = (row[term] if order[term] is None else order[term] for term in TERMS)
    heard = (order["id"], str(status), order["status"], order["filled_qty"], *terms)
    return None if known == heard else Change(row, status, order)


def _presumed(row: Row) -> OrderStatus:
    """An order given up as never placed, or as lost, was presumed dead, not heard to be; the broker's word counts."""
    given_up = row["order_status"] == OrderStatus.CANCELLED and row["broker_status"] is None
    return OrderStatus.UNKNOWN if given_up else OrderStatus(row["order_status"])
