"""One run of a strategy: plan, write every decision, then have the executor carry them out, strongest first."""

import logging
from collections import Counter

from alpaca_client import Broker
from clock import Clock
from config import Settings
from db_layer import TradingDB
from decision_review import Result
from limit_raises import limits_in_force
from order_executor import OrderExecutor
from parts import build_parts
from session_locks import hold_account
from strategies.plan import Plan, make_plan
from strategies.signals import Strategy
from strategies.snapshot import load_snapshot
from strategies.written import write_plan
from written_decisions import WrittenDecisions

log = logging.getLogger("strategies")


class StrategyRun:
    """A strategy at work on an account."""

    def __init__(
        self, strategy: Strategy, test_mode: bool = False, db: TradingDB | None = None, broker: Broker | None = None,
        clock: Clock | None = None, settings: Settings | None = None,
    ) -> None:
        self._strategy = strategy
        self._parts = parts = build_parts(test_mode, db, broker, clock, settings, f"strategies {strategy.name}")
        self._written = WrittenDecisions(parts.db, strategy.name)
        self._executor = OrderExecutor(
            db=parts.db, broker=parts.broker, clock=parts.clock, settings=parts.settings, written=self._written,
        )

    def close(self) -> None:
        """Close the connections that were opened for it."""
        self._parts.close()

    def run(self) -> tuple[Plan, Counter[Result]]:
        """Decide and carry out; decisions of an earlier run that have no order yet are taken with the new ones.

        Returns the plan and how many decisions came to which result. Raises DatabaseError and BrokerError when the run
        cannot do its work; what was decided until then is kept and carried out by the next run.
        """
        with hold_account(self._parts.db):
            plan = self._plan()
            with self._parts.db.transaction():
                ids = write_plan(self._parts.db, plan, self._parts.clock.now())
            log.info("decisions written", extra={"strategy": self._strategy.name, "decisions": len(ids)})
            return plan, self._executor.run()

    def preview(self) -> tuple[Plan, list[str]]:
        """Return the plan, and a line for each decision of an earlier run that waits; nothing is written or sent."""
        self._parts.broker.record_with(None)
        return self._plan(), self._executor.preview()

    def refusals(self) -> list[str]:
        """Return a line for each decision that the last run had refused. Raises DatabaseError."""
        return self._executor.refusals()

    def _plan(self) -> Plan:
        parts, now = self._parts, self._parts.clock.now()
        waiting = {row.ticker for row in self._written.candidates() if row.ticker}
        limits = limits_in_force(parts.db, parts.settings.limits, now)
        return make_plan(
            parts.db, parts.broker, self._strategy, load_snapshot(parts.db, self._strategy, now), limits, waiting,
        )
