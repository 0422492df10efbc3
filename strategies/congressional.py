"""Buys what several members of Congress disclosed to have bought; formula: docs/strategies.md."""

from collections.abc import Sequence
from decimal import Decimal

from strategies.industries import oversees
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
        found = [
            self._signal(symbol, disclosures, snapshot)
            for symbol, disclosures in by_symbol(snapshot.disclosures).items()
            if any(disclosure.side == "buy" for disclosure in disclosures)
        ]
        strong = [
            signal for signal in found if signal.strength >= WEAKEST and signal.confidence >= LEAST_CONFIDENCE
        ]
        return strongest_first(strong)

    def _signal(self, symbol: str, disclosures: Sequence[Disclosure], snapshot: Snapshot) -> Signal:
        purchases = [found for found in disclosures if found.side == "buy"]
        buyers = {found.person for found in purchases}
        sellers = {found.person for found in disclosures if found.side == "sell"}
        concerned = {person for person in buyers if oversees(snapshot.seats.get(person, ()), symbol)}
        return make_signal(symbol, purchases, len(sellers), {
            "size": size_part(purchases),
            "consensus": share(Decimal(len(buyers)) / FULL_CONSENSUS),
            "committee": Decimal(len(concerned)) / len(buyers),
            "freshness": freshness_part(purchases, snapshot.today, STALE_AFTER_DAYS),
        }, WEIGHTS)
