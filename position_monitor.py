"""Compares all positions with the broker's, values them at the last price, and counts the days they are open."""

import argparse
import logging
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

import requirements_check  # noqa: F401
from account_sync import AccountSync
from account_watch import ask_for_account
from alert_round import run_worker
from alpaca_client import Broker, BrokerError
from clock import MARKET_ZONE, Clock
from command_line import EXIT_DONE, EXIT_FAILED, arguments, show
from config import Settings
from daily_loss import watch_daily_loss
from db_layer import TradingDB
from limit_raises import limits_in_force
from parts import PROGRAM_ERRORS, build_parts
from pass_log import Event, PassLog
from reconciliation import Reconciliation
from session_locks import hold_account
from trade_records import review_trades, unreviewed_trades, value_positions

SYMBOLS = "SELECT DISTINCT symbol FROM position_tracking ORDER BY symbol"
# No market is closed for longer at a stretch, so that many days back there has been a trading day.
LONGEST_CLOSURE = timedelta(days=14)

log = logging.getLogger("position_monitor")


@dataclass(frozen=True)
class Valuation:
    """What a pass did: rows whose value changed, symbols that have no price now, and what the comparison led to."""

    symbols: int
    changed: int
    unpriced: tuple[str, ...]
    events: Counter[Event]


class PositionMonitor:
    """One pass over the tracked positions."""

    def __init__(
        self, test_mode: bool = False, db: TradingDB | None = None, broker: Broker | None = None,
        clock: Clock | None = None, settings: Settings | None = None,
    ) -> None:
        self._parts = parts = build_parts(test_mode, db, broker, clock, settings, "position_monitor")
        self._db = parts.db
        self._broker = parts.broker
        self._clock = parts.clock
        self._desk = parts.desk
        self._limits = parts.settings.limits

    def close(self) -> None:
        """Close the connections that were opened for it."""
        self._parts.close()

    def run(self) -> Valuation:
        """Reconcile, value all positions with one price call, and review them. Raises DatabaseError and BrokerError."""
        with hold_account(self._db):
            return self._pass()

    def _pass(self) -> Valuation:
        found = PassLog(self._db, self._clock)
        ask_for_account(self._broker, found)
        found.tolerate("positions", lambda: self.check_for_closed_positions(found))
        symbols = [row["symbol"] for row in self._db.execute_query(SYMBOLS)]
        try:
            with found.reading("prices"):
                prices = self._broker.latest_prices(symbols)
        except BrokerError:
            self._watch_daily_loss()  # what is lost for good needs no price
            raise
        unpriced = tuple(symbol for symbol in symbols if symbol not in prices)
        if unpriced:
            log.warning("no price, so these positions keep their last value", extra={"symbols": ",".join(unpriced)})
        changed = self.update_positions(prices)
        self._watch_daily_loss()
        found.tolerate("review", self._review)
        log.info("position pass finished", extra={"symbols": len(symbols), "changed": changed})
        return Valuation(len(symbols), changed, unpriced, found.events)

    def check_for_closed_positions(self, found: PassLog) -> None:
        """Compare our positions with the broker's and follow what is proved. Raises DatabaseError and BrokerError."""
        sync = AccountSync(self._db, self._broker, self._clock, self._desk)
        Reconciliation(self._db, self._broker, self._clock, self._desk, sync, found).run()

    def update_positions(self, prices: dict[str, Decimal]) -> int:
        """Write value and unrealised profit at these prices; return how many rows changed. Raises DatabaseError."""
        return value_positions(self._db, prices, self._clock.now())

    def _watch_daily_loss(self) -> None:
        now = self._clock.now()
        watch_daily_loss(self._db, limits_in_force(self._db, self._limits, now), now)

    def _review(self) -> None:
        now = self._clock.now()
        today = now.astimezone(MARKET_ZONE).date()
        open_days = unreviewed_trades(self._db, today, now - LONGEST_CLOSURE)
        if open_days:
            first = min(*(opened for opened, _ in open_days.values()), today - LONGEST_CLOSURE)
            review_trades(self._db, open_days, self._broker.trading_days(first, today), now)


def main(argv: list[str] | None = None) -> int:
    """Run one pass from the command line and return the exit status."""
    parser = arguments("Compare all positions with the broker's and value them at the last price: one pass.")
    return run_worker(parser, argv, _work, PROGRAM_ERRORS)


def _work(options: argparse.Namespace, settings: Settings) -> int:
    with closing(PositionMonitor(options.test_mode, settings=settings)) as monitor:
        valuation = monitor.run()
    if valuation.symbols == 0:
        show("There are no positions.")
    else:
        missing = f"; no price for {', '.join(valuation.unpriced)}, left as before" if valuation.unpriced else ""
        priced = valuation.symbols - len(valuation.unpriced)
        symbols = "symbol" if priced == 1 else "symbols"
        show(f"{priced} {symbols} priced, {valuation.changed} positions changed{missing}.")
    events = valuation.events
    if any(events[event] for event in Event):
        show(", ".join(f"{event}: {events[event]}" for event in Event if events[event]) + ".")
    return EXIT_FAILED if events[Event.UNREACHED] else EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
