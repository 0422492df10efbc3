"""Carries out approved decisions: each is claimed, checked, written down, and sent to the broker once."""

import argparse
import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

import requirements_check  # noqa: F401
from alpaca_client import Broker, BrokerError, Outcome
from analysis_rows import AnalysisRow
from audit_trail import AlertLevel, NewDecision, create_decision, finish_decision, raise_alert
from clock import Clock
from command_line import EXIT_DONE, EXIT_FAILED, arguments, run_program, show
from config import Settings
from db_layer import DatabaseError, Row, TradingDB
from decision import Action, Decision, DecisionError, NewTrade, OrderType, parse_decision
from order_life import DecisionStatus, ExitReason, JournalStatus, OrderRole, OrderStatus
from order_records import Intent, add_intent, set_status
from parts import PROGRAM_ERRORS, build_parts
from risk_gate import RiskCheck, Situation, check_age, check_trade, decision_time, entries_allowed, record_checks
from trade_records import TradeEnd, add_trade, end_trades

STRATEGY = "n8n_analysis"
STRATEGY_VERSION = "1"
UNREADABLE_SYMBOL = "?"
LONGEST_ID = 255
UNSTORABLE = ("22", "23", "54")  # SQLSTATE classes: data exception, integrity violation, limit exceeded

# Rows with the same Analysis_Id are looked at one after the other, also by two processes.
TAKE_TURNS = "SELECT pg_advisory_xact_lock(hashtextextended(%(analysis_id)s, 0))"
# What was made of this row, or of another with its Analysis_Id. Only what became an order was carried out.
HISTORY = """
SELECT decision.id, decision.analysis_row_key, decision.status, decision.status_reason, decision.created_at,
       decision.source_bytes_sha256, orders.id AS order_id, orders.alpaca_order_id
FROM audit.trade_decisions decision
LEFT JOIN order_execution orders ON orders.trade_decision_id = decision.id AND orders.order_type = 'ENTRY'
WHERE decision.analysis_decision_id = %(analysis_id)s OR decision.analysis_row_key = %(row_key)s
ORDER BY decision.id
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
    UNPRICED = "waiting for a price"
    WAITING = "waiting"
    MARKED = "marked again"
    UNTOUCHED = "untouched"


@dataclass(frozen=True)
class Verdict:
    """What should become of a row: PLACED means to be sent; `order_id` is an order whose mark is missing."""

    result: Result
    reason: str = ""
    decision: Decision | None = None
    checks: list[RiskCheck] = field(default_factory=list)
    order_id: int | None = None


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
            self._results[self._carry_out(row, prices)] += 1
        log.info("executor pass finished", extra={str(name): count for name, count in self._results.items()})
        return self._results

    def preview(self) -> list[str]:
        """Return a line for each decision that a pass would look at; nothing is written or sent."""
        self._broker.record_with(None)
        self._broker.account()
        candidates = self._analysis.candidates()
        prices = self._reference_prices(candidates)
        halted = not entries_allowed(self._db)
        return [line for row in candidates if (line := self._preview(row, prices, halted))]

    def handle_new_trade(self, row: AnalysisRow, verdict: Verdict) -> int:
        """Write down a NEW_TRADE that passed, inside the open transaction; return the id of its intended order."""
        decision, now = verdict.decision, self._clock.now()
        if decision is None or decision.trade is None:
            raise ValueError("a NEW_TRADE that passed always holds a trade")
        decision_id = create_decision(self._db, _new_decision(row, decision), now)
        record_checks(self._db, decision_id, verdict.checks, now)
        return self._write_intent(row, decision.symbol, decision.trade, decision_id, now)

    def _carry_out(self, row: AnalysisRow, prices: dict[str, Decimal] | None) -> Result:
        if not entries_allowed(self._db):
            return Result.HELD_BACK
        try:
            with self._db.transaction():
                verdict, order_id = self._claim(row, prices)
        except DatabaseError as error:
            return self._handle_unstorable(row, error)
        if verdict.result is Result.PLACED and order_id is not None:
            return _RESULT_OF_OUTCOME[self._desk.submit(order_id)]
        if verdict.result is Result.MARKED and verdict.order_id is not None:
            self._desk.mark(verdict.order_id)
        elif verdict.result in (Result.REFUSED, Result.MARKED):
            self._desk.mark_refused(row.row_key, verdict.reason)
        return verdict.result

    def _claim(self, seen: AnalysisRow, prices: dict[str, Decimal] | None) -> tuple[Verdict, int | None]:
        row = self._analysis.lock(seen.row_key)
        if row is None or row != seen:
            return Verdict(Result.WAITING), None
        self._db.execute_query(TAKE_TURNS, {"analysis_id": row.analysis_id or ""})
        verdict = self._judge(row, prices)
        if verdict.result is Result.PLACED:
            return verdict, self.handle_new_trade(row, verdict)
        if verdict.result is Result.REFUSED:
            self._write_refusal(row, verdict)
        return verdict, None

    def _judge(self, row: AnalysisRow, prices: dict[str, Decimal] | None) -> Verdict:
        """Say what should become of a row; reads only."""
        try:
            decision = parse_decision(row.text, row.ticker)
        except DecisionError as error:
            return self._seen_before(row) or Verdict(Result.REFUSED, str(error))
        if decision.action is not Action.NEW_TRADE or decision.trade is None:
            return Verdict(Result.UNTOUCHED)
        before = self._seen_before(row)
        if before is not None:
            return before
        if not row.analysis_id or len(row.analysis_id) > LONGEST_ID:
            words = f"the row needs an Analysis_Id of 1 to {LONGEST_ID} characters, so that a repetition is recognised"
            return Verdict(Result.REFUSED, words, decision)
        situation = self._situation(row, decision, (prices or {}).get(decision.symbol))
        if prices is None and _is_market(decision) and check_age(self._settings.limits, situation).passed:
            return Verdict(Result.UNPRICED, "the broker gave no prices", decision)
        checks = check_trade(decision.symbol, decision.trade, self._settings.limits, situation)
        refusal = checks[-1].refusal
        return Verdict(Result.REFUSED if refusal else Result.PLACED, refusal or "", decision, checks)

    def _seen_before(self, row: AnalysisRow) -> Verdict | None:
        """Say what was made of this row, or of another with its Analysis_Id, before; None when that hinders nothing."""
        history = self._db.execute_query(HISTORY, {"analysis_id": row.analysis_id, "row_key": row.row_key})
        own = [entry for entry in history if entry["analysis_row_key"] == row.row_key]
        order = next((entry for entry in own if entry["order_id"] is not None), None)
        if order is not None:
            heard = order["alpaca_order_id"]
            if heard is None and order["status"] == DecisionStatus.PENDING:
                return Verdict(Result.WAITING, "its order is not settled yet")
            marked = row.existing_order_id == heard if heard else row.says(order["status_reason"])
            if not marked:
                return Verdict(Result.MARKED, "its outcome is known already", order_id=order["order_id"])
        refusal = own[-1] if own and own[-1]["order_id"] is None else None
        if refusal is not None and not row.says(refusal["status_reason"]) and _same_text(refusal, row):
            return Verdict(Result.MARKED, refusal["status_reason"])
        carried_out = next((entry for entry in history if entry["order_id"] is not None), None)
        if carried_out is None:
            return None
        first = f"{carried_out['created_at']:%Y-%m-%d %H:%M} UTC"
        return Verdict(Result.REFUSED, f"duplicate: Analysis_Id {row.analysis_id} was carried out on {first}")

    def _write_refusal(self, row: AnalysisRow, verdict: Verdict) -> None:
        now = self._clock.now()
        decision_id = create_decision(self._db, _new_decision(row, verdict.decision), now)
        record_checks(self._db, decision_id, verdict.checks, now)
        finish_decision(self._db, decision_id, DecisionStatus.FAILED, verdict.reason, now)
        log.info("decision refused", extra={"analysis_id": row.analysis_id, "reason": verdict.reason})

    def _handle_unstorable(self, row: AnalysisRow, error: DatabaseError) -> Result:
        """Keep one row that the database will not take from stopping the others; a lost connection goes up."""
        if error.lost_connection:
            raise error
        if (error.sqlstate or "")[:2] in UNSTORABLE:
            verdict = Verdict(Result.REFUSED, f"the decision cannot be stored: {error}")
            try:
                with self._db.transaction():
                    self._write_refusal(row, verdict)
                self._desk.mark_refused(row.row_key, verdict.reason)
                return Result.REFUSED
            except DatabaseError as second:
                error = second
        message = f"row {row.row_key} of analysis_decision cannot be worked on: {error}"
        log.error(message)
        raise_alert(self._db, AlertLevel.WARNING, "decision_left_alone", row.row_key, message, self._clock.now())
        return Result.WAITING

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
            row_key = order["analysis_row_key"]
            if refusal is not None:
                self._give_up(order, DecisionStatus.FAILED, f"not_placed: the broker was out of reach, and {refusal}")
            elif row_key is not None and self._analysis.find(row_key) is None:
                words = "the approval was withdrawn before the order could be sent"
                self._give_up(order, DecisionStatus.CANCELLED, words)
            else:
                self._results[_RESULT_OF_OUTCOME[self._desk.submit(order["id"])]] += 1

    def _give_up(self, order: Row, status: DecisionStatus, reason: str) -> None:
        now, failed = self._clock.now(), status is DecisionStatus.FAILED
        why = ExitReason.EXPIRED if failed else ExitReason.CANCELLED
        with self._db.transaction():
            set_status(self._db, order["id"], OrderStatus.CANCELLED, now)
            finish_decision(self._db, order["trade_decision_id"], status, reason, now)
            end_trades(self._db, {order["trade_journal_id"]: TradeEnd(JournalStatus.CANCELLED, why, now)}, now)
        if failed:  # a row without approval is not ours to touch
            self._desk.mark(order["id"])
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

    def _preview(self, row: AnalysisRow, prices: dict[str, Decimal] | None, halted: bool) -> str | None:
        verdict = self._judge(row, prices)
        if verdict.result is Result.UNTOUCHED:
            return None
        if verdict.result is Result.REFUSED:
            return f"{row.analysis_id}: would be refused: {verdict.reason}"
        if verdict.result is not Result.PLACED or verdict.decision is None or verdict.decision.trade is None:
            return f"{row.analysis_id}: would not be sent: {verdict.reason}"
        trade = verdict.decision.trade
        price = f"{trade.limit_price:f}" if trade.limit_price is not None else "market"
        order = f"{trade.side} {trade.qty:f} {verdict.decision.symbol} at {price}"
        return f"{row.analysis_id}: {order}: would be " + ("held back, trading is halted" if halted else "sent")


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
    return run_program(parser, argv, _work, PROGRAM_ERRORS)


def _work(options: argparse.Namespace, settings: Settings) -> int:
    executor = OrderExecutor(options.test_mode, settings=settings)
    if options.dry_run:
        show("\n".join(executor.preview()) or "No approved decisions are waiting.")
        return EXIT_DONE
    results = executor.run()
    show(", ".join(f"{result}: {count}" for result, count in sorted(results.items())) or _nothing_to_do(options))
    return EXIT_FAILED if results[Result.NOT_SENT] or results[Result.UNPRICED] else EXIT_DONE


def _nothing_to_do(options: argparse.Namespace) -> str:
    hint = " To put one there: python scripts/rehearse.py decide" if options.test_mode else ""
    return f"No approved decisions are waiting.{hint}"


def _new_decision(row: AnalysisRow, decision: Decision | None) -> NewDecision:
    """Return the decision to record; None stands for one that could not be read."""
    trade = decision.trade if decision else None
    return NewDecision(
        strategy_name=STRATEGY, strategy_version=STRATEGY_VERSION,
        action=(decision.action if decision else Action.NEW_TRADE).lower(),
        symbol=(decision.symbol if decision else (row.ticker or "").strip()[:20]) or UNREADABLE_SYMBOL,
        side=trade.side if trade else None, quantity=trade.qty if trade else None,
        order_type=trade.order_type if trade else None, limit_price=trade.limit_price if trade else None,
        analysis_decision_id=row.analysis_id and row.analysis_id[:LONGEST_ID],
        analysis_row_key=row.row_key[:LONGEST_ID],
        source_bytes=row.text, source_bytes_sha256=_sha256(row.text or ""),
        rationale={
            "trigger_event": {
                "type": "analysis_decision", "decided_at": row.decided_at.isoformat() if row.decided_at else None,
            },
            "source_data": {"table": "analysis_decision", "row_key": row.row_key, "analysis_id": row.analysis_id},
        },
    )


def _is_market(decision: Decision) -> bool:
    return decision.trade is not None and decision.trade.order_type is OrderType.MARKET


def _same_text(entry: Row, row: AnalysisRow) -> bool:
    return bool(entry["source_bytes_sha256"] == _sha256(row.text or ""))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
