"""Trades of company insiders (Form 4), from Quiver, day by day as they were uploaded."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from data_fetch.job import PAGE_SIZE, Job, require_fields
from data_fetch.records import Row, sort_out
from data_fetch.values import (
    SHARE,
    RecordError,
    available_at,
    digest,
    folded_name,
    is_tradable,
    money,
    shares,
    symbol,
    text,
    trade_days,
    truth,
)
from progress import progress

LIVE = "/beta/live/insiders"
OVERLAP_DAYS = 7
REQUIRED = ("Ticker", "Date", "Name", "TransactionCode", "Shares", "fileDate")
# Open-market purchases and sales; all else is no decision to trade. Source: instructions of Form 4.
SIDES = {("P", "A"): "buy", ("S", "D"): "sell"}


def fetch(job: Job) -> None:
    """Read every day since the first one asked for, today included. Raises SourceError and DatabaseError."""
    first, today = job.since(OVERLAP_DAYS), job.today()
    days = [first + timedelta(days=number) for number in range((today - first).days + 1)]
    with progress("insiders, days", len(days)) as advance:
        for day in days:
            number = 1
            while save(job, _page(job, f"{day:%Y%m%d}", number)) == PAGE_SIZE:
                number += 1
            advance()


def _page(job: Job, day: str, number: int) -> list[Any]:
    return job.line.rows(LIVE, {"uploaded": day, "page": str(number), "page_size": str(PAGE_SIZE)})


def save(job: Job, rows: Sequence[Any]) -> int:
    """Write the records of one page and return how many there were. Raises SourceError and DatabaseError."""
    require_fields(rows, REQUIRED, LIVE)
    job.records.save("quiver_trades", sort_out(rows, partial(normalise, fetched_at=job.clock.now())))
    return len(rows)


def normalise(record: Row, fetched_at: datetime) -> Row:
    """Return a record as a row. Raises RecordError.

    Everything that a line of the form says is in the key, so that a record that comes twice is the same.
    """
    name = text(record.get("Name"))
    if name is None:
        raise RecordError("it names nobody")
    traded, filed = trade_days(record.get("Date"), record.get("fileDate"), fetched_at)
    ticker = symbol(str(record.get("Ticker") or "").rpartition(":")[2])
    code, way = (str(record.get(field) or "").upper() for field in ("TransactionCode", "AcquiredDisposedCode"))
    number, price = shares(record.get("Shares")), money(record.get("PricePerShare"))
    owner = text(record.get("directOrIndirectOwnership"))
    key = digest([
        "insider", ticker, folded_name(name), traded, code, way, number, price,
        _as_given(record.get("SharesOwnedFollowing")), owner,
    ])
    return {
        "trade_key": key, "lot": 0, "natural_key": f"{key}-0", "source": "quiverquant_insider", "symbol": ticker,
        "asset_type": SHARE, "tradable": is_tradable(ticker, SHARE), "person_name": name, "owner": owner,
        "is_officer": truth(record.get("isOfficer")), "is_director": truth(record.get("isDirector")),
        "is_ten_percent_owner": truth(record.get("isTenPercentOwner")),
        "officer_title": text(record.get("officerTitle")), "transaction_type": f"{code} {way}".strip() or "N/A",
        "side": SIDES.get((code, way)), "transaction_date": traded, "disclosure_date": filed, "shares": number,
        "price": price, "available_at": available_at(fetched_at, filed, record.get("uploaded")),
    }


def _as_given(value: Any) -> Any:
    """Return what is owned afterwards for the key: any number there is, since nothing is reckoned with it."""
    try:
        return money(value)
    except RecordError:
        return text(value)
