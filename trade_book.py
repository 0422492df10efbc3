"""Trades as a whole: journal, orders and adjustments put together, and what a closed trade came to."""

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from adjustment_records import lock_trades, reduce_guesses
from audit_trail import AlertKind, AlertLevel, finish_decisions
from db_layer import DatabaseError, Row, TradingDB
from decision import TradeStyle
from fill_records import fills_by_order
from order_life import (
    ENDED,
    FILLED_EXIT,
    UNFILLED_END,
    DecisionStatus,
    ExitReason,
    Fill,
    JournalStatus,
    OrderRole,
    OrderStatus,
    average_price,
    decimal_text,
    realised_pnl,
    total_qty,
)
from order_records import ORDERS_OF_TRADES, listing_start, load_orders, set_status
from pass_log import PassLog
from trade import Trade, TradeEnd, trade_of
from trade_records import (
    adjustments_by_trade,
    chosen_trades,
    end_trades,
    estimated_trades,
    open_trades,
    settle_estimate,
)

# Trades that are over although the shares that came and those that left do not balance.
UNBALANCED = """
SELECT moved.id
FROM (SELECT trade_journal_id AS id, CASE side WHEN 'buy' THEN filled_qty ELSE -filled_qty END AS qty
      FROM order_execution WHERE trade_journal_id = ANY(%(journal_ids)s)
      UNION ALL
      SELECT trade_journal_id, CASE side WHEN 'buy' THEN qty ELSE -qty END
      FROM position_adjustment WHERE trade_journal_id = ANY(%(journal_ids)s)) AS moved
GROUP BY moved.id HAVING sum(moved.qty) <> 0
ORDER BY moved.id
"""

OVER = frozenset({JournalStatus.CLOSED, JournalStatus.CANCELLED})

FillsByOrder = Mapping[int, Sequence[Fill]]

log = logging.getLogger("trade_book")


def load_open_trades(db: TradingDB, found: PassLog, rows: Sequence[Row] | None = None) -> list[Trade]:
    """Return the trades that may need something: positions, ended or filled entries, day trades, late shares.

    Raises DatabaseError. `rows` are the orders where they were read already. A position without an entry order, which
    somebody wrote by hand, is left out with an alert.
    """
    rows = _listed_orders(db) if rows is None else rows
    over = {row["trade_journal_id"] for row in rows if row["journal_status"] in OVER}
    stirring = {
        row["trade_journal_id"] for row in rows
        if row["order_status"] in ENDED or row["filled_qty"] or row["trade_style"] == TradeStyle.DAYTRADE
    }
    orders: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if row["trade_journal_id"] in stirring or row["journal_status"] == JournalStatus.POSITION:
            orders[row["trade_journal_id"]].append(row)
    adjustments = adjustments_by_trade(db)
    trades = []
    for journal in open_trades(db, stirring):
        trade = trade_of(journal, orders[journal["id"]], adjustments[journal["id"]])
        if trade is not None:
            trades.append(trade)
            continue
        words = f"{journal['trade_id']} is {journal['status']} but has no entry order; nobody follows it"
        found.alert(AlertLevel.WARNING, AlertKind.TRADE_WITHOUT_ORDER, journal["trade_id"], words)
    return trades + load_unbalanced(db, over)


def load_unbalanced(db: TradingDB, journal_ids: Collection[int]) -> list[Trade]:
    """Return those of these trades, all over, whose shares that came and that left do not balance.

    Raises DatabaseError.
    """
    unbalanced = db.execute_query(UNBALANCED, {"journal_ids": sorted(journal_ids)}) if journal_ids else []
    return load_trades(db, [row["id"] for row in unbalanced])


def _listed_orders(db: TradingDB) -> list[Row]:
    since, _ = listing_start(db)
    return [] if since is None else load_orders(db, since)


def load_trades(db: TradingDB, journal_ids: Sequence[int]) -> list[Trade]:
    """Return these trades as the database has them now. Raises DatabaseError, also when an entry order is gone."""
    if not journal_ids:
        return []
    orders = defaultdict(list)
    for row in db.execute_query(ORDERS_OF_TRADES, {"journal_ids": list(journal_ids)}):
        orders[row["trade_journal_id"]].append(row)
    adjustments = adjustments_by_trade(db, journal_ids)
    trades = []
    for journal in chosen_trades(db, journal_ids):
        trade = trade_of(journal, orders[journal["id"]], adjustments[journal["id"]])
        if trade is None:
            raise DatabaseError(f"the entry order of trade {journal['trade_id']} is gone")
        trades.append(trade)
    return trades


def reload(db: TradingDB, trade: Trade) -> Trade:
    """Return a trade as the database has it now. Raises DatabaseError."""
    return load_trades(db, [trade.id])[0]


def unfilled_end(trade: Trade, now: datetime) -> tuple[TradeEnd, DecisionStatus, str]:
    """Return how a trade and its decision end whose entry ended with nothing filled."""
    reason = UNFILLED_END[OrderStatus(trade.entry["order_status"])]
    status = DecisionStatus.CANCELLED if reason is ExitReason.CANCELLED else DecisionStatus.FAILED
    words = f"the order ended as {trade.entry['broker_status']} with nothing filled"
    return TradeEnd(JournalStatus.CANCELLED, reason, now), status, words


def conclude(db: TradingDB, trades: Sequence[Trade], now: datetime) -> list[TradeEnd]:
    """End trades that hold nothing any more: closed with the profit of their executions, or ended unfilled.

    To be called in a transaction. Raises DatabaseError.
    """
    filled = [trade.id for trade in trades if trade.entered > 0]
    fills = fills_by_order(db, filled) if filled else {}
    ends: dict[int, TradeEnd] = {}
    outcomes = {}
    for trade in trades:
        if trade.entered > 0:
            ends[trade.id] = closed_end(trade, fills)
        else:
            ends[trade.id], status, words = unfilled_end(trade, now)
            outcomes[trade.journal["trade_decision_id"]] = (status, words)
    end_trades(db, ends, now)
    finish_decisions(db, outcomes, now)
    for order in (order for trade in trades for order in trade.exits if order["order_status"] == OrderStatus.INTENDED):
        set_status(db, order["id"], OrderStatus.CANCELLED, now)
    for trade in trades:
        end = ends[trade.id]
        log.info("trade over", extra={
            "trade_id": trade.name, "reason": end.reason, "pnl": "-" if end.pnl is None else decimal_text(end.pnl),
            "estimate": end.estimate,
        })
    return list(ends.values())


def settle_estimates(db: TradingDB, now: datetime) -> None:
    """Replace the profits that are estimates where every execution is known by now. Raises DatabaseError."""
    trades = load_trades(db, estimated_trades(db))
    fills = fills_by_order(db, [trade.id for trade in trades]) if trades else {}
    for trade in trades:
        if trade.held == 0 and not (end := closed_end(trade, fills)).estimate:
            settle_estimate(db, trade.id, end, now)


def held_at(db: TradingDB, trades: Sequence[Trade], moment: datetime) -> dict[int, Decimal] | None:
    """Return what trades held at a moment, negative for short ones; None while not every execution is known.

    Raises DatabaseError.
    """
    fills = fills_by_order(db, [trade.id for trade in trades])
    held: dict[int, Decimal] = {}
    for trade in trades:
        orders = (*trade.entries, *trade.exits)
        if not _all_known(orders, fills):
            return None
        moved = [(order["side"], fill.qty, fill.at) for order in orders for fill in fills.get(order["id"], ())]
        moved += [(change["side"], change["qty"], change["happened_at"]) for change in trade.adjustments]
        held[trade.id] = sum((
            qty if side == "buy" else -qty for side, qty, at in moved if at is not None and at < moment
        ), Decimal(0))
    return held


def give_way(db: TradingDB, trades: Sequence[Trade], found: PassLog, now: datetime) -> list[Trade]:
    """Return trades with the estimated exits taken back that late fills of their own orders disprove.

    Raises DatabaseError.
    """
    disproved = [trade for trade in trades if trade.held < 0 and trade.guesses]
    for trade in disproved:
        with db.transaction():
            lock_trades(db, [trade.id])
            locked = reload(db, trade)
            if locked.held < 0 and locked.guesses:
                reduce_guesses(db, locked, now)
    if not disproved:
        return list(trades)
    settle_estimates(db, now)
    present = {trade.id: trade for trade in load_trades(db, [trade.id for trade in disproved])}
    found.resolve((AlertKind.POSITION_VANISHED,), [trade.name for trade in present.values() if not trade.guesses])
    return [present.get(trade.id, trade) for trade in trades]


def closed_end(trade: Trade, fills: FillsByOrder) -> TradeEnd:
    """Return what a trade came to whose shares are all gone: from its executions, else from its orders' averages.

    Where not every execution is known the profit is an estimate. Raises ValueError when shares are left.
    Source: docs/architecture.md, profit and loss.
    """
    orders = (*trade.entries, *trade.exits)
    complete = _all_known(orders, fills)
    came: list[Fill] = []
    left: list[Fill] = []
    for order in orders:
        known = fills.get(order["id"], ()) if complete else _average_fill(order)
        (came if order["side"] == trade.side else left).extend(known)
    sold = left + [_fill_of(change) for change in trade.exits_by_hand]
    for change in trade.adjustments:
        (came if change["side"] == trade.side else left).append(_fill_of(change))
    ended_at, reason = max(_exits(trade, fills), default=(trade.journal["updated_at"], ExitReason.MANUAL_EXIT))
    return TradeEnd(
        JournalStatus.CLOSED, reason, ended_at, average_price(sold), realised_pnl(trade.side, came, left),
        estimate=bool(trade.guesses) or not complete,
    )


def _all_known(orders: Sequence[Row], fills: FillsByOrder) -> bool:
    return all(total_qty(fills.get(order["id"], ())) == order["filled_qty"] for order in orders)


def _exits(trade: Trade, fills: FillsByOrder) -> list[tuple[datetime, ExitReason]]:
    """Return when and why shares last left the trade, by order and by adjustment."""
    ours = [
        (_last_filled_at(order, fills), ExitReason(order["exit_reason"] or FILLED_EXIT[OrderRole(order["order_type"])]))
        for order in trade.exits if order["filled_qty"] > 0 and order["side"] != trade.side
    ]
    return ours + [(change["happened_at"], ExitReason.MANUAL_EXIT) for change in trade.exits_by_hand]


def _last_filled_at(order: Row, fills: FillsByOrder) -> datetime:
    known = [fill.at for fill in fills.get(order["id"], ()) if fill.at is not None]
    moment: datetime = max(known, default=None) or order["filled_at"] or order["updated_at"]
    return moment


def _fill_of(change: Row) -> Fill:
    return Fill(change["qty"], change["price"], change["happened_at"])


def _average_fill(order: Row) -> list[Fill]:
    return [Fill(order["filled_qty"], order["filled_avg_price"])] if order["filled_qty"] > 0 else []
