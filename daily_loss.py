"""The daily loss limit: what this day has cost so far, and the switch to REDUCING when that is too much."""

from datetime import datetime
from decimal import Decimal

from clock import MARKET_ZONE
from config import Limits
from db_layer import TradingDB
from exposure import day_start
from kill_switch import TradingState, change_control, current_control, lock_control
from risk_checks import loss_words

CHANGED_BY = "daily loss limit"
# Positions not valued today have not changed in price today.
DAY_PNL = """
SELECT COALESCE((SELECT sum(actual_pnl - COALESCE(pnl_before_exit_day, 0)) FROM trade_journal
                 WHERE status = 'CLOSED' AND exit_date >= %(start)s), 0)
       + COALESCE((SELECT sum(COALESCE(unrealized_pnl, 0) + realized_pnl - pnl_before_today) FROM position_tracking
                   WHERE valued_on = %(today)s), 0) AS pnl
"""


def day_pnl(db: TradingDB, now: datetime) -> Decimal:
    """Return the profit (negative: loss) in dollars of this US Eastern day. Raises DatabaseError.

    How much the profit of each trade has changed since it was last valued on an earlier day: of those closed today, and
    of those still open, as last valued, with the shares that have left them.
    """
    today = now.astimezone(MARKET_ZONE).date()
    return Decimal(db.execute_query(DAY_PNL, {"start": day_start(now), "today": today})[0]["pnl"])


def watch_daily_loss(db: TradingDB, limits: Limits, now: datetime) -> Decimal:
    """Set trading to REDUCING when the day has lost more than MAX_DAILY_LOSS, and return day_pnl.

    Only a person switches back; while the loss stands, that needs a higher limit too. Raises DatabaseError.
    """
    pnl = day_pnl(db, now)
    if -pnl > limits.max_daily_loss:
        with db.transaction():
            lock_control(db)
            if current_control(db).state is TradingState.ACTIVE:
                change_control(db, TradingState.REDUCING, loss_words(pnl, limits), CHANGED_BY, now)
    return pnl
