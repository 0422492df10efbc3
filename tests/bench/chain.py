"""Measures what an entry of the hash chain adds to the commit it belongs to, and what a verification takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

from audit_trail.verify import verify
from db_layer import TradingDB
from tests.bench import samples
from tests.bench.monitor_pass import BenchError, Measure

DATABASE = "bench_chain"
TURNS = 6
ROUNDS = 50  # in a turn
WARM_UP = 10
ENTRIES = 100_000
FILL = """
INSERT INTO order_fill (order_execution_id, execution_id, side, qty, price, filled_at)
VALUES (1, %(name)s, 'buy', 10, 133.8, %(now)s)
"""
WITHOUT = "ALTER TABLE order_fill DISABLE TRIGGER chain_insert"
# Rows of those rounds have no entry; they go, so that the chain verifies.
WITH = "ALTER TABLE order_fill ENABLE ALWAYS TRIGGER chain_insert"
FORGET = """
ALTER TABLE order_fill DISABLE TRIGGER recorded_stays;
DELETE FROM order_fill WHERE execution_id LIKE 'without%';
ALTER TABLE order_fill ENABLE ALWAYS TRIGGER recorded_stays
"""
# Ten entries an order: a decision with two states, an attempt with four, two messages, two fills.
ORDERS = """
WITH decision AS (
    INSERT INTO audit.trade_decisions (strategy_name, strategy_version, action, symbol, side, quantity,
        decision_rationale, source_bytes, source_bytes_sha256)
    SELECT 'n8n_analysis', '1', 'new_trade', 'NVDA', 'buy', 45, %(rationale)s::jsonb, %(text)s,
           encode(sha256(convert_to(%(text)s, 'UTF8')), 'hex') FROM generate_series(1, %(orders)s) RETURNING id
), message AS (
    INSERT INTO audit.api_payloads (type, payload, source, captured_at, sha256, byte_length)
    SELECT 'ApiResponse', %(answer)s::json, 'alpaca', %(now)s, encode(sha256(convert_to(%(answer)s, 'UTF8')), 'hex'),
           octet_length(%(answer)s) FROM generate_series(1, 2 * %(orders)s)
), fill AS (
    INSERT INTO order_fill (order_execution_id, execution_id, side, qty, price, filled_at)
    SELECT 1, 'order' || number, 'buy', 10, 133.8, %(now)s FROM generate_series(1, 2 * %(orders)s) AS number
)
INSERT INTO audit.trade_executions (trade_decision_id, attempt_number, status, client_order_id, submitted_at)
SELECT id, 1, 'submitted', 'bench' || id, %(now)s FROM decision
"""
MOVE_EXECUTIONS = "UPDATE audit.trade_executions SET status = %(status)s, http_status_code = 200"
MOVE_DECISIONS = "UPDATE audit.trade_decisions SET status = 'executed', executed_at = %(now)s"


def measure(parameters: Mapping[str, Any]) -> list[Measure]:
    """Measure on a database of its own. Raises BenchError and DatabaseError."""
    with TradingDB(config=parameters) as admin:
        admin.execute_update(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        admin.execute_update(f"CREATE DATABASE {DATABASE}")
    with TradingDB(config=dict(parameters) | {"dbname": DATABASE}) as db:
        db.create_schema(test_mode=True)
        added = _appending(db)
        entries, seconds = _verifying(db)
    return [
        Measure("entry added to a commit at p50, ms", added, 1, 2),
        Measure("entries verified, with their rows and texts", entries),
        Measure("seconds for 100,000", seconds * ENTRIES / entries, 3, 2),
    ]


def _appending(db: TradingDB) -> float:
    taken: dict[str, list[float]] = {"with": [], "without": []}
    for turn in range(TURNS):
        for side, switch in (("with", WITH), ("without", WITHOUT)):
            db.execute_update(switch)  # after which statements are planned anew
            fills = [{"name": f"{side}{turn}-{number}", "now": samples.NOW} for number in range(WARM_UP + ROUNDS)]
            taken[side] += [_timed(partial(db.execute_prepared, FILL, fill)) for fill in fills][WARM_UP:]
    db.execute_update(WITH)
    db.execute_update(FORGET)
    return (median(taken["with"]) - median(taken["without"])) * 1000


def _verifying(db: TradingDB) -> tuple[int, float]:
    done = samples.decision("verified")
    orders = ENTRIES // 10
    values = {
        "orders": orders, "now": samples.NOW, "rationale": '{"signal_strength": 1.5, "source_data": {"row_key": "1"}}',
        "text": done.source_bytes, "answer": samples.response("verified").kept,
    }
    db.execute_update(ORDERS, values)
    for status in ("accepted", "partial_fill", "filled"):
        db.execute_update(MOVE_EXECUTIONS, {"status": status})
    db.execute_update(MOVE_DECISIONS, {"now": samples.NOW})
    db.execute_update("VACUUM ANALYZE")
    reports = []
    seconds = _timed(lambda: reports.append(verify(db)))
    if reports[0].fault:
        raise BenchError(f"the chain does not verify, so its time means nothing: {reports[0].fault}")
    return reports[0].entries, seconds


def _timed(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started
