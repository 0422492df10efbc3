"""What was known when: about a symbol at a moment, and where a disclosed trade came from."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from audit_trail.reports.asking import one_moment
from audit_trail.reports.report import ZONE_WORDS, Column, Fact, Facts, Kind, Report, Table, shown
from db_layer import Row, TradingDB

# A change seen later moved updated_at, and what stood there before is in the payload of its run.
KNOWN = """
SELECT disclosed.available_at, person_name, side, transaction_type, transaction_date, disclosure_date, amount_low,
       amount_high, disclosed.id AS quiver_trade_id, source, run.run_id,
       disclosed.updated_at > %(at)s AS changed_since
FROM quiver_trades disclosed LEFT JOIN audit.data_ingestion_runs run ON run.id = disclosed.data_ingestion_run_id
WHERE symbol = %(symbol)s AND disclosed.available_at <= %(at)s AND disclosed.available_at > %(since)s
ORDER BY disclosed.available_at DESC, disclosed.id DESC
"""
RUNS = """
SELECT completed_at, task_name, data_source, records_fetched, records_created, records_updated, run_id
FROM audit.data_ingestion_runs
WHERE status = 'completed' AND completed_at <= %(at)s AND completed_at > %(at)s::timestamptz - interval '24 hours'
ORDER BY completed_at DESC, id DESC
"""
# What became of a decision later is left out: it was not known then.
DECIDED = """
SELECT created_at, strategy_name, action, side, quantity, limit_price,
       CASE WHEN COALESCE(executed_at, failed_at, cancelled_at) <= %(at)s THEN status ELSE 'pending' END AS stood,
       analysis_decision_id, decision_id
FROM audit.trade_decisions
WHERE symbol = %(symbol)s AND created_at <= %(at)s AND created_at > %(since)s
ORDER BY created_at DESC, id DESC
"""
TRADED = """
SELECT trade_id, side, created_at, CASE WHEN exit_date <= %(at)s THEN 'over' ELSE 'under way' END AS stood,
       planned_entry, planned_qty, initial_analysis_id
FROM trade_journal
WHERE symbol = %(symbol)s AND created_at <= %(at)s AND (exit_date IS NULL OR exit_date > %(since)s)
ORDER BY created_at DESC, id DESC
"""
DISCLOSED = """
SELECT disclosed.*, run.run_id, run.task_name, run.completed_at AS run_completed_at
FROM quiver_trades disclosed LEFT JOIN audit.data_ingestion_runs run ON run.id = disclosed.data_ingestion_run_id
WHERE disclosed.id = %(id)s
"""
TOUCHED = """
SELECT run.started_at, done.operation, run.task_name, run.data_source, run.run_id, run.status, run.completed_at,
       run.records_fetched
FROM audit.data_ingestion_run_records done JOIN audit.data_ingestion_runs run ON run.id = done.data_ingestion_run_id
WHERE done.record_type = 'quiver_trades' AND done.record_id = %(id)s
ORDER BY run.started_at, run.id
"""
CALLS = """
SELECT call.created_at, call.endpoint, call.http_status_code, call.duration_ms, call.api_request_payload_id,
       call.api_response_payload_id, answer.byte_length, answer.sha256, answer.purged_at
FROM quiver_trades disclosed
JOIN audit.api_call_logs call ON call.data_ingestion_run_id = disclosed.data_ingestion_run_id
LEFT JOIN audit.api_payloads answer ON answer.id = call.api_response_payload_id
WHERE disclosed.id = %(id)s
ORDER BY call.id
"""
RESTING = """
SELECT created_at, strategy_name, action, symbol, status, analysis_decision_id, decision_id
FROM audit.trade_decisions WHERE primary_quiver_trade_id = %(id)s
ORDER BY created_at, id
"""
LOOKED_BACK = timedelta(days=365)


def known_at(db: TradingDB, symbol: str, at: datetime) -> Report:
    """Return what was known about a symbol at a moment: data, runs, decisions and trades. Raises DatabaseError."""
    parameters = {"symbol": symbol, "at": at, "since": at - LOOKED_BACK}
    with one_moment(db):
        known, runs, decided, traded = (
            db.execute_query(statement, parameters) for statement in (KNOWN, RUNS, DECIDED, TRADED)
        )
    return Report(
        "known_at", f"What was known about {symbol} at {shown(at, Kind.TIME)}",
        (_known(known), _runs(runs), _decided(decided), _traded(traded)),
        (f"{ZONE_WORDS} Newest first, {LOOKED_BACK.days} days back; nothing that came later is shown.",),
        {"symbol": symbol, "at": at},
    )


def origin(db: TradingDB, quiver_trade_id: int) -> Report | None:
    """Return which run brought a disclosed trade, and what rests on it; None for an id that is not there.

    Raises DatabaseError.
    """
    with one_moment(db):
        found, touched, calls, resting = (
            db.execute_query(statement, {"id": quiver_trade_id}) for statement in (DISCLOSED, TOUCHED, CALLS, RESTING)
        )
    if not found:
        return None
    return Report(
        "origin", f"Where disclosed trade {quiver_trade_id} came from",
        (_disclosed(found[0]), _touched(touched), _calls(calls), _resting(resting)), (ZONE_WORDS,),
        {"quiver_trade_id": quiver_trade_id},
    )


def _known(rows: Sequence[Row]) -> Table:
    return Table("quiver_trades", "Disclosed trades known by then", (
        Column("available_at", "Known since", Kind.TIME), Column("person_name", "Who"), Column("side", "Side"),
        Column("transaction_type", "Transaction", detail=True), Column("transaction_date", "Traded on", Kind.DAY),
        Column("disclosure_date", "Reported on", Kind.DAY, detail=True), Column("amount_low", "From $", Kind.SHARES),
        Column("amount_high", "To $", Kind.SHARES, detail=True), Column("quiver_trade_id", "Id"),
        Column("source", "Source", detail=True), Column("run_id", "Run", detail=True),
        Column("changed_since", "Changed since", Kind.FLAG),
    ), rows, "None was known.",
        "Changed since: a later run corrected it; what stood there then is in the answers of the run before "
        "(`audit_trail origin ID`).")


def _runs(rows: Sequence[Row]) -> Table:
    return Table("runs", "Runs completed in the 24 hours before", (
        Column("completed_at", "Completed", Kind.TIME), Column("task_name", "Task"),
        Column("data_source", "Source", detail=True), Column("records_fetched", "Fetched", Kind.COUNT),
        Column("records_created", "New", Kind.COUNT), Column("records_updated", "Changed", Kind.COUNT),
        Column("run_id", "Run", detail=True),
    ), rows, "None.", "A decision names the latest five of them as its lineage.")


def _decided(rows: Sequence[Row]) -> Table:
    return Table("decisions", "Decisions made by then", (
        Column("created_at", "Time", Kind.TIME), Column("strategy_name", "Strategy"), Column("action", "Action"),
        Column("side", "Side", detail=True), Column("quantity", "Shares", Kind.SHARES),
        Column("limit_price", "Limit", Kind.PRICE), Column("stood", "Stood then"),
        Column("analysis_decision_id", "Analysis_Id"), Column("decision_id", "Decision", detail=True),
    ), rows, "None.")


def _traded(rows: Sequence[Row]) -> Table:
    return Table("trades", "Trades begun by then", (
        Column("trade_id", "Trade"), Column("side", "Side"), Column("created_at", "Since", Kind.TIME),
        Column("stood", "Stood then"), Column("planned_qty", "Planned", Kind.SHARES),
        Column("planned_entry", "Planned entry", Kind.PRICE), Column("initial_analysis_id", "Analysis_Id", detail=True),
    ), rows, "None.")


def _disclosed(row: Row) -> Facts:
    return Facts("quiver_trade", "The disclosed trade", (
        Fact("run_id", "Brought by run", row["run_id"], Kind.TEXT, row["task_name"] or ""),
        Fact("run_completed_at", "Run completed", row["run_completed_at"], Kind.TIME),
        Fact("available_at", "Known since", row["available_at"], Kind.TIME),
        Fact("symbol", "Symbol", row["symbol"], Kind.TEXT),
        Fact("person_name", "Who", row["person_name"], Kind.TEXT),
        Fact("transaction_type", "Transaction", row["transaction_type"], Kind.TEXT, row["side"] or ""),
        Fact("transaction_date", "Traded on", row["transaction_date"], Kind.DAY),
        Fact("disclosure_date", "Reported on", row["disclosure_date"], Kind.DAY),
        Fact("amount_low", "From $", row["amount_low"], Kind.SHARES),
        Fact("amount_high", "To $", row["amount_high"], Kind.SHARES),
        Fact("source", "Source", row["source"], Kind.TEXT),
        Fact("updated_at", "Last changed", row["updated_at"], Kind.TIME),
    ))


def _touched(rows: Sequence[Row]) -> Table:
    return Table("runs", "Runs that met it", (
        Column("started_at", "Began", Kind.TIME), Column("operation", "Did"), Column("task_name", "Task"),
        Column("status", "Ended"), Column("data_source", "Source", detail=True), Column("run_id", "Run"),
        Column("completed_at", "Completed", Kind.TIME, detail=True),
        Column("records_fetched", "Fetched", Kind.COUNT, detail=True),
    ), rows, "No run is on record for it.")


def _calls(rows: Sequence[Row]) -> Table:
    return Table("calls", "Calls of the run that brought it", (
        Column("created_at", "Time", Kind.TIME), Column("endpoint", "Call"), Column("http_status_code", "HTTP"),
        Column("duration_ms", "ms", Kind.COUNT, detail=True), Column("api_request_payload_id", "Request"),
        Column("api_response_payload_id", "Answer"), Column("byte_length", "Bytes", Kind.COUNT),
        Column("sha256", "SHA-256", detail=True), Column("purged_at", "Body removed", Kind.TIME, detail=True),
    ), rows, "No call is on record.", "Request and Answer are ids of audit.api_payloads, where the exact texts are.")


def _resting(rows: Sequence[Row]) -> Table:
    return Table("decisions", "Decisions that name it as their reason", (
        Column("created_at", "Time", Kind.TIME), Column("strategy_name", "Strategy"), Column("action", "Action"),
        Column("symbol", "Symbol"), Column("status", "Outcome"), Column("analysis_decision_id", "Analysis_Id"),
        Column("decision_id", "Decision", detail=True),
    ), rows, "None.")
