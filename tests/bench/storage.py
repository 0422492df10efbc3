"""Measures what a year of aggressive trading takes in the database: 500 decisions and executions a day, and runs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from audit_trail import (
    Operation,
    OrderState,
    PayloadPolicy,
    create_decision,
    finish_decision,
    log_data_ingestion,
    record_answer,
    record_attempt,
    record_order_states,
)
from audit_trail.retention import table_sizes
from clock import ManualClock
from db_layer import TradingDB
from order_life import DecisionStatus, ExecutionStatus
from risk_gate import RiskCheck, record_checks
from tests.bench import samples
from tests.bench.monitor_pass import Measure

DATABASE = "bench_storage"
TRADING_DAYS = 250
DAYS = 2  # measured after the first, so that what every database has does not count
ORDERS_A_DAY = 500
RUNS_A_DAY, CALLS_A_RUN, RECORDS_A_RUN = 3, 10, 300
CHECKS = 22
SETTLE = "VACUUM FULL"
FILL = """
INSERT INTO order_fill (order_execution_id, execution_id, side, qty, price, filled_at)
VALUES (%(id)s, %(name)s, 'buy', 45, 133.8, %(now)s)
"""


def measure(parameters: Mapping[str, Any]) -> list[Measure]:
    """Write two days on a database of its own and return what a year of the second would take. Raises DatabaseError."""
    with TradingDB(config=parameters) as admin:
        admin.execute_update(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        admin.execute_update(f"CREATE DATABASE {DATABASE}")
    with TradingDB(config=dict(parameters) | {"dbname": DATABASE}) as db:
        db.create_schema(test_mode=True)
        db.execute_update("SET synchronous_commit = off")
        sizes = []
        for day in range(DAYS):
            write_day(db, day)
            db.execute_update(SETTLE)
            tables = table_sizes(db, ["order_fill"])
            sizes.append({row["name"]: row["table_bytes"] + row["index_bytes"] for row in tables})
    grown = {name: (size - sizes[-2][name]) * TRADING_DAYS / 1e6 for name, size in sizes[-1].items()}
    largest = sorted(grown, key=lambda name: -grown[name])[:6]
    return [
        Measure("a year, MB", sum(grown.values())), *(Measure(f"of it {name}, MB", grown[name]) for name in largest),
    ]


def write_day(db: TradingDB, day: int) -> None:
    """Write a day: runs with answers of 20 KB, then orders, each decided, checked, sent, answered and filled."""
    now = samples.NOW + timedelta(days=day)
    digits = random.Random(day)
    for run in range(RUNS_A_DAY):
        clock = ManualClock(now)
        with log_data_ingestion(f"task_{run}", "bench", db, clock, PayloadPolicy()) as log:
            for call in range(CALLS_A_RUN):
                rows = ",".join(
                    f'{{"Ticker":"S{digits.randrange(500)}","Date":"2026-11-{digits.randrange(1, 29):02}",'
                    f'"Amount":{digits.randrange(10**6)},"Name":"Member {digits.randrange(535)}"}}' for _ in range(250)
                )
                log.log_call("/beta/live", {"page": str(call)}, 200, {}, f"[{rows}]", 5)
            first = (day * RUNS_A_DAY + run) * RECORDS_A_RUN
            log.log_records("quiver_trades", {Operation.CREATED: range(first, first + RECORDS_A_RUN)})
    checks = [RiskCheck(f"check_number_{number}", "20000", "6021.00") for number in range(CHECKS)]
    for number in range(ORDERS_A_DAY):
        name, order_id = f"{day}-{number}", day * ORDERS_A_DAY + number
        with db.transaction():
            decision_id = create_decision(db, samples.decision(name), now)
            record_checks(db, decision_id, checks, now)
        with db.transaction():
            ids = record_attempt(db, decision_id, {order_id: name}, samples.request(name), now)
        with db.transaction():
            record_answer(db, ids, ExecutionStatus.ACCEPTED, samples.response(name), now, http_status=200)
        with db.transaction():
            db.execute_prepared(FILL, {"id": order_id, "name": name, "now": now})
            filled = OrderState(order_id, ExecutionStatus.FILLED, name, name, Decimal(45), Decimal("133.8"), now)
            record_order_states(db, [filled], now)
            finish_decision(db, decision_id, DecisionStatus.EXECUTED, None, now)
