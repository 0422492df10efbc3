"""How strategies do: what their signals were worth, apart from how well they were carried out; by version."""

from collections.abc import Sequence
from decimal import Decimal

from audit_trail.reports.asking import one_moment
from audit_trail.reports.days import Period
from audit_trail.reports.report import ZONE_WORDS, Chart, Column, Fact, Facts, Kind, Report, Table
from clock import MARKET_ZONE
from db_layer import Row, TradingDB

DECIDED = """
WITH decided AS (
    SELECT id, strategy_name, strategy_version, status FROM audit.trade_decisions
    WHERE created_at >= %(start)s AND created_at < %(end)s AND (%(name)s::text IS NULL OR strategy_name = %(name)s)
), counted AS (
    SELECT strategy_name, strategy_version, count(*) AS decisions,
           count(*) FILTER (WHERE status = 'executed') AS executed, count(*) FILTER (WHERE status = 'failed') AS failed,
           count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
           count(*) FILTER (WHERE status = 'pending') AS pending
    FROM decided GROUP BY strategy_name, strategy_version
), waited AS (
    SELECT strategy_name, strategy_version,
           percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY filled_at - entry.created_at) AS waits
    FROM decided JOIN order_execution entry ON entry.trade_decision_id = decided.id
    WHERE order_type = 'ENTRY' AND filled_at IS NOT NULL AND entry.created_at >= %(start)s
    GROUP BY strategy_name, strategy_version
)
SELECT counted.*, extract(epoch FROM waits[1])::float8 AS fill_seconds,
       extract(epoch FROM waits[2])::float8 AS fill_seconds_p95
FROM counted LEFT JOIN waited USING (strategy_name, strategy_version) ORDER BY strategy_name, strategy_version
"""
# By day of exit, which is all that sums and their falls need. Shares and prices are those of the decision's day, before
# splits; a market order's price is the one it was checked with. A trade never begins before its decision, but may begin
# later. OFFSET keeps each price from being looked up for every sum it is in.
TRADED = """
SELECT strategy_name, strategy_version, side, status, day, count(*) AS trades,
       count(*) FILTER (WHERE pnl_is_estimate) AS estimates, count(*) FILTER (WHERE actual_pnl > 0) AS won,
       sum(actual_pnl) AS pnl, sum(actual_pnl) FILTER (WHERE actual_pnl > 0) AS gains, sum(planned_qty) AS planned,
       sum(filled_qty) AS filled, sum(actual_entry * actual_qty) FILTER (WHERE price IS NOT NULL) AS paid,
       sum(price * filled_qty) AS volume
FROM (
    SELECT strategy_name, strategy_version, journal.side, journal.status, actual_pnl, pnl_is_estimate, planned_qty,
           actual_entry, actual_qty,
           CASE split_ratio WHEN 1 THEN actual_qty ELSE actual_qty / split_ratio END AS filled_qty,
           CASE journal.status WHEN 'CLOSED' THEN (exit_date AT TIME ZONE %(zone)s)::date END AS day,
           CASE WHEN planned_entry IS NOT NULL OR actual_entry IS NULL THEN planned_entry ELSE (
               SELECT substring(observed_value FROM '^[0-9]+[.]?[0-9]*')::numeric FROM audit.risk_checks made
               WHERE made.trade_decision_id = decision.id AND check_name = 'reference_price'
               ORDER BY made.id LIMIT 1) END AS price
    FROM audit.trade_decisions decision JOIN trade_journal journal ON journal.trade_decision_id = decision.id
    WHERE decision.created_at >= %(start)s AND decision.created_at < %(end)s AND journal.created_at >= %(start)s
      AND (%(name)s::text IS NULL OR strategy_name = %(name)s)
    OFFSET 0
) AS traded
GROUP BY strategy_name, strategy_version, side, status, day ORDER BY strategy_name, strategy_version, day
"""
REASONS = """
SELECT strategy_name, strategy_version, reason, code, count(*) AS failures, max(failed_at) AS last_seen_at
FROM audit.failed_decisions
WHERE created_at >= %(start)s AND created_at < %(end)s AND (%(name)s::text IS NULL OR strategy_name = %(name)s)
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, failures DESC
"""
WAY = {"buy": 1, "sell": -1}
WHO = (Column("strategy_name", "Strategy"), Column("strategy_version", "V."))


def strategy_performance(db: TradingDB, period: Period, name: str | None = None) -> Report:
    """Return how one strategy, or each, did with the decisions of a period. Raises DatabaseError."""
    parameters = {"name": name, "zone": MARKET_ZONE.key, **period.bounds}
    with one_moment(db):
        decided, days, reasons = (db.execute_query(statement, parameters) for statement in (DECIDED, TRADED, REASONS))
    measured = [row | _measures([day for day in days if _version(day) == _version(row)]) for row in decided]
    return Report(
        "strategy_performance", f"Performance of {name or 'all strategies'}, {period}",
        (_summary(measured), _signals(measured), _decisions(measured), _execution(measured), _reasons(reasons),
         _months(days)),
        (f"{ZONE_WORDS} Decisions taken up in the period, and all that became of them since.",),
        {"strategy": name, "from": period.first, "to": period.last},
    )


def _version(row: Row) -> tuple[str, str]:
    return row["strategy_name"], row["strategy_version"]


def _measures(days: Sequence[Row]) -> Row:
    """Return what the trades of one version measure; None where there is nothing to measure."""
    closed = [row for row in days if row["status"] == "CLOSED"]
    done = [row for row in days if row["status"] != "ORDERED"]
    trades, pnl, gains = sum(row["trades"] for row in closed), _sum(closed, "pnl"), _sum(closed, "gains")
    slippage = sum((WAY[row["side"]] * (row["paid"] - row["volume"]) for row in days if row["paid"]), Decimal(0))
    return {
        "closed": trades, "held": sum(row["trades"] for row in days if row["status"] == "POSITION"),
        "estimates": sum(row["estimates"] for row in closed), "pnl": pnl, "gains": gains, "losses": gains - pnl,
        "win_rate": _ratio(Decimal(100 * sum(row["won"] for row in closed)), trades),
        "profit_factor": _ratio(gains, gains - pnl), "pnl_per_trade": _ratio(pnl, trades),
        "pnl_at_decision_price": pnl + slippage, "drawdown": _drawdown(closed), "slippage": slippage,
        "slippage_bps": _ratio(10_000 * slippage, _sum(days, "volume")),
        "fill_rate": _ratio(100 * _sum(done, "filled"), _sum(done, "planned")),
    }


def _drawdown(days: Sequence[Row]) -> Decimal:
    """Return the deepest fall in dollars of the sum of profits from its peak, day by day."""
    total = peak = deepest = Decimal(0)
    for row in days:
        total += row["pnl"] or 0
        peak = max(peak, total)
        deepest = max(deepest, peak - total)
    return deepest


def _sum(rows: Sequence[Row], key: str) -> Decimal:
    return sum((row[key] for row in rows if row[key] is not None), Decimal(0))


def _ratio(part: Decimal, whole: Decimal | int) -> Decimal | None:
    return round(part / whole, 6) if whole else None


def _summary(rows: Sequence[Row]) -> Facts:
    estimates = sum(row["estimates"] for row in rows)
    return Facts("summary", "Summary", (
        Fact("decisions", "Decisions", sum(row["decisions"] for row in rows)),
        Fact("closed", "Trades closed", sum(row["closed"] for row in rows)),
        Fact("held", "Positions held", sum(row["held"] for row in rows)),
        Fact("pnl", "Realised P&L", sum((row["pnl"] or Decimal(0) for row in rows), Decimal(0)), Kind.DOLLARS,
             f"dollars; {estimates:,} of the trades with an estimate" if estimates else "dollars"),
    ))


def _signals(rows: Sequence[Row]) -> Table:
    return Table("signals", "What the signals were worth", (
        *WHO, Column("closed", "Ended", Kind.COUNT), Column("estimates", "Est.", Kind.COUNT),
        Column("win_rate", "Won", Kind.PERCENT), Column("profit_factor", "Factor", Kind.RATIO),
        Column("pnl", "P&L", Kind.DOLLARS), Column("pnl_per_trade", "A trade", Kind.DOLLARS, detail=True),
        Column("pnl_at_decision_price", "Decided", Kind.DOLLARS),
        Column("drawdown", "Drawdown", Kind.DOLLARS), Column("gains", "Gains", Kind.DOLLARS, detail=True),
        Column("losses", "Losses", Kind.DOLLARS, detail=True),
    ), rows, "No decision was taken up in this period.",
        "In dollars. Est.: trades among them whose profit is an estimate. Factor: gains over losses, empty without "
        "losses. Decided: the P&L, had each entry been filled at the price decided. "
        "Drawdown: the deepest fall of the sum of profits from its peak, day by day.",
        (Chart("Realised P&L by version, dollars", "bars", "strategy", "pnl", Kind.DOLLARS),))


def _decisions(rows: Sequence[Row]) -> Table:
    return Table("decisions", "What became of the decisions", (
        *WHO, *(Column(key, key.capitalize(), Kind.COUNT)
                for key in ("decisions", "executed", "failed", "cancelled", "pending")),
    ), rows, "None.")


def _execution(rows: Sequence[Row]) -> Table:
    return Table("execution", "How they were carried out", (
        *WHO, Column("fill_rate", "Filled", Kind.PERCENT), Column("slippage_bps", "Slippage bp", Kind.RATIO),
        Column("slippage", "Slippage $", Kind.DOLLARS), Column("fill_seconds", "Time to fill", Kind.SECONDS),
        Column("fill_seconds_p95", "p95", Kind.SECONDS),
    ), rows, "None.",
        "Filled: shares of those decided, orders at work left out. Slippage: what entries cost above the decisions' "
        "prices (negative: less), in basis points of the volume and in dollars; a market order's price is the one it "
        "was checked with. Time to fill: from the writing of an entry to its complete fill by the broker's clock, half "
        "of them within.")


def _reasons(rows: Sequence[Row]) -> Table:
    return Table("failures", "Why decisions failed", (
        *WHO, Column("reason", "Reason"), Column("code", "Code"), Column("failures", "Failed", Kind.COUNT),
        Column("last_seen_at", "Last seen", Kind.TIME, detail=True),
    ), rows, "No decision failed.")


def _months(days: Sequence[Row]) -> Table:
    total: dict[tuple[str, str], Decimal] = {}
    months: dict[tuple[str, str, str], Row] = {}
    for row in days:
        if row["status"] == "CLOSED":
            who = _version(row)
            total[who] = total.get(who, Decimal(0)) + (row["pnl"] or 0)
            month = months.setdefault((*who, f"{row['day']:%Y-%m}"), {"closed": 0, "pnl": Decimal(0)})
            month["closed"] += row["trades"]
            month["pnl"] += row["pnl"] or 0
            month["total"] = total[who]
    rows = [
        {"strategy_name": name, "strategy_version": version, "month": month} | sums
        for (name, version, month), sums in months.items()
    ]
    return Table("months", "Realised P&L by month of exit", (
        *WHO, Column("month", "Month"), Column("closed", "Closed", Kind.COUNT), Column("pnl", "P&L", Kind.DOLLARS),
        Column("total", "Sum so far", Kind.DOLLARS),
    ), rows, "No trade was closed.",
        charts=(Chart("Sum of realised P&L, dollars", "line", "month", "total", Kind.DOLLARS),))
