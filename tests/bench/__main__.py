"""Measures audit trail and monitors against their floors on a durable PostgreSQL: `python -m tests.bench`.

With `--profile` it runs one pass of the order monitor under the profiler instead, with `--reports` only the reports,
and with `--tenfold` only these on ten times the books, which takes minutes to write. What is measured and why:
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from alpaca_client import BrokerError
from db_layer import DatabaseError, TradingDB
from embedded_postgres import EmbeddedPostgresError
from tables import print_table
from tests.bench import (
    audit_writes,
    book,
    chain,
    daemon,
    ingestion,
    monitor_pass,
    order_gate,
    reports,
    storage,
    strategy_decisions,
)
from tests.bench.durable import durable_server
from tests.bench.floor import Floor
from tests.bench.monitor_pass import BenchError, Measure
from tests.bench.year import YEAR, Size


def main() -> int:
    """Measure and print; the exit status is 1 when a limit is exceeded or nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    only = parser.add_mutually_exclusive_group()
    for name in WORKS:
        only.add_argument(f"--{name}", dest="work", action="store_const", const=WORKS[name])
    work = parser.parse_args().work or measure
    try:
        with durable_server() as parameters:
            return 0 if work(parameters) else 1
    except (BenchError, BrokerError, DatabaseError, EmbeddedPostgresError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def measure(parameters: Mapping[str, Any]) -> bool:
    """Measure and print everything, and tell whether all is within its limit."""
    # Each table comes before the next measurement, so that a failure there does not lose it.
    passed = [measure_audit(parameters)]
    passed.append(print_measures("The daemon while nothing happens", daemon.measure(parameters)))
    print_measures("A year of 500 orders a day in the audit trail", storage.measure(parameters))
    passed.append(print_measures("Hash chain: an order's ten entries ten thousand times", chain.measure(parameters)))
    calls = f"{ingestion.CALLS} calls of {ingestion.BODY_BYTES // 1000} KB"
    passed.append(print_measures(f"Logging an ingestion run with {calls}", ingestion.measure(parameters)))
    run = f"{strategy_decisions.SIGNALS} signals"
    passed.append(print_measures(f"Decisions of a strategy: {run}", strategy_decisions.measure(parameters)))
    with monitor_pass.workshop(parameters) as work:
        changes = f"{book.ORDERS:,} working orders, {monitor_pass.CHANGED} changed, {monitor_pass.ROUNDS} rounds"
        passed.append(print_measures(f"Order monitor: {changes}", monitor_pass.measure_orders(work)))
        positions = f"{len(book.POSITIONS):,} positions"
        passed.append(print_measures(f"Position monitor: {positions}", monitor_pass.measure_positions(work)))
    timed = f"{order_gate.ROUNDS * order_gate.ORDERS} orders, {book.ORDERS:,} working"
    passed.append(print_measures(f"Risk gate and protocol: {timed}", order_gate.measure(parameters)))
    passed.append(measure_reports(parameters))
    return all(passed)


def measure_reports(parameters: Mapping[str, Any], size: Size = YEAR) -> bool:
    """Measure and print the reports, and tell whether they are within their limits."""
    books = f"{size.trades:,} disclosed trades, {size.decisions:,} decisions, {reports.ROUNDS} rounds"
    return print_measures(f"Reports over a year: {books}", reports.measure(parameters, size))


def measure_tenfold(parameters: Mapping[str, Any]) -> bool:
    """Do the same on ten times the books."""
    return measure_reports(parameters, YEAR.times(reports.TENFOLD))


def profile(parameters: Mapping[str, Any]) -> bool:
    """Print where the time of the order monitor's pass goes."""
    with monitor_pass.workshop(parameters) as work:
        work("orders", "--profile")
    return True


def measure_audit(parameters: Mapping[str, Any]) -> bool:
    """Measure and print the audit trail's writes, and tell whether they are within their limits."""
    with TradingDB(config=parameters) as db:
        db.create_schema()
        with closing(Floor(dict(parameters))) as floor:
            results = audit_writes.measure(db, floor)
    print_table(
        f"Audit trail against the floor: {audit_writes.ROUNDS} of each, ms, durable commits",
        ("Unit of work", ">p50", ">p95", ">floor p50", ">floor p95", ">ratio p50", ">ratio p95", ">ratio limit",
         ">p95 limit", "Within"),
        [result.row() for result in results],
    )
    return all(result.passed() for result in results)


def print_measures(title: str, measures: Sequence[Measure]) -> bool:
    """Print the measures, and tell whether they are within their limits."""
    print_table(title, ("Measure", ">Observed", ">Limit", "Within"), [measure.row() for measure in measures])
    return all(measure.passed() for measure in measures)


WORKS = {"profile": profile, "reports": measure_reports, "tenfold": measure_tenfold}

if __name__ == "__main__":
    sys.exit(main())
