"""The words of disclosures as values: symbols, amounts, sides, days, names; pure functions.

Rules and traps: docs/data-sources.md.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

from clock import MARKET_ZONE
from log_setup import printable

FIRST_YEAR = 2012  # electronic disclosure begins
LONGEST_TEXT = 500
LONGEST_SYMBOL = 60
SHARE = "stock"
MOST_DOLLARS, MOST_SHARES = Decimal("1e12"), Decimal("1e9")  # what numeric(18,6) and numeric(18,9) hold
NO_TICKER = ("", "-", "--", "N/A")
# The statutory brackets, dollars: lower bound -> upper bound.
BRACKETS: Mapping[Decimal, Decimal | None] = {
    Decimal(low): None if high is None else Decimal(high) for low, high in (
        (1_001, 15_000), (15_001, 50_000), (50_001, 100_000), (100_001, 250_000), (250_001, 500_000),
        (500_001, 1_000_000), (1_000_001, 5_000_000), (5_000_001, 25_000_000), (25_000_001, 50_000_000),
        (50_000_001, None),
    )
}
PARTIES = {"d": "D", "democrat": "D", "democratic": "D", "r": "R", "republican": "R", "i": "I", "id": "I",
           "independent": "I"}
CHAMBERS = {"representatives": "house", "house": "house", "rep": "house", "senate": "senate", "sen": "senate",
            "joint": "joint"}
TITLES = {"mr", "mrs", "ms", "miss", "dr", "hon", "honorable", "rep", "sen", "senator", "representative", "the"}

_ANCHOR = re.compile(r"<a\b[^>]*>(.*?)</a>", re.IGNORECASE | re.DOTALL)
_SHARE = re.compile(r"[A-Z]{1,5}(\.[A-Z])?")
_CLASS_SHARE = re.compile(r"([A-Z]{1,5})[-/]([A-Z])")
_OPTION = re.compile(r"\boption contracts?\b|\b(call|put) options?\b", re.IGNORECASE)
_AMOUNT = re.compile(r"(over)?(\d+(?:\.\d+)?)(?:(-)(\d+(?:\.\d+)?)?|(\+))?")
_DAYS = (
    re.compile(r"(?P<y>\d{4})-(?P<m>\d{2})-(?P<d>\d{2})(?:[T ].*)?"),
    re.compile(r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})"),
    re.compile(r"(?P<m>\d{1,2})/(?P<d>\d{1,2})/(?P<y>\d{4})"),
)


class RecordError(ValueError):
    """Why a record cannot be used, in a few words."""


def text(value: Any, longest: int = LONGEST_TEXT) -> str | None:
    """Return what was said, blanks put in order and control characters escaped; None when nothing was."""
    said = "" if value is None else printable(" ".join(str(value).split()), longest)
    return said or None


def symbol(value: Any) -> str | None:
    """Return a ticker in capitals, class shares as BRK.B; None when none was given."""
    said = str(value or "")
    anchor = _ANCHOR.search(said)
    said = " ".join((anchor[1] if anchor else said).replace('"', " ").replace("'", " ").upper().split())
    said = re.sub(r"\s*-\s*DEFUNCT$", "", said)
    if said in NO_TICKER:
        return None
    share = _CLASS_SHARE.fullmatch(said)
    return text(f"{share[1]}.{share[2]}" if share else said, LONGEST_SYMBOL)


def is_tradable(ticker: str | None, asset_type: str) -> bool:
    """Tell whether this is a share whose symbol is spelled like one."""
    return asset_type == SHARE and ticker is not None and _SHARE.fullmatch(ticker) is not None


def asset_type(code: Any, description: str | None) -> str:
    """Return stock, option, or the disclosure's own code."""
    said = text(code) or "Stock"
    if said in ("OP", "Stock Option") or _OPTION.search(description or ""):
        return "option"
    return SHARE if said in ("Stock", "ST") else said


def amounts(value: Any) -> tuple[Decimal | None, Decimal | None]:
    """Return the lowest and highest amount, dollars; None where it is open or unknown. Raises RecordError."""
    found = _AMOUNT.fullmatch(re.sub(r"[$,\s]", "", str(value or "")).lower())
    if found is None:
        return None, None
    over, low_text, dash, high_text, plus = found.groups()
    low = Decimal(low_text)
    if low >= MOST_DOLLARS:
        raise RecordError(f"the amount {printable(str(value), 40)} makes no sense")
    if over or plus:
        return low, None
    if high_text:
        return low, money(high_text)
    return low, BRACKETS.get(low, None if dash else low)


def side(word: Any) -> tuple[str | None, str | None]:
    """Return buy, sell or None, and full or partial where a sale says so; nothing is guessed."""
    words = re.findall(r"[a-z]+", str(word or "").lower().replace("_", " "))
    if words in (["purchase"], ["buy"]):
        return "buy", None
    if words[:1] in (["sale"], ["s"]) and words[1:] in ([], ["full"], ["partial"]):
        return "sell", words[1] if words[1:] else None
    return None, None


def day(value: Any, what: str) -> date | None:
    """Return a day, or None when none was given. Raises RecordError for one that makes no sense."""
    said = text(value)
    if said is None:
        return None
    for pattern in _DAYS:
        if found := pattern.fullmatch(said):
            try:
                return date(int(found["y"]), int(found["m"]), int(found["d"]))
            except ValueError:
                break
    raise RecordError(f"the {what} {printable(said, 40)!r} is no date")


def trade_days(traded: Any, reported: Any, fetched_at: datetime) -> tuple[date, date | None]:
    """Return the days of trade and report. Raises RecordError when they cannot be true at the fetch."""
    trade, report = day(traded, "trade date"), day(reported, "report date")
    if trade is None:
        raise RecordError("it has no trade date")
    for name, found in (("trade", trade), ("report", report)):
        if found is not None and not FIRST_YEAR <= found.year <= fetched_at.year + 1:
            raise RecordError(f"the {name} date {found} is out of the question")
    if trade > fetched_at.date():
        raise RecordError(f"the trade date {trade} had not come when it was fetched")
    if report is not None and report < trade:
        raise RecordError(f"it was reported on {report}, before the trade on {trade}")
    return trade, report


def available_at(fetched_at: datetime, reported: date | None, uploaded: Any) -> datetime:
    """Return from when on a record may be known: the latest of fetch, report day and vendor's upload."""
    known = [fetched_at]
    if reported is not None:
        known.append(datetime.combine(reported, time(), MARKET_ZONE).astimezone(UTC))
    try:
        upload = datetime.fromisoformat(str(uploaded))
        known.append(upload if upload.tzinfo else upload.replace(tzinfo=UTC))
    except ValueError:
        pass  # it was there when it was fetched, whatever this says
    return max(known)


def money(value: Any) -> Decimal | None:
    """Return dollars, or None when there is no number. Raises RecordError for one that cannot be."""
    return _number(value, "amount", MOST_DOLLARS)


def shares(value: Any) -> Decimal | None:
    """Return shares, or None when there is no number. Raises RecordError for one that cannot be."""
    return _number(value, "number of shares", MOST_SHARES)


def _number(value: Any, what: str, most: Decimal) -> Decimal | None:
    said = text(value)
    if said is None:
        return None
    try:
        number = Decimal(said) if said.isascii() else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or not 0 <= number < most:
        raise RecordError(f"the {what} {printable(said, 40)} makes no sense")
    return number


def truth(value: Any) -> bool | None:
    """Return a flag, however it is written."""
    return {"true": True, "1": True, "false": False, "0": False}.get(str(value).lower())


def party(value: Any) -> str | None:
    """Return D, R, I, or the party as given."""
    said = text(value)
    return PARTIES.get(said.lower(), said) if said else None


def chamber(value: Any) -> str | None:
    """Return house, senate, joint, or the chamber as given."""
    said = text(value)
    return CHAMBERS.get(said.lower(), said) if said else None


def folded_name(name: str) -> str:
    """Return a name for comparison: without accents, titles, dots and capitals."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii").lower()
    return " ".join(word for word in re.findall(r"[a-z0-9']+", plain) if word not in TITLES)


def digest(parts: Sequence[Any]) -> str:
    """Return the digest of what makes a record itself; numbers count by value, not by spelling."""
    plain = [str(part.normalize()) if isinstance(part, Decimal) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, default=str).encode("utf-8")).hexdigest()
