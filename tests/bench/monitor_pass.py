"""Measures a monitor's pass over 5,000 working orders against its floor, each round on a fresh copy of the rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from config import PROJECT_ROOT
from db_layer import TradingDB
from tests.bench import book
from tests.bench.book import FILLED, Fate
from tests.bench.monitor_rows import load

ROUNDS = 5
TIMEOUT_SECONDS = 300
LOADED, COPY = "bench_loaded", "bench_copy"
CHANGED = sum(trade.fate is not Fate.RESTS for trade in book.TRADES)
NEW_FILLS = sum(trade.fate in FILLED for trade in book.TRADES)
FILLS_PAGE_SIZE = 100
RATIO_LIMIT = 2.0
MEMORY_LIMIT_MB = 300

Figures = Mapping[str, float]
Work = Callable[..., Figures]


class BenchError(Exception):
    """A process of the bench failed."""


@dataclass(frozen=True)
class Measure:
    """One figure of a pass and what it may be at most; a figure without limit is there to be read."""

    name: str
    observed: float
    limit: float | None = None
    digits: int = 0

    def passed(self) -> bool:
        """Tell whether the figure is within its limit."""
        return self.limit is None or self.observed <= self.limit

    def row(self) -> tuple[str, ...]:
        """Return the measure as cells of a table."""
        cells = [f"{value:.{self.digits}f}" if value is not None else "" for value in (self.observed, self.limit)]
        return self.name, *cells, "" if self.limit is None else "yes" if self.passed() else "NO"


@contextmanager
def workshop(parameters: Mapping[str, Any]) -> Iterator[Work]:
    """Load the rows once, run the listing server, and give what does a work on a fresh copy of the rows.

    Raises BenchError and DatabaseError.
    """
    with copies(parameters) as admin, listing_server() as url:
        yield lambda name, *options: worker(name, url, dict(parameters) | {"dbname": fresh_copy(admin)}, *options)


def rounds(work: Work) -> tuple[list[Figures], list[Figures]]:
    """Run ours and the floor in turns, and in turns first."""
    taken: dict[str, list[Figures]] = {"orders": [], "floor": []}
    for number in range(ROUNDS):
        for name in ("orders", "floor") if number % 2 else ("floor", "orders"):
            taken[name].append(work(name))
    return taken["orders"], taken["floor"]


def measure_orders(work: Work) -> list[Measure]:
    """Measure the order monitor's pass: times are medians, the rest is the worst round."""
    ours, floor = rounds(work)
    seconds, floor_seconds = (median(figures["seconds"] for figures in side) for side in (ours, floor))
    calls = 12 + -(-NEW_FILLS // FILLS_PAGE_SIZE)
    return [
        Measure("API calls", max(figures["calls"] for figures in ours), calls),
        Measure("SQL statements", max(figures["statements"] for figures in ours), 20),
        Measure("wall time, floors", seconds / floor_seconds, RATIO_LIMIT, 2),
        Measure("wall time, ms", seconds * 1000),
        Measure("wall time of the floor, ms", floor_seconds * 1000),
        Measure("peak memory, MB", max(figures["peak_mb"] for figures in ours), MEMORY_LIMIT_MB),
    ]


def measure_positions(work: Work) -> list[Measure]:
    """Measure the position monitor's pass."""
    figures = work("positions")
    return [
        Measure("API calls", figures["calls"], 5),
        Measure("SQL statements", figures["statements"], 15),
        Measure("wall time, ms", figures["seconds"] * 1000),
    ]


def worker(work: str, url: str, database: Mapping[str, Any], *options: str) -> Figures:
    """Do a piece of work in a process of its own and return its figures. Raises BenchError."""
    command = [sys.executable, "-m", "tests.bench.monitor_worker", work, url, json.dumps(database), *options]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT, timeout=TIMEOUT_SECONDS, check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"the process for the {work} pass had not ended after {TIMEOUT_SECONDS} seconds") from error
    if done.returncode != 0:
        raise BenchError(f"the process for the {work} pass ended with status {done.returncode}")
    figures: Figures = json.loads(done.stdout)
    return figures


@contextmanager
def listing_server() -> Iterator[str]:
    """Run the broker's stand-in for the block and give its URL. Raises BenchError."""
    command = [sys.executable, "-m", "tests.bench.listing_server"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise BenchError("the listing server has no standard input or output")
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise BenchError("the listing server did not start")
            yield url
        finally:
            process.stdin.close()


@contextmanager
def copies(parameters: Mapping[str, Any]) -> Iterator[TradingDB]:
    """Load a database to copy from, and give the connection that copies it."""
    with TradingDB(config=parameters) as admin:
        admin.execute_update(f"CREATE DATABASE {LOADED}")
        with TradingDB(config=dict(parameters) | {"dbname": LOADED}) as db:
            db.create_schema(test_mode=True)
            load(db)
            db.execute_update("VACUUM ANALYZE")
        yield admin


def fresh_copy(admin: TradingDB) -> str:
    """Make the copy anew and return its name."""
    admin.execute_update(f"DROP DATABASE IF EXISTS {COPY} WITH (FORCE)")
    admin.execute_update(f"CREATE DATABASE {COPY} TEMPLATE {LOADED}")
    admin.execute_update("CHECKPOINT")
    return COPY
