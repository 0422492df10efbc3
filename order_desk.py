"""Carries a message to the broker in three transactions, and finds out what became of it when nobody said.

Every order was written down as an intent first (Tx1, by whoever decided). Here: the request is committed (Tx2), sent
once, and the answer committed (Tx3) before anything is concluded from it. Source: docs/architecture.md.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from alpaca_client import Broker, BrokerError, Exchange, Outcome, Reply, Request, same_order
from analysis_rows import AnalysisRows
from audit_trail import (
    AlertKind,
    AlertLevel,
    OrderState,
    Payload,
    PayloadPolicy,
    Read,
    close_interrupted,
    extract_text,
    finish_decision,
    raise_alert,
    record_answer,
    record_attempt,
    record_order_states,
    record_reads,
    record_request,
    record_response,
    request_text,
    resolve_alerts,
    response_text,
)
from clock import Clock
from db_layer import DatabaseError, Row, TradingDB
from kill_switch import entries_allowed
from order_comparison import find_changes
from order_life import (
    ENDED,
    DecisionStatus,
    ExecutionStatus,
    ExitReason,
    JournalStatus,
    OrderRole,
    OrderStatus,
    decimal_text,
)
from order_news import OrderNews, alert_amended
from order_records import (
    ALERTS_OF_UNKNOWN,
    apply_changes,
    count_missed_lookup,
    last_submitted,
    load_group,
    set_status,
    unsettled,
)
from pass_log import PassLog
from trade import TradeEnd
from trade_records import end_trades

SOURCE = "alpaca"
PENDING_CANCEL = "pending_cancel"
CANCEL_POLLS = 20
CANCEL_POLL_SECONDS = 0.5
LOOKUPS_BEFORE_NOT_PLACED = 2
ALERTS_OF_ROW = AlertKind.DECISION_ROW_NOT_MARKED, AlertKind.DECISION_LEFT_ALONE
OUTCOME_OF_ENTRY = """
SELECT orders.order_type, orders.alpaca_order_id, orders.trade_journal_id, decision.status, decision.status_reason,
       decision.analysis_row_key, decision.analysis_decision_id,
       EXISTS (SELECT 1 FROM audit.alerts alert
               WHERE alert.kind = ANY(%(kinds)s) AND alert.subject = decision.analysis_row_key
                 AND alert.resolved_at IS NULL) AS alerted
FROM order_execution orders JOIN audit.trade_decisions decision ON decision.id = orders.trade_decision_id
WHERE orders.id = %(id)s
"""

EXECUTION_OF_OUTCOME = {
    Outcome.ACCEPTED: ExecutionStatus.ACCEPTED,
    Outcome.REFUSED: ExecutionStatus.REJECTED,
    Outcome.NOT_SENT: ExecutionStatus.NOT_PLACED,
    Outcome.UNKNOWN: ExecutionStatus.UNKNOWN,
}

log = logging.getLogger("order_desk")


class OrderDesk:
    """The one way in which workers place, cancel and look up orders."""

    def __init__(
        self, db: TradingDB, broker: Broker, clock: Clock, policy: PayloadPolicy, analysis: AnalysisRows,
    ) -> None:
        self._db = db
        self._broker = broker
        self._clock = clock
        self._policy = policy
        self._analysis = analysis
        self.news = OrderNews(db, clock, self.mark)
        broker.record_with(self.record_reads)

    def submit(self, order_id: int) -> Outcome | None:
        """Send an intended order (with its leg) and settle the answer.

        None when nothing was sent: the kill switch held it back, or another process has sent it. Raises DatabaseError.
        """
        self._broker.wait_for_room()
        with self._db.transaction():
            order, *legs = load_group(self._db, order_id, lock=True)
            if order["order_status"] != OrderStatus.INTENDED:
                return None
            if order["order_type"] == OrderRole.ENTRY and not entries_allowed(self._db):
                return None
            request = self._broker.order_request(order_body(order, legs))
            submitted_at = self._clock.now()
            ids = {row["id"]: row["client_order_id"] for row in (order, *legs)}
            said = self._payload_of(request)
            execution_ids = record_attempt(self._db, order["trade_decision_id"], ids, said, submitted_at)
            if not execution_ids:
                return None
        reply = self._send_unless_late(request, submitted_at)
        with self._db.transaction():
            self._record_answer(execution_ids, reply)
            self._settle([order, *legs], reply)
        self.mark(order_id)
        log.info("order sent", extra=_fields(order, reply))
        legs_missing = reply.outcome is Outcome.ACCEPTED and bool(legs) and not reply.order()["legs"]
        if reply.outcome is not Outcome.UNKNOWN and not legs_missing:
            return reply.outcome
        try:
            return Outcome.ACCEPTED if self.look_up(order_id) else reply.outcome
        except BrokerError as error:
            log.warning("the look-up failed; the next pass asks again", extra={"error": error})
            return reply.outcome

    def mark(self, order_id: int) -> None:
        """Write what became of an entry onto the row of analysis_decision that it came from.

        Our own books come first: a row that is gone, locked or guarded by a trigger is an alert, and a later pass of
        the executor marks it. Raises DatabaseError when the alert cannot be written either.
        """
        found = self._db.execute_prepared(OUTCOME_OF_ENTRY, {"id": order_id, "kinds": list(ALERTS_OF_ROW)})
        if not found:
            words = f"order {order_id} or its decision is gone from the books, so no row can be marked"
            now = self._clock.now()
            raise_alert(self._db, AlertLevel.CRITICAL, AlertKind.ORDER_WITHOUT_DECISION, str(order_id), words, now)
            return
        outcome = found[0]
        row_key, order_id_heard = outcome["analysis_row_key"], outcome["alpaca_order_id"]
        known_as = outcome["analysis_decision_id"]
        placed = order_id_heard is not None
        over = outcome["status"] in (DecisionStatus.FAILED, DecisionStatus.CANCELLED)
        if row_key is None or outcome["order_type"] != OrderRole.ENTRY or not (placed or over):
            return
        if placed:
            self.mark_done(row_key, known_as, order_id_heard, outcome["trade_journal_id"], outcome["alerted"])
        else:
            self.mark_refused(row_key, known_as, outcome["status_reason"])

    def mark_done(
        self, row_key: str, known_as: str | None, alpaca_order_id: str | None, journal_id: int, alerted: bool = True,
    ) -> None:
        """Write onto a row of analysis_decision, named by its key and Analysis_Id, which order and trade it came to.

        What hinders that is an alert.

        `alerted` is False where no such alert can be open.
        """
        self._mark(
            row_key,
            lambda now: self._analysis.mark_placed(row_key, known_as, alpaca_order_id, journal_id, now), alerted,
        )

    def mark_refused(self, row_key: str, known_as: str | None, reason: str) -> None:
        """Write onto a row of analysis_decision why it was not carried out; what hinders that is an alert."""
        self._mark(row_key, lambda now: self._analysis.mark_refused(row_key, known_as, reason, now))

    def _mark(self, row_key: str, write: Callable[[datetime], bool], alerted: bool = True) -> None:
        now = self._clock.now()
        try:
            problem = None if write(now) else "it is gone, or has another Analysis_Id now"
        except DatabaseError as error:
            problem = str(error)
        if problem is None:
            if alerted:
                resolve_alerts(self._db, ALERTS_OF_ROW, (row_key,), now)
            return
        message = f"row {row_key} of analysis_decision was not marked: {problem}"
        raise_alert(self._db, AlertLevel.WARNING, AlertKind.DECISION_ROW_NOT_MARKED, row_key, message, now)

    def cancel(self, order: Row, polls: int = CANCEL_POLLS) -> bool:
        """Ask the broker to cancel an order and wait for its word; True when the order has ended, however it did.

        A cancel that the broker is at already is only waited for. Raises DatabaseError and BrokerError.
        """
        if order["broker_status"] != PENDING_CANCEL:
            self._send_cancel(order["alpaca_order_id"])
        for poll in range(polls):
            if poll:
                self._clock.sleep(CANCEL_POLL_SECONDS)
            if not self.refresh(order["id"]):
                return False
            current = self._db.get_by_id("order_execution", order["id"])
            if current is not None and OrderStatus(current["order_status"]) in ENDED:
                return True
        return False

    def refresh(self, order_id: int) -> bool:
        """Read one order with its legs from the broker and write down what is new; False when it knows no such order.

        Raises DatabaseError and BrokerError.
        """
        rows = load_group(self._db, order_id)
        heard = self._broker.get_order(rows[0]["alpaca_order_id"]) if rows[0]["alpaca_order_id"] else None
        if heard is None:
            return False
        successor = self._broker.get_order(heard["replaced_by"]) if heard.get("replaced_by") else None
        if successor is None:
            heard = {**heard, "replaced_by": None}  # nobody knows the order that should follow, so this one ends
        self.news.hear(rows, [heard, successor] if successor else [heard])
        return True

    def settle_unfinished(self, found: PassLog) -> None:
        """Look up every order whose outcome is unknown, interrupted ones included; a failure is asked again later.

        Whatever goes wrong with one does not hold up the others. Raises DatabaseError.
        """
        for order in unsettled(self._db, self._clock.now()):
            name = order["client_order_id"] or str(order["id"])
            try:
                with found.reading(name):
                    self.look_up(order["id"])
            except BrokerError as error:
                log.warning("an unknown order stays unknown", extra={"order": order["id"], "error": error})
            except Exception as error:
                if isinstance(error, DatabaseError) and error.lost_connection:
                    raise
                log.exception("an unknown order was not settled", extra={"order": order["id"]})
                words = f"what became of order {name} was not found out: {type(error).__name__}: {error}"
                raise_alert(self._db, AlertLevel.CRITICAL, AlertKind.ORDER_NOT_SETTLED, name, words, self._clock.now())

    def close_interrupted_cancels(self) -> None:
        """Give each cancel that a crash left without an answer one that says so. Raises DatabaseError."""
        now = self._clock.now()
        words = "no answer was written down: the program ended first; what became of the cancel shows in its order"
        resolution = self._policy.payload(response_text(None, {}, None, words))
        over = now - timedelta(seconds=2 * self._broker.timeout_seconds)
        if closed := close_interrupted(self._db, SOURCE, resolution, over, now):
            log.warning("cancels without an answer were closed", extra={"count": closed})

    def look_up(self, order_id: int) -> bool:
        """Ask for an order by our id; True when the broker has it. What it does not know counts only in the end.

        Raises DatabaseError and BrokerError. Source: docs/architecture.md, unknown outcomes.
        """
        rows = load_group(self._db, order_id)
        order, legs = rows[0], rows[1:]
        heard = self._broker.find_order(order["client_order_id"])
        if heard is None:
            self._count_missed(order, legs)
            return False
        if not same_order(order_body(order, legs), heard):
            name, now = order["client_order_id"], self._clock.now()
            message = f"the broker has another order under {name}; nothing was done about it"
            raise_alert(self._db, AlertLevel.CRITICAL, AlertKind.ORDER_MISMATCH, name, message, now)
            return False
        self.news.hear(rows, [heard])
        return True

    def _count_missed(self, order: Row, legs: list[Row]) -> None:
        submitted_at = last_submitted(self._db, order["id"])
        now = self._clock.now()
        # A message may still be on its way until both ends must have given up on it.
        if now - submitted_at < timedelta(seconds=2 * self._broker.timeout_seconds):
            return
        if count_missed_lookup(self._db, order["id"], now) < LOOKUPS_BEFORE_NOT_PLACED:
            return
        listed = self._broker.list_orders(submitted_at - timedelta(minutes=1))
        if any(heard.get("client_order_id") == order["client_order_id"] for heard in listed):
            return
        with self._db.transaction():
            self._conclude_not_placed(order, legs)
        self.mark(order["id"])

    def _conclude_not_placed(self, order: Row, legs: list[Row]) -> None:
        now = self._clock.now()
        record_order_states(self._db, [_never_arrived(row) for row in (order, *legs)], now)
        resolve_alerts(self._db, ALERTS_OF_UNKNOWN, (order["client_order_id"],), now)
        if order["order_type"] != OrderRole.ENTRY:
            set_status(self._db, order["id"], OrderStatus.INTENDED, now)
            return
        reason = "not_placed: the broker never received the order, and an entry is not sent a second time"
        set_status(self._db, order["id"], OrderStatus.CANCELLED, now)
        self._fail_entry(order, ExitReason.CANCELLED, reason)

    def _send_unless_late(self, request: Request, submitted_at: datetime) -> Reply:
        """Send, unless this process slept so long that others may have concluded the order was never placed."""
        slept = self._clock.now() - submitted_at
        if slept <= timedelta(seconds=self._broker.timeout_seconds):
            return self._broker.send(request)
        words = f"not sent, because {slept.total_seconds():.0f} seconds went by since the request was written"
        return Reply(Outcome.NOT_SENT, None, {}, "", words, 0)

    def _settle(self, rows: list[Row], reply: Reply) -> None:
        now, order = self._clock.now(), rows[0]
        if reply.outcome is Outcome.ACCEPTED:
            changes = find_changes(rows, [reply.order()])
            if len(apply_changes(self._db, changes, now)) < len(changes):
                # Somebody who took this process for dead has moved the order meanwhile.
                rows = load_group(self._db, order["id"], lock=True)
                changes = find_changes(rows, [reply.order()])
                if OrderStatus(rows[0]["order_status"]) in ENDED:
                    self._alert_late_order(order, reply.order()["id"])
                apply_changes(self._db, changes, now)
            self.news.alert_rejected(changes)
        elif reply.outcome is Outcome.REFUSED:
            set_status(self._db, order["id"], OrderStatus.REJECTED, now)
            if order["order_type"] == OrderRole.ENTRY:
                reason = f"the broker refused the order ({reply.error_code}): {reply.error_message}"
                self._fail_entry(order, ExitReason.REJECTED, reason)
        else:
            unknown = reply.outcome is Outcome.UNKNOWN
            set_status(self._db, order["id"], OrderStatus.UNKNOWN if unknown else OrderStatus.INTENDED, now)

    def _alert_late_order(self, order: Row, alpaca_order_id: str) -> None:
        message = (
            f"the broker took order {alpaca_order_id} ({order['client_order_id']}) after it had been given up here; "
            "cancel it at the broker, and close what it has filled"
        )
        now = self._clock.now()
        raise_alert(self._db, AlertLevel.CRITICAL, AlertKind.LATE_ORDER, order["client_order_id"], message, now)

    def _send_cancel(self, alpaca_order_id: str) -> None:
        self._broker.wait_for_room()
        request = self._broker.cancel_request(alpaca_order_id)
        request_id = record_request(self._db, SOURCE, self._payload_of(request), self._clock.now())
        reply = self._broker.send(request)
        heard = self._policy.payload(self._response_text(reply))
        record_response(
            self._db, SOURCE, request_id, f"{request.method} {request.path}", heard, self._clock.now(),
            reply.http_status, reply.duration_ms,
        )
        log.info("cancel sent", extra={
            "order": alpaca_order_id, "outcome": reply.outcome, "error": reply.error_message,
        })

    def _fail_entry(self, order: Row, reason: ExitReason, words: str) -> None:
        now = self._clock.now()
        finish_decision(self._db, order["trade_decision_id"], DecisionStatus.FAILED, words, now)
        alert_amended(self._db, order["trade_decision_id"], words, now)
        end_trades(self._db, {order["trade_journal_id"]: TradeEnd(JournalStatus.CANCELLED, reason, now)}, now)

    def _payload_of(self, request: Request) -> Payload:
        return self._policy.payload(request_text(request.method, request.path, request.params, request.body))

    def _record_answer(self, execution_ids: list[int], reply: Reply) -> None:
        body = reply.parsed if reply.outcome is Outcome.REFUSED else None
        record_answer(
            self._db, execution_ids, EXECUTION_OF_OUTCOME[reply.outcome],
            self._policy.payload(self._response_text(reply)), self._clock.now(), http_status=reply.http_status,
            error_code=reply.error_code, error_message=reply.error_message,
            error_details=body if isinstance(body, dict) else None,
        )

    def record_reads(self, exchanges: Sequence[Exchange]) -> None:
        """Write down reads and their answers; the broker's door calls this before the answers are used."""
        reads = [self._read_of(request, reply) for request, reply in exchanges]
        record_reads(self._db, SOURCE, reads, self._clock.now())

    def _read_of(self, request: Request, reply: Reply) -> Read:
        remaining = reply.headers.get("X-RateLimit-Remaining", "")
        if reply.extract is not None and reply.http_status is not None:
            text = extract_text(reply.http_status, reply.extract.rows, reply.extract.news)
        else:
            # Headers change with every answer; without them the same answer has the same digest and is stored once.
            text = response_text(reply.http_status, {}, reply.text or None, reply.error)
        return Read(
            f"{request.method} {request.path}", self._payload_of(request), self._policy.payload(text),
            reply.http_status, reply.duration_ms,
            int(remaining) if remaining.isdecimal() and len(remaining) < 10 else None,
        )

    def _response_text(self, reply: Reply) -> str:
        return response_text(reply.http_status, reply.headers, reply.text or None, reply.error)


def order_body(order: Row, legs: list[Row]) -> dict[str, Any]:
    """Return the JSON of an order as the broker wants it, the same for the same rows; decimals are strings."""
    body: dict[str, Any] = {
        "symbol": order["symbol"],
        "qty": decimal_text(order["qty"]),
        "side": order["side"],
        "time_in_force": order["time_in_force"],
        "client_order_id": order["client_order_id"],
    }
    if legs:
        return body | {
            "type": "limit",
            "order_class": "oco",
            "take_profit": {"limit_price": decimal_text(order["limit_price"])},
            "stop_loss": {"stop_price": decimal_text(legs[0]["stop_price"])},
        }
    if order["stop_price"] is not None:
        return body | {"type": "stop", "stop_price": decimal_text(order["stop_price"])}
    if order["limit_price"] is not None:
        return body | {"type": "limit", "limit_price": decimal_text(order["limit_price"])}
    return body | {"type": "market"}


def _never_arrived(order: Row) -> OrderState:
    return OrderState(
        order["id"], ExecutionStatus.NOT_PLACED, None, order["client_order_id"], Decimal(0), None, None,
    )


def _fields(order: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    return {
        "client_order_id": order["client_order_id"], "outcome": str(reply.outcome),
        "http_status": reply.http_status, "error": reply.error_message,
    }
