"""Trades of members of Congress, from Quiver: the live feed, and the history behind it where that is too short."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import Any

from data_fetch.job import BULK_CONGRESS, PAGE_SIZE, Job, require_fields
from data_fetch.records import Lots, Row, sort_out
from data_fetch.source_line import SourceError
from data_fetch.values import (
    RecordError,
    amounts,
    asset_type,
    available_at,
    chamber,
    day,
    digest,
    folded_name,
    is_tradable,
    party,
    side,
    symbol,
    text,
    trade_days,
)
from progress import progress

LIVE = "/beta/live/congresstrading"
LIVE_CAP = 500  # records of a chamber in the live feed, at most
OVERLAP_DAYS = 7


@dataclass(frozen=True)
class Shape:
    """How a version of the records spells what we need; the required names are among them."""

    name: str
    reported: str
    traded: str
    chamber: str
    amounts: tuple[str, ...]  # the first that says something counts
    owner: str | None = None
    uploaded: str | None = None

    def required(self) -> tuple[str, ...]:
        """Return the fields without which the records are of another shape."""
        return self.name, self.reported, self.traded, self.chamber, "Ticker", "Party", "Transaction"


V1 = Shape("Representative", "ReportDate", "TransactionDate", "House", ("Range", "Amount"))
V2 = Shape("Name", "Filed", "Traded", "Chamber", ("Trade_Size_USD",), "Subholding", "Quiver_Upload_Time")


def fetch(job: Job) -> None:
    """Read the live feed, and the history too where the feed does not go back far enough.

    Raises SourceError and DatabaseError.
    """
    rows = job.line.rows(LIVE)
    save(job, rows, V1, LIVE, Lots(job.records))
    since = job.since(OVERLAP_DAYS)
    if has_gap(rows, since, job.days_back is not None):
        backfill(job, since)


def has_gap(rows: Sequence[Any], since: date, asked: bool) -> bool:
    """Tell whether the live feed leaves out reports since that day.

    A chamber that fills its share of the feed was cut off there. Without one nothing was left out, unless a person
    asked for days that the feed does not reach.
    """
    days: dict[str | None, list[date]] = defaultdict(list)
    for row in rows:
        if reported := _report_day(row, V1):
            days[chamber(row.get(V1.chamber))].append(reported)
    full = [min(found) for found in days.values() if len(found) >= LIVE_CAP]
    if full:
        return max(full) > since
    return asked and (not days or min(min(found) for found in days.values()) > since)


def backfill(job: Job, since: date) -> None:
    """Read the history page by page until it is older than that day, or at its end."""
    lots = Lots(job.records)
    previous: list[Any] = []
    newest_first, number, newest = True, 1, date.max
    with progress("congress, pages of the history") as advance:
        while True:
            rows = _page(job, number)
            save(job, _without_shift(job, number, previous, rows), V2, BULK_CONGRESS, lots)
            advance()
            days = [reported for row in rows if (reported := _report_day(row, V2))]
            newest_first = newest_first and [newest, *days] == sorted([newest, *days], reverse=True)
            if len(rows) != PAGE_SIZE or (newest_first and days and days[-1] < since):
                return
            previous, number, newest = rows, number + 1, days[-1] if days else newest


def _page(job: Job, number: int) -> list[Any]:
    return job.line.rows(BULK_CONGRESS, {"version": "V2", "page": str(number), "page_size": str(PAGE_SIZE)})


def _without_shift(job: Job, number: int, previous: list[Any], rows: list[Any]) -> list[Any]:
    """Return the rows of a page without those that came on the page before as well.

    A record that is published while we read moves all others down, so that the last of a page is the first of the
    next. It may also be another lot that happens to look the same; reading the page before again tells which.
    """
    if rows == previous and rows:
        raise SourceError(f"{BULK_CONGRESS} gives the same page again and again; its paging has changed")
    if not any(previous[-count:] == rows[:count] for count in range(1, len(previous))):
        return rows
    again = _page(job, number - 1)
    moved = next((count for count in range(len(previous)) if again[count:] == previous[: len(previous) - count]), None)
    if moved is None:
        raise SourceError(f"{BULK_CONGRESS} changed while it was read; run this again")
    return rows[moved:]


def _report_day(row: Any, shape: Shape) -> date | None:
    try:
        return day(row.get(shape.reported), "report date") if isinstance(row, dict) else None
    except RecordError:
        return None


def save(job: Job, rows: Sequence[Any], shape: Shape, path: str, lots: Lots) -> None:
    """Write the records of one page. Raises SourceError when they are of another shape, and DatabaseError."""
    require_fields(rows, shape.required(), path)
    found = sort_out(rows, partial(normalise, shape=shape, fetched_at=job.clock.now()))
    lots.number(found.rows)
    job.records.save("quiver_trades", found)


def normalise(record: Row, shape: Shape, fetched_at: datetime) -> Row:
    """Return a record as a row without its lot. Raises RecordError.

    Report date, upper amount and party change, and the account is named by one version only: none is in the key.
    """
    name, word = text(record.get(shape.name)), text(record.get("Transaction"))
    if name is None:
        raise RecordError("it names nobody")
    traded, reported = trade_days(record.get(shape.traded), record.get(shape.reported), fetched_at)
    description = text(record.get("Description"))
    ticker, kind = symbol(record.get("Ticker")), asset_type(record.get("TickerType"), description)
    low, high = amounts(next(filter(None, map(record.get, shape.amounts)), None))
    person, house = text(record.get("BioGuideID")), chamber(record.get(shape.chamber))
    buy_or_sell, portion = side(word)
    key = (
        person or folded_name(name), house, ticker, kind, traded, (word or "").lower(), low,
        description if kind == "option" else None,
    )
    return {
        "trade_key": digest(["congress", *key]), "source": "quiverquant_congress", "symbol": ticker,
        "asset_type": kind, "tradable": is_tradable(ticker, kind), "person_name": name, "person_id": person,
        "chamber": house, "party": party(record.get("Party")),
        "owner": text(record.get(shape.owner)) if shape.owner else None,
        "transaction_type": word or "N/A", "side": buy_or_sell, "portion": portion, "description": description,
        "transaction_date": traded, "disclosure_date": reported, "amount_low": low, "amount_high": high,
        "vendor_modified": text(record.get("last_modified")),
        "available_at": available_at(fetched_at, reported, record.get(shape.uploaded) if shape.uploaded else None),
    }
