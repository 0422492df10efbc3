"""The rows of `position_adjustment`: shares that came to a trade or left it without an order of ours, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from db_layer import Row, TradingDB
from order_life import AdjustmentKind, opposite
from trade import Trade

SPLITS_SINCE = timedelta(days=14)
SYMBOLS_OF_OTHERS = "SELECT DISTINCT symbol FROM external_order WHERE filled_qty > 0 AND updated_at >= %(since)s"
# Executions of other people's orders, as far as they are not put down to trades of ours yet; newest first.
UNATTRIBUTED = """
SELECT fill.execution_id, fill.side, fill.price, fill.filled_at,
       fill.qty - COALESCE((SELECT sum(qty) FROM position_adjustment WHERE evidence_id = fill.execution_id), 0) AS qty
FROM order_fill fill JOIN external_order theirs ON theirs.id = fill.external_order_id
WHERE theirs.symbol = %(symbol)s
ORDER BY fill.filled_at DESC, fill.id DESC
"""
GIVEN_BY_SPLITS = """
SELECT evidence_id, sum(CASE side WHEN 'buy' THEN qty ELSE -qty END) AS qty
FROM position_adjustment WHERE evidence_id = ANY(%(evidence_ids)s) GROUP BY evidence_id
"""
# Trades that were not over yet when something happened.
TRADES_ALIVE = """
SELECT id FROM trade_journal
WHERE symbol = %(symbol)s AND (status = 'POSITION' OR status = 'CLOSED' AND exit_date >= %(moment)s)
ORDER BY id
"""
LOCK_TRADES = "SELECT id FROM trade_journal WHERE id = ANY(%(journal_ids)s) ORDER BY id FOR UPDATE"
ADD_ADJUSTMENTS = """
INSERT INTO position_adjustment (
    trade_journal_id, kind, side, qty, price, evidence_id, happened_at, created_at)
VALUES %s
"""
FORGET_GUESSES = """
DELETE FROM position_adjustment
WHERE trade_journal_id = %(journal_id)s AND kind = 'MANUAL_EXIT' AND evidence_id IS NULL
"""
RESTATE_PRICES = """
WITH priced AS (
    UPDATE position_tracking SET current_price = round(current_price / %(ratio)s, 6), last_updated = %(now)s
    WHERE trade_journal_id = %(journal_id)s
)
UPDATE trade_journal
SET split_ratio = round(split_ratio * %(ratio)s, 9),
    current_stop_loss = round(COALESCE(current_stop_loss, planned_stop_loss) / %(ratio)s, 2), updated_at = %(now)s
WHERE id = %(journal_id)s
"""


@dataclass(frozen=True)
class Adjustment:
    """Shares of one trade that came (side buy) or went; price in dollars, no evidence for an estimate."""

    journal_id: int
    kind: AdjustmentKind
    side: str
    qty: Decimal
    price: Decimal
    evidence_id: str | None
    happened_at: datetime


def unattributed(db: TradingDB, symbol: str) -> list[Row]:
    """Return what other people's executions in a symbol are not put down to our trades, newest first."""
    return [row for row in db.execute_query(UNATTRIBUTED, {"symbol": symbol}) if row["qty"] > 0]


def symbols_of_others(db: TradingDB, since: datetime) -> set[str]:
    """Return the symbols in which somebody else's orders have filled of late. Raises DatabaseError."""
    return {row["symbol"] for row in db.execute_query(SYMBOLS_OF_OTHERS, {"since": since})}


def given_by_splits(db: TradingDB, splits: Sequence[dict[str, Any]]) -> dict[str, Decimal]:
    """Return the shares that our trades got from splits (lost: negative) by the split's id. Raises DatabaseError."""
    rows = db.execute_query(GIVEN_BY_SPLITS, {"evidence_ids": [split["id"] for split in splits]})
    return {row["evidence_id"]: row["qty"] for row in rows}


def unfollowed_splits(db: TradingDB, splits: Sequence[dict[str, Any]], symbol: str) -> list[dict[str, Any]]:
    """Return those of the broker's splits that are of this symbol and that no adjustment rests on yet.

    Raises DatabaseError.
    """
    given = given_by_splits(db, splits)
    return [split for split in splits if split["symbol"] == symbol and split["id"] not in given]


def trades_alive(db: TradingDB, symbol: str, moment: datetime) -> list[int]:
    """Return the ids of the trades in a symbol that were not over at a moment. Raises DatabaseError."""
    return [row["id"] for row in db.execute_query(TRADES_ALIVE, {"symbol": symbol, "moment": moment})]


def lock_trades(db: TradingDB, journal_ids: Sequence[int]) -> None:
    """Lock trades in the open transaction, so that two processes do not adjust one. Raises DatabaseError."""
    db.execute_query(LOCK_TRADES, {"journal_ids": list(journal_ids)})


def add_adjustments(db: TradingDB, adjustments: Sequence[Adjustment], now: datetime) -> None:
    """Write adjustments down. Raises DatabaseError."""
    db.execute_values(ADD_ADJUSTMENTS, [
        (change.journal_id, str(change.kind), change.side, change.qty, change.price, change.evidence_id,
         change.happened_at, now)
        for change in adjustments
    ])


def forget_guesses(db: TradingDB, trade: Trade) -> None:
    """Remove the estimated exits of a trade, whose executions are known by now. Raises DatabaseError."""
    db.execute_update(FORGET_GUESSES, {"journal_id": trade.id})


def reduce_guesses(db: TradingDB, trade: Trade, now: datetime) -> None:
    """Take from the estimated exits of a trade what its orders turned out to have sold. Raises DatabaseError."""
    rest = trade.held + sum((row["qty"] for row in trade.guesses), Decimal(0))
    last = trade.guesses[-1]
    forget_guesses(db, trade)
    if rest > 0:
        add_adjustments(db, [Adjustment(
            trade.id, AdjustmentKind.MANUAL_EXIT, last["side"], rest, last["price"], None, last["happened_at"],
        )], now)


def restate_prices(db: TradingDB, trade: Trade, ratio: Decimal, now: datetime) -> None:
    """Divide a trade's stop, target and price by a split's ratio (new shares for an old one). Raises DatabaseError."""
    db.execute_update(RESTATE_PRICES, {"journal_id": trade.id, "ratio": ratio, "now": now})


def closing_side(trade: Trade) -> str:
    """Return the side that brings a trade to no shares: its own where more left it than it had."""
    return opposite(trade.side) if trade.held > 0 else trade.side


def share_out(trades: Sequence[Trade], closes: Sequence[Row], qty: Decimal) -> list[Adjustment]:
    """Put that many shares of these executions down to the trades, all long or all short: first in, first out.

    `closes` are executions that close, newest first: the newest are taken, and the oldest of them goes to the trade
    that was opened first.
    """
    taken: list[tuple[Row, Decimal]] = []
    for close in closes:
        part = min(close["qty"], qty - sum((share for _, share in taken), Decimal(0)))
        if part > 0:
            taken.insert(0, (close, part))
    adjustments = []
    room = {trade.id: abs(trade.held) for trade in trades}
    for close, rest in taken:
        for trade in trades:
            part = min(rest, room[trade.id])
            if part <= 0:
                continue
            adjustments.append(Adjustment(
                trade.id, AdjustmentKind.MANUAL_EXIT, closing_side(trade), part, close["price"],
                close["execution_id"], close["filled_at"],
            ))
            room[trade.id] -= part
            rest -= part
    return adjustments
