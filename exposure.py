"""What is at stake: shares held, entries that may still trade, and the orders of the day, each with its dollars.

Loaded once for a pass of the executor and kept up as orders are placed, so that an order counts for the next one.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from broker_answers import Holding
from clock import MARKET_ZONE, midnight
from db_layer import Row, TradingDB
from order_life import ENDED, OrderStatus

# The entries that work or may work, those filled before the monitor opened their positions, and all of late. A market
# order has no price of its own: it counts at what it was checked with. An amend under way counts as what it asks for.
LOAD_ENTRIES = """
SELECT orders.id, journal.symbol, orders.side, orders.order_status, orders.alpaca_order_id, orders.created_at,
       orders.limit_price, orders.qty, orders.filled_qty, orders.qty - orders.filled_qty AS rest,
       journal.status = 'ORDERED' AS not_a_position_yet, journal.trade_id, orders.analysis_decision_id,
       COALESCE(GREATEST(orders.limit_price, orders.filled_avg_price), checked.price,
                journal.planned_stop_loss) AS price,
       amend.quantity - orders.filled_qty AS amended_rest, amend.limit_price AS amended_price
FROM order_execution orders
JOIN trade_journal journal ON journal.id = orders.trade_journal_id
LEFT JOIN LATERAL (
    SELECT observed_value::numeric / orders.qty AS price FROM audit.risk_checks
    WHERE orders.limit_price IS NULL AND trade_decision_id = orders.trade_decision_id
      AND check_name = 'max_order_notional' AND passed LIMIT 1
) checked ON true
LEFT JOIN audit.trade_decisions amend
       ON amend.target_order_id = orders.id AND amend.action = 'amend' AND amend.status = 'pending'
WHERE orders.order_type = 'ENTRY' AND orders.id IN (
    SELECT id FROM order_execution WHERE order_status IN ('intended', 'unknown', 'pending', 'partially_filled')
    UNION ALL
    SELECT filled.id FROM order_execution filled JOIN trade_journal ordered ON ordered.id = filled.trade_journal_id
    WHERE ordered.status = 'ORDERED' AND filled.filled_qty > 0
    UNION ALL
    SELECT id FROM order_execution WHERE created_at >= %(since)s)
ORDER BY orders.id
"""
LOAD_POSITIONS = """
SELECT symbol, side, sum(qty) AS qty, sum(qty * COALESCE(current_price, avg_entry_price)) AS dollars
FROM position_tracking GROUP BY symbol, side
"""
UNKNOWN_EXITS = """
SELECT journal.symbol, journal.trade_id
FROM order_execution orders JOIN trade_journal journal ON journal.id = orders.trade_journal_id
WHERE orders.order_status = 'unknown' AND orders.order_type <> 'ENTRY' AND orders.parent_order_id IS NULL
ORDER BY orders.id
"""

NOTHING = Decimal(0)


@dataclass(frozen=True)
class OpenEntry:
    """One entry order: what was ordered, shares filled that are in no position row yet, and what may still come.

    `dollars` is what both count for, `held_dollars` the part of the shares; `limit_price` is None for a market order.
    `at_broker`: its buying power is less by this order.
    """

    order_id: int
    symbol: str
    side: str
    qty: Decimal
    limit_price: Decimal | None
    created_at: datetime
    trade_name: str
    decided_by: str | None
    status: OrderStatus
    held: Decimal
    dollars: Decimal
    filled: bool = False
    at_broker: bool = False
    held_dollars: Decimal = NOTHING

    @property
    def to_come(self) -> Decimal:
        """The dollars of what may still be filled: all that is given up when the order is cancelled."""
        return self.dollars - self.held_dollars

    @property
    def works(self) -> bool:
        return self.status not in ENDED

    @property
    def came_to_nothing(self) -> bool:
        return not self.works and not self.filled


def day_start(now: datetime) -> datetime:
    """Return when the present US Eastern day began, in UTC."""
    return midnight(now.astimezone(MARKET_ZONE).date())


def load_book(
    db: TradingDB, now: datetime, window: timedelta, holdings: Mapping[str, Holding], asked_at: datetime,
) -> "Book":
    """Return what is at stake now, in three statements; `window` is how far back repetitions are looked for.

    `holdings` are the account's positions: what they hold beyond ours is other people's. The account was asked for its
    buying power at `asked_at`. Raises DatabaseError.
    """
    since = min(day_start(now), now - window)
    entries = [_entry(row, asked_at) for row in db.execute_query(LOAD_ENTRIES, {"since": since})]
    return Book(entries, db.execute_query(LOAD_POSITIONS), holdings, db.execute_query(UNKNOWN_EXITS))


class Book:
    """Exposure in dollars by symbol, and the entries that work or were written down of late."""

    def __init__(
        self, entries: Iterable[OpenEntry], positions: Iterable[Row], holdings: Mapping[str, Holding],
        unknown_exits: Iterable[Row] = (),
    ) -> None:
        self._entries: dict[str, dict[int, OpenEntry]] = defaultdict(dict)
        self._dollars: dict[str, Decimal] = defaultdict(Decimal)
        self._ours: dict[str, Decimal] = defaultdict(Decimal)
        self._holdings = holdings
        self._unknown_exits = list(unknown_exits)
        self._gross = self._not_at_broker = NOTHING
        self._taken: set[str] = set()
        self._sent_at: list[datetime] = []  # in order, because every check of the pace asks how many are late enough
        for position in positions:
            self._add(position["symbol"], position["dollars"])
            self._ours[position["symbol"]] += position["qty"] if position["side"] == "long" else -position["qty"]
        for entry in entries:
            self.put(entry)
            self._ours[entry.symbol] += entry.held if entry.side == "buy" else -entry.held
        for symbol, holding in holdings.items():
            self._add(symbol, self._foreign(symbol) * (holding.price or NOTHING))

    def put(self, entry: OpenEntry) -> None:
        """Add an entry, or replace what was known of it."""
        former = self._entries[entry.symbol].get(entry.order_id)
        self._entries[entry.symbol][entry.order_id] = entry
        if former is None:
            insort(self._sent_at, entry.created_at)
        self._add(entry.symbol, entry.dollars - (former.dollars if former else NOTHING))
        self._not_at_broker += _unheard(entry) - (_unheard(former) if former else NOTHING)

    def in_symbol(self, symbol: str, without: int | None = None) -> Decimal:
        """Return the dollars at stake in a symbol; what the order `without` may still fill does not count."""
        return self._dollars.get(symbol, NOTHING) - self._of(symbol, without)

    def gross(self, symbol: str, without: int | None = None) -> Decimal:
        """Return the dollars at stake in all symbols; `without` is an order in this symbol."""
        return self._gross - self._of(symbol, without)

    def symbols_with(self, symbol: str) -> int:
        """Return how many symbols have a position, or an order that would open one, when this one has."""
        return len(self._taken) + (symbol not in self._taken)

    def entries_in(self, symbol: str, without: int | None = None) -> list[OpenEntry]:
        """Return the known entries in a symbol, oldest first."""
        return [entry for entry in self._entries.get(symbol, {}).values() if entry.order_id != without]

    def unknown_in(self, symbol: str, without: int | None = None) -> list[str]:
        """Return the trades in a symbol that have an order, an exit too, whose outcome nobody knows."""
        entries = [entry for entry in self.entries_in(symbol, without) if entry.status is OrderStatus.UNKNOWN]
        exits = [row["trade_id"] for row in self._unknown_exits if row["symbol"] == symbol]
        return [entry.trade_name for entry in entries] + exits

    def sent_since(self, moment: datetime) -> int:
        """Return how many entries were written down at or after this moment, as far back as was loaded."""
        return len(self._sent_at) - bisect_left(self._sent_at, moment)

    @property
    def not_at_broker(self) -> Decimal:
        """The dollars of the entries that the broker's buying power may know nothing of."""
        return self._not_at_broker

    def shares(self, symbol: str) -> Decimal:
        """Return the shares held in a symbol, negative for short ones, by our books or else by the broker's."""
        holding = self._holdings.get(symbol)
        return self._ours.get(symbol, NOTHING) or (holding.qty if holding else NOTHING)

    def doubtful(self) -> list[int]:
        """Return the orders at work in symbols of which the broker holds more than we know: they may have filled."""
        return [
            entry.order_id for symbol in self._holdings if self._foreign(symbol)
            for entry in self.entries_in(symbol) if entry.works and entry.at_broker
        ]

    def _of(self, symbol: str, order_id: int | None) -> Decimal:
        entry = self._entries.get(symbol, {}).get(order_id) if order_id is not None else None
        return entry.to_come if entry else NOTHING

    def _add(self, symbol: str, dollars: Decimal) -> None:
        self._dollars[symbol] += dollars
        self._gross += dollars
        (self._taken.add if self._dollars[symbol] > 0 else self._taken.discard)(symbol)

    def _foreign(self, symbol: str) -> Decimal:
        """Return how many shares the account holds beyond ours; fewer than ours may only be a late answer."""
        held, ours = self._holdings[symbol].qty, self._ours.get(symbol, NOTHING)
        return max(abs(held) - abs(ours), NOTHING) if held * ours > 0 else abs(held)


def _unheard(entry: OpenEntry) -> Decimal:
    return entry.dollars if entry.works and not entry.at_broker else NOTHING


def _entry(row: Row, asked_at: datetime) -> OpenEntry:
    status = OrderStatus(row["order_status"])
    held = row["filled_qty"] if row["not_a_position_yet"] else NOTHING
    held_dollars = held * row["price"]
    rest = NOTHING if status in ENDED else row["rest"] * row["price"]
    if row["amended_rest"] is not None and status not in ENDED:
        rest = max(rest, row["amended_rest"] * (row["amended_price"] or row["price"]))
    return OpenEntry(
        row["id"], row["symbol"], row["side"], row["qty"], row["limit_price"], row["created_at"], row["trade_id"],
        row["analysis_decision_id"], status, held, held_dollars + rest, row["filled_qty"] > 0,
        row["alpaca_order_id"] is not None and row["created_at"] <= asked_at, held_dollars,
    )
