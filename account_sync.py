"""Writes down what the broker says of the account's orders and executions: ours, and those of others."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from functools import partial
from operator import attrgetter, itemgetter

from alpaca_client import Broker, JsonObject, ListedOrder, numbers
from audit_trail import AlertKind
from clock import Clock
from db_layer import Row, TradingDB
from fill_records import add_fills, follow_fills, note_external_orders, unexplained
from order_comparison import end_of_lost, replaces
from order_desk import OrderDesk
from order_life import AT_BROKER, ENDED, OrderRole, OrderStatus
from order_records import listing_start, load_group, load_orders
from pass_log import Event, PassLog

# Our clock and the broker's may differ; listings begin this much earlier.
CLOCK_MARGIN = timedelta(hours=1)
LONGEST_CHAIN = 20  # replacements of one leg between two passes; an answer that leads in a circle ends here
ENTRIES_OF_TRADE = """
SELECT alpaca_order_id FROM order_execution
WHERE trade_journal_id = %(journal_id)s AND order_type = 'ENTRY' AND alpaca_order_id IS NOT NULL
ORDER BY id DESC
"""
WORKING = frozenset({*AT_BROKER, OrderStatus.UNKNOWN})
_TERMS = "filled_qty", "qty", "limit_price", "stop_price"
_TERMS_OF_ROW, _TERMS_OF_ORDER = itemgetter(*_TERMS), attrgetter(*_TERMS)


class AccountSync:
    """Brings the rows of orders and fills up to what the broker says."""

    def __init__(self, db: TradingDB, broker: Broker, clock: Clock, desk: OrderDesk) -> None:
        self._db = db
        self._broker = broker
        self._clock = clock
        self._desk = desk
        self.rows: list[Row] | None = None  # the orders as they are after a listing, where that is known

    def orders(self, found: PassLog) -> None:
        """Write down what one listing says about all orders. Raises DatabaseError and BrokerError."""
        self.rows = None
        since, working_elsewhere = listing_start(self._db)
        if since is None:
            return
        with self._broker.start_listing(since) as listing:
            rows = load_orders(self._db, since)
            known = _Known(rows)
            orders = listing.orders(known.is_news)
        orders += self._links(orders, known)
        changes, self.rows = self._desk.news.hear(rows, orders)
        found.events[Event.CHANGED] += len(changes)
        members = [member for order in orders for member in (order, *order["legs"])]
        foreign = [heard for heard in members if known.is_foreign(heard) and not known.was_replaced_by(heard)]
        note_external_orders(self._db, foreign, self._clock.now())
        self._ask_for_absent(rows, known.understood(members), found)
        for order_id in sorted(set(working_elsewhere) - {heard["id"] for heard in members}):
            found.tolerate(order_id, partial(self._ask_for_external, order_id))

    def fills(self) -> bool:
        """Write down the executions not known yet, newest first, until none is missing.

        Returns whether there are trades whose profit is an estimate. Raises DatabaseError and BrokerError.
        """
        orders = unexplained(self._db, self._clock.now())
        wanted = [order for order in orders if order["missing"] > 0]
        if wanted:
            self._fetch_fills(wanted)
        return any(order["estimated"] for order in orders)

    def _fetch_fills(self, wanted: Sequence[Row]) -> None:
        missing = {order["alpaca_order_id"]: order["missing"] for order in wanted}
        beyond = set()
        since = min(order["since"] for order in wanted) - CLOCK_MARGIN
        for page in self._broker.fill_pages(since, expected=len(missing)):
            for fill in add_fills(self._db, page, self._clock.now()):
                missing[fill["order_id"]] = missing.get(fill["order_id"], Decimal(0)) - fill["qty"]
                if missing[fill["order_id"]] < 0:
                    beyond.add(fill["order_id"])
            if all(shares <= 0 for shares in missing.values()):
                break
        if follow_fills(self._db, beyond, self._clock.now()):
            self.rows = None

    def _links(self, orders: Sequence[JsonObject], known: "_Known") -> list[JsonObject]:
        """Return the orders between a leg of ours and the one that works now, where it was replaced more than once.

        A listing shows only the last one. Raises BrokerError.
        """
        listed = {order["id"]: order for order in orders}
        links: list[JsonObject] = []
        for order in orders:
            chain = _unknown_chain(order, known, listed.get)
            if chain and not known.has(chain[-1].get("replaces")):
                continue  # somebody else's
            for leg in order["legs"]:
                links += _unknown_chain(leg, known, self._broker.get_order)[1:]
        return links

    def _ask_for_absent(self, rows: Sequence[Row], listed: set[str], found: PassLog) -> None:
        """Ask for working orders that the listing left out, one by one: absence says nothing about them."""
        absent = {
            row["id"]: row for row in rows
            if row["alpaca_order_id"] not in listed and row["alpaca_order_id"] is not None
            and row["order_status"] in WORKING and row["parent_order_id"] is None
        }
        doubted = found.open_subjects((AlertKind.ORDER_LOST, AlertKind.READ_FAILED, AlertKind.NOT_ATTENDED_TO))
        seen = [row for row in rows if row["id"] not in absent] if doubted else []
        found.resolve((AlertKind.ORDER_LOST,), [row["client_order_id"] for row in seen])
        # Of an order of unknown outcome a listing without it says nothing either.
        found.resolve_failures([row["client_order_id"] for row in seen if row["order_status"] != OrderStatus.UNKNOWN])
        for row in absent.values():
            self.rows = None
            found.tolerate(row["client_order_id"], partial(self._ask_for, row, found))

    def _ask_for(self, row: Row, found: PassLog) -> None:
        """Read an order by its id; one that the broker does not know is an alert, and twice no protection any more."""
        name = row["client_order_id"]
        if self._desk.refresh(row["id"]):
            found.resolve((AlertKind.ORDER_LOST,), (name,))
            return
        words = f"the broker does not know order {name} any more, which it had taken"
        exits = row["order_type"] != OrderRole.ENTRY
        if exits and found.is_open(AlertKind.ORDER_LOST, name) and self._give_up(row):
            words = f"{words}; it counts as cancelled, and its shares get another exit"
        elif exits:
            words = f"{words}; the next pass asks again before another exit is placed"
        else:
            words = f"{words}; it counts as an entry that may fill: look for it at the broker"
        found.critical(AlertKind.ORDER_LOST, name, words)

    def _give_up(self, row: Row) -> bool:
        """End an exit that the broker knows neither by its id nor by ours; False where it may still work.

        Nothing is concluded unless the broker knows the entry of its trade: another account would know neither. When
        the order turns up again, its row works again.
        """
        entries = self._db.execute_query(ENTRIES_OF_TRADE, {"journal_id": row["trade_journal_id"]})
        if not any(self._broker.get_order(entry["alpaca_order_id"]) for entry in entries):
            return False
        group = load_group(self._db, row["id"])
        ids = [member["alpaca_order_id"] for member in group if member["alpaca_order_id"] is not None]
        if self._broker.find_order(row["client_order_id"]) or any(map(self._broker.get_order, ids)):
            return False
        self._desk.news.apply([
            end_of_lost(member) for member in group if OrderStatus(member["order_status"]) not in ENDED
        ])
        return True

    def _ask_for_external(self, order_id: str) -> None:
        """Hear of somebody else's order that was placed before the listing begins."""
        order = self._broker.get_order(order_id)
        if order is not None:
            note_external_orders(self._db, [order], self._clock.now())


class _Known:
    """Tells news from the bulk of a listing, and remembers which orders it held."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._known = {row["alpaca_order_id"]: row for row in rows}
        self._client_ids = {row["client_order_id"] for row in rows}
        self._old: set[str] = set()

    def is_news(self, listed: ListedOrder) -> bool:
        """Tell whether a listed order, or a leg of it, says anything that its row does not."""
        row = self._known.get(listed.id)
        news_of_legs = [self.is_news(leg) for leg in listed.legs or ()]
        if row is None or any(news_of_legs) or not _says_the_same(row, listed) or self._has_new_successor(listed):
            return True
        self._old.add(listed.id)
        return False

    def understood(self, news: Sequence[JsonObject]) -> set[str]:
        """Return the ids of the orders that the listing told about: nothing new, or news that made sense.

        An order replaced by one that the listing leaves out is not among them.
        """
        listed: set[str | None] = {heard["id"] for heard in news} | self._known.keys()
        listed.add(None)
        return self._old | {heard["id"] for heard in news if heard.get("replaced_by") in listed}

    def has(self, order_id: str | None) -> bool:
        """Tell whether an order of the broker has a row here."""
        return order_id in self._known

    def was_replaced_by(self, order: JsonObject) -> bool:
        """Tell whether an order took the place of one that has a row here."""
        old = self._known.get(order.get("replaces"))
        return old is not None and replaces(old, order)

    def is_foreign(self, order: JsonObject) -> bool:
        """Tell whether no row here knows the order; one whose row is being written elsewhere is told later."""
        return order["id"] not in self._known and order.get("client_order_id") not in self._client_ids

    def _has_new_successor(self, listed: ListedOrder) -> bool:
        return listed.replaced_by is not None and listed.replaced_by not in self._known


def _unknown_chain(
    order: JsonObject, known: _Known, find: Callable[[str], JsonObject | None],
) -> list[JsonObject]:
    """Return an order without a row here and the ones it replaced, back to the first whose predecessor has a row."""
    chain: list[JsonObject] = []
    link: JsonObject | None = order
    while link and known.is_foreign(link) and len(chain) < LONGEST_CHAIN:
        chain.append(link)
        before = link.get("replaces")
        link = find(before) if before and not known.has(before) else None
    return chain


def _says_the_same(row: Row, listed: ListedOrder) -> bool:
    """Compare what can change under an order; quantity and prices do when the broker adjusts it to a split."""
    return bool(row["broker_status"] == listed.status and _TERMS_OF_ROW(row) == numbers(*_TERMS_OF_ORDER(listed)))
