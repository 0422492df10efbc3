"""Measures audit trail and monitors against their floors on a durable PostgreSQL: `python -m tests.bench`.

With `--profile` it runs one pass of the order monitor under the profiler instead. What is measured and why:
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
from tests.bench import audit_writes, book, chain, ingestion, monitor_pass, order_gate, year
from tests.bench.durable import durable_server
from tests.bench.floor import Floor
from tests.bench.monitor_pass import BenchError, Measure


def main() -> int:
    """Measure and print; the exit status is 1 when a limit is exceeded or nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--profile", action="store_true")
    work = profile if parser.parse_args().profile else measure
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
    print_measures("A year of 500 orders a day in the audit trail", year.measure(parameters))
    passed.append(print_measures("Hash chain: an order's ten entries ten thousand times", chain.measure(parameters)))
    calls = f"{ingestion.CALLS} calls of {ingestion.BODY_BYTES // 1000} KB"
    passed.append(print_measures(f"Logging an ingestion run with {calls}", ingestion.measure(parameters)))
    with monitor_pass.workshop(parameters) as work:
        changes = f"{book.ORDERS:,} working orders, {monitor_pass.CHANGED} changed, {monitor_pass.ROUNDS} rounds"
        passed.append(print_measures(f"Order monitor: {changes}", monitor_pass.measure_orders(work)))
        positions = f"{len(book.POSITIONS):,} positions"
        passed.append(print_measures(f"Position monitor: {positions}", monitor_pass.measure_positions(work)))
    timed = f"{order_gate.ROUNDS * order_gate.ORDERS} orders, {book.ORDERS:,} working"
    passed.append(print_measures(f"Risk gate and protocol: {timed}", order_gate.measure(parameters)))
    return all(passed)


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


if __name__ == "__main__":
    sys.exit(main())
