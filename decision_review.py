"""Says what should become of each row of `analysis_decision`: read only, nothing is written or sent."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from alpaca_client import Broker, Holding, JsonObject
from analysis_rows import LONGEST_ID, AnalysisRow
from clock import Clock
from config import Limits, Settings
from db_layer import Row, TradingDB
from decision import Action, Decision, DecisionError, parse_decision
from exposure import Book, OpenEntry, load_book
from kill_switch import Control
from market_view import MarketView, look
from order_changes import find_target, order_name, trade_name
from order_life import ENDED, OrderStatus
from risk_checks import Hold, RiskCheck, Situation, price_of
from risk_gate import check_age, check_trade, decision_time
from row_history import Before, Seen, cancelled_trades, load_history, seen_before
from trade import Trade


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


Wait = tuple[Result, str]  # what becomes of an entry that may not be sent yet, and why
# What keeps a pass from having done its work.
FAILURES = (Result.NOT_SENT, Result.UNPRICED, Result.UNREACHED)


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
        self._zone = settings.analysis_timezone
        self._limits = settings.limits
        self._day_pnl = Decimal(0)
        self._view: MarketView
        self.book: Book

    def begin(
        self, rows: Iterable[AnalysisRow], account: JsonObject, limits: Limits, day_pnl: Decimal,
        holdings: Mapping[str, Holding] | None = None,
    ) -> None:
        """Ask and load once what the rows of this pass are judged by; `holdings` where they were asked for already.

        Raises DatabaseError.
        """
        self._limits, self._day_pnl = limits, day_pnl
        decisions = [decision for row in rows if (decision := decision_of(row)) is not None]
        flattens = limits.daytrade_flatten_minutes > 0
        self._view = look(self._broker, account, decisions, self._clock.now(), flattens, holdings)
        self.load_book()

    def load_book(self) -> None:
        """Load what is at stake anew, after something else than a new order has changed it. Raises DatabaseError."""
        window = timedelta(minutes=self._limits.duplicate_window_minutes)
        self.book = load_book(
            self._db, self._clock.now(), window, self._view.holdings or {}, self._view.asked_at,
        )

    def note(self, row: AnalysisRow, verdict: Verdict, order_id: int, result: Result) -> None:
        """Let an order that was just written down and sent count for the next decision."""
        decision, now = verdict.decision, self._clock.now()
        if decision is None or decision.trade is None:
            return
        trade, last = decision.trade, (self._view.trades or {}).get(decision.symbol)
        price = price_of(trade, last) or Decimal(0)
        status = _STATUS_OF_RESULT[result]
        self.book.put(OpenEntry(
            order_id, decision.symbol, trade.side, trade.qty, trade.limit_price, now,
            trade_name(decision.symbol, order_name(row.text_sha256, row.row_key), now), row.analysis_id, status,
            Decimal(0), Decimal(0) if status in ENDED else trade.qty * price,
        ))

    def judge(self, row: AnalysisRow, control: Control) -> Verdict:
        """Say what should become of a row while this control is in force; reads only."""
        try:
            decision = parse_decision(row.text, row.ticker)
        except DecisionError as error:
            before = seen_before(row, self._history(row, changes=False))
            if before is None or before.seen is Seen.DUPLICATE:
                return Verdict(Result.REFUSED, str(error))
            return _seen(before)
        if decision.action is Action.NO_ACTION:
            return Verdict(Result.UNTOUCHED)
        history = self._history(row, changes=decision.action is not Action.NEW_TRADE)
        before = seen_before(row, history)
        if before is not None:
            return _seen(before, decision)
        if row.decision_id is None and (not row.analysis_id or len(row.analysis_id) > LONGEST_ID):
            words = f"the row needs an Analysis_Id of 1 to {LONGEST_ID} characters, so that a repetition is recognised"
            return Verdict(Result.REFUSED, words, decision)
        if decision.action is Action.NEW_TRADE:
            return self._judge_trade(row, decision, control)
        return self._judge_change(row, decision, control, history)

    def _history(self, row: AnalysisRow, changes: bool) -> list[Row]:
        # What is written down has no row that could be used again, and is no candidate once it has an order.
        return load_history(self._db, row, changes) if row.decision_id is None else []

    def _judge_change(
        self, row: AnalysisRow, decision: Decision, control: Control, history: list[Row],
    ) -> Verdict:
        target = find_target(self._db, row, decision)
        if target.trade is not None and target.trade.id in cancelled_trades(history):
            return Verdict(Result.MARKED, "the order was cancelled already", decision, target=target.trade)
        if target.refusal is not None:
            return Verdict(Result.REFUSED, target.refusal, decision, target=target.trade)
        if target.waits is not None:
            return Verdict(Result.WAITING, target.waits, decision)
        return replace(self._judge_trade(row, decision, control, target.trade), target=target.trade)

    def _judge_trade(
        self, row: AnalysisRow, decision: Decision, control: Control, replaced: Trade | None = None,
    ) -> Verdict:
        decided_at, now = decision_time(row.decided_at, decision.analysis_date, self._zone), self._clock.now()
        if decision.trade is None:
            checks = [check_age(self._limits, decided_at, now)]
        else:
            facts = self._situation(decision.symbol, control, replaced, now)
            checks = check_trade(decision.symbol, decision.trade, decided_at, self._limits, facts)
        last = checks[-1]
        result = _RESULT_OF_HOLD[last.hold] if last.hold else Result.REFUSED
        return Verdict(Result.PLACED if last.passed else result, last.refusal or "", decision, checks)

    def _situation(self, symbol: str, control: Control, replaced: Trade | None, now: datetime) -> Situation:
        view = self._view
        return Situation(
            now, control.state, control.reason, view.account, view.assets.get(symbol), (view.trades or {}).get(symbol),
            self.book, self._day_pnl, priced=view.is_priced(symbol), hours=view.hours,
            unanswered=view.missing(symbol), replaces=replaced.entry["id"] if replaced else None,
            entered=replaced.entered if replaced else Decimal(0),
        )


_RESULT_OF_SEEN = {
    Seen.UNFINISHED: Result.WAITING,
    Seen.UNMARKED: Result.MARKED,
    Seen.DUPLICATE: Result.REFUSED,
}
_RESULT_OF_HOLD = {
    Hold.HALTED: Result.HELD_BACK,
    Hold.LATER: Result.WAITING,
    Hold.UNPRICED: Result.UNPRICED,
    Hold.UNANSWERED: Result.UNREACHED,
}
# Where the database would not say what became of an order, nobody knows.
_STATUS_OF_RESULT = {
    Result.PLACED: OrderStatus.PENDING,
    Result.REFUSED: OrderStatus.REJECTED,
    Result.NOT_SENT: OrderStatus.INTENDED,
    Result.HELD_BACK: OrderStatus.INTENDED,
    Result.UNKNOWN: OrderStatus.UNKNOWN,
    Result.WAITING: OrderStatus.UNKNOWN,
}


def decision_of(row: AnalysisRow) -> Decision | None:
    """Return what a row asks for, or None when it cannot be read."""
    try:
        return parse_decision(row.text, row.ticker)
    except DecisionError:
        return None


def _seen(before: Before, decision: Decision | None = None) -> Verdict:
    resumes = before.seen is Seen.UNFINISHED
    return Verdict(_RESULT_OF_SEEN[before.seen], before.reason, decision, order_id=before.order_id, resumes=resumes)
