"""One measured pass in a process of its own: `python -m tests.bench.monitor_worker WORK URL DATABASE [--profile]`.

WORK is `orders`, `floor` or `positions`, URL that of the listing server, DATABASE psycopg2's keywords as JSON. Each
work is done once unmeasured, so that connections, caches and plans are those of a program that has been running. The
figures go to standard output as JSON; a pass that does anything wrong ends the process with status 1.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import resource
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing, nullcontext
from time import perf_counter
from typing import Any

import requests

from alpaca_client import Broker
from clock import ManualClock
from config import load_settings
from db_layer import Row, TradingDB
from order_monitor import OrderMonitor
from position_monitor import PositionMonitor
from tests.bench import book
from tests.bench.book import FILLED, Fate
from tests.bench.counting import Statement, counting_connection
from tests.bench.monitor_floor import Floor
from tests.bench.monitor_rows import expected_pnl

# All but the record of the reads, which every pass adds to.
BUSINESS_TABLES = """
SELECT table_schema || '.' || table_name AS name FROM information_schema.tables
WHERE table_schema IN ('public', 'audit') AND table_type = 'BASE TABLE'
  AND table_name NOT IN ('api_payloads', 'api_call_logs')
"""
# With xmin an update that changes nothing shows as well.
DIGEST = """
SELECT md5(string_agg(written.xmin::text || written::text, '' ORDER BY written::text)) AS digest FROM {table} written
"""
OUTCOME = """
SELECT (SELECT count(*) FROM trade_journal WHERE status = 'CLOSED' AND NOT pnl_is_estimate) AS closed,
       (SELECT sum(actual_pnl) FROM trade_journal) AS pnl,
       (SELECT count(*) FROM trade_journal WHERE status = 'CANCELLED') AS ended_unfilled,
       (SELECT count(*) FROM order_execution WHERE order_status = 'pending') AS working,
       (SELECT count(*) FROM order_execution WHERE broker_status = 'accepted') AS unrouted,
       (SELECT count(*) FROM order_fill) AS fills,
       (SELECT count(*) FROM position_tracking) AS positions,
       (SELECT count(*) FROM audit.trade_executions WHERE status = 'filled') AS filled_attempts,
       (SELECT count(*) FROM audit.trade_decisions WHERE status = 'pending') AS pending_decisions,
       (SELECT count(*) FROM audit.alerts) AS alerts
"""
VALUED = "SELECT count(*) AS valued FROM position_tracking WHERE unrealized_pnl = %(rise)s * qty"
MEGABYTE = 1_000_000


class WrongWorkError(Exception):
    """The pass did something else than it should, so its figures mean nothing."""


class Stub:
    """The bench's own line to the listing server."""

    def __init__(self, url: str) -> None:
        self._url = url

    def open(self, name: str) -> None:
        """Show the book of that name, and forget the calls."""
        self._ask(name)

    def seen(self) -> list[str]:
        """Return the calls since then, such as `GET /v2/orders`."""
        return self._ask("seen")

    def _ask(self, word: str) -> list[str]:
        seen: list[str] = requests.get(f"{self._url}/bench/{word}", timeout=5).json()
        return seen


def main() -> int:
    """Do the work that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=("orders", "floor", "positions"))
    parser.add_argument("url")
    parser.add_argument("database", type=json.loads)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    stub = Stub(options.url)
    try:
        if options.work == "floor":
            figures = floor_pass(stub, options.url, options.database)
        else:
            figures = our_pass(options.work, stub, options.url, options.database, options.profile)
    except WrongWorkError as error:
        print(f"the {options.work} pass went wrong: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures | {"peak_mb": _peak_bytes() / MEGABYTE}))
    return 0


def floor_pass(stub: Stub, url: str, database: dict[str, Any]) -> dict[str, Any]:
    """Measure the floor."""
    with closing(Floor(url, database)) as floor:
        stub.open("before")
        floor.run()
        stub.open("after")
        started = perf_counter()
        changed = floor.run()
        seconds = perf_counter() - started
    require({"rows changed": changed}, {"rows changed": 600})
    return {"seconds": seconds, "calls": len(stub.seen())}


def our_pass(work: str, stub: Stub, url: str, database: dict[str, Any], profile: bool) -> dict[str, Any]:
    """Measure a monitor's second pass; the first one finds nothing new."""
    settings = load_settings(True, {"ALPACA_BASE_URL": url})
    statements: list[Statement] = []
    with TradingDB(config=database | {"connection_factory": counting_connection(statements)}) as db:
        broker, clock = Broker(settings.alpaca), ManualClock(book.NOW)
        monitor = OrderMonitor if work == "orders" else PositionMonitor

        def run() -> object:
            return monitor(db=db, broker=broker, clock=clock, settings=settings).run()

        stub.open("before")
        run()  # what comes again in the next pass gets its plan there, and keeps it
        first_pass(work, run, stub, db)
        stub.open("after" if work == "orders" else "risen")
        statements.clear()
        with cProfile.Profile() if profile else nullcontext() as profiler:
            started = perf_counter()
            run()
            seconds = perf_counter() - started
        figures = {"seconds": seconds, "calls": len(stub.seen()), "statements": len(statements)}
        if profiler is not None:
            show_profile(profiler, stub.seen(), statements)
        require_no_messages(stub)
        if work == "orders":
            require(db.execute_query(OUTCOME)[0], expected_outcome())
        else:
            require_values(db, rise=2)
    return figures


def first_pass(work: str, run: Callable[[], object], stub: Stub, db: TradingDB) -> None:
    """Warm up, and make sure that a pass over the orders without news says and writes nothing."""
    before = digests(db)
    run()
    require_no_messages(stub)
    if work == "orders":
        written = sorted(table for table, digest in digests(db).items() if digest != before[table])
        require({"tables written to without news": written}, {"tables written to without news": []})
    else:
        require_values(db, rise=1)


def digests(db: TradingDB) -> Row:
    """Return a digest of each table that holds more than what was read."""
    tables = [row["name"] for row in db.execute_query(BUSINESS_TABLES)]
    return {table: db.execute_query(DIGEST.format(table=table))[0]["digest"] for table in tables}


def expected_outcome() -> Row:
    """Return what OUTCOME must say after the changes."""
    fates = Counter(trade.fate for trade in book.TRADES)
    closed, unfilled = sum(fates[fate] for fate in FILLED), fates[Fate.CANCELLED] + fates[Fate.EXPIRED]
    positions, legs = len(book.POSITIONS), sum(trade.held and trade.has_target for trade in book.TRADES)
    closed_legs = sum(trade.held and trade.has_target and trade.fate in FILLED for trade in book.TRADES)
    return {
        "closed": closed, "pnl": expected_pnl(), "ended_unfilled": unfilled,
        "working": book.ORDERS + legs - closed - closed_legs - unfilled, "unrouted": 0, "fills": positions + closed,
        "positions": positions - closed, "filled_attempts": positions + closed,
        "pending_decisions": book.ORDERS - positions - unfilled, "alerts": 0,
    }


def require_values(db: TradingDB, rise: int) -> None:
    """Raise WrongWorkError unless every position has gained so many dollars a share."""
    require(db.execute_query(VALUED, {"rise": rise})[0], {"valued": len(book.POSITIONS)})


def require(found: Row, wanted: Row) -> None:
    """Raise WrongWorkError for what differs."""
    wrong = [f"{name} is {found[name]} instead of {wanted[name]}" for name in wanted if found[name] != wanted[name]]
    if wrong:
        raise WrongWorkError("; ".join(wrong))


def require_no_messages(stub: Stub) -> None:
    """Raise WrongWorkError when the broker was told something."""
    said = Counter(call for call in stub.seen() if not call.startswith("GET "))
    if said:
        raise WrongWorkError(f"the broker was sent {dict(said)}")


def show_profile(profiler: cProfile.Profile, calls: list[str], statements: list[Statement]) -> None:
    """Print where the time went, and what was called and run how often, on standard error."""
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(30)
    for name, count in Counter(calls).most_common():
        print(f"{count:6} {name}", file=sys.stderr)
    times: defaultdict[str, list[float]] = defaultdict(list)
    for statement in statements:
        times[statement.text[:100]].append(statement.seconds)
    for text, taken in sorted(times.items(), key=lambda item: -sum(item[1])):
        print(f"{len(taken):6} {sum(taken) * 1000:8.1f} ms {text}", file=sys.stderr)


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(main())
