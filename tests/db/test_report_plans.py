"""How the server finds what reports ask for, on generated books: nothing large is read from end to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from audit_trail.reports import Period, failure_analysis, known_at, origin, symbol_report
from audit_trail.reports import daily_summary as summary_of
from audit_trail.reports import strategy_performance as performance_of
from audit_trail.reports.asking import one_moment
from db_layer import Parameters, Row, TradingDB
from tests.bench.year import FIRST, LAST, Size, write_year

SIZE = Size(days=250, trades=40_000, decisions=3_000, symbols=100, payloads=4_000)
YEAR = Period(FIRST, LAST)
NOON = datetime(2025, 6, 4, 16, 0, tzinfo=UTC)
LARGE = {
    "quiver_trades", "data_ingestion_run_records", "api_payloads", "api_call_logs", "trade_decisions",
    "trade_executions", "risk_checks", "trade_journal", "order_execution", "order_fill",
}
MOST_STATEMENTS = 4
REPORTS: dict[str, Callable[[TradingDB], Any]] = {
    "symbol_report": lambda db: symbol_report(db, "AAA", YEAR),
    "failure_analysis": lambda db: failure_analysis(db, YEAR),
    "strategy_performance": lambda db: performance_of(db, YEAR),
    "one strategy": lambda db: performance_of(db, YEAR, "congressional"),
    "daily_summary": lambda db: summary_of(db, NOON.date()),
    "known_at": lambda db: known_at(db, "AAA", NOON),
    "origin": lambda db: origin(db, 12345),
}


class Listening(TradingDB):
    """A connection that remembers what it was asked."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config=config)
        self.asked: list[tuple[Any, Parameters]] = []

    def execute_query(self, statement: Any, parameters: Parameters = None) -> list[Row]:
        self.asked.append((statement, parameters))
        return super().execute_query(statement, parameters)

    def plans(self) -> list[dict[str, Any]]:
        """Return how the server would find what was asked last."""
        return [
            super(Listening, self).execute_query(f"EXPLAIN (FORMAT JSON) {text}", values)[0]["QUERY PLAN"][0]["Plan"]
            for text, values in self.asked
        ]


@pytest.fixture(scope="module")
def generated(clones: Any) -> Iterator[Listening]:
    """Books of a year, smaller than those of the benchmark."""
    database = clones.create()
    with Listening(database) as db:
        write_year(db, SIZE)
        yield db
    clones.drop(database)


@pytest.fixture
def books(generated: Listening) -> Listening:
    """The same, with nothing asked yet."""
    generated.asked.clear()
    return generated


def read_whole(plan: dict[str, Any]) -> set[str]:
    """The tables that a plan reads from end to end."""
    found = {plan["Relation Name"]} if plan["Node Type"] == "Seq Scan" else set()
    return found.union(*(read_whole(part) for part in plan.get("Plans", ())))


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_asks_in_few_statements(books: Listening, name: str) -> None:
    REPORTS[name](books)
    assert 1 <= len(books.asked) <= MOST_STATEMENTS


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_reads_no_large_table_from_end_to_end(books: Listening, name: str) -> None:
    REPORTS[name](books)
    with one_moment(books):
        assert [read_whole(plan) & LARGE for plan in books.plans()] == [set()] * len(books.asked)


def test_without_its_indexes_a_report_does_read_a_large_table_whole(books: Listening) -> None:
    failure_analysis(books, YEAR)
    with books.transaction():
        books.execute_update("DROP INDEX audit.trade_decisions_made, audit.trade_decisions_failed")
        found = set().union(*map(read_whole, books.plans()))
        books.execute_update("ROLLBACK; BEGIN")
    assert found & LARGE == {"trade_decisions"}


def test_the_generated_books_have_what_the_reports_are_measured_on(books: Listening) -> None:
    facts = {fact.key: fact.value for fact in symbol_report(books, "AAA", YEAR).sections[0].facts}
    assert (facts["quiver_trades"], facts["decisions"]) == (SIZE.trades / 250, SIZE.decisions / 300)
    assert facts["decisions_executed"] > facts["decisions_failed"] > 0
    assert facts["trades_closed"] > 0
