"""What a strategy is: from what was known at a moment it makes signals, and nothing else.

A strategy asks and reads nothing, so the same snapshot gives the same signals. Formulas: docs/strategies.md.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Protocol

NOTHING, ALL = Decimal(0), Decimal(1)
SMALLEST_SIZE = Decimal(1_000)  # dollars that count for nothing; from a thousand times as much on they count fully
DECADES = Decimal(3)
DIGITS = Decimal("0.0001")


@dataclass(frozen=True)
class Disclosure:
    """One disclosed trade of a share; dollars are the least it can have been.

    `person` is the same for all trades of one person. `run_id` is the ingestion run that brought it, None while that
    had not completed.
    """

    id: int
    symbol: str
    side: str
    person: str
    person_name: str
    dollars: Decimal
    transaction_date: date
    disclosure_date: date
    available_at: datetime
    is_officer: bool = False
    is_director: bool = False
    run_id: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """What was known at `now`; `today` is the day at the exchange.

    `seats` are the committees on which each person sits, in the words that say what they are about.
    """

    now: datetime
    today: date
    disclosures: Sequence[Disclosure]
    seats: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Signal:
    """A symbol to buy, how strongly (0 to 1), how sure (0 to 1), and the purchases that say so.

    `parts` are what the strength is made of, each from 0 to 1.
    """

    symbol: str
    strength: Decimal
    confidence: Decimal
    parts: Mapping[str, Decimal]
    purchases: Sequence[Disclosure]

    @property
    def primary(self) -> Disclosure:
        """The purchase that became known last, the largest of them: the one that triggered the signal."""
        return max(self.purchases, key=lambda found: (found.available_at, found.dollars, -found.id))

    @property
    def people(self) -> list[str]:
        """Who bought, by name."""
        return sorted({found.person: found.person_name for found in self.purchases}.values())


PartsOf = Callable[[str, Sequence[Disclosure]], Mapping[str, Decimal]]  # of a symbol and its purchases


class Strategy(Protocol):
    """What the machinery needs of a strategy: `source` is where its disclosures come from (quiver_trades.source).

    Disclosures of the last `look_back_days` days are shown to it, less those it has decided on before.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def source(self) -> str: ...

    @property
    def look_back_days(self) -> int: ...

    def signals(self, snapshot: Snapshot) -> list[Signal]:
        """Return what is to be bought, strongest first."""
        ...


def strong_signals(
    disclosures: Sequence[Disclosure], parts_of: PartsOf, weights: Mapping[str, Decimal], weakest: Decimal,
    least_confidence: Decimal,
) -> list[Signal]:
    """Return a signal for each symbol that was bought, strongest first, equal ones by symbol; weaker ones are left out.

    Its strength is the weighted sum of what `parts_of` makes of the purchases; its confidence is the share of those who
    traded the symbol that bought it.
    """
    found = (
        _signal(symbol, traded, parts_of, weights) for symbol, traded in _by_symbol(disclosures).items()
        if any(disclosure.side == "buy" for disclosure in traded)
    )
    strong = [signal for signal in found if signal.strength >= weakest and signal.confidence >= least_confidence]
    return sorted(strong, key=lambda signal: (-signal.strength, signal.symbol))


def _by_symbol(disclosures: Sequence[Disclosure]) -> dict[str, list[Disclosure]]:
    found: dict[str, list[Disclosure]] = defaultdict(list)
    for disclosure in disclosures:
        found[disclosure.symbol].append(disclosure)
    return found


def _signal(
    symbol: str, traded: Sequence[Disclosure], parts_of: PartsOf, weights: Mapping[str, Decimal],
) -> Signal:
    purchases = tuple(found for found in traded if found.side == "buy")
    buyers, sellers = len(people(purchases)), len(people(found for found in traded if found.side == "sell"))
    parts = parts_of(symbol, purchases)
    strength = sum((weights[name] * part for name, part in parts.items()), NOTHING)
    return Signal(
        symbol, rounded(strength), rounded(Decimal(buyers) / (buyers + sellers)),
        {name: rounded(part) for name, part in parts.items()}, purchases,
    )


def people(disclosures: Iterable[Disclosure]) -> set[str]:
    """Return the different people behind disclosures."""
    return {found.person for found in disclosures}


def consensus_part(purchases: Sequence[Disclosure], full: int) -> Decimal:
    """Return how many different people bought, as a share of how many make a full consensus."""
    return share(Decimal(len(people(purchases))) / full)


def size_part(purchases: Sequence[Disclosure]) -> Decimal:
    """Return 0 for 1,000 dollars in all or less, 1 for a million or more, a third for each power of ten between."""
    dollars = sum((found.dollars for found in purchases), NOTHING)
    return share((max(dollars, SMALLEST_SIZE) / SMALLEST_SIZE).log10() / DECADES)


def freshness_part(purchases: Sequence[Disclosure], today: date, days: int) -> Decimal:
    """Return 1 for a purchase made today, 0 where the last one was made that many days ago or more."""
    age = (today - max(found.transaction_date for found in purchases)).days
    return share(ALL - Decimal(age) / days)


def share(value: Decimal) -> Decimal:
    """Return a value as a share: 0 at least, 1 at most."""
    return min(max(value, NOTHING), ALL)


def rounded(value: Decimal) -> Decimal:
    """Return a share with four decimals."""
    return value.quantize(DIGITS)
