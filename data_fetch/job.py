"""What a task works with, and what the tasks that read Quiver share."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from audit_trail import IngestionRun
from clock import MARKET_ZONE, Clock
from data_fetch.records import Records
from data_fetch.source_line import RateGroup, SourceError, SourceLine

PAGE_SIZE = 1000
BULK_CONGRESS = "/beta/bulk/congresstrading"
# Quiver's groups are an account's, whatever its plan; which of them a path is in is documented for bulk data only.
QUIVER_GROUPS = (RateGroup(5, 3600, (BULK_CONGRESS,)), RateGroup(100, 60, ("/beta/",)))


@dataclass(frozen=True)
class Job:
    """One run of a task; `days_back` is what was asked for, None where nothing was."""

    run: IngestionRun
    line: SourceLine
    records: Records
    clock: Clock
    days_back: int | None

    def since(self, default: int) -> date:
        """Return the first report day that the run must cover, by the market's calendar."""
        return self.today() - timedelta(days=default if self.days_back is None else self.days_back)

    def today(self) -> date:
        """Return the day at the exchange."""
        return self.clock.now().astimezone(MARKET_ZONE).date()


def require_fields(rows: Sequence[Any], names: Collection[str], path: str) -> None:
    """Raise SourceError when a field that must be there is missing from every row: the shape has changed."""
    for name in names:
        if rows and not any(isinstance(row, dict) and name in row for row in rows):
            raise SourceError(
                f"none of the {len(rows)} records of {path} has the field {name}; the source has changed its format, "
                "and nothing of this answer was taken"
            )

