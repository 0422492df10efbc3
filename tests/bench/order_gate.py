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

import requests
from psycopg2 import sql

from alpaca_client import Broker, get_trading_client
from analysis_rows import AnalysisRow, AnalysisRows
from audit_trail import create_decision
from clock import SystemClock
from config import PROJECT_ROOT, Settings, load_settings
from db_layer import Parameters, Row, TradingDB
from decision import Decision, parse_decision
from decision_review import Result, Verdict
from order_changes import add_entry, order_name
from order_executor import OrderExecutor, new_decision
from order_life import decimal_text
from pass_log import PassLog
from tests.bench.monitor_pass import BenchError, Measure, fresh_copy

ROUNDS = 6
ORDERS = 25  # a round on each side; the first is not timed
SYMBOLS = 10
GENEROUS = {
    "MAX_SYMBOL_EXPOSURE": "1000000000", "MAX_GROSS_EXPOSURE": "1000000000", "MAX_DAILY_LOSS": "1000000000",
    "MAX_OPEN_POSITIONS": "100000", "MAX_ORDERS_PER_DAY": "1000000", "MAX_SYMBOL_ORDERS_PER_DAY": "1000000",
    "MAX_ORDERS_PER_MINUTE": "1000000",
}
WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE)\b")

ADD_DECISION = """
INSERT INTO analysis_decision ("Analysis_Id", "Date_time", "Ticker", "Decision", "Approve")
VALUES (%(id)s, %(at)s, %(symbol)s, %(decision)s, true)
"""
HEARD = """
UPDATE order_execution SET order_status = 'pending', broker_status = %(status)s, alpaca_order_id = %(order_id)s
WHERE id = %(id)s RETURNING trade_journal_id
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
            prepared = {call: text for text, call in self._prepared.items()}
            self.commits += bool(WRITES.search(prepared.get(str(statement), str(statement))))
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
        with CountingDB(config=database) as db, closing(Bare(db, settings)) as bare:
            gated = TimedExecutor(db, broker=Broker(settings.alpaca), clock=SystemClock(), settings=settings)
            for number in range(-1, ROUNDS):
                # Who goes first changes, so that neither side always finds the machine warmed up by the other.
                for kind in ("bare", "gated") if number % 2 else ("gated", "bare"):
                    decide(db, kind, number)
                    (bare if kind == "bare" else gated).run()
                if number < 0:
                    for side in (bare, gated):
                        side.seconds.clear()
                        side.commits.clear()
        logging.disable(logging.NOTSET)
    ours, floor = median(gated.seconds) * 1000, median(bare.seconds) * 1000
    return [
        Measure("commits added", max(gated.commits) - min(bare.commits), 2),
        Measure("time added at p50, ms", ours - floor, 5, 2),
        Measure("commits of an order", max(gated.commits)),
        Measure("an order at p50, ms", ours, None, 2),
        Measure("without gate and protocol, ms", floor, None, 2),
    ]


class Bare:
    """Sends the same orders without gate and protocol, and writes them down when the answer is there."""

    def __init__(self, db: CountingDB, settings: Settings) -> None:
        self._db = db
        self._client = get_trading_client(settings.alpaca)
        self._analysis = AnalysisRows(db, settings.analysis_timezone)
        self.seconds: list[float] = []
        self.commits: list[int] = []

    def close(self) -> None:
        self._client._session.close()

    def run(self) -> None:
        """Send what is approved."""
        rows = self._analysis.candidates()
        decisions = [parse_decision(row.text, row.ticker) for row in rows]  # as a pass does for what it asks the broker
        for row, decision in zip(rows, decisions, strict=True):
            commits, started = self._db.commits, perf_counter()
            self._order(row, decision)
            self.seconds.append(perf_counter() - started)
            self.commits.append(self._db.commits - commits)

    def _order(self, row: AnalysisRow, decision: Decision) -> None:
        name, trade, now = order_name(row.text_sha256, row.row_key), decision.trade, SystemClock().now()
        answer = self._client.post("/orders", {
            "symbol": decision.symbol, "qty": decimal_text(trade.qty), "side": trade.side, "type": "limit",
            "limit_price": decimal_text(trade.limit_price), "time_in_force": trade.time_in_force,
            "client_order_id": f"{name}-e",
        })
        with self._db.transaction():
            decision_id = create_decision(self._db, new_decision(row, Verdict(Result.PLACED, decision=decision)), now)
            order_id = add_entry(self._db, name, decision.symbol, trade, row.analysis_id, decision_id, now)
            heard = {"id": order_id, "order_id": answer["id"], "status": answer["status"]}
            journal_id = self._db.execute_prepared(HEARD, heard)[0]["trade_journal_id"]
        self._analysis.mark_placed(row.row_key, row.known_as, answer["id"], journal_id, now)


def orders(kind: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, symbol and limit of a round's orders, which rest far below the price."""
    for number in range(ORDERS):
        yield f"{kind}-{number}", f"GATE{'ABCDEFGHIJ'[number % SYMBOLS]}", f"{50 + number / 100:.2f}"


def decide(db: TradingDB, kind: str, number: int) -> None:
    """Write a round's decisions."""
    now = SystemClock().now().replace(tzinfo=None)
    with db.transaction():
        for place, (name, symbol, price) in enumerate(orders(f"{kind}{number}")):
            decision = {
                "symbol": symbol, "primary_action": "NEW_TRADE", "trade_style": "TREND",
                "qty": number + 3 if kind == "gated" else 1,  # never as many as another: no repetition
                "entry_price": float(price), "stop_loss": 40,
            }
            db.execute_update(ADD_DECISION, {
                "id": name, "at": now - timedelta(minutes=5) + timedelta(seconds=place), "symbol": symbol,
                "decision": json.dumps(decision),
            })


@contextmanager
def paper_broker() -> Iterator[str]:
    """Run the paper broker for the block, always open, with a price for each symbol, and give its URL."""
    command = [sys.executable, "-m", "paper_broker", "--hours", "always", "--cash", "1000000000"]
    command += ["--rate-limit", "1000000"]  # waiting for room is neither the gate nor the protocol
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
