"""Entries that an earlier pass claimed and that provably never reached the broker: whether they may be sent now."""

from alpaca_client import Broker, BrokerError
from analysis_rows import AnalysisRows
from audit_trail import finish_decision
from clock import Clock
from config import Limits
from db_layer import Row, TradingDB
from decision import TimeInForce
from decision_review import Result, Wait
from order_changes import take_back, too_old
from order_desk import OrderDesk
from order_life import DecisionStatus, ExitReason, JournalStatus
from order_news import alert_amended
from risk_gate import why_not_any_more
from trade import TradeEnd
from trade_records import end_trades

UNSENT_ENTRIES = """
SELECT orders.*, decision.analysis_row_key, decision.created_at AS claimed_at, decision.decision_rationale,
       decision.symbol
FROM order_execution orders LEFT JOIN audit.trade_decisions decision ON decision.id = orders.trade_decision_id
WHERE orders.order_status = 'intended' AND orders.order_type = 'ENTRY'
  AND (decision.status = 'pending' OR decision.id IS NULL)
ORDER BY orders.id
"""


class UnsentEntries:
    """Gives up what is too old, forbidden by now or not approved any more, and says what has to wait."""

    def __init__(
        self, db: TradingDB, broker: Broker, clock: Clock, desk: OrderDesk, analysis: AnalysisRows,
    ) -> None:
        self._db = db
        self._broker = broker
        self._clock = clock
        self._desk = desk
        self._analysis = analysis

    def load(self) -> list[Row]:
        """Return the orders with what their decisions say, oldest first; `claimed_at` is None where that is gone.

        Raises DatabaseError.
        """
        return self._db.execute_query(UNSENT_ENTRIES)

    def give_up(self, order: Row, limits: Limits) -> Result | None:
        """End an order that may not be sent any more and say what became of it; None where it may.

        Raises DatabaseError.
        """
        now = self._clock.now()
        refusal = too_old(limits, order["decision_rationale"], order["claimed_at"], now) or why_not_any_more(
            order["symbol"], order["qty"], order["limit_price"], limits,
        )
        if refusal is not None:
            words = f"not_placed: the broker was out of reach, and {refusal}"
            return self._end(order, DecisionStatus.FAILED, words)
        row_key = order["analysis_row_key"]
        if row_key is not None and not self._analysis.is_approved(row_key, order["analysis_decision_id"]):
            words = "the approval was withdrawn before the order could be sent"
            return self._end(order, DecisionStatus.CANCELLED, words)
        return None

    def wait_for_session(self, order: Row) -> Wait | None:
        """Say why an order waits that was to be sent in a session: at market nobody knows what it would pay later."""
        if order["limit_price"] is not None or order["time_in_force"] == TimeInForce.OPG:
            return None
        try:
            is_open = self._broker.market_hours().is_open
        except BrokerError as error:
            return Result.UNREACHED, f"the broker did not say whether the market is open: {error}"
        return None if is_open else (Result.WAITING, "the market is closed; a market order waits for the session")

    def _end(self, order: Row, status: DecisionStatus, reason: str) -> Result:
        now, failed = self._clock.now(), status is DecisionStatus.FAILED
        why = ExitReason.EXPIRED if failed else ExitReason.CANCELLED
        with self._db.transaction():
            if not take_back(self._db, order["id"], now):
                return Result.HELD_BACK  # another process has sent it
            finish_decision(self._db, order["trade_decision_id"], status, reason, now)
            alert_amended(self._db, order["trade_decision_id"], reason, now)
            end_trades(self._db, {order["trade_journal_id"]: TradeEnd(JournalStatus.CANCELLED, why, now)}, now)
        if failed:  # a row without approval is not ours to touch
            self._desk.mark(order["id"])
        return Result.REFUSED
