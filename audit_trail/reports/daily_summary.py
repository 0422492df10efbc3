"""The daily summary: what a US Eastern day brought, what stands now, and what a person should look at."""

from collections import Counter
from collections.abc import Sequence
from datetime import date
from decimal import Decimal

from audit_trail.reports.asking import one_moment
from audit_trail.reports.days import Period
from audit_trail.reports.report import ZONE_WORDS, Column, Fact, Facts, Kind, Report, Table
from db_layer import Row, TradingDB

FACTS = """
SELECT COALESCE((SELECT state FROM audit.trading_control ORDER BY id DESC LIMIT 1), 'ACTIVE') AS trading_state,
       (SELECT reason FROM audit.trading_control ORDER BY id DESC LIMIT 1) AS trading_reason,
       orders.*, runs.*, alerts.*
FROM (SELECT count(*) AS orders_written,
             count(*) FILTER (WHERE order_type = 'ENTRY') AS entries_written,
             count(*) FILTER (WHERE order_type = 'ENTRY' AND filled_qty > 0) AS entries_with_fills,
             count(*) FILTER (WHERE order_status = 'rejected') AS orders_rejected,
             count(*) FILTER (WHERE order_status = 'unknown') AS orders_unknown
      FROM order_execution WHERE created_at >= %(start)s AND created_at < %(end)s) AS orders,
     (SELECT count(*) FILTER (WHERE status = 'completed') AS runs_completed,
             count(*) FILTER (WHERE status = 'failed') AS runs_failed,
             COALESCE(sum(records_created), 0)::bigint AS records_created,
             COALESCE(sum(records_updated), 0)::bigint AS records_updated
      FROM audit.data_ingestion_runs WHERE started_at >= %(start)s AND started_at < %(end)s) AS runs,
     (SELECT count(*) FILTER (WHERE resolved_at IS NULL AND level = 'critical') AS critical_alerts_open,
             count(*) FILTER (WHERE resolved_at IS NULL AND level = 'warning') AS warnings_open,
             count(*) FILTER (WHERE first_seen_at >= %(start)s AND first_seen_at < %(end)s) AS alerts_new
      FROM audit.alerts) AS alerts
"""
DECISIONS = """
SELECT created_at, strategy_name, action, side, quantity, symbol, limit_price, status, status_reason,
       analysis_decision_id
FROM audit.trade_decisions WHERE created_at >= %(start)s AND created_at < %(end)s
ORDER BY created_at, id
"""
TRADES = """
SELECT 'closed' AS state, trade_id, symbol, side, actual_qty AS qty, actual_entry AS entry, exit_price AS price,
       actual_pnl AS pnl, pnl_is_estimate AS estimate, exit_reason, exit_date AS at
FROM trade_journal WHERE status = 'CLOSED' AND exit_date >= %(start)s AND exit_date < %(end)s
UNION ALL
SELECT 'open', journal.trade_id, position.symbol, journal.side, position.qty, position.avg_entry_price,
       position.current_price, position.unrealized_pnl, true, NULL, position.last_updated
FROM position_tracking position JOIN trade_journal journal ON journal.id = position.trade_journal_id
ORDER BY at, trade_id
"""
ATTENTION = """
SELECT first_seen_at AS at, level, kind, subject, message FROM audit.alerts WHERE resolved_at IS NULL
UNION ALL
SELECT started_at, 'warning', 'run failed', task_name, error_message FROM audit.data_ingestion_runs
WHERE status = 'failed' AND started_at >= %(start)s AND started_at < %(end)s
UNION ALL
SELECT due_at, 'warning', concat('job ', status), job_name, reason FROM audit.job_runs
WHERE status IN ('failed', 'missed') AND due_at >= %(start)s AND due_at < %(end)s
UNION ALL
SELECT changed_at, 'info', 'kill switch', state, concat(reason, ', by ', changed_by) FROM audit.trading_control
WHERE changed_at >= %(start)s AND changed_at < %(end)s
ORDER BY at
"""
URGENCY = ("critical", "warning", "info")


def daily_summary(db: TradingDB, day: date) -> Report:
    """Return the summary of a US Eastern day as the books show it now.

    Raises DatabaseError, also inside a transaction.
    """
    bounds = Period(day, day).bounds
    with one_moment(db):
        (found,), decisions, trades, attention = (
            db.execute_query(statement, bounds) for statement in (FACTS, DECISIONS, TRADES, ATTENTION)
        )
    closed, held = ([row for row in trades if row["state"] == state] for state in ("closed", "open"))
    return Report(
        "daily_summary", f"Daily summary for {day:%A} {day}",
        (
            _facts(found, decisions, closed, held), _closed_trades(closed), _positions(held), _decisions(decisions),
            _attention(attention),
        ),
        (f"{ZONE_WORDS} Outcomes, positions and open alerts are as they stand now.",), {"day": day},
    )


def _facts(found: Row, decisions: Sequence[Row], closed: Sequence[Row], held: Sequence[Row]) -> Facts:
    outcomes = Counter(row["status"] for row in decisions)
    guesses = sum(row["estimate"] for row in closed)
    won = sum((row["pnl"] or 0) > 0 for row in closed)
    unpriced = sum(row["pnl"] is None for row in held)
    return Facts("summary", "Summary", (
        Fact("trading_state", "Trading", found["trading_state"], Kind.TEXT,
             found["trading_reason"] if found["trading_state"] != "ACTIVE" else ""),
        Fact("decisions", "Decisions", len(decisions), remark=_counted(outcomes)),
        *(Fact(f"decisions_{status}", f"  {status}", outcomes[status]) for status in ("executed", "failed")),
        Fact("orders_written", "Orders written", found["orders_written"],
             remark=f"entries {found['entries_written']}, of them with fills {found['entries_with_fills']}"),
        Fact("orders_rejected", "Orders refused", found["orders_rejected"]),
        Fact("orders_unknown", "Orders unknown", found["orders_unknown"]),
        Fact("trades_closed", "Trades closed", len(closed), remark=f"won {won}" if closed else ""),
        Fact("realised_pnl", "Realised P&L", sum((row["pnl"] or Decimal(0) for row in closed), Decimal(0)),
             Kind.DOLLARS, f"dollars; {guesses} of the trades with an estimate" if guesses else "dollars"),
        Fact("positions_open", "Positions now", len(held)),
        Fact("unrealised_pnl", "Unrealised P&L", sum((row["pnl"] or Decimal(0) for row in held), Decimal(0)),
             Kind.DOLLARS, "dollars, estimate at the last prices" + (f"; {unpriced} unpriced" if unpriced else "")),
        Fact("runs_completed", "Ingestion runs", found["runs_completed"],
             remark=f"failed {found['runs_failed']}; records new {found['records_created']:,}, "
                    f"changed {found['records_updated']:,}"),
        Fact("runs_failed", "Runs failed", found["runs_failed"]),
        Fact("critical_alerts_open", "Critical alerts", found["critical_alerts_open"], remark="open now"),
        Fact("warnings_open", "Warnings", found["warnings_open"], remark="open now"),
        Fact("alerts_new", "New alerts", found["alerts_new"], remark="of the day"),
    ))


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{status} {count}" for status, count in sorted(counts.items()))


def _closed_trades(rows: Sequence[Row]) -> Table:
    return Table("closed_trades", "Trades closed", (
        Column("trade_id", "Trade"), Column("symbol", "Symbol", detail=True), Column("side", "Side"),
        Column("qty", "Shares", Kind.SHARES), Column("entry", "Entry", Kind.PRICE), Column("price", "Exit", Kind.PRICE),
        Column("pnl", "P&L", Kind.DOLLARS), Column("estimate", "Est.", Kind.FLAG), Column("exit_reason", "Reason"),
        Column("at", "Closed at", Kind.TIME, detail=True),
    ), rows, "No trade was closed on this day.")


def _positions(rows: Sequence[Row]) -> Table:
    return Table("positions", "Positions held now", (
        Column("trade_id", "Trade"), Column("symbol", "Symbol", detail=True), Column("side", "Side"),
        Column("qty", "Shares", Kind.SHARES), Column("entry", "Entry", Kind.PRICE),
        Column("price", "Last price", Kind.PRICE), Column("pnl", "Unrealised (est.)", Kind.DOLLARS),
        Column("at", "Valued at", Kind.TIME, detail=True),
    ), rows, "No position is held.")


def _decisions(rows: Sequence[Row]) -> Table:
    wanting = sorted(rows, key=lambda row: row["status"] != "failed")
    return Table("decisions", "Decisions, those that failed first", (
        Column("created_at", "Time", Kind.TIME), Column("strategy_name", "Strategy", detail=True),
        Column("action", "Action"), Column("side", "Side", detail=True),
        Column("quantity", "Shares", Kind.SHARES), Column("symbol", "Symbol"),
        Column("limit_price", "Limit", Kind.PRICE, detail=True), Column("status", "Outcome"),
        Column("status_reason", "Why"), Column("analysis_decision_id", "Analysis_Id", detail=True),
    ), wanting, "No decision was taken up on this day.")


def _attention(rows: Sequence[Row]) -> Table:
    urgent = sorted(rows, key=lambda row: URGENCY.index(row["level"]))
    return Table("attention", "To look at", (
        Column("at", "Since", Kind.TIME), Column("level", "Level"), Column("kind", "What"), Column("subject", "About"),
        Column("message", "Message"),
    ), urgent, "No open alert, no failed run or job, no change of the kill switch.")
