"""All about a symbol in a period: what became known, what was decided and why, what was done, what it brought."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from audit_trail.reports.asking import one_moment
from audit_trail.reports.days import Period
from audit_trail.reports.report import ZONE_WORDS, Chart, Column, Fact, Facts, Kind, Report, Table
from db_layer import Row, TradingDB

KNOWN = """
SELECT disclosed.available_at, person_name, side, transaction_date, disclosure_date, amount_low, amount_high,
       disclosed.id AS quiver_trade_id, run.run_id, run.task_name
FROM quiver_trades disclosed LEFT JOIN audit.data_ingestion_runs run ON run.id = disclosed.data_ingestion_run_id
WHERE symbol = %(symbol)s AND disclosed.available_at >= %(start)s AND disclosed.available_at < %(end)s
ORDER BY disclosed.available_at DESC, disclosed.id DESC
"""
DECIDED = """
SELECT decision.created_at, decision.strategy_name, decision.strategy_version, decision.action, decision.side,
       CASE decision.action WHEN 'new_trade' THEN decision.side ELSE decision.action END AS what, decision.quantity,
       decision.order_type, decision.limit_price, decision.status, decision.status_reason, decision.decision_id,
       decision.analysis_decision_id, decision.primary_quiver_trade_id,
       decision_rationale ->> 'signal_strength' AS signal_strength,
       decision_rationale ->> 'confidence_score' AS confidence_score,
       decision_rationale #>> '{trigger_event,type}' AS trigger_event, decision_rationale::text AS rationale,
       run.run_id AS primary_run_id, failure.reason AS failure
FROM audit.trade_decisions decision
LEFT JOIN audit.data_ingestion_runs run ON run.id = decision.primary_ingestion_run_id
LEFT JOIN audit.failed_decisions failure ON failure.id = decision.id
WHERE decision.symbol = %(symbol)s AND decision.created_at >= %(start)s AND decision.created_at < %(end)s
ORDER BY decision.created_at DESC, decision.id DESC
"""
SENT = """
SELECT execution.submitted_at, orders.order_type, orders.side, orders.qty, orders.limit_price, orders.stop_price,
       execution.status, execution.filled_quantity, execution.filled_avg_price, execution.filled_at,
       execution.http_status_code, execution.error_code, execution.error_message, execution.client_order_id,
       execution.alpaca_order_id, decision.decision_id, execution.api_request_payload_id,
       execution.api_response_payload_id
FROM audit.trade_decisions decision JOIN audit.trade_executions execution ON execution.trade_decision_id = decision.id
LEFT JOIN order_execution orders ON orders.id = execution.order_execution_id
WHERE decision.symbol = %(symbol)s AND decision.created_at >= %(start)s AND decision.created_at < %(end)s
ORDER BY execution.id DESC
"""
TRADED = """
SELECT trade_id, side, trade_style, status, planned_qty, planned_entry, actual_qty, actual_entry, exit_price, exit_date,
       actual_pnl, pnl_is_estimate, exit_reason, created_at, initial_analysis_id
FROM trade_journal WHERE symbol = %(symbol)s AND created_at < %(end)s AND (exit_date IS NULL OR exit_date >= %(start)s)
ORDER BY created_at DESC, id DESC
"""


def symbol_report(db: TradingDB, symbol: str, period: Period) -> Report:
    """Return everything recorded about a symbol in a period. Raises DatabaseError."""
    parameters = {"symbol": symbol, **period.bounds}
    with one_moment(db):
        known, decided, sent, traded = (
            db.execute_query(statement, parameters) for statement in (KNOWN, DECIDED, SENT, TRADED)
        )
    return Report(
        "symbol_report", f"{symbol}, {period}",
        (
            _summary(period.bounds["start"], period.bounds["end"], known, decided, sent, traded), _known(known),
            _decided(decided), _failures(decided), _sent(sent), _traded(traded),
        ),
        (f"{ZONE_WORDS} Newest first. Data counts by when we knew it, a decision by when it was taken up.",),
        {"symbol": symbol, "from": period.first, "to": period.last},
    )


def _summary(
    start: datetime, end: datetime, known: Sequence[Row], decided: Sequence[Row], sent: Sequence[Row],
    traded: Sequence[Row],
) -> Facts:
    sides, outcomes = Counter(row["side"] for row in known), Counter(row["status"] for row in decided)
    settled = outcomes["executed"] + outcomes["failed"]
    ended = [row for row in traded if row["status"] == "CLOSED" and start <= row["exit_date"] < end]
    guesses = sum(row["pnl_is_estimate"] for row in ended)
    runs = len({row["run_id"] for row in known if row["run_id"]})
    return Facts("summary", "Summary", (
        Fact("quiver_trades", "Disclosed trades", len(known),
             remark=f"bought {sides['buy']:,}, sold {sides['sell']:,}, from runs {runs:,}" if known else ""),
        Fact("decisions", "Decisions", len(decided)),
        *(Fact(f"decisions_{status}", f"  {status}", outcomes[status])
          for status in ("executed", "failed", "cancelled", "pending")),
        Fact("success_rate", "Success rate", Decimal(100 * outcomes["executed"]) / settled if settled else None,
             Kind.PERCENT, "executed of executed and failed" if settled else ""),
        Fact("executions", "Orders sent", len(sent)),
        Fact("trades_closed", "Trades closed", len(ended)),
        Fact("realised_pnl", "Realised P&L", sum((row["actual_pnl"] or Decimal(0) for row in ended), Decimal(0)),
             Kind.DOLLARS, f"dollars; {guesses} of the trades with an estimate" if guesses else "dollars"),
        Fact("trades_open", "Trades open", sum(row["status"] in ("ORDERED", "POSITION") for row in traded)),
    ))


def _known(rows: Sequence[Row]) -> Table:
    return Table("quiver_trades", "What became known", (
        Column("available_at", "Known since", Kind.TIME), Column("person_name", "Who"), Column("side", "Side"),
        Column("transaction_date", "Traded on", Kind.DAY),
        Column("disclosure_date", "Reported on", Kind.DAY, detail=True), Column("amount_low", "From $", Kind.SHARES),
        Column("amount_high", "To $", Kind.SHARES, detail=True), Column("quiver_trade_id", "Id"),
        Column("run_id", "Run", detail=True), Column("task_name", "Task", detail=True),
    ), rows, "No disclosed trade became known in this period.",
        "`audit_trail origin ID` tells which run brought a disclosed trade.")


def _decided(rows: Sequence[Row]) -> Table:
    return Table("decisions", "What was decided", (
        Column("created_at", "Time", Kind.TIME), Column("strategy_name", "Strategy"),
        Column("strategy_version", "Version", detail=True), Column("what", "What"),
        Column("action", "Action", detail=True), Column("side", "Side", detail=True),
        Column("quantity", "Shares", Kind.SHARES), Column("order_type", "Type", detail=True),
        Column("limit_price", "Limit", Kind.PRICE), Column("status", "Outcome"),
        Column("signal_strength", "Signal", detail=True), Column("confidence_score", "Confidence", detail=True),
        Column("trigger_event", "Trigger", detail=True), Column("status_reason", "Why", detail=True),
        Column("decision_id", "Decision", detail=True), Column("analysis_decision_id", "Analysis_Id"),
        Column("primary_quiver_trade_id", "Disclosed trade", detail=True),
        Column("primary_run_id", "Run", detail=True), Column("rationale", "Rationale", detail=True),
    ), rows, "Nothing was decided about it in this period.",
        "`audit_trail trace ANALYSIS_ID` tells the whole story of one.")


def _failures(rows: Sequence[Row]) -> Table:
    failed = [row for row in rows if row["failure"] is not None]
    counts = Counter(row["failure"] for row in failed)
    return Table("failures", "Why decisions failed", (
        Column("reason", "Reason"), Column("decisions", "Decisions", Kind.COUNT), Column("example", "The latest one"),
    ), [
        {"reason": reason, "decisions": count,
         "example": next(row["status_reason"] for row in failed if row["failure"] == reason)}
        for reason, count in counts.most_common()
    ], "No decision failed.", charts=(Chart("Failed decisions by reason", "bars", "reason", "decisions"),))


def _sent(rows: Sequence[Row]) -> Table:
    return Table("executions", "What was sent to the broker", (
        Column("submitted_at", "Time", Kind.TIME), Column("order_type", "For"), Column("side", "Side"),
        Column("qty", "Shares", Kind.SHARES), Column("limit_price", "Limit", Kind.PRICE),
        Column("stop_price", "Stop", Kind.PRICE, detail=True), Column("status", "Came to"),
        Column("filled_quantity", "Filled", Kind.SHARES), Column("filled_avg_price", "At", Kind.PRICE),
        Column("filled_at", "Filled at", Kind.TIME, detail=True),
        Column("http_status_code", "HTTP", detail=True), Column("error_code", "Error", detail=True),
        Column("error_message", "Error's words", detail=True),
        Column("client_order_id", "Client order id", detail=True),
        Column("alpaca_order_id", "Broker's order id", detail=True), Column("decision_id", "Decision", detail=True),
        Column("api_request_payload_id", "Request", detail=True),
        Column("api_response_payload_id", "Answer", detail=True),
    ), rows, "No order was sent for these decisions.")


def _traded(rows: Sequence[Row]) -> Table:
    return Table("trades", "Trades", (
        Column("trade_id", "Trade"), Column("side", "Side"), Column("trade_style", "Style", detail=True),
        Column("status", "Status"), Column("planned_qty", "Planned", Kind.SHARES, detail=True),
        Column("planned_entry", "Planned entry", Kind.PRICE, detail=True),
        Column("actual_qty", "Shares", Kind.SHARES), Column("actual_entry", "Entry", Kind.PRICE),
        Column("exit_price", "Exit", Kind.PRICE), Column("exit_date", "Ended", Kind.TIME, detail=True),
        Column("actual_pnl", "P&L", Kind.DOLLARS), Column("pnl_is_estimate", "Est.", Kind.FLAG),
        Column("exit_reason", "Reason"), Column("created_at", "Decided", Kind.TIME, detail=True),
        Column("initial_analysis_id", "Analysis_Id", detail=True),
    ), rows, "No trade in it was under way in this period.",
        "Est.: the profit is an estimate, because not every execution behind it is known.")
