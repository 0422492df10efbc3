"""Buys what officers and directors disclosed to have bought in the open market; formula: docs/strategies.md."""

from collections.abc import Sequence
from decimal import Decimal

from strategies.signals import (
    Disclosure,
    Signal,
    Snapshot,
    consensus_part,
    freshness_part,
    size_part,
    strong_signals,
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
        def parts(_symbol: str, purchases: Sequence[Disclosure]) -> dict[str, Decimal]:
            return {
                "size": size_part(purchases),
                "consensus": consensus_part(purchases, FULL_CONSENSUS),
                "freshness": freshness_part(purchases, snapshot.today, STALE_AFTER_DAYS),
            }

        inside = [found for found in snapshot.disclosures if found.is_officer or found.is_director]
        return strong_signals(inside, parts, WEIGHTS, WEAKEST, LEAST_CONFIDENCE)
