"""Buys what officers and directors disclosed to have bought in the open market; formula: docs/strategies.md."""

from collections.abc import Sequence
from decimal import Decimal

from strategies.signals import (
    Disclosure,
    Signal,
    Snapshot,
    by_symbol,
    freshness_part,
    make_signal,
    share,
    size_part,
    strongest_first,
)

WEIGHTS = {"size": Decimal("0.40"), "consensus": Decimal("0.40"), "freshness": Decimal("0.20")}
FULL_CONSENSUS = 3  # insiders
STALE_AFTER_DAYS = 30  # forms are due within two business days
WEAKEST = Decimal("0.50")
LEAST_CONFIDENCE = Decimal("0.5")


class InsiderTradingStrategy:
    """Open-market purchases by officers and directors; those who only own a lot do not count."""

    name = "insider"
    version = "1.0.0"
    source = "quiverquant_insider"
    look_back_days = 7

    def signals(self, snapshot: Snapshot) -> list[Signal]:
        """Return what is to be bought, strongest first."""
        inside = [found for found in snapshot.disclosures if found.is_officer or found.is_director]
        found = [
            self._signal(symbol, disclosures, snapshot) for symbol, disclosures in by_symbol(inside).items()
            if any(disclosure.side == "buy" for disclosure in disclosures)
        ]
        return strongest_first([
            signal for signal in found if signal.strength >= WEAKEST and signal.confidence >= LEAST_CONFIDENCE
        ])

    def _signal(self, symbol: str, disclosures: Sequence[Disclosure], snapshot: Snapshot) -> Signal:
        purchases = [found for found in disclosures if found.side == "buy"]
        buyers = {found.person for found in purchases}
        sellers = {found.person for found in disclosures if found.side == "sell"}
        return make_signal(symbol, purchases, len(sellers), {
            "size": size_part(purchases),
            "consensus": share(Decimal(len(buyers)) / FULL_CONSENSUS),
            "freshness": freshness_part(purchases, snapshot.today, STALE_AFTER_DAYS),
        }, WEIGHTS)
