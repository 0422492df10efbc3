"""Closes everything of ours for a person: passes of the order monitor while the request stands, followed to their end.

The request itself is the row of the kill switch, so whatever ends this process, the next scheduled pass goes on. What
is left in the end is held against the broker's own words. Source: docs/architecture.md, stopping.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from alpaca_client import Broker, BrokerError, JsonObject
from audit_trail import AlertKind
from db_layer import Row
from order_life import AT_BROKER, OrderRole, OrderStatus, decimal_text
from order_monitor import OrderMonitor
from parts import Parts
from standing import Standing, what_stands
from trade import Trade

FOLLOW = timedelta(seconds=60)
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0
# The broker's positions can lag its fills by a moment.
POSITIONS_LAG = timedelta(seconds=10)
WORDS_ABOUT = (
    AlertKind.NOT_FLATTENED, AlertKind.BROKER_MISMATCH, AlertKind.UNPROTECTED_POSITION, AlertKind.TOO_MANY_EXITS,
    AlertKind.NOT_ATTENDED_TO,
)
OURS = """
SELECT alpaca_order_id, client_order_id, trade_journal_id FROM order_execution
WHERE alpaca_order_id = ANY(%(ids)s) OR client_order_id = ANY(%(client_order_ids)s)
"""


@dataclass(frozen=True)
class Left:
    """Something that is still there: a trade or an order by its name, its shares (negative: short), and why.

    `waits` means that the broker carries it out when the market opens.
    """

    name: str
    symbol: str
    shares: Decimal | None
    why: str
    waits: bool = False


@dataclass(frozen=True)
class Report:
    """What is left of ours, what is there that is not ours, and why neither could be made sure of, if so."""

    ours: Sequence[Left]
    foreign: Sequence[Left] = ()
    trouble: str | None = None
    differing: frozenset[str] = frozenset()  # symbols whose positions differ from the books
    ending: bool = False  # trades without shares are to be closed by the next pass

    @property
    def done(self) -> bool:
        """Tell whether nothing of ours is left, by the broker's word."""
        return not self.ours and not self.ending and self.trouble is None


@dataclass(frozen=True)
class _Account:
    """What the broker shows: positions by symbol, orders that work, and when the market opens if it is closed."""

    positions: Mapping[str, Decimal]
    orders: Sequence[JsonObject]
    opens: datetime | None


class Flattening:
    """One command to close everything; the kill switch must say so already."""

    def __init__(self, parts: Parts) -> None:
        self._db = parts.db
        self._broker: Broker = parts.broker
        self._clock = parts.clock
        self._monitor = OrderMonitor(
            parts.settings.test_mode, db=parts.db, broker=parts.broker, clock=parts.clock, settings=parts.settings,
        )

    def run(self) -> Report:
        """Do passes until nothing is left, nothing more can come of them, or a minute is over. Raises DatabaseError."""
        symbols = {trade.symbol for trade in what_stands(self._db).trades}
        now = self._clock.now()
        deadline, pause, flat_at = now + FOLLOW, FIRST_PAUSE_SECONDS, None
        while True:
            report = self._look(self._pass())
            now = self._clock.now()
            flat_at = (flat_at or now) if report.done else None
            lagging = flat_at is not None and report.differing & symbols and now - flat_at < POSITIONS_LAG
            waits = bool(report.ours) and report.trouble is None and all(left.waits for left in report.ours)
            if (report.done and not lagging) or waits or now + timedelta(seconds=pause) > deadline:
                return report
            self._clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _pass(self) -> str | None:
        """Do one pass; return why it could not be done."""
        try:
            self._monitor.run()
        except BrokerError as error:
            return str(error)
        return None

    def _look(self, trouble: str | None) -> Report:
        """Say what is left, by the books and by the broker."""
        standing = what_stands(self._db)
        account = None
        try:
            account = self._ask()
        except BrokerError as error:
            trouble = trouble or str(error)
        ours = [self._left_of(trade, standing, account, trouble) for trade in standing.trades]
        held = {trade.id for trade in standing.trades}
        ours += [
            _order_left(order, "nobody knows yet whether the broker has it")
            for order in standing.unknown if order["trade_journal_id"] not in held
        ]
        if account is None:
            ours += [_order_left(order, "the entry is not known to be cancelled") for order in standing.entries]
            return Report(ours, trouble=trouble, ending=bool(standing.ending))
        working, theirs = self._sort(account.orders, held)
        differing = _differences(standing.trades, account.positions)
        foreign = [
            Left("position", symbol, shares, "not of a trade here, left alone")
            for symbol, shares in sorted(differing.items()) if shares * account.positions.get(symbol, Decimal(0)) > 0
        ]
        return Report(ours + working, foreign + theirs, trouble, frozenset(differing), bool(standing.ending))

    def _ask(self) -> _Account:
        positions, orders = self._broker.list_positions(), self._broker.list_open_orders()
        hours = self._broker.market_hours()
        return _Account(positions, orders, None if hours.is_open else hours.next_open)

    def _left_of(self, trade: Trade, standing: Standing, account: _Account | None, trouble: str | None) -> Left:
        exits = [order for order in trade.exit_groups if order["order_type"] == OrderRole.EXIT]
        if exits and exits[0]["order_status"] in AT_BROKER and account is not None and account.opens is not None:
            words = f"the market is closed; its order at market waits until {account.opens:%Y-%m-%d %H:%M} UTC"
            return Left(trade.name, trade.symbol, trade.position, words, waits=True)
        if exits and exits[0]["order_status"] == OrderStatus.UNKNOWN:
            words = "nobody knows yet whether the broker has its order at market"
        elif exits:
            sold = f"{decimal_text(exits[0]['filled_qty'])} of {decimal_text(exits[0]['qty'])}"
            words = f"its order at market has filled {sold} shares so far"
        else:
            said = [alert["message"] for alert in standing.alerts if _is_about(alert, trade)]
            words = said[-1] if said else trouble or "it has not been attended to yet"
        return Left(trade.name, trade.symbol, trade.position, words)

    def _sort(self, orders: Sequence[JsonObject], held: set[int]) -> tuple[list[Left], list[Left]]:
        """Return which working orders of ours belong to no trade that is left, and which are other people's."""
        rows = self._db.execute_query(OURS, {
            "ids": [order["id"] for order in orders],
            "client_order_ids": [order.get("client_order_id") for order in orders],
        })
        trades = {name: row["trade_journal_id"] for row in rows for name in (
            row["alpaca_order_id"], row["client_order_id"],
        )}
        ours, theirs = [], []
        for order in orders:
            trade = trades.get(order["id"], trades.get(order.get("client_order_id")))
            if trade is None:
                theirs.append(_heard_left(order, "not placed here, left alone"))
            elif trade not in held:
                ours.append(_heard_left(order, f"the order still works at the broker ({order['status']})"))
        return ours, theirs


def _differences(trades: Sequence[Trade], positions: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Return by symbol what the broker holds beyond our books, negative where it holds less."""
    difference = defaultdict(Decimal, positions)
    for trade in trades:
        difference[trade.symbol] -= trade.position
    return {symbol: shares for symbol, shares in difference.items() if shares != 0}


def _is_about(alert: Row, trade: Trade) -> bool:
    return alert["subject"] == trade.name and alert["kind"] in WORDS_ABOUT


def _order_left(order: Row, why: str) -> Left:
    rest = order["qty"] - order["filled_qty"]
    return Left(order["client_order_id"], order["symbol"], rest if order["side"] == "buy" else -rest, why)


def _heard_left(order: JsonObject, why: str) -> Left:
    name, symbol = str(order.get("client_order_id") or order["id"]), str(order.get("symbol"))
    rest = None if order["qty"] is None else order["qty"] - order["filled_qty"]
    return Left(name, symbol, -rest if rest is not None and order.get("side") == "sell" else rest, why)
