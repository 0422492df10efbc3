"""Carries out approved decisions: each is claimed, checked, written down, and sent to the broker once."""

import argparse
import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from alpaca_client import Broker, BrokerError, Outcome
from analysis_rows import AnalysisRow
from audit_trail import NewDecision, create_decision, finish_decision
from clock import Clock
from config import Settings
from db_layer import DatabaseError, Row, TradingDB
from decision import Action, Decision, DecisionError, NewTrade, OrderType, parse_decision
from order_life import DecisionStatus, ExitReason, JournalStatus, OrderRole, OrderStatus
from order_records import Intent, add_intent, set_status
from program import EXIT_DONE, EXIT_FAILED, arguments, build_parts, run_program, show
from risk_gate import RiskCheck, Situation, check_age, check_trade, decision_time, entries_allowed, record_checks
from trade_records import TradeEnd, add_trade, end_trade

STRATEGY = "n8n_analysis"
STRATEGY_VERSION = "1"
UNREADABLE_SYMBOL = "?"
UNSTORABLE = ("22", "23")  # SQLSTATE classes: data exception, integrity constraint violation

# A row with the same Analysis_Id, or the same row set back to unexecuted, was carried out already.
CARRIED_OUT = """
SELECT id, analysis_row_key, status, created_at FROM audit.trade_decisions
WHERE analysis_decision_id = %(analysis_id)s OR analysis_row_key = %(row_key)s
ORDER BY id
"""
# Claimed earlier, and what became of it provably never reached the broker.
UNSENT_ENTRIES = """
SELECT orders.*, decision.analysis_row_key, decision.created_at AS claimed_at, decision.decision_rationale
FROM order_execution orders JOIN audit.trade_decisions decision ON decision.id = orders.trade_decision_id
WHERE orders.order_status = 'intended' AND orders.order_type = 'ENTRY' AND decision.status = 'pending'
ORDER BY orders.id
"""

log = logging.getLogger("order_executor")


class Result(StrEnum):
    """What a pass did with one decision."""

    PLACED = "placed"
    REFUSED = "refused"
    UNKNOWN = "unknown outcome"
    NOT_SENT = "not sent"
    HELD_BACK = "held back"
    WAITING = "waiting"
    UNTOUCHED = "untouched"


@dataclass(frozen=True)
class Claim:
    """A decision that passed and is written down; `order_id` is the intended entry."""

    order_id: int
    symbol: str


class OrderExecutor:
    """One pass over approved, unexecuted decisions."""

    def __init__(
        self, test_mode: bool = False, db: TradingDB | None = None, broker: Broker | None = None,
        clock: Clock | None = None, settings: Settings | None = None,
    ) -> None:
        parts = build_parts(test_mode, db, broker, clock, settings, "order_executor")
        self._settings = parts.settings
        self._db = parts.db
        self._broker = parts.broker
        self._clock = parts.clock
        self._analysis = parts.analysis
        self._desk = parts.desk
        self._results: Counter[Result] = Counter()

    def run(self) -> Counter[Result]:
        """Carry out what is approved and return how many decisions came to which result.

        Raises DatabaseError and BrokerError when the pass cannot do its work.
        """
        self._results = Counter()
        self._broker.account()
        self._desk.settle_unfinished()
        self._resume_unsent()
        candidates = self._analysis.candidates()
        prices = self._reference_prices(candidates)
        for row in candidates:
            if not entries_allowed(self._db):
                self._results[Result.HELD_BACK] += 1
                continue
            self._carry_out(row, prices)
        log.info("executor pass finished", extra={str(name): count for name, count in self._results.items()})
        return self._results

    def preview(self) -> list[str]:
        """Return a line for each decision that a pass would look at; nothing is written or sent."""
        candidates = self._analysis.candidates()
        prices = self._reference_prices(candidates)
        return [line for row in candidates if (line := self._preview(row, prices))]

    def handle_new_trade(self, row: AnalysisRow, decision: Decision, price: Decimal | None) -> Claim | str:
        """Check and write down a NEW_TRADE inside the open transaction; return the claim, or why it was refused."""
        trade = decision.trade
        if trade is None:
            raise ValueError("a NEW_TRADE decision always holds a trade")
        now = self._clock.now()
        checks = check_trade(decision.symbol, trade, self._settings.limits, self._situation(row, decision, price))
        decision_id = create_decision(self._db, _new_decision(row, decision), now)
        record_checks(self._db, decision_id, checks, now)
        refusal = _refusal(checks)
        if refusal is not None:
            finish_decision(self._db, decision_id, DecisionStatus.FAILED, refusal, now)
            return refusal
        return Claim(self._write_intent(row, decision.symbol, trade, decision_id, now), decision.symbol)

    def _carry_out(self, row: AnalysisRow, prices: dict[str, Decimal] | None) -> None:
        try:
            with self._db.transaction():
                claimed = self._claim(row, prices)
        except DatabaseError as error:
            if (error.sqlstate or "")[:2] not in UNSTORABLE:
                raise
            # One row the database will not take must not keep the others waiting.
            log.error("decision left alone", extra={"analysis_id": row.analysis_id, "error": error})
            claimed = Result.WAITING
        if isinstance(claimed, Claim):
            outcome = self._desk.submit(claimed.order_id)
            self._results[_RESULT_OF_OUTCOME[outcome]] += 1
        else:
            self._results[claimed] += 1

    def _claim(self, seen: AnalysisRow, prices: dict[str, Decimal] | None) -> Claim | Result:
        row = self._analysis.lock(seen.row_key)
        if row is None or row != seen:
            return Result.WAITING
        earlier = self._db.execute_query(CARRIED_OUT, {"analysis_id": row.analysis_id, "row_key": row.row_key})
        if any(decision["analysis_row_key"] == row.row_key and decision["status"] == "pending" for decision in earlier):
            return Result.WAITING
        try:
            decision = parse_decision(row.text, row.ticker)
        except DecisionError as error:
            return self._refuse(row, str(error), already=bool(earlier))
        if decision.action is not Action.NEW_TRADE:
            return Result.UNTOUCHED
        if earlier:
            first = f"{earlier[0]['created_at']:%Y-%m-%d %H:%M} UTC"
            words = f"duplicate: Analysis_Id {row.analysis_id} was carried out on {first}"
            return self._refuse(row, words, already=True)
        if not row.analysis_id:
            return self._refuse(row, "the row has no Analysis_Id, so a repetition of it could not be recognised")
        if _is_market(decision) and prices is None:
            return Result.WAITING
        claim = self.handle_new_trade(row, decision, (prices or {}).get(decision.symbol))
        if isinstance(claim, Claim):
            return claim
        self._analysis.mark_refused(row.row_key, claim, self._clock.now())
        return Result.REFUSED

    def _refuse(self, row: AnalysisRow, reason: str, already: bool = False) -> Result:
        """Mark a row that cannot be used; a decision of the audit trail fails with it unless the row has one."""
        now = self._clock.now()
        if not already:
            decision_id = create_decision(self._db, _new_decision(row, None), now)
            finish_decision(self._db, decision_id, DecisionStatus.FAILED, reason, now)
        self._analysis.mark_refused(row.row_key, reason, now)
        log.info("decision refused", extra={"analysis_id": row.analysis_id, "reason": reason})
        return Result.REFUSED

    def _write_intent(
        self, row: AnalysisRow, symbol: str, trade: NewTrade, decision_id: int, now: datetime,
    ) -> int:
        name = order_name(row)
        trade_id = f"{symbol}-{now:%Y%m%d}-{name.removeprefix('tm-')}"
        journal_id = add_trade(self._db, trade_id, symbol, trade, row.analysis_id, decision_id, now)
        return add_intent(self._db, Intent(
            trade_journal_id=journal_id, trade_decision_id=decision_id, analysis_decision_id=row.analysis_id,
            client_order_id=f"{name}-e", role=OrderRole.ENTRY, side=trade.side, time_in_force=trade.time_in_force,
            qty=trade.qty, limit_price=trade.limit_price,
        ), now)

    def _resume_unsent(self) -> None:
        for order in self._db.execute_query(UNSENT_ENTRIES):
            refusal = check_age(self._settings.limits, self._situation_at_claim(order)).refusal
            if refusal is not None:
                self._give_up(order, f"not_placed: the broker could not be reached and {refusal}")
                continue
            outcome = self._desk.submit(order["id"])
            self._results[_RESULT_OF_OUTCOME[outcome]] += 1

    def _give_up(self, order: Row, reason: str) -> None:
        now = self._clock.now()
        with self._db.transaction():
            set_status(self._db, order["id"], OrderStatus.CANCELLED, now)
            finish_decision(self._db, order["trade_decision_id"], DecisionStatus.FAILED, reason, now)
            end_trade(
                self._db, order["trade_journal_id"], TradeEnd(JournalStatus.CANCELLED, ExitReason.EXPIRED, now), now,
            )
            if order["analysis_row_key"] is not None:
                self._analysis.mark_refused(order["analysis_row_key"], reason, now)
        self._results[Result.REFUSED] += 1

    def _reference_prices(self, rows: Iterable[AnalysisRow]) -> dict[str, Decimal] | None:
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

    def _situation(self, row: AnalysisRow, decision: Decision, price: Decimal | None) -> Situation:
        decided_at = decision_time(row.decided_at, decision.analysis_date, self._settings.analysis_timezone)
        return Situation(self._clock.now(), decided_at, price)

    def _situation_at_claim(self, order: Row) -> Situation:
        decided_at = order["decision_rationale"]["trigger_event"].get("decided_at")
        return Situation(
            self._clock.now(), datetime.fromisoformat(decided_at) if decided_at else order["claimed_at"], None,
        )

    def _preview(self, row: AnalysisRow, prices: dict[str, Decimal] | None) -> str | None:
        try:
            decision = parse_decision(row.text, row.ticker)
        except DecisionError as error:
            return f"{row.analysis_id}: would be refused: {error}"
        trade = decision.trade
        if decision.action is not Action.NEW_TRADE or trade is None:
            return None
        price = (prices or {}).get(decision.symbol)
        refusal = _refusal(
            check_trade(decision.symbol, trade, self._settings.limits, self._situation(row, decision, price)),
        )
        order = f"{trade.side} {trade.qty:f} {decision.symbol} at {trade.limit_price or 'market'}"
        return f"{row.analysis_id}: {order}: " + (f"would be refused: {refusal}" if refusal else "would be sent")


_RESULT_OF_OUTCOME = {
    Outcome.ACCEPTED: Result.PLACED,
    Outcome.REFUSED: Result.REFUSED,
    Outcome.NOT_SENT: Result.NOT_SENT,
    Outcome.UNKNOWN: Result.UNKNOWN,
    None: Result.HELD_BACK,
}


def order_name(row: AnalysisRow) -> str:
    """Return the stem of the client order ids of a row's trade: its bytes' digest and its key's digest.

    The same row gives the same stem for ever; with its suffix an id stays under 48 characters.
    """
    return f"tm-{_sha256(row.text or '')[:12]}-{_sha256(row.row_key)[:10]}"


def main(argv: list[str] | None = None) -> int:
    """Run one pass from the command line and return the exit status."""
    parser = arguments(
        "Carry out approved, unexecuted decisions once.",
        ("--dry-run", "say what would be sent or refused; write and send nothing"),
    )
    return run_program(parser, argv, _work)


def _work(options: argparse.Namespace, settings: Settings) -> int:
    executor = OrderExecutor(options.test_mode, settings=settings)
    if options.dry_run:
        show("\n".join(executor.preview()) or "No approved decisions are waiting.")
        return EXIT_DONE
    results = executor.run()
    show(", ".join(f"{result}: {count}" for result, count in sorted(results.items())) or _nothing_to_do(options))
    return EXIT_FAILED if results[Result.NOT_SENT] else EXIT_DONE


def _nothing_to_do(options: argparse.Namespace) -> str:
    hint = " To put one there: python scripts/rehearse.py decide" if options.test_mode else ""
    return f"No approved decisions are waiting.{hint}"


def _new_decision(row: AnalysisRow, decision: Decision | None) -> NewDecision:
    """Return the decision to record; None stands for one that could not be read."""
    trade = decision.trade if decision else None
    return NewDecision(
        strategy_name=STRATEGY, strategy_version=STRATEGY_VERSION,
        action=(decision.action if decision else Action.NEW_TRADE).lower(),
        symbol=decision.symbol if decision else (row.ticker or "").strip()[:20] or UNREADABLE_SYMBOL,
        side=trade.side if trade else None, quantity=trade.qty if trade else None,
        order_type=trade.order_type if trade else None, limit_price=trade.limit_price if trade else None,
        analysis_decision_id=row.analysis_id, analysis_row_key=row.row_key,
        source_bytes=row.text, source_bytes_sha256=_sha256(row.text or ""),
        rationale={
            "trigger_event": {
                "type": "analysis_decision", "decided_at": row.decided_at.isoformat() if row.decided_at else None,
            },
            "source_data": {"table": "analysis_decision", "row_key": row.row_key, "analysis_id": row.analysis_id},
        },
    )


def _refusal(checks: list[RiskCheck]) -> str | None:
    return checks[-1].refusal


def _is_market(decision: Decision) -> bool:
    return decision.trade is not None and decision.trade.order_type is OrderType.MARKET


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
