"""Takes working entries back and replaces them: which order is meant, its end confirmed, the new order written.

A pending decision with a target is the memory of a cancel or an amend that is not finished: every pass goes on with it
from where it was. The old order's end is confirmed before a new one is written, so that never both work.
Source: docs/decisions-in.md, cancel and amend.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from analysis_rows import AnalysisRow, AnalysisRows
from audit_trail import finish_decision
from clock import Clock
from config import Limits
from db_layer import NO_DATA, DatabaseError, Row, TradingDB
from decision import Action, Decision, DecisionError, NewTrade, parse_decision
from kill_switch import entries_allowed
from log_setup import printable
from order_desk import OrderDesk
from order_life import DecisionStatus, ExitReason, JournalStatus, OrderRole, OrderStatus, decimal_text
from order_news import alert_amended
from order_records import Intent, add_intent, lock_if_unsent, set_status
from risk_gate import check_age
from trade import Trade, TradeEnd
from trade_book import load_trades, reload
from trade_records import add_trade, end_trades

LONGEST_SHOWN = 80
# A person may replace an order in the broker's app while it is being cancelled; the successor is cancelled too.
MOST_SUCCESSORS = 3
UNDER_WAY = "the cancel is under way"

FIND_BY_ORDER = """
SELECT orders.order_type, journal.id AS journal_id, journal.trade_id
FROM order_execution orders JOIN trade_journal journal ON journal.id = orders.trade_journal_id
WHERE orders.alpaca_order_id = %(order_id)s
"""
FIND_BY_JOURNAL = """
SELECT journal.id AS journal_id FROM trade_journal journal
WHERE id = %(journal_id)s AND EXISTS (SELECT 1 FROM order_execution orders
                                      WHERE orders.trade_journal_id = journal.id AND orders.order_type = 'ENTRY')
"""
# Decisions whose old order is not done with; there are few pending ones with a target, and an index holds just them.
UNFINISHED = """
SELECT decision.*, target.trade_journal_id AS target_journal_id
FROM audit.trade_decisions decision
JOIN order_execution target ON target.id = decision.target_order_id
WHERE decision.status = 'pending' AND decision.target_order_id IS NOT NULL
  AND (%(id)s::bigint IS NULL OR decision.id = %(id)s)
  AND (%(journal_id)s::bigint IS NULL OR target.trade_journal_id = %(journal_id)s)
  AND NOT EXISTS (SELECT 1 FROM order_execution placed WHERE placed.trade_decision_id = decision.id)
ORDER BY decision.id
"""
LOCK_TRADE = "SELECT 1 FROM trade_journal WHERE id = %(journal_id)s FOR UPDATE"
LOCK_PENDING = "SELECT status_reason FROM audit.trade_decisions WHERE id = %(id)s AND status = 'pending' FOR UPDATE"
# Asked after the lock, in a statement of its own: only then does it see what the former holder wrote.
REPLACED = "SELECT 1 FROM order_execution WHERE trade_decision_id = %(id)s"
NOTE_PROGRESS = """
UPDATE audit.trade_decisions SET status_reason = %(reason)s, updated_at = %(now)s
WHERE id = %(id)s AND status = 'pending'
"""
# The monitor may have ended the trade between the cancel and the replacement.
END_AS_AMENDED = """
UPDATE trade_journal SET exit_reason = 'AMENDED', updated_at = %(now)s
WHERE id = %(journal_id)s AND status = 'CANCELLED' AND exit_reason = 'CANCELLED'
"""

ROLE_WORDS = {
    OrderRole.STOP_LOSS: "the stop", OrderRole.TAKE_PROFIT: "the target", OrderRole.EXIT: "an exit",
}
VERBS = {Action.CANCEL: "cancelled", Action.AMEND: "amended"}

log = logging.getLogger("order_changes")


class Progress(StrEnum):
    """How far a cancel or an amend has come; WRITTEN: the new order only needs to be sent."""

    DONE = "done"
    WRITTEN = "written"
    FAILED = "failed"
    WAITING = "waiting"
    HELD_BACK = "held back"
    UNREACHED = "unreached"


@dataclass(frozen=True)
class Step:
    """What was done about a change now; `order_id` is the new order where it is WRITTEN."""

    progress: Progress
    order_id: int | None = None


@dataclass(frozen=True)
class Target:
    """The trade whose entry is meant, and why it may not be touched, or not yet."""

    trade: Trade | None = None
    refusal: str | None = None
    waits: str | None = None


@dataclass(frozen=True)
class Ending:
    """How a change ends; alarming when it leaves an amended trade without an order."""

    status: DecisionStatus
    reason: str
    alarming: bool = False


class OrderChanges:
    """Carries claimed cancels and amends on, each as far as it can go now."""

    def __init__(
        self, db: TradingDB, clock: Clock, desk: OrderDesk, analysis: AnalysisRows, limits: Limits,
    ) -> None:
        self._db = db
        self._clock = clock
        self._desk = desk
        self._analysis = analysis
        self._limits = limits

    def unfinished(self, decision_id: int | None = None) -> list[Row]:
        """Return the changes that go on, oldest first, or this one if it does. Raises DatabaseError."""
        return self._db.execute_query(UNFINISHED, {"id": decision_id, "journal_id": None})

    def go_on(self, change: Row) -> Step:
        """Carry an unfinished change on from where it is. Raises DatabaseError and BrokerError."""
        try:
            decision = parse_decision(change["source_bytes"], change["symbol"])
        except DecisionError as error:
            words = f"the bytes of the decision are not what was claimed: {error}"
            return self._finish(change, self._trade_of(change), Ending(DecisionStatus.FAILED, words))
        hindrance = self._begin(change, decision)
        if hindrance is not None:
            return hindrance
        trade = self._trade_of(change)
        for _ in range(MOST_SUCCESSORS):
            if trade.entry_ended:
                return self._conclude(change, decision)
            if not self._withdraw(trade.entry):
                break
            trade = reload(self._db, trade)
        if trade.entry["alpaca_order_id"] is not None and not self._desk.refresh(trade.entry["id"]):
            words = f"the broker does not know the order of {trade.name} any more; look in the broker's app"
            return self._finish(change, trade, Ending(DecisionStatus.FAILED, words))
        return Step(Progress.WAITING)

    def _begin(self, change: Row, decision: Decision) -> Step | None:
        """Look once more before the first message about a change; None when its cancel may go out, or has."""
        with self._db.transaction():
            pending = self._db.execute_query(LOCK_PENDING, {"id": change["id"]})
            if not pending or pending[0]["status_reason"] is not None:
                return None
            trade = self._trade_of(change)
            if not self._is_approved(change):
                ending = Ending(DecisionStatus.CANCELLED, "the approval was withdrawn before the cancel was sent")
            elif (refusal := why_not(trade, decision)) is not None:
                ending = Ending(DecisionStatus.FAILED, refusal)
            elif decision.action is Action.AMEND and not entries_allowed(self._db):
                return Step(Progress.HELD_BACK)
            else:
                self._note(change, UNDER_WAY)
                return None
        return self._finish(change, trade, ending)

    def _withdraw(self, order: Row) -> bool:
        """Make sure that an entry does not work any more; True when it has ended, however it did."""
        if order["alpaca_order_id"] is not None:
            return self._desk.cancel(order)
        with self._db.transaction():
            return take_back(self._db, order["id"], self._clock.now())

    def _conclude(self, change: Row, decision: Decision) -> Step:
        """Write what the end of the old order means for both trades and both decisions."""
        with self._db.transaction():
            locked = self._db.execute_query(LOCK_PENDING, {"id": change["id"]})
            if not locked or self._db.execute_query(REPLACED, {"id": change["id"]}):
                return Step(Progress.WAITING)  # another process was faster
            trade = self._trade_of(change)
            ending = ending_of(trade, decision)
            if ending.status is DecisionStatus.EXECUTED:
                if trade.entered == 0:
                    self._end_trade(change, decision, trade)
                if decision.trade is not None:
                    rest = decision.trade.qty - trade.entered
                    hindrance = self._hindrance(change, trade, rest)
                    if hindrance is None:
                        return Step(Progress.WRITTEN, self._write_replacement(change, decision.trade, trade, rest))
                    ending = hindrance
        return self._finish(change, trade, ending)

    def _hindrance(self, change: Row, trade: Trade, rest: Decimal) -> Ending | None:
        """Say why nothing takes the place of the order that is gone, if so."""
        if rest <= 0:
            words = f"{_filled(trade)} before it was cancelled; they are the amended quantity already"
            return Ending(DecisionStatus.FAILED, words)
        if not self._is_approved(change):
            words = "the approval was withdrawn before the new order was sent"
            return Ending(DecisionStatus.CANCELLED, words, alarming=True)
        refusal = too_old(self._limits, change["decision_rationale"], change["created_at"], self._clock.now())
        return Ending(DecisionStatus.FAILED, refusal, alarming=True) if refusal else None

    def _end_trade(self, change: Row, decision: Decision, trade: Trade) -> None:
        """End a trade of which nothing was filled, and the decision that opened it."""
        now, amended = self._clock.now(), decision.action is Action.AMEND
        reason = ExitReason.AMENDED if amended else ExitReason.CANCELLED
        ended = end_trades(self._db, {trade.id: TradeEnd(JournalStatus.CANCELLED, reason, now)}, now)
        if amended and not ended:
            self._db.execute_update(END_AS_AMENDED, {"journal_id": trade.id, "now": now})
        words = f"{VERBS[decision.action]} before any fill, as {change['analysis_decision_id']} decided"
        if trade.journal["trade_decision_id"] is not None:
            finish_decision(self._db, trade.journal["trade_decision_id"], DecisionStatus.CANCELLED, words, now)

    def _write_replacement(self, change: Row, new: NewTrade, trade: Trade, rest: Decimal) -> int:
        name = order_name(change["source_bytes_sha256"], change["analysis_row_key"])
        order_id = add_entry(
            self._db, name, change["symbol"], replace(new, qty=rest), change["analysis_decision_id"], change["id"],
            self._clock.now(),
        )
        filled = f", {_filled(trade)} before" if trade.entered else ""
        self._note(change, f"replaces the order of {trade.name}{filled}")
        return order_id

    def _finish(self, change: Row, trade: Trade, ending: Ending) -> Step:
        """Write how a change ended, in our books first, then on its row of analysis_decision while that is approved."""
        now, row_key, known_as = self._clock.now(), change["analysis_row_key"], change["analysis_decision_id"]
        with self._db.transaction():
            if not finish_decision(self._db, change["id"], ending.status, ending.reason, now):
                return Step(Progress.WAITING)  # another process was faster
            if ending.alarming:
                alert_amended(self._db, change["id"], ending.reason, now)
        log.info("change finished", extra={
            "trade_id": trade.name, "action": change["action"], "status": str(ending.status), "reason": ending.reason,
        })
        if ending.status is DecisionStatus.EXECUTED:
            self._desk.mark_done(row_key, known_as, trade.entry["alpaca_order_id"], trade.id)
            return Step(Progress.DONE)
        if ending.status is DecisionStatus.FAILED:
            self._desk.mark_refused(row_key, known_as, ending.reason)
        return Step(Progress.FAILED)

    def _note(self, change: Row, words: str) -> None:
        self._db.execute_update(NOTE_PROGRESS, {"id": change["id"], "reason": words, "now": self._clock.now()})

    def _is_approved(self, change: Row) -> bool:
        return self._analysis.is_approved(change["analysis_row_key"], change["analysis_decision_id"])

    def _trade_of(self, change: Row) -> Trade:
        found = load_trades(self._db, [change["target_journal_id"]])
        if not found:
            raise DatabaseError(f"the trade with the journal id {change['target_journal_id']} is gone", NO_DATA)
        return found[0]


def find_target(db: TradingDB, row: AnalysisRow, decision: Decision) -> Target:
    """Find the trade that a row's order id, else its journal id, leads to; reads only. Raises DatabaseError.

    An order that a person replaced in the broker's app leads to the one that works now.
    """
    order_id, journal_id = (row.existing_order_id or "").strip(), row.existing_trade_journal_id
    if order_id:
        found = db.execute_query(FIND_BY_ORDER, {"order_id": order_id})
        refusal = _wrong_order(printable(order_id, LONGEST_SHOWN), journal_id, found)
    elif journal_id is not None:
        found = db.execute_query(FIND_BY_JOURNAL, {"journal_id": journal_id})
        refusal = None if found else f"existing_trade_journal_id {journal_id} is no trade of ours with an entry order"
    else:
        return Target(refusal="neither existing_order_id nor existing_trade_journal_id says which order is meant")
    if refusal is not None:
        return Target(refusal=refusal)
    trade = load_trades(db, [found[0]["journal_id"]])[0]
    if trade.entry["order_status"] == OrderStatus.UNKNOWN:
        return Target(trade, waits=f"nobody knows yet whether the broker has the order of {trade.name}")
    if _is_under_way(db, trade):
        return Target(trade, waits=f"another change of the order of {trade.name} is not finished")
    return Target(trade, why_not(trade, decision))


def claim_trade(db: TradingDB, trade: Trade) -> bool:
    """Lock a trade in the open transaction; False when another change of it has been claimed meanwhile."""
    db.execute_query(LOCK_TRADE, {"journal_id": trade.id})
    return not _is_under_way(db, trade)


def take_back(db: TradingDB, order_id: int, now: datetime) -> bool:
    """End an order that was never sent, in the open transaction; False when it was sent, or is being sent."""
    unsent = lock_if_unsent(db, order_id)
    if unsent:
        set_status(db, order_id, OrderStatus.CANCELLED, now)
    return unsent


def why_not(trade: Trade, decision: Decision) -> str | None:
    """Say why a trade's entry cannot be cancelled or amended as decided, or None when it can."""
    if trade.symbol != decision.symbol:
        return f"the decision is about {decision.symbol}, but {trade.name} trades {trade.symbol}"
    if decision.trade is not None and decision.trade.side != trade.side:
        return f"an AMEND cannot turn the {trade.side} of {trade.name} into a {decision.trade.side}"
    return f"the order of {trade.name} {_end_words(trade)}" if trade.entry_ended else None


def ending_of(trade: Trade, decision: Decision) -> Ending:
    """Say what the end of a trade's entry means for the change that was to cancel it."""
    if trade.entry["order_status"] == OrderStatus.CANCELLED:
        return Ending(DecisionStatus.EXECUTED, f"{_filled(trade)} before")
    words = f"the order of {trade.name} could not be {VERBS[decision.action]}: it {_end_words(trade)}"
    return Ending(DecisionStatus.FAILED, words)


def too_old(limits: Limits, rationale: Mapping[str, Any], claimed_at: datetime, now: datetime) -> str | None:
    """Say why a decision claimed earlier is too old to be sent now, or None when it is not."""
    decided_at = rationale["trigger_event"].get("decided_at")
    return check_age(limits, datetime.fromisoformat(decided_at) if decided_at else claimed_at, now).refusal


def order_name(source_sha256: str, row_key: str) -> str:
    """Return the stem of the client order ids of a row's trade: its bytes' digest and its key's digest.

    The same row gives the same stem for ever; with its suffix an id stays under 48 characters.
    """
    return f"tm-{source_sha256[:12]}-{hashlib.sha256(row_key.encode('utf-8')).hexdigest()[:10]}"


def trade_name(symbol: str, name: str, now: datetime) -> str:
    """Return the name for people of a trade whose orders go under this stem."""
    return f"{symbol}-{now:%Y%m%d}-{name.removeprefix('tm-')}"


def add_entry(
    db: TradingDB, name: str, symbol: str, trade: NewTrade, analysis_id: str | None, decision_id: int, now: datetime,
) -> int:
    """Write a trade with its entry, to be sent under this name, and return the order's id. Raises DatabaseError."""
    journal_id = add_trade(db, trade_name(symbol, name, now), symbol, trade, analysis_id, decision_id, now)
    return add_intent(db, Intent(
        trade_journal_id=journal_id, trade_decision_id=decision_id, analysis_decision_id=analysis_id,
        client_order_id=f"{name}-e", role=OrderRole.ENTRY, side=trade.side, time_in_force=trade.time_in_force,
        qty=trade.qty, limit_price=trade.limit_price,
    ), now)


def _wrong_order(order_id: str, journal_id: int | None, found: list[Row]) -> str | None:
    if not found:
        return f"order {order_id} is not an order of ours"
    order = found[0]
    if order["order_type"] != OrderRole.ENTRY:
        role = ROLE_WORDS[OrderRole(order["order_type"])]
        return f"order {order_id} is {role} of {order['trade_id']}; only an entry can be cancelled or amended"
    if journal_id not in (None, order["journal_id"]):
        return (
            f"order {order_id} belongs to {order['trade_id']} with the journal id {order['journal_id']}, "
            f"not to existing_trade_journal_id {journal_id}"
        )
    return None


def _is_under_way(db: TradingDB, trade: Trade) -> bool:
    return bool(db.execute_query(UNFINISHED, {"id": None, "journal_id": trade.id}))


def _end_words(trade: Trade) -> str:
    """Say how a trade's entry ended, and what is left of it."""
    status, over = OrderStatus(trade.entry["order_status"]), trade.journal["status"] == JournalStatus.CLOSED
    if status is OrderStatus.REPLACED:
        return "was replaced at the broker by one that is not known here; look in the broker's app"
    if status is OrderStatus.FILLED:
        return "is already filled; the trade is " + ("closed" if over else "a position with its own stop")
    past = {
        OrderStatus.CANCELLED: "is already cancelled", OrderStatus.EXPIRED: "has already expired",
        OrderStatus.REJECTED: "was rejected by the broker",
    }[status]
    return f"{past}; {_filled(trade)} before" if trade.entered else past


def _filled(trade: Trade) -> str:
    ordered = decimal_text(trade.journal["planned_qty"])
    return f"{decimal_text(trade.entered)} of {ordered} shares were filled"
