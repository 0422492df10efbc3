"""What the broker says of the shares that an exit is for: held, free, split, and what forbids a plain exit.

Nothing is written and nothing is placed here. Source: docs/architecture.md, protection.
"""

import logging
from dataclasses import dataclass
from decimal import Decimal

from adjustment_records import SPLITS_SINCE, unfollowed_splits
from alpaca_client import Broker, BrokerError
from clock import Clock
from db_layer import TradingDB
from order_life import AT_BROKER
from trade import Trade
from trade_book import held_at

# The broker's positions can lag its fills by a moment, and shares stay reserved for a moment after a cancel.
POSITION_POLLS = 6
POSITION_POLL_SECONDS = 0.5
CENT = Decimal("0.01")
# Nobody's target; it makes a stop part of an OCO, which the broker takes beside orders that forbid a plain stop.
FAR_TARGET = 2
HELD_BY_OTHERS = """
WITH others AS (
    SELECT id FROM trade_journal WHERE symbol = %(symbol)s AND status = 'POSITION' AND id <> %(journal_id)s
)
SELECT COALESCE(sum(CASE moved.side WHEN 'buy' THEN moved.qty ELSE -moved.qty END), 0) AS qty
FROM (SELECT side, filled_qty AS qty FROM order_execution WHERE trade_journal_id IN (SELECT id FROM others)
      UNION ALL
      SELECT side, qty FROM position_adjustment WHERE trade_journal_id IN (SELECT id FROM others)) AS moved
"""

log = logging.getLogger("shares_at_broker")


@dataclass(frozen=True)
class Shares:
    """Shares of a trade's symbol on its side: those on the account, and those that its exits may be for."""

    there: Decimal
    closable: Decimal


class SharesAtBroker:
    """Asks the broker about the shares of one trade at a time."""

    def __init__(self, db: TradingDB, broker: Broker, clock: Clock) -> None:
        self._db = db
        self._broker = broker
        self._clock = clock

    def of(self, trade: Trade) -> Shares:
        """Return what is there of a trade that holds shares; more than that would open the opposite position.

        What its own exits reserve counts as free. Waits a moment for all of it. Raises BrokerError.
        """
        sign = 1 if trade.side == "buy" else -1
        reserved = sum((
            order["qty"] - order["filled_qty"] for order in trade.exit_groups if order["order_status"] in AT_BROKER
        ), Decimal(0))
        for poll in range(POSITION_POLLS):
            if poll:
                self._clock.sleep(POSITION_POLL_SECONDS)
            position = self._broker.position(trade.symbol)
            there = sign * position.qty
            closable = max(min(trade.held, there, sign * position.available + reserved), Decimal(0))
            if closable == trade.held:
                break
        return Shares(there, closable)

    def were_split(self, trade: Trade) -> bool:
        """Tell whether the broker's position differs from our books by a split that they do not know yet."""
        if self.are_as_booked(trade):
            return False
        opened = min(order["created_at"] for order in trade.entries)
        splits = self._broker.list_splits(self._clock.now() - SPLITS_SINCE)
        moments = [split["at"] for split in unfollowed_splits(self._db, splits, trade.symbol) if split["at"] >= opened]
        held = [held_at(self._db, [trade], moment) for moment in moments]
        return any(then is None or then[trade.id] != 0 for then in held)

    def are_as_booked(self, trade: Trade) -> bool:
        """Tell whether the broker's position is what our books say, shares that left in excess included."""
        ids = {"symbol": trade.symbol, "journal_id": trade.id}
        others: Decimal = self._db.execute_query(HELD_BY_OTHERS, ids)[0]["qty"]
        return self._broker.position(trade.symbol).qty == others + trade.position

    def price_past_others(self, trade: Trade) -> Decimal | None:
        """Return the limit in dollars at which the broker takes a close beside other people's opposite orders.

        It is a cent beyond the best of theirs, and so as marketable as it can be. None where there are none, where one
        has no limit, or where the broker does not tell.
        """
        try:
            orders = self._broker.list_open_orders()
        except BrokerError as error:
            log.warning("the orders beside a close are not known", extra={"symbol": trade.symbol, "error": error})
            return None
        theirs = [
            order["limit_price"] for order in orders
            if (order.get("symbol"), order.get("side")) == (trade.symbol, trade.side)
        ]
        if not theirs or None in theirs:
            return None
        price: Decimal = max(theirs) + CENT if trade.side == "buy" else min(theirs) - CENT
        return price if price > 0 else None

    def far_target(self, trade: Trade) -> Decimal:
        """Return a target in dollars that a trade without one will hardly reach, far beyond the last price."""
        try:
            price = self._broker.latest_prices([trade.symbol]).get(trade.symbol, trade.entry_price)
        except BrokerError as error:
            log.warning("the last price is not known", extra={"symbol": trade.symbol, "error": error})
            price = trade.entry_price
        return max(round(price * FAR_TARGET if trade.side == "buy" else price / FAR_TARGET, 2), CENT)

    def is_marketable(self, trade: Trade, limit: Decimal) -> bool:
        """Tell whether a close at this limit fills at the last price, as far as that is known. Raises BrokerError."""
        price = self._broker.latest_prices([trade.symbol]).get(trade.symbol)
        return price is None or (price >= limit if trade.side == "buy" else price <= limit)
