"""Rows of the books written by hand, for questions to them: each with what it needs, everything else as usual."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from db_layer import TradingDB

NOON = datetime(2025, 1, 15, 17, 0, tzinfo=UTC)  # a Wednesday, 12:00 in New York
ENDS = {"executed": "executed_at", "failed": "failed_at", "cancelled": "cancelled_at"}
ADD_CHECKS = """
INSERT INTO audit.risk_checks (trade_decision_id, check_name, limit_value, observed_value, passed, checked_at)
SELECT %(decision)s, name, 'limit', observed, passed, %(at)s
FROM unnest(%(names)s::text[], %(observed)s::text[], %(passed)s::boolean[]) AS made (name, observed, passed)
"""


class Ledger:
    """Writes rows that belong together and returns their ids."""

    def __init__(self, db: TradingDB) -> None:
        self.db = db
        self._numbers = itertools.count(1)

    def run(self, at: datetime = NOON, status: str = "completed", **values: Any) -> int:
        """An ingestion run that began at a time and took a minute."""
        ended = at + timedelta(minutes=1)
        return int(self.db.insert("data_ingestion_runs", {
            "task_name": "congress_daily", "data_source": "quiverquant_congress", "status": status, "started_at": at,
            "completed_at": ended if status == "completed" else None,
            "failed_at": ended if status == "failed" else None, "created_at": at,
        } | values))

    def disclosed(self, run: int, at: datetime = NOON, symbol: str = "NVDA", **values: Any) -> int:
        """A disclosed trade that became known at a time, brought by a run."""
        number = next(self._numbers)
        disclosed = int(self.db.insert("quiver_trades", {
            "natural_key": f"key-{number}", "trade_key": f"key-{number}", "lot": 0, "source": "quiverquant_congress",
            "symbol": symbol, "asset_type": "stock", "tradable": True, "person_name": "Nancy Example",
            "chamber": "house", "transaction_type": "Purchase", "side": "buy", "transaction_date": at.date(),
            "disclosure_date": at.date(), "amount_low": 1001, "amount_high": 15000, "available_at": at,
            "data_ingestion_run_id": run, "created_at": at, "updated_at": at,
        } | values))
        self.touched(run, disclosed, "created", at)
        return disclosed

    def touched(self, run: int, disclosed: int, operation: str, at: datetime = NOON) -> None:
        """What a run did with a disclosed trade."""
        self.db.execute_update(
            "INSERT INTO audit.data_ingestion_run_records VALUES (%s, 'quiver_trades', %s, %s, %s)",
            (run, disclosed, operation, at),
        )

    def decided(self, at: datetime = NOON, status: str = "executed", symbol: str = "NVDA", **values: Any) -> int:
        """A decision to buy 10 at 100, and what became of it a minute later."""
        end = {ENDS[status]: at + timedelta(minutes=1)} if status in ENDS else {}
        return int(self.db.insert("trade_decisions", {
            "strategy_name": "n8n_analysis", "strategy_version": "1", "action": "new_trade", "symbol": symbol,
            "side": "buy", "quantity": Decimal(10), "order_type": "limit", "limit_price": Decimal(100),
            "analysis_decision_id": f"A{next(self._numbers)}", "decision_rationale": "{}",
            "source_bytes_sha256": "0" * 64, "status": status, "created_at": at, "updated_at": at,
        } | end | values))

    def checked(self, decision: int, at: datetime = NOON, **made: tuple[str, bool]) -> None:
        """The checks of a decision: what each observed, and whether it passed."""
        self.db.execute_update(ADD_CHECKS, {
            "decision": decision, "at": at, "names": list(made), "observed": [seen for seen, _ in made.values()],
            "passed": [passed for _, passed in made.values()],
        })

    def traded(self, decision: int, at: datetime = NOON, status: str = "CLOSED", **values: Any) -> int:
        """The trade of a decision, bought at 101 and sold at 103 a day later where nothing else is said."""
        closed = {
            "actual_entry": 101, "actual_qty": 10, "exit_price": 103, "actual_pnl": 20, "exit_reason": "TARGET_HIT",
            "exit_date": at + timedelta(days=1),
        }
        return int(self.db.insert("trade_journal", {
            "trade_id": f"NVDA-{next(self._numbers)}", "symbol": "NVDA", "side": "buy", "trade_style": "SWING",
            "status": status, "trade_decision_id": decision, "planned_entry": 100, "planned_stop_loss": 90,
            "planned_take_profit": 120, "planned_qty": 10, "created_at": at,
        } | (closed if status == "CLOSED" else {}) | values))

    def ordered(
        self, decision: int, trade: int, at: datetime = NOON, attempt: dict[str, Any] | None = None, **values: Any,
    ) -> int:
        """The entry order of a trade, filled after a minute where nothing else is said, and one attempt to place it."""
        number = next(self._numbers)
        names = {"client_order_id": f"tm-{number}-e", "alpaca_order_id": f"broker-{number}"}
        order = int(self.db.insert("order_execution", {
            "trade_journal_id": trade, "trade_decision_id": decision, "order_type": "ENTRY", "side": "buy",
            "order_status": "filled", "time_in_force": "day", "qty": 10, "limit_price": 100, "filled_qty": 10,
            "filled_avg_price": 101, "filled_at": at + timedelta(minutes=1), "created_at": at,
        } | names | values))
        self.db.insert("trade_executions", {
            "trade_decision_id": decision, "order_execution_id": order, "attempt_number": 1, "status": "filled",
            "http_status_code": 200, "submitted_at": at, "created_at": at,
        } | names | (attempt or {}))
        return order
