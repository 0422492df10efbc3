"""Says what should become of each row of `analysis_decision`: read only, nothing is written or sent."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum

from alpaca_client import Broker, BrokerError
from analysis_rows import AnalysisRow
from clock import Clock
from config import Settings
from db_layer import Row, TradingDB
from decision import Action, Decision, DecisionError, OrderType, parse_decision
from order_changes import find_target
from risk_gate import RiskCheck, Situation, check_age, check_trade, decision_time
from row_history import Before, Seen, cancelled_trades, load_history, seen_before
from trade_records import Trade

LONGEST_ID = 255

log = logging.getLogger("decision_review")


class Result(StrEnum):
    """What a pass did with one decision."""

    PLACED = "placed"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    UNKNOWN = "unknown outcome"
    NOT_SENT = "not sent"
    HELD_BACK = "held back"
    UNPRICED = "waiting for a price"
    WAITING = "waiting"
    UNREACHED = "broker did not answer"
    MARKED = "marked again"
    UNTOUCHED = "untouched"


@dataclass(frozen=True)
class Verdict:
    """What should become of a row: PLACED means to be carried out; `order_id` is an order whose mark is missing.

    `target` is the trade whose entry a CANCEL or AMEND is about. What `resumes` was begun by an earlier pass, and every
    pass takes it up again.
    """

    result: Result
    reason: str = ""
    decision: Decision | None = None
    checks: list[RiskCheck] = field(default_factory=list)
    order_id: int | None = None
    target: Trade | None = None
    resumes: bool = False


class DecisionReview:
    """The one way in which rows are judged, for a pass and for a dry run."""

    def __init__(self, db: TradingDB, broker: Broker, clock: Clock, settings: Settings) -> None:
        self._db = db
        self._broker = broker
        self._clock = clock
        self._settings = settings

    def reference_prices(self, rows: Iterable[AnalysisRow]) -> dict[str, Decimal] | None:
        """Return last prices for the market orders among the rows; None when they could not be had."""
        symbols = set()
        for row in rows:
            try:
                decision = parse_decision(row.text, row.ticker)
            except DecisionError:
                continue
            if _is_market(decision):
                symbols.add(decision.symbol)
        try:
            return self._broker.latest_prices(symbols)
        except BrokerError as error:
            log.warning("no prices, so market orders wait for the next pass", extra={"error": error})
            return None

    def judge(self, row: AnalysisRow, prices: dict[str, Decimal] | None) -> Verdict:
        """Say what should become of a row; reads only."""
        try:
            decision = parse_decision(row.text, row.ticker)
        except DecisionError as error:
            before = seen_before(row, load_history(self._db, row, changes=False))
            if before is None or before.seen is Seen.DUPLICATE:
                return Verdict(Result.REFUSED, str(error))
            return _seen(before)
        if decision.action is Action.NO_ACTION:
            return Verdict(Result.UNTOUCHED)
        history = load_history(self._db, row, changes=decision.action is not Action.NEW_TRADE)
        before = seen_before(row, history)
        if before is not None:
            return _seen(before, decision)
        if not row.analysis_id or len(row.analysis_id) > LONGEST_ID:
            words = f"the row needs an Analysis_Id of 1 to {LONGEST_ID} characters, so that a repetition is recognised"
            return Verdict(Result.REFUSED, words, decision)
        if decision.action is Action.NEW_TRADE:
            return self._judge_trade(row, decision, prices)
        return self._judge_change(row, decision, prices, history)

    def _judge_change(
        self, row: AnalysisRow, decision: Decision, prices: dict[str, Decimal] | None, history: list[Row],
    ) -> Verdict:
        target = find_target(self._db, row, decision)
        if target.trade is not None and target.trade.id in cancelled_trades(history):
            return Verdict(Result.MARKED, "the order was cancelled already", decision, target=target.trade)
        if target.refusal is not None:
            return Verdict(Result.REFUSED, target.refusal, decision, target=target.trade)
        if target.waits is not None:
            return Verdict(Result.WAITING, target.waits, decision)
        return replace(self._judge_trade(row, decision, prices), target=target.trade)

    def _judge_trade(self, row: AnalysisRow, decision: Decision, prices: dict[str, Decimal] | None) -> Verdict:
        situation = self._situation(row, decision, (prices or {}).get(decision.symbol))
        if prices is None and _is_market(decision) and check_age(self._settings.limits, situation).passed:
            return Verdict(Result.UNPRICED, "the broker gave no prices", decision)
        limits = self._settings.limits
        checks = (
            [check_age(limits, situation)] if decision.trade is None
            else check_trade(decision.symbol, decision.trade, limits, situation)
        )
        refusal = checks[-1].refusal
        return Verdict(Result.REFUSED if refusal else Result.PLACED, refusal or "", decision, checks)

    def _situation(self, row: AnalysisRow, decision: Decision, price: Decimal | None) -> Situation:
        decided_at = decision_time(row.decided_at, decision.analysis_date, self._settings.analysis_timezone)
        return Situation(self._clock.now(), decided_at, price)


_RESULT_OF_SEEN = {
    Seen.UNFINISHED: Result.WAITING,
    Seen.UNMARKED: Result.MARKED,
    Seen.DUPLICATE: Result.REFUSED,
}


def action_of(row: AnalysisRow) -> Action | None:
    """Return what a row asks for, or None when it cannot be read."""
    try:
        return parse_decision(row.text, row.ticker).action
    except DecisionError:
        return None


def _seen(before: Before, decision: Decision | None = None) -> Verdict:
    resumes = before.seen is Seen.UNFINISHED
    return Verdict(_RESULT_OF_SEEN[before.seen], before.reason, decision, order_id=before.order_id, resumes=resumes)


def _is_market(decision: Decision) -> bool:
    return decision.trade is not None and decision.trade.order_type is OrderType.MARKET
