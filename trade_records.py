"""The rows of `trade_journal` and `position_tracking`: a trade opened, held, and closed with its profit or loss."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal

from clock import MARKET_ZONE
from db_layer import Row, TradingDB
from decision import NewTrade
from order_life import JOURNAL_MOVES, JournalStatus, pairs
from trade import Trade, TradeEnd

TRADES = """
SELECT journal.id, journal.trade_id, journal.symbol, journal.side, journal.trade_style, journal.status,
       journal.initial_analysis_id, journal.trade_decision_id, journal.planned_stop_loss, journal.planned_take_profit,
       journal.planned_qty, journal.actual_entry, journal.actual_qty, journal.current_stop_loss, journal.split_ratio,
       journal.updated_at,
       position.qty AS tracked_qty, position.stop_loss_order_id, position.take_profit_order_id
FROM trade_journal journal LEFT JOIN position_tracking position ON position.trade_journal_id = journal.id
"""
# An entry that rests with nothing filled needs nothing, and there can be thousands of them.
OPEN_TRADES = TRADES + """
WHERE journal.status = 'POSITION' OR journal.status = 'ORDERED' AND journal.id = ANY(%(journal_ids)s)
ORDER BY journal.id
"""
CHOSEN_TRADES = TRADES + "WHERE journal.id = ANY(%(journal_ids)s) ORDER BY journal.id"
# Shares that came or went without an order of ours, for trades that are open or whose profit is an estimate.
ADJUSTMENTS = """
SELECT adjustment.* FROM position_adjustment adjustment
JOIN trade_journal journal ON journal.id = adjustment.trade_journal_id
WHERE journal.status IN ('ORDERED', 'POSITION') OR journal.id = ANY(%(journal_ids)s)
ORDER BY adjustment.happened_at, adjustment.id
"""
# A trade that was over and has filled shares after all is a position again. Shares that come are valued when the whole
# position next is: at a price from before they came they would show a profit or a loss that nobody made.
HOLD_POSITIONS = """
WITH held AS (
    SELECT * FROM unnest(%(journal_ids)s::bigint[], %(entered)s::numeric[], %(held)s::numeric[], %(prices)s::numeric[],
                         %(realised)s::numeric[]) AS held (journal_id, entered, qty, price, realised)
), forgotten AS (
    DELETE FROM position_tracking USING held WHERE trade_journal_id = held.journal_id AND held.qty <= 0
), opened AS (
    UPDATE trade_journal journal
    SET status = 'POSITION', actual_entry = held.price, actual_qty = held.entered, updated_at = %(now)s,
        current_stop_loss = COALESCE(journal.current_stop_loss, journal.planned_stop_loss),
        exit_reason = NULL, exit_date = NULL, exit_price = NULL, actual_pnl = NULL, pnl_is_estimate = false
    FROM held JOIN trade_journal former ON former.id = held.journal_id
    WHERE journal.id = held.journal_id
    RETURNING journal.id, journal.symbol, journal.side, held.qty, held.price, held.realised,
              CASE WHEN (former.exit_date AT TIME ZONE %(zone)s)::date < %(today)s THEN former.actual_pnl
                   ELSE former.pnl_before_exit_day END AS pnl_before_today
)
INSERT INTO position_tracking AS known (
    trade_journal_id, symbol, side, qty, avg_entry_price, cost_basis, realized_pnl, pnl_before_today, valued_on,
    last_updated)
SELECT id, symbol, CASE side WHEN 'buy' THEN 'long' ELSE 'short' END, qty, price, round(qty * price, 6), realised,
       COALESCE(pnl_before_today, 0), %(today)s, %(now)s
FROM opened WHERE qty > 0
ON CONFLICT (trade_journal_id) DO UPDATE
SET qty = EXCLUDED.qty, avg_entry_price = EXCLUDED.avg_entry_price, cost_basis = EXCLUDED.cost_basis,
    market_value = CASE WHEN EXCLUDED.qty > known.qty THEN known.market_value
                        ELSE round(known.current_price * EXCLUDED.qty, 6) END,
    unrealized_pnl = CASE WHEN EXCLUDED.qty > known.qty THEN known.unrealized_pnl
                          ELSE round((known.current_price - EXCLUDED.avg_entry_price) * EXCLUDED.qty
                                     * CASE EXCLUDED.side WHEN 'long' THEN 1 ELSE -1 END, 6) END,
    realized_pnl = EXCLUDED.realized_pnl,
    pnl_before_today = CASE WHEN known.valued_on = EXCLUDED.valued_on THEN known.pnl_before_today
                            ELSE COALESCE(known.unrealized_pnl, 0) + known.realized_pnl END,
    valued_on = EXCLUDED.valued_on, last_updated = EXCLUDED.last_updated
"""
# One statement for all positions; a symbol without a price is not among the prices, so its row stays as it was.
VALUE_POSITIONS = """
UPDATE position_tracking position
SET current_price = latest.price, market_value = round(position.qty * latest.price, 6),
    unrealized_pnl = round((latest.price - position.avg_entry_price) * position.qty
                           * CASE position.side WHEN 'long' THEN 1 ELSE -1 END, 6),
    pnl_before_today = CASE WHEN position.valued_on = %(today)s THEN position.pnl_before_today
                            ELSE COALESCE(position.unrealized_pnl, 0) + position.realized_pnl END,
    valued_on = %(today)s, last_updated = %(now)s
FROM unnest(%(symbols)s::text[], %(prices)s::numeric[]) AS latest (symbol, price)
WHERE position.symbol = latest.symbol
  AND (position.current_price, position.market_value)
      IS DISTINCT FROM (latest.price, round(position.qty * latest.price, 6))
"""
# Positions not reviewed on the market's present day, trades closed since their last review, and from when to when they
# were open.
UNREVIEWED = """
SELECT journal.id, min(fill.filled_at AT TIME ZONE %(zone)s)::date AS opened_on,
       CASE journal.status WHEN 'CLOSED' THEN (journal.exit_date AT TIME ZONE %(zone)s)::date
                           ELSE %(today)s::date END AS open_until
FROM trade_journal journal
JOIN order_execution orders ON orders.trade_journal_id = journal.id AND orders.order_type = 'ENTRY'
JOIN order_fill fill ON fill.order_execution_id = orders.id
WHERE journal.status = 'POSITION' AND journal.last_review_date IS DISTINCT FROM %(today)s
   OR journal.status = 'CLOSED' AND journal.exit_date >= %(closed_since)s
      AND COALESCE(journal.last_review_date < (journal.exit_date AT TIME ZONE %(zone)s)::date, true)
GROUP BY journal.id
"""
REVIEW_TRADES = """
UPDATE trade_journal journal
SET last_review_date = review.reviewed_on, days_open = review.days_open, updated_at = %(now)s
FROM unnest(%(journal_ids)s::bigint[], %(reviewed_on)s::date[], %(days_open)s::integer[])
     AS review (journal_id, reviewed_on, days_open)
WHERE journal.id = review.journal_id
  AND (journal.last_review_date, journal.days_open) IS DISTINCT FROM (review.reviewed_on, review.days_open)
"""
TRACK_EXITS = """
WITH tracked AS (
    UPDATE position_tracking
    SET stop_loss_order_id = %(stop_id)s, take_profit_order_id = %(target_id)s, last_updated = %(now)s
    WHERE trade_journal_id = %(journal_id)s
)
UPDATE trade_journal SET current_stop_loss = COALESCE(%(stop_price)s, current_stop_loss), updated_at = %(now)s
WHERE id = %(journal_id)s
"""
RESTATE_PLAN = """
UPDATE trade_journal
SET planned_qty = round(planned_qty * %(ratio)s, 9), planned_entry = round(planned_entry / %(ratio)s, 2),
    planned_stop_loss = round(planned_stop_loss / %(ratio)s, 2),
    planned_take_profit = round(planned_take_profit / %(ratio)s, 2), updated_at = %(now)s
WHERE id = %(journal_id)s AND status = 'ORDERED'
"""
END_TRADES = """
WITH ended AS (
    UPDATE trade_journal journal
    SET status = ending.status, exit_reason = ending.reason, exit_date = ending.ended_at, exit_price = ending.price,
        actual_pnl = ending.pnl, pnl_is_estimate = ending.estimate, updated_at = %(now)s,
        pnl_before_exit_day = (
            SELECT CASE WHEN valued_on = %(today)s THEN pnl_before_today
                        ELSE COALESCE(unrealized_pnl, 0) + realized_pnl END
            FROM position_tracking WHERE trade_journal_id = journal.id)
    FROM unnest(%(journal_ids)s::bigint[], %(statuses)s::text[], %(reasons)s::text[], %(ended_ats)s::timestamptz[],
                %(prices)s::numeric[], %(pnls)s::numeric[], %(estimates)s::boolean[])
         AS ending (journal_id, status, reason, ended_at, price, pnl, estimate)
    WHERE journal.id = ending.journal_id
      AND (journal.status, ending.status) IN (SELECT * FROM unnest(%(earlier)s::text[], %(later)s::text[]))
    RETURNING journal.id
), forgotten AS (
    DELETE FROM position_tracking USING ended WHERE trade_journal_id = ended.id
)
SELECT id FROM ended
"""
ESTIMATES = "SELECT id FROM trade_journal WHERE pnl_is_estimate AND status = 'CLOSED' ORDER BY id"
SETTLE_ESTIMATE = """
UPDATE trade_journal
SET exit_reason = %(reason)s, exit_date = %(ended_at)s, exit_price = %(price)s, actual_pnl = %(pnl)s,
    pnl_is_estimate = false, updated_at = %(now)s
WHERE id = %(journal_id)s AND status = 'CLOSED' AND pnl_is_estimate
"""


def add_trade(
    db: TradingDB, trade_id: str, symbol: str, trade: NewTrade, analysis_id: str | None, decision_id: int,
    now: datetime,
) -> int:
    """Write the journal row of a decided trade and return its id. Raises DatabaseError."""
    return int(db.insert("trade_journal", {
        "trade_id": trade_id, "symbol": symbol, "side": str(trade.side), "trade_style": str(trade.style),
        "pattern": trade.pattern, "status": str(JournalStatus.ORDERED), "initial_analysis_id": analysis_id,
        "trade_decision_id": decision_id, "planned_entry": trade.limit_price, "planned_stop_loss": trade.stop_price,
        "planned_take_profit": trade.target_price, "planned_qty": trade.qty, "created_at": now, "updated_at": now,
    }))


def open_trades(db: TradingDB, journal_ids: Collection[int]) -> list[Row]:
    """Return the journal rows of all positions, and of those among these trades that are ordered.

    Raises DatabaseError.
    """
    return db.execute_prepared(OPEN_TRADES, {"journal_ids": list(journal_ids)})


def chosen_trades(db: TradingDB, journal_ids: Sequence[int]) -> list[Row]:
    """Return the journal rows of these trades with what is tracked of their positions. Raises DatabaseError."""
    return db.execute_query(CHOSEN_TRADES, {"journal_ids": list(journal_ids)})


def adjustments_by_trade(db: TradingDB, journal_ids: Sequence[int] = ()) -> Mapping[int, list[Row]]:
    """Return the adjustments of the open trades and of these others, by trade. Raises DatabaseError."""
    found: defaultdict[int, list[Row]] = defaultdict(list)
    for row in db.execute_prepared(ADJUSTMENTS, {"journal_ids": list(journal_ids)}):
        found[row["trade_journal_id"]].append(row)
    return found


def hold_positions(db: TradingDB, trades: Sequence[Trade], now: datetime) -> None:
    """Record what these trades have entered and hold, and their average prices. Raises DatabaseError."""
    if trades:
        db.execute_update(HOLD_POSITIONS, {
            "journal_ids": [trade.id for trade in trades], "entered": [trade.entered for trade in trades],
            "held": [trade.held for trade in trades],
            "prices": [round(trade.entry_price, 6) for trade in trades],
            "realised": [round(trade.realised, 6) for trade in trades], "zone": MARKET_ZONE.key, "now": now,
            "today": now.astimezone(MARKET_ZONE).date(),
        })


def value_positions(db: TradingDB, prices: Mapping[str, Decimal], now: datetime) -> int:
    """Write value and unrealised profit at these prices (dollars by symbol); return how many rows changed.

    Raises DatabaseError.
    """
    return db.execute_update(VALUE_POSITIONS, {
        "symbols": list(prices), "prices": list(prices.values()), "now": now,
        "today": now.astimezone(MARKET_ZONE).date(),
    }) if prices else 0


def unreviewed_trades(db: TradingDB, today: date, closed_since: datetime) -> Mapping[int, tuple[date, date]]:
    """Return the positions not reviewed today, and the trades closed since that moment and not reviewed to their end.

    With each come the market's days it was opened on and is open until. Raises DatabaseError.
    """
    rows = db.execute_query(UNREVIEWED, {"today": today, "closed_since": closed_since, "zone": MARKET_ZONE.key})
    return {row["id"]: (row["opened_on"], row["open_until"]) for row in rows}


def review_trades(
    db: TradingDB, open_days: Mapping[int, tuple[date, date]], sessions: Sequence[date], now: datetime,
) -> int:
    """Write days open, in trading days since the opening day, and the day of review: the last session of each.

    `sessions` are the trading days of all that time. Raises DatabaseError.
    """
    held = {id: [day for day in sessions if day <= until] for id, (_, until) in open_days.items()}
    reviewed = {id: days for id, days in held.items() if days}
    if not reviewed:
        return 0
    return db.execute_update(REVIEW_TRADES, {
        "journal_ids": list(reviewed), "reviewed_on": [max(days) for days in reviewed.values()], "now": now,
        "days_open": [sum(day > open_days[id][0] for day in days) for id, days in reviewed.items()],
    })


def track_exits(
    db: TradingDB, journal_id: int, stop_id: str | None, stop_price: Decimal | None, target_id: str | None,
    now: datetime,
) -> None:
    """Record which orders of the broker protect the position, and the stop's price in dollars. Raises DatabaseError."""
    db.execute_update(TRACK_EXITS, {
        "journal_id": journal_id, "stop_id": stop_id, "stop_price": stop_price, "target_id": target_id, "now": now,
    })


def restate_plan(db: TradingDB, journal_id: int, ratio: Decimal, now: datetime) -> None:
    """Bring the plan of a trade without shares to a split's ratio (new shares for an old one). Raises DatabaseError."""
    db.execute_update(RESTATE_PLAN, {"journal_id": journal_id, "ratio": ratio, "now": now})


def end_trades(db: TradingDB, ends: Mapping[int, TradeEnd], now: datetime) -> int:
    """Close or cancel trades (by journal id) and forget their positions; return how many. Raises DatabaseError."""
    if not ends:
        return 0
    ended = db.execute_prepared(END_TRADES, {
        "journal_ids": list(ends), "statuses": [str(end.status) for end in ends.values()],
        "reasons": [str(end.reason) for end in ends.values()], "ended_ats": [end.ended_at for end in ends.values()],
        "prices": [_to_millionth(end.price) for end in ends.values()],
        "pnls": [_to_millionth(end.pnl) for end in ends.values()],
        "estimates": [end.estimate for end in ends.values()], "now": now, **pairs(JOURNAL_MOVES),
        "today": now.astimezone(MARKET_ZONE).date(),
    })
    return len(ended)


def estimated_trades(db: TradingDB) -> list[int]:
    """Return the ids of the closed trades whose profit is an estimate. Raises DatabaseError."""
    return [row["id"] for row in db.execute_query(ESTIMATES)]


def settle_estimate(db: TradingDB, journal_id: int, end: TradeEnd, now: datetime) -> None:
    """Replace an estimate by what the executions say. Raises DatabaseError."""
    db.execute_update(SETTLE_ESTIMATE, {
        "journal_id": journal_id, "reason": str(end.reason), "ended_at": end.ended_at,
        "price": _to_millionth(end.price), "pnl": _to_millionth(end.pnl), "now": now,
    })


def _to_millionth(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else round(amount, 6)
