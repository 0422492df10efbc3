"""Measures what the risk gate and the protocol of three transactions add to an order, on a book of 5,000 orders."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from statistics import median
from time import perf_counter
from typing import Any

import psycopg2
import requests
from psycopg2 import sql

from alpaca_client import Broker
from analysis_rows import AnalysisRow
from clock import SystemClock
from config import PROJECT_ROOT, load_settings
from db_layer import Parameters, Row, TradingDB
from decision_review import Result
from order_executor import OrderExecutor
from pass_log import PassLog
from tests.bench.monitor_pass import BenchError, Measure, fresh_copy

ROUNDS = 5
ORDERS = 30  # a round, after as many that are not timed in the first
SYMBOLS = 10
GENEROUS = {
    "MAX_SYMBOL_EXPOSURE": "1000000000", "MAX_GROSS_EXPOSURE": "1000000000", "MAX_DAILY_LOSS": "1000000000",
    "MAX_OPEN_POSITIONS": "100000", "MAX_ORDERS_PER_DAY": "1000000", "MAX_SYMBOL_ORDERS_PER_DAY": "1000000",
    "MAX_ORDERS_PER_MINUTE": "1000000",
}
WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|EXECUTE)\b")

ADD_DECISION = """
INSERT INTO analysis_decision ("Analysis_Id", "Date_time", "Ticker", "Decision", "Approve")
VALUES (%(id)s, %(at)s, %(symbol)s, %(decision)s, true)
"""
# The same order without gate and protocol: sent, written down in one transaction, and its row marked.
PREPARE = """
SET search_path = public, audit;
PREPARE journal (text, text, text, numeric, timestamptz) AS
INSERT INTO trade_journal (trade_id, symbol, side, trade_style, status, initial_analysis_id, planned_entry,
                           planned_stop_loss, planned_qty, created_at, updated_at)
VALUES ($1, $2, 'buy', 'TREND', 'ORDERED', $3, $4, 1, 1, $5, $5) RETURNING id;
PREPARE placed (bigint, text, text, text, numeric, timestamptz) AS
INSERT INTO order_execution (trade_journal_id, trade_decision_id, analysis_decision_id, alpaca_order_id,
                             client_order_id, order_type, side, order_status, time_in_force, qty, limit_price,
                             created_at, updated_at)
VALUES ($1, 0, $2, $3, $4, 'ENTRY', 'buy', 'pending', 'day', 1, $5, $6, $6);
PREPARE mark (text, text, bigint) AS
UPDATE analysis_decision SET executed = true, existing_order_id = $2, existing_trade_journal_id = $3
WHERE "Analysis_Id" = $1;
"""


class CountingDB(TradingDB):
    """Counts the commits that write: of transactions, and of statements outside them."""

    commits = 0

    def _commit(self) -> None:
        super()._commit()
        self.commits += 1

    def _run(self, statement: str | sql.Composable, parameters: Parameters) -> tuple[list[Row], int]:
        rows, count = super()._run(statement, parameters)
        if not self._in_transaction and count > 0:
            text = statement if isinstance(statement, str) else statement.as_string(self._connection)
            self.commits += bool(WRITES.search(text))
        return rows, count


class TimedExecutor(OrderExecutor):
    """Takes the time and the commits of each decision, from its claim to the mark on its row."""

    def __init__(self, db: CountingDB, **parts: Any) -> None:
        super().__init__(db=db, **parts)
        self._counting = db
        self.seconds: list[float] = []
        self.commits: list[int] = []

    def _settle(self, found: PassLog) -> None:
        """Settle nothing: this broker knows none of the book's orders, and a pass's beginning is no order's cost."""

    def _carry_out(self, row: AnalysisRow) -> Result:
        commits, started = self._counting.commits, perf_counter()
        result = super()._carry_out(row)
        self.seconds.append(perf_counter() - started)
        self.commits.append(self._counting.commits - commits)
        if result is not Result.PLACED:
            why = self._counting.query("trade_decisions", {"analysis_decision_id": row.analysis_id})
            words = why[0]["status_reason"] if why else "no reason known"
            raise BenchError(f"order {row.analysis_id} came to {result} ({words}), so its time means nothing")
        return result


def measure(parameters: Mapping[str, Any]) -> list[Measure]:
    """Measure on a copy of the monitors' book. Raises BenchError, BrokerError and DatabaseError."""
    with TradingDB(config=parameters) as admin, paper_broker() as url:
        database = dict(parameters) | {"dbname": fresh_copy(admin)}
        logging.disable(logging.WARNING)
        settings = load_settings(True, GENEROUS | {"ALPACA_BASE_URL": url})
        with CountingDB(config=database) as db, closing(Bare(database, url)) as bare:
            seconds: list[float] = []
            commits: list[int] = []
            for number in range(-1, ROUNDS):
                started = len(bare.seconds)
                if number % 2:
                    bare.send(number)
                decide(db, number)
                executor = TimedExecutor(
                    db, broker=Broker(settings.alpaca), clock=SystemClock(), settings=settings,
                )
                executor.run()
                if not number % 2:
                    bare.send(number)
                if number < 0:
                    del bare.seconds[started:]
                else:
                    seconds += executor.seconds
                    commits += executor.commits
        logging.disable(logging.NOTSET)
    ours, floor = median(seconds) * 1000, median(bare.seconds) * 1000
    return [
        Measure("commits added", max(commits) - bare.COMMITS, 2),
        Measure("time added at p50, ms", ours - floor, 5, 2),
        Measure("commits of an order", max(commits)),
        Measure("an order at p50, ms", ours, None, 2),
        Measure("without gate and protocol, ms", floor, None, 2),
    ]


class Bare:
    """Sends an order and writes down what came of it, and nothing else."""

    COMMITS = 2

    def __init__(self, database: Mapping[str, Any], url: str) -> None:
        self._connection = psycopg2.connect(**database)
        self._cursor = self._connection.cursor()
        self._cursor.execute(PREPARE)
        self._connection.commit()
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update({"APCA-API-KEY-ID": "bench", "APCA-API-SECRET-KEY": "bench"})
        self._url = f"{url}/v2/orders"
        self.seconds: list[float] = []

    def close(self) -> None:
        self._session.close()
        self._connection.close()

    def send(self, number: int) -> None:
        """Send a round of orders."""
        for name, symbol, price in orders(f"bare{number}"):
            started = perf_counter()
            self._order(name, symbol, price)
            self.seconds.append(perf_counter() - started)

    def _order(self, name: str, symbol: str, price: str) -> None:
        now = SystemClock().now()
        answer = self._session.post(self._url, json={
            "symbol": symbol, "qty": "1", "side": "buy", "type": "limit", "limit_price": price,
            "time_in_force": "day", "client_order_id": name,
        })
        order_id = answer.json()["id"]
        cursor = self._cursor
        cursor.execute("EXECUTE journal (%s, %s, %s, %s, %s)", (name, symbol, name, price, now))
        journal_id = cursor.fetchone()[0]
        placed = (journal_id, name, order_id, name, price, now)
        cursor.execute("EXECUTE placed (%s, %s, %s, %s, %s, %s)", placed)
        self._connection.commit()
        cursor.execute("EXECUTE mark (%s, %s, %s)", (name, order_id, journal_id))
        self._connection.commit()


def orders(kind: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, symbol and limit of a round's orders, which rest far below the price."""
    for number in range(ORDERS):
        yield f"{kind}-{number}", f"GATE{'ABCDEFGHIJ'[number % SYMBOLS]}", f"{50 + number / 100:.2f}"


def decide(db: TradingDB, number: int) -> None:
    """Write a round's decisions."""
    now = SystemClock().now().replace(tzinfo=None)
    with db.transaction():
        for place, (name, symbol, price) in enumerate(orders(f"ours{number}")):
            decision = {
                "symbol": symbol, "primary_action": "NEW_TRADE", "trade_style": "TREND",
                "qty": number + 3, "entry_price": float(price), "stop_loss": 40,  # never as many as without the gate
            }
            db.execute_update(ADD_DECISION, {
                "id": name, "at": now - timedelta(minutes=5) + timedelta(seconds=place), "symbol": symbol,
                "decision": json.dumps(decision),
            })


@contextmanager
def paper_broker() -> Iterator[str]:
    """Run the paper broker for the block, always open, with a price for each symbol, and give its URL."""
    command = [sys.executable, "-m", "paper_broker", "--hours", "always", "--cash", "1000000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if "http" not in line:
                raise BenchError("the paper broker did not start")
            url = line[line.index("http"):].strip()
            prices = {symbol: "100" for _, symbol, _ in orders("prices")}
            requests.post(f"{url}/control/prices", json=prices, timeout=10).raise_for_status()
            yield url
        finally:
            process.terminate()
