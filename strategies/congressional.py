"""Buys what several members of Congress disclosed to have bought; formula: docs/strategies.md."""

from collections.abc import Sequence
from decimal import Decimal

from strategies.industries import oversees
from strategies.signals import (
    Disclosure,
    Signal,
    Snapshot,
    consensus_part,
    freshness_part,
    people,
    size_part,
    strong_signals,
)

WEIGHTS = {
    "size": Decimal("0.35"), "consensus": Decimal("0.35"), "committee": Decimal("0.15"), "freshness": Decimal("0.15"),
}
FULL_CONSENSUS = 4  # members
STALE_AFTER_DAYS = 90  # twice the time that the law gives for a disclosure
WEAKEST = Decimal("0.40")
LEAST_CONFIDENCE = Decimal("0.5")


class CongressionalTradingStrategy:
    """Purchases disclosed lately: large, fresh, by several members, some of them on a committee for the industry."""

    name = "congressional"
    version = "1.0.0"
    source = "quiverquant_congress"
    look_back_days = 14

    def signals(self, snapshot: Snapshot) -> list[Signal]:
        """Return what is to be bought, strongest first."""
        def parts(symbol: str, purchases: Sequence[Disclosure]) -> dict[str, Decimal]:
            buyers = people(purchases)
            concerned = [person for person in buyers if oversees(snapshot.seats.get(person, ()), symbol)]
            return {
                "size": size_part(purchases),
                "consensus": consensus_part(purchases, FULL_CONSENSUS),
                "committee": Decimal(len(concerned)) / len(buyers),
                "freshness": freshness_part(purchases, snapshot.today, STALE_AFTER_DAYS),
            }

        return strong_signals(snapshot.disclosures, parts, WEIGHTS, WEAKEST, LEAST_CONFIDENCE)
