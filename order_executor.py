"""Carries out approved decisions: each is claimed, checked, written down, and sent to the broker once."""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace

import requirements_check  # noqa: F401
from account_watch import ask_for_account
from alert_round import run_worker
from alpaca_client import Broker, BrokerError, Holding, Outcome
from analysis_rows import LONGEST_ID, AnalysisRow
from audit_trail import AlertKind, AlertLevel, NewDecision, create_decision, finish_decision, raise_alert
from clock import Clock
from command_line import EXIT_DONE, EXIT_FAILED, arguments, show
from config import Settings
from daily_loss import day_pnl, watch_daily_loss
from db_layer import NO_DATA, DatabaseError, Row, TradingDB
from decision import Action
from decision_review import FAILURES, DecisionReview, Result, Verdict, Wait, decision_of
from kill_switch import Control, TradingState, current_control, entries_allowed
from limit_raises import limits_in_force
from order_changes import OrderChanges, Progress, Step, add_entry, claim_trade, order_name
from order_life import DecisionStatus
from parts import PROGRAM_ERRORS, build_parts
from pass_log import PassLog
from risk_gate import record_checks
from session_locks import hold_account
from startup_barrier import StartupBarrier, unexplained_difference
from unsent_entries import UnsentEntries
from written_decisions import WrittenDecisions

STRATEGY = "n8n_analysis"
STRATEGY_VERSION = "1"
UNREADABLE_SYMBOL = "?"
UNSTORABLE = ("22", "23", "54")  # SQLSTATE classes: data exception, integrity violation, limit exceeded

# Rows with the same Analysis_Id are looked at one after the other, also by two processes.
TAKE_TURNS = "SELECT pg_advisory_xact_lock(hashtextextended(%(analysis_id)s, 0))"
REFUSED_SINCE = """
SELECT COALESCE(analysis_decision_id, symbol) AS name, status_reason AS reason FROM audit.trade_decisions
WHERE strategy_name = %(strategy)s AND status = 'failed' AND failed_at >= %(since)s ORDER BY id
"""
log = logging.getLogger("order_executor")

NOT_SETTLED = Result.HELD_BACK, "the account is settled before entries go out, which the next pass does"


class OrderExecutor:
    """One pass over approved, unexecuted decisions: n8n's, or with `written` those of a strategy of ours."""

    def __init__(
        self, test_mode: bool = False, db: TradingDB | None = None, broker: Broker | None = None,
        clock: Clock | None = None, settings: Settings | None = None, written: WrittenDecisions | None = None,
    ) -> None:
        self._parts = parts = build_parts(test_mode, db, broker, clock, settings, "order_executor")
        self._given = self._settings = parts.settings
        self._db = parts.db
        self._broker = parts.broker
        self._clock = parts.clock
        self._analysis = parts.analysis
        self._written = written
        self._inbox = written or parts.analysis
        self._desk = parts.desk
        self._unsent = UnsentEntries(parts.db, parts.broker, parts.clock, parts.desk, parts.analysis)
        self._review = DecisionReview(parts.db, parts.broker, parts.clock, parts.settings)
        self._results: Counter[Result] = Counter()
        self._wait: Wait | None = NOT_SETTLED
        self._holdings: Mapping[str, Holding] | None = None
        self._began = parts.clock.now()

    def close(self) -> None:
        """Close the connections that were opened for it."""
        self._parts.close()

    def run(self) -> Counter[Result]:
        """Carry out what is approved and return how many decisions came to which result.

        Raises DatabaseError and BrokerError when the pass cannot do its work.
        """
        with hold_account(self._db):
            return self._pass()

    def _pass(self) -> Counter[Result]:
        self._results, self._began = Counter(), self._clock.now()
        self._take_limits()
        found = PassLog(self._db, self._clock)
        account = ask_for_account(self._broker, found)
        self._wait = self._settle(found)
        self._desk.close_interrupted_cancels()
        pnl = watch_daily_loss(self._db, self._settings.limits, self._clock.now())
        unreached = self._resume_changes()
        self._resume_unsent()
        candidates = [row for row in self._inbox.candidates() if row.row_key not in unreached]
        self._review.begin(candidates, account, self._settings.limits, pnl, self._holdings)
        self._hear_doubtful()
        for row in candidates:
            self._results[self._carry_out(row)] += 1
        if self._written is None:
            self._alert_edited_rows(found)
        log.info("executor pass finished", extra={str(name): count for name, count in self._results.items()})
        return self._results

    def refusals(self) -> list[str]:
        """Return a line for each decision that the last pass refused. Raises DatabaseError."""
        strategy = self._written.strategy_name if self._written else STRATEGY
        found = self._db.execute_query(REFUSED_SINCE, {"strategy": strategy, "since": self._began})
        return [f"{row['name']}: refused: {row['reason']}" for row in found]

    def preview(self) -> list[str]:
        """Return a line for each decision that a pass would look at; nothing is written or sent."""
        self._broker.record_with(None)
        self._take_limits()
        account, pnl = self._broker.account(), day_pnl(self._db, self._clock.now())
        difference = unexplained_difference(self._db)
        self._wait = (Result.HELD_BACK, difference) if difference else None
        candidates = self._inbox.candidates()
        self._review.begin(candidates, account, self._settings.limits, pnl)
        return [line for number, row in enumerate(candidates) if (line := self._preview(row, -1 - number))]

    def handle_new_trade(self, row: AnalysisRow, verdict: Verdict) -> int:
        """Write down a NEW_TRADE that passed, inside the open transaction; return the id of its intended order."""
        decision, now = verdict.decision, self._clock.now()
        if decision is None or decision.trade is None:
            raise ValueError("a NEW_TRADE that passed always holds a trade")
        decision_id = self._write_decision(row, verdict)
        name = order_name(row.text_sha256, row.row_key)
        return add_entry(self._db, name, decision.symbol, decision.trade, row.analysis_id, decision_id, now)

    def handle_cancel(self, decision_id: int) -> Result:
        """Have the broker cancel what a claimed CANCEL is about, as far as it can be done now."""
        return _RESULT_OF_PROGRESS[self._go_on(decision_id).progress]

    def handle_amend(self, decision_id: int) -> Result:
        """Cancel the old order of a claimed AMEND and, once that is confirmed, send the new one."""
        step = self._go_on(decision_id)
        if step.order_id is None:
            return _RESULT_OF_PROGRESS[step.progress]
        return self._submit(step.order_id)

    def _settle(self, found: PassLog) -> Wait | None:
        """Settle what earlier passes left open, and before new entries the whole account; return why entries wait."""
        self._holdings = None
        if not self._has_entries():
            self._desk.settle_unfinished(found)
            return NOT_SETTLED  # an entry that is approved, or allowed, from here on
        barrier = StartupBarrier(self._db, self._broker, self._clock, self._desk, found)
        try:
            difference = barrier.settle()
        except BrokerError as error:
            return Result.UNREACHED, f"the account was not settled, so entries wait: {error}"
        self._holdings = barrier.holdings
        return (Result.HELD_BACK, difference) if difference else None

    def _has_entries(self) -> bool:
        if not entries_allowed(self._db):
            return False
        wanted = map(decision_of, self._inbox.candidates())
        return any(decision is not None and decision.trade is not None for decision in wanted) or bool(
            self._unsent.load()
        )

    def _alert_edited_rows(self, found: PassLog) -> None:
        """Say which rows were edited after their claim: what was claimed is what is carried out."""
        edited = self._analysis.edited()
        for row_key, analysis_id in edited.items():
            words = (
                f"the decision {analysis_id} was edited after it was taken; it is carried out as it was, so cancel it "
                "or write a new row"
            )
            found.alert(AlertLevel.WARNING, AlertKind.DECISION_EDITED, row_key, words)
        found.resolve_others((AlertKind.DECISION_EDITED,), edited.keys())

    def _take_limits(self) -> None:
        """Take the limits of this pass: the settings', with what a person has raised for a while."""
        limits = limits_in_force(self._db, self._given.limits, self._clock.now())
        self._settings = replace(self._given, limits=limits)
        self._changes = OrderChanges(self._db, self._clock, self._desk, self._analysis, limits)

    def _hear_doubtful(self) -> None:
        """Ask for the entries of which the account's positions show more than our books, and count anew."""
        doubtful = self._review.book.doubtful()
        for order_id in doubtful:
            try:
                self._desk.refresh(order_id)
            except BrokerError as error:
                log.warning("an order counts as we know it", extra={"order": order_id, "error": error})
        if doubtful:
            self._review.load_book()

    def _carry_out(self, row: AnalysisRow) -> Result:
        control, wanted = current_control(self._db), decision_of(row)
        if control.state is not TradingState.ACTIVE and (wanted is None or wanted.action is not Action.CANCEL):
            return _left(row, Result.HELD_BACK, f"trading is {control.state}: {control.reason}")
        if self._wait is not None and wanted is not None and wanted.trade is not None:
            return _left(row, *self._wait)
        try:
            with self._db.transaction():
                verdict, claimed = self._claim(row, control)
        except DatabaseError as error:
            return self._handle_unstorable(row, error)
        if claimed is not None and verdict.decision is not None:
            result = self._send(verdict.decision.action, claimed)
            if verdict.target is None:
                self._review.note(row, verdict, claimed, result)
            else:
                self._review.load_book()
            return _left(row, result, _WHY_LEFT[result]) if result in _WHY_LEFT else result
        self._mark(row, verdict)
        if verdict.result in (Result.WAITING, Result.UNPRICED, Result.HELD_BACK, Result.UNREACHED):
            return _left(row, verdict.result, verdict.reason)
        return verdict.result

    def _send(self, action: Action, claimed: int) -> Result:
        match action:
            case Action.CANCEL:
                return self.handle_cancel(claimed)
            case Action.AMEND:
                return self.handle_amend(claimed)
        return self._submit(claimed)

    def _submit(self, order_id: int) -> Result:
        """Send an order so that one the database will not let go of does not stop the others."""
        try:
            return _RESULT_OF_OUTCOME[self._desk.submit(order_id)]
        except DatabaseError as error:
            if error.lost_connection:
                raise
            self._leave_alone(f"of order {order_id}", error)
            return Result.WAITING

    def _claim(self, seen: AnalysisRow, control: Control) -> tuple[Verdict, int | None]:
        """Write down what is to be done; the id is of the order to send, or of the change to go on with."""
        row = self._inbox.lock(seen.row_key)
        if row is None or row != seen:
            return Verdict(Result.WAITING, "the row changed while it was looked at, or another process has it"), None
        self._db.execute_later(TAKE_TURNS, {"analysis_id": row.analysis_id or ""})
        verdict = self._review.judge(row, control)
        if verdict.result is Result.PLACED and verdict.target is None:
            return verdict, self.handle_new_trade(row, verdict)
        if verdict.result is Result.PLACED and verdict.target is not None:
            if claim_trade(self._db, verdict.target):
                return verdict, self._write_decision(row, verdict)
            return Verdict(Result.WAITING, "another change of the order has just been claimed"), None
        if verdict.result is Result.REFUSED:
            self._write_refusal(row, verdict)
        return verdict, None

    def _mark(self, row: AnalysisRow, verdict: Verdict) -> None:
        if row.decision_id is not None:
            return
        if verdict.result is Result.MARKED and verdict.order_id is not None:
            self._desk.mark(verdict.order_id)
        elif verdict.result is Result.MARKED and verdict.target is not None:
            entry = verdict.target.entry
            self._desk.mark_done(row.row_key, row.known_as, entry["alpaca_order_id"], verdict.target.id)
        elif verdict.result in (Result.REFUSED, Result.MARKED):
            self._desk.mark_refused(row.row_key, row.known_as, verdict.reason)

    def _write_decision(self, row: AnalysisRow, verdict: Verdict) -> int:
        now = self._clock.now()
        decision_id = row.decision_id or create_decision(self._db, new_decision(row, verdict), now)
        record_checks(self._db, decision_id, verdict.checks, now)
        return decision_id

    def _write_refusal(self, row: AnalysisRow, verdict: Verdict) -> None:
        decision_id = self._write_decision(row, verdict)
        finish_decision(self._db, decision_id, DecisionStatus.FAILED, verdict.reason, self._clock.now())
        log.info("decision refused", extra={"decision": row.name, "reason": verdict.reason})

    def _handle_unstorable(self, row: AnalysisRow, error: DatabaseError) -> Result:
        """Keep one row that the database will not take from stopping the others; a lost connection goes up."""
        if error.lost_connection:
            raise error
        if (error.sqlstate or "")[:2] in UNSTORABLE:
            verdict = Verdict(Result.REFUSED, f"the decision cannot be stored: {error}")
            try:
                with self._db.transaction():
                    self._write_refusal(row, verdict)
                self._mark(row, verdict)
                return Result.REFUSED
            except DatabaseError as second:
                error = second
        return self._leave_alone(row.row_key, error)

    def _leave_alone(self, row_key: str, error: DatabaseError) -> Result:
        message = f"decision {row_key} cannot be worked on: {error}"
        raise_alert(self._db, AlertLevel.WARNING, AlertKind.DECISION_LEFT_ALONE, row_key, message, self._clock.now())
        return Result.WAITING

    def _resume_changes(self) -> set[str]:
        """Go on with cancels and amends that are not finished; their new orders are sent with the unsent ones.

        Returns the keys of the rows about which the broker did not answer.
        """
        unreached = set()
        for change in self._changes.unfinished():
            step = self._tolerant(change)
            if step.progress in (Progress.DONE, Progress.FAILED, Progress.UNREACHED):  # else its row is counted
                self._results[_RESULT_OF_PROGRESS[step.progress]] += 1
            if step.progress is Progress.UNREACHED:
                unreached.add(change["analysis_row_key"])
        return unreached

    def _go_on(self, decision_id: int) -> Step:
        """Go on with a change just claimed, unless another process has finished it."""
        found = self._changes.unfinished(decision_id)
        return self._tolerant(found[0]) if found else Step(Progress.WAITING)

    def _tolerant(self, change: Row) -> Step:
        """Carry a change on so that a failure leaves it to the next pass; a lost database goes up."""
        try:
            return self._changes.go_on(change)
        except BrokerError as error:
            log.warning("a change goes on at the next pass", extra={"decision": change["id"], "error": error})
            return Step(Progress.UNREACHED)
        except DatabaseError as error:
            if error.lost_connection:
                raise
            self._leave_alone(change["analysis_row_key"], error)
        return Step(Progress.WAITING)

    def _resume_unsent(self) -> None:
        for order in self._unsent.load():
            if order["claimed_at"] is None:
                self._leave_alone(f"of order {order['id']}", DatabaseError("its decision is gone", NO_DATA))
            elif (ended := self._unsent.give_up(order, self._settings.limits)) is not None:
                self._results[ended] += 1
            elif (wait := self._wait or self._unsent.wait_for_session(order)) is not None:
                self._results[wait[0]] += order["analysis_row_key"] is None  # else its row is counted
            else:
                self._results[self._submit(order["id"])] += 1

    def _preview(self, row: AnalysisRow, number: int) -> str | None:
        """Say what would become of a row; what would be sent counts for the next one, under this number."""
        verdict = self._review.judge(row, current_control(self._db))
        if verdict.result is Result.UNTOUCHED:
            return None
        if verdict.result is Result.REFUSED:
            return f"{row.name}: would be refused: {verdict.reason}"
        if verdict.resumes:
            return f"{row.name}: would be taken up again ({verdict.reason})"
        if verdict.result is Result.HELD_BACK:
            return f"{row.name}: {_shown(verdict)}: would be held back, {verdict.reason}"
        if verdict.result is not Result.PLACED or verdict.decision is None:
            return f"{row.name}: would not be sent: {verdict.reason}"
        if verdict.decision.trade is not None and self._wait is not None:
            return f"{row.name}: {_shown(verdict)}: would be held back, {self._wait[1]}"
        if verdict.target is None:
            self._review.note(row, verdict, number, Result.PLACED)
        return f"{row.name}: {_shown(verdict)}: would be sent"


_RESULT_OF_OUTCOME = {
    Outcome.ACCEPTED: Result.PLACED,
    Outcome.REFUSED: Result.REFUSED,
    Outcome.NOT_SENT: Result.NOT_SENT,
    Outcome.UNKNOWN: Result.UNKNOWN,
    None: Result.HELD_BACK,
}
_RESULT_OF_PROGRESS = {
    Progress.DONE: Result.CANCELLED,
    Progress.FAILED: Result.REFUSED,
    Progress.WAITING: Result.WAITING,
    Progress.HELD_BACK: Result.HELD_BACK,
    Progress.UNREACHED: Result.UNREACHED,
}
_WHY_LEFT = {
    Result.WAITING: "its cancel or amend is not finished yet",
    Result.HELD_BACK: "trading was halted after the claim, or another process has sent it",
}


def main(argv: list[str] | None = None) -> int:
    """Run one pass from the command line and return the exit status."""
    parser = arguments(
        "Carry out approved, unexecuted decisions once.",
        ("--dry-run", "say what would be sent or refused; write and send nothing"),
    )
    return run_worker(parser, argv, _work, PROGRAM_ERRORS)


def _work(options: argparse.Namespace, settings: Settings) -> int:
    with closing(OrderExecutor(options.test_mode, settings=settings)) as executor:
        if options.dry_run:
            show("\n".join(executor.preview()) or "No approved decisions are waiting.")
            return EXIT_DONE
        results = executor.run()
        refusals = executor.refusals() if results[Result.REFUSED] else []
    show(", ".join(f"{result}: {count}" for result, count in sorted(results.items())) or _nothing_to_do(options))
    show("\n".join(refusals))
    return EXIT_FAILED if any(results[result] for result in FAILURES) else EXIT_DONE


def _nothing_to_do(options: argparse.Namespace) -> str:
    hint = " To put one there: python scripts/rehearse.py decide" if options.test_mode else ""
    return f"No approved decisions are waiting.{hint}"


def new_decision(row: AnalysisRow, verdict: Verdict) -> NewDecision:
    """Return the decision to record; a verdict without one is about a text that could not be read."""
    decision, target = verdict.decision, verdict.target
    trade = decision.trade if decision else None
    return NewDecision(
        strategy_name=STRATEGY, strategy_version=STRATEGY_VERSION,
        action=(decision.action if decision else Action.NEW_TRADE).lower(),
        symbol=(decision.symbol if decision else (row.ticker or "").strip()[:20]) or UNREADABLE_SYMBOL,
        side=trade.side if trade else None, quantity=trade.qty if trade else None,
        order_type=trade.order_type if trade else None, limit_price=trade.limit_price if trade else None,
        analysis_decision_id=row.known_as,
        analysis_row_key=row.row_key[:LONGEST_ID], target_order_id=target.entry["id"] if target else None,
        source_bytes=row.text, source_bytes_sha256=row.text_sha256, decided_at=row.decided_at,
        rationale={
            "trigger_event": {
                "type": "analysis_decision", "decided_at": row.decided_at.isoformat() if row.decided_at else None,
            },
            "source_data": {"table": "analysis_decision", "row_key": row.row_key, "analysis_id": row.analysis_id},
        },
    )


def _left(row: AnalysisRow, result: Result, reason: str) -> Result:
    log.info(f"decision {result}", extra={"decision": row.name, "reason": reason})
    return result


def _shown(verdict: Verdict) -> str:
    """Say in words what a verdict would have done."""
    decision, target = verdict.decision, verdict.target
    old = f"the order {target.entry['alpaca_order_id'] or 'not sent yet'} of {target.name}" if target else ""
    if decision is None or decision.trade is None:
        return f"cancel {old}"
    trade = decision.trade
    price = f"{trade.limit_price:f}" if trade.limit_price is not None else "market"
    order = f"{trade.side} {trade.qty:f} {decision.symbol} at {price}"
    return f"replace {old} by {order}, less what it has filled" if target else order


if __name__ == "__main__":
    sys.exit(main())
