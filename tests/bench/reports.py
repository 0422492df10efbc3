"""Measures what reports over a year's books take, beside the same questions asked by hand for bare tuples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from statistics import median, quantiles
from time import perf_counter
from typing import Any, NamedTuple

import psycopg2

from audit_trail.reports import Period, as_text, failure_analysis, strategy_performance, symbol_report
from db_layer import TradingDB
from tests.bench.monitor_pass import Measure
from tests.bench.year import FIRST, LAST, YEAR, Size, write_year

WARM_UP, ROUNDS = 5, 40
PERIOD = Period(FIRST, LAST)
TENFOLD = 10
CREATE, DROP = "CREATE DATABASE bench_year", "DROP DATABASE bench_year WITH (FORCE)"
SETTINGS = "SET search_path = public, audit; SET TimeZone = 'UTC'; SET jit = off; SET random_page_cost = 1.1"
# What a person in a hurry would write: as few statements as there are kinds of rows that do not join.
FLOOR: dict[str, tuple[str, ...]] = {
    "symbol": ("""
SELECT id, available_at, person_name, side, transaction_date, disclosure_date, amount_low, amount_high,
       data_ingestion_run_id
FROM quiver_trades WHERE symbol = %(symbol)s AND available_at >= %(start)s AND available_at < %(end)s
ORDER BY available_at DESC""", """
SELECT decision.created_at, strategy_name, action, decision.status, status_reason, decision_rationale, execution.status,
       filled_quantity, filled_avg_price, error_code, actual_pnl, exit_reason
FROM trade_decisions decision LEFT JOIN trade_executions execution ON execution.trade_decision_id = decision.id
LEFT JOIN trade_journal journal ON journal.trade_decision_id = decision.id
WHERE decision.symbol = %(symbol)s AND decision.created_at >= %(start)s AND decision.created_at < %(end)s
ORDER BY decision.created_at DESC"""),
    "failures": ("""
SELECT strategy_name, symbol, check_name, error_code, count(*), min(failed_at), max(failed_at)
FROM trade_decisions decision
LEFT JOIN risk_checks made ON made.trade_decision_id = decision.id AND NOT passed
LEFT JOIN trade_executions tried ON tried.trade_decision_id = decision.id AND error_code IS NOT NULL
WHERE decision.status = 'failed' AND decision.created_at >= %(start)s AND decision.created_at < %(end)s
GROUP BY 1, 2, 3, 4""",),
    "strategies": ("""
SELECT strategy_name, strategy_version, decision.status, count(*), sum(actual_pnl),
       count(*) FILTER (WHERE actual_pnl > 0), sum((actual_entry - planned_entry) * actual_qty)
FROM trade_decisions decision LEFT JOIN trade_journal journal ON journal.trade_decision_id = decision.id
WHERE decision.created_at >= %(start)s AND decision.created_at < %(end)s
GROUP BY 1, 2, 3""",),
}


class Question(NamedTuple):
    """A report, the floor's statements for it, its symbol, and the most its p95 (or its p50) may be in ms."""

    name: str
    ask: Callable[[TradingDB], Any]
    floor: str
    symbol: str
    p95_limit: float | None
    p50_limit: float | None = None


def questions(size: Size) -> list[Question]:
    """Return what is measured on books of a size; limits are those of a year and of ten times a year's rows."""
    large = size != YEAR
    symbols = {"AAA": size.trades // 250, "BBB": size.trades // 2_500}
    limits = {"AAA": 200.0, "BBB": 40.0} if large else {"AAA": 30.0}
    reports = [
        Question(f"symbol, {symbols[symbol]:,} disclosed trades",
                 lambda db, symbol=symbol: symbol_report(db, symbol, PERIOD), "symbol", symbol, limit)
        for symbol, limit in limits.items()
    ]
    others = None if large else 100.0
    return [
        *reports,
        Question("failures of the year", lambda db: failure_analysis(db, PERIOD), "failures", "", None, others),
        Question("strategies of the year", lambda db: strategy_performance(db, PERIOD), "strategies", "", None, others),
    ]


def measure(parameters: Mapping[str, Any], size: Size = YEAR) -> list[Measure]:
    """Write the books into a database of their own and measure each question on both sides. Raises DatabaseError."""
    with TradingDB(config=parameters) as admin:
        admin.execute_update(CREATE)
        try:
            return _measure(dict(parameters) | {"dbname": "bench_year"}, size)
        finally:
            admin.execute_update(DROP)


def _measure(parameters: Mapping[str, Any], size: Size) -> list[Measure]:
    measures: list[Measure] = []
    with TradingDB(config=parameters) as db, closing(psycopg2.connect(**parameters)) as bare:
        db.create_schema()
        write_year(db, size)
        bare.autocommit = True
        cursor = bare.cursor()
        cursor.execute(SETTINGS)
        for question in questions(size):
            values = {"symbol": question.symbol, **PERIOD.bounds}
            ours, floor = _times(
                lambda question=question: question.ask(db),
                lambda question=question, values=values: [
                    (cursor.execute(statement, values), cursor.fetchall()) for statement in FLOOR[question.floor]
                ],
            )
            started = perf_counter()
            as_text(question.ask(db))
            written = (perf_counter() - started) * 1000
            p95 = quantiles(ours, n=20)[-1]
            measures += [
                Measure(f"{question.name}: ms at p95", p95, question.p95_limit, 1),
                Measure("  ms at p50", median(ours), question.p50_limit, 1),
                Measure("  ms of the floor at p50", median(floor), None, 1),
                Measure("  with its text, once, ms", written, None, 1),
            ]
    return measures


def _times(ours: Callable[[], Any], floor: Callable[[], Any]) -> tuple[list[float], list[float]]:
    """Time both sides in turns, and in turns first; ms, the first rounds left out."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(WARM_UP + ROUNDS):
        for side in (0, 1) if number % 2 else (1, 0):
            started = perf_counter()
            (ours, floor)[side]()
            taken[side].append((perf_counter() - started) * 1000)
    return taken[0][WARM_UP:], taken[1][WARM_UP:]
