"""Values every position at the last price, long and short."""

import argparse
import logging
import sys
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import requirements_check  # noqa: F401
from alpaca_client import Broker
from clock import MARKET_ZONE, Clock
from command_line import EXIT_DONE, arguments, run_program, show
from config import Settings
from db_layer import TradingDB
from parts import PROGRAM_ERRORS, build_parts
from trade_records import value_positions

SYMBOLS = "SELECT DISTINCT symbol FROM position_tracking ORDER BY symbol"
log = logging.getLogger("position_monitor")


@dataclass(frozen=True)
class Valuation:
    """What a pass did: rows whose value changed, and symbols that have no price now."""

    symbols: int
    changed: int
    unpriced: tuple[str, ...]


class PositionMonitor:
    """One pass over the tracked positions."""

    def __init__(
        self, test_mode: bool = False, db: TradingDB | None = None, broker: Broker | None = None,
        clock: Clock | None = None, settings: Settings | None = None,
    ) -> None:
        parts = build_parts(test_mode, db, broker, clock, settings, "position_monitor")
        self._db = parts.db
        self._broker = parts.broker
        self._clock = parts.clock

    def run(self) -> Valuation:
        """Value all positions with one price call. Raises DatabaseError and BrokerError."""
        symbols = [row["symbol"] for row in self._db.execute_query(SYMBOLS)]
        prices = self._broker.latest_prices(symbols)
        unpriced = tuple(symbol for symbol in symbols if symbol not in prices)
        if unpriced:
            log.warning("no price, so these positions keep their last value", extra={"symbols": ",".join(unpriced)})
        changed = self.update_positions(prices, self._clock.now())
        log.info("position pass finished", extra={"symbols": len(symbols), "changed": changed})
        return Valuation(len(symbols), changed, unpriced)

    def update_positions(self, prices: dict[str, Decimal], now: datetime) -> int:
        """Write value and unrealised profit at these prices; return how many rows changed. Raises DatabaseError."""
        if not prices:
            return 0
        with self._db.transaction():
            return value_positions(self._db, prices, now.astimezone(MARKET_ZONE).date(), now)


def main(argv: list[str] | None = None) -> int:
    """Run one pass from the command line and return the exit status."""
    parser = arguments("Value every position at its last price: one pass.")
    return run_program(parser, argv, _work, PROGRAM_ERRORS)


def _work(options: argparse.Namespace, settings: Settings) -> int:
    valuation = PositionMonitor(options.test_mode, settings=settings).run()
    if valuation.symbols == 0:
        show("There are no positions.")
    else:
        missing = f"; no price for {', '.join(valuation.unpriced)}, left as before" if valuation.unpriced else ""
        priced = valuation.symbols - len(valuation.unpriced)
        show(f"{priced} symbols priced, {valuation.changed} positions changed{missing}.")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
