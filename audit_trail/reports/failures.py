"""Why decisions failed: by reason and code, by weekday and hour, by symbol and by strategy, with examples."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from audit_trail.reports.asking import one_moment
from audit_trail.reports.days import Period
from audit_trail.reports.report import ZONE_WORDS, Chart, Column, Fact, Facts, Kind, Report, Table
from clock import MARKET_ZONE
from db_layer import Row, TradingDB

GROUPS = """
SELECT CASE 0 WHEN GROUPING(reason) THEN 'reason' WHEN GROUPING(hour) THEN 'hour' WHEN GROUPING(symbol) THEN 'symbol'
       ELSE 'strategy' END AS part,
       reason, code, weekday, hour, symbol, strategy_name, strategy_version, count(*) AS failures,
       min(failed_at) AS first_seen_at, max(failed_at) AS last_seen_at,
       (array_agg(COALESCE(analysis_decision_id, decision_id::text) ORDER BY failed_at DESC))[1:3] AS examples,
       (array_agg(status_reason ORDER BY failed_at DESC))[1] AS latest
FROM (SELECT *, extract(isodow FROM failed_at AT TIME ZONE %(zone)s)::integer AS weekday,
             extract(hour FROM failed_at AT TIME ZONE %(zone)s)::integer AS hour
      FROM audit.failed_decisions WHERE created_at >= %(start)s AND created_at < %(end)s) AS failed
GROUP BY GROUPING SETS ((reason, code), (weekday, hour), (symbol), (strategy_name, strategy_version))
ORDER BY failures DESC, last_seen_at DESC
"""
TOTALS = """
SELECT symbol, strategy_name, strategy_version, count(*) AS decisions
FROM audit.trade_decisions WHERE created_at >= %(start)s AND created_at < %(end)s
GROUP BY GROUPING SETS ((symbol), (strategy_name, strategy_version))
"""
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SEEN = (
    Column("failures", "Failed", Kind.COUNT), Column("first_seen_at", "First seen", Kind.TIME, detail=True),
    Column("last_seen_at", "Last seen", Kind.TIME),
)
SHARE = (Column("decisions", "Decisions", Kind.COUNT), Column("share", "Share", Kind.PERCENT))


def failure_analysis(db: TradingDB, period: Period) -> Report:
    """Return why decisions of a period failed. Raises DatabaseError."""
    parameters = {"zone": MARKET_ZONE.key, **period.bounds}
    with one_moment(db):
        groups, totals = (db.execute_query(statement, parameters) for statement in (GROUPS, TOTALS))
    parts = {part: [row for row in groups if row["part"] == part] for part in ("reason", "hour", "symbol", "strategy")}
    decisions = {_group(row): row["decisions"] for row in totals}
    for row in (*parts["symbol"], *parts["strategy"]):
        row["decisions"] = decisions[_group(row)]
        row["share"] = Decimal(100 * row["failures"]) / row["decisions"]
    return Report(
        "failure_analysis", f"Failed decisions, {period}",
        (
            _summary(parts["reason"], sum(row["decisions"] for row in totals if row["symbol"] is None)),
            _reasons(parts["reason"]), *_times(parts["hour"]), _symbols(parts["symbol"]),
            _strategies(parts["strategy"]),
        ),
        (f"{ZONE_WORDS} Decisions count by when they were taken up, weekday and hour are those of the failure.",),
        {"from": period.first, "to": period.last},
    )


def _group(row: Row) -> tuple[str | None, ...]:
    return row["symbol"], row["strategy_name"], row["strategy_version"]


def _summary(reasons: Sequence[Row], decisions: int) -> Facts:
    failed = sum(row["failures"] for row in reasons)
    first: list[datetime] = [row["first_seen_at"] for row in reasons]
    last: list[datetime] = [row["last_seen_at"] for row in reasons]
    return Facts("summary", "Summary", (
        Fact("decisions", "Decisions", decisions),
        Fact("failed", "Failed", failed),
        Fact("failure_rate", "Failure rate", Decimal(100 * failed) / decisions if decisions else None, Kind.PERCENT),
        Fact("first_seen_at", "First one", min(first, default=None), Kind.TIME),
        Fact("last_seen_at", "Last one", max(last, default=None), Kind.TIME),
    ))


def _reasons(rows: Sequence[Row]) -> Table:
    named = [row | {"examples": ", ".join(row["examples"])} for row in rows]
    return Table("reasons", "By reason", (
        Column("reason", "Reason"), Column("code", "Code"), *SEEN, Column("examples", "Such as"),
        Column("latest", "The latest one", detail=True),
    ), named, "No decision failed in this period.",
        "A check is named as in audit.risk_checks; # is any number. `audit_trail trace ID` tells more of one.",
        (Chart("Failed decisions by reason", "bars", "reason", "failures"),))


def _times(rows: Sequence[Row]) -> tuple[Table, Table]:
    days: Counter[int] = Counter()
    hours: Counter[int] = Counter()
    for row in rows:
        days[row["weekday"]] += row["failures"]
        hours[row["hour"]] += row["failures"]
    by_day = [{"weekday": WEEKDAYS[day - 1], "failures": days[day]} for day in sorted(days)]
    by_hour = [{"hour": f"{hour:02}:00", "failures": hours[hour]} for hour in sorted(hours)]
    failures = Column("failures", "Failed", Kind.COUNT)
    return (
        Table("weekdays", "By weekday", (Column("weekday", "Weekday"), failures), by_day, "None.",
              charts=(Chart("Failed decisions by weekday", "bars", "weekday", "failures"),)),
        Table("hours", "By hour", (Column("hour", "From"), failures), by_hour, "None.",
              charts=(Chart("Failed decisions by hour", "bars", "hour", "failures"),)),
    )


def _symbols(rows: Sequence[Row]) -> Table:
    return Table("symbols", "By symbol", (Column("symbol", "Symbol"), *SEEN, *SHARE), rows, "None.")


def _strategies(rows: Sequence[Row]) -> Table:
    return Table("strategies", "By strategy", (
        Column("strategy_name", "Strategy"), Column("strategy_version", "Version"), *SEEN, *SHARE,
    ), rows, "None.")
