"""Days of the market: what US Eastern days a report is about, as moments."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from clock import midnight


@dataclass(frozen=True)
class Period:
    """US Eastern days from the first to the last, both counted."""

    first: date
    last: date

    @property
    def bounds(self) -> Mapping[str, datetime]:
        """Return its beginning and its end (not counted) as parameters `start` and `end` of a statement."""
        return {"start": midnight(self.first), "end": midnight(self.last + timedelta(days=1))}

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"
