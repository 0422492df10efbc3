"""The words of disclosures: what each spelling means, and which make no sense."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from data_fetch import legislators, quiver_congress, quiver_insider
from data_fetch.records import Lots, sort_out
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
    money,
    party,
    shares,
    side,
    symbol,
    trade_days,
    truth,
)
from tests.flow.sources import bulk_record, insider_record, live_record

FETCHED = datetime(2025, 3, 14, 11, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "ticker", "tradable"),
    [
        ("NVDA", "NVDA", True), (" nvda ", "NVDA", True), ("AAPl", "AAPL", True), ("BRK-B", "BRK.B", True),
        ("LGF/B", "LGF.B", True), ("BRK.B", "BRK.B", True), ('<a href="https://x/AAPL">AAPL</a>', "AAPL", True),
        ("'MSFT'", "MSFT", True), ("ABC - DEFUNCT", "ABC", True), (None, None, False), ("", None, False),
        ("--", None, False), ("-", None, False), ("N/A", None, False), ("n/a", None, False), ("WFC$V", "WFC$V", False),
        ("BTC-USD", "BTC-USD", False), ("RY.TO", "RY.TO", False), ("Broadcom Inc.", "BROADCOM INC.", False),
        ("CEQP  ET", "CEQP ET", False), ("RIPPLE", "RIPPLE", False), ("A\x00B\u202e", "A\\x00B\\u202e", False),
    ],
)
def test_a_symbol_is_spelled_one_way(given: Any, ticker: str | None, tradable: bool) -> None:
    assert symbol(given) == ticker
    assert is_tradable(ticker, "stock") is tradable
    assert not is_tradable(ticker, "option")


@pytest.mark.parametrize(
    ("given", "low", "high"),
    [
        ("$1,001 - $15,000", 1001, 15000), ("1001.0", 1001, 15000), ("$15,001 -", 15001, 50000),
        ("$25,000,001", 25000001, 50000000), ("$1,000,000 +", 1000000, None), ("Over $50,000,000", 50000000, None),
        ("50000001.0", 50000001, None), ("$447", 447, 447), ("447.25", "447.25", "447.25"), ("$700 -", 700, None),
        ("Unknown", None, None), (None, None, None), ("--", None, None), ("about 5", None, None),
    ],
)
def test_an_amount_is_a_bracket_or_exact(given: Any, low: Any, high: Any) -> None:
    assert amounts(given) == (low if low is None else Decimal(low), high if high is None else Decimal(high))


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("Purchase", ("buy", None)), ("purchase", ("buy", None)), ("buy", ("buy", None)), ("Sale", ("sell", None)),
        ("Sale (Full)", ("sell", "full")), ("sale_partial", ("sell", "partial")), ("S", ("sell", None)),
        ("S (partial)", ("sell", "partial")), ("Exchange", (None, None)), ("N/A", (None, None)), (None, (None, None)),
        ("Sale of a purchase", (None, None)), ("Purchase (Sale)", (None, None)),
    ],
)
def test_a_side_is_never_guessed(word: Any, meaning: tuple[str | None, str | None]) -> None:
    assert side(word) == meaning


@pytest.mark.parametrize(
    "given", ["2025-03-10", "2025-03-10T00:00:00Z", "2025-03-10 09:30:00", "20250310", "03/10/2025"],
)
def test_a_day_has_several_spellings(given: str) -> None:
    assert day(given, "report date") == date(2025, 3, 10)


@pytest.mark.parametrize(
    ("traded", "reported", "reason"),
    [
        (None, "2025-03-10", "no trade date"), ("0009-06-09", "2025-03-10", "out of the question"),
        ("0021-08-02", None, "out of the question"), ("20221-11-18", None, "no date"), ("3031-01-01", None, "question"),
        ("2025-02-30", None, "no date"), ("2025-03-10", "yesterday", "no date"),
        ("2025-03-15", None, "had not come when it was fetched"), ("2025-03-11", "2025-03-10", "before the trade"),
        ("2025-03-11", "2027-01-01", "out of the question"),
    ],
)
def test_days_that_cannot_be_are_refused(traded: Any, reported: Any, reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        trade_days(traded, reported, FETCHED)


def test_a_trade_of_today_and_a_report_without_a_day_are_taken() -> None:
    assert trade_days("2025-03-14", "", FETCHED) == (date(2025, 3, 14), None)


@pytest.mark.parametrize(
    ("reported", "uploaded", "known"),
    [
        (date(2025, 3, 10), None, FETCHED), (None, "nonsense", FETCHED),
        (date(2025, 3, 20), None, datetime(2025, 3, 20, 4, 0, tzinfo=UTC)),  # midnight in New York
        (date(2025, 3, 10), "2025-03-14T12:30:00", datetime(2025, 3, 14, 12, 30, tzinfo=UTC)),
        (date(2025, 3, 10), "2025-03-14T08:30:00-05:00", datetime(2025, 3, 14, 13, 30, tzinfo=UTC)),
        (None, "2025-03-15", datetime(2025, 3, 15, tzinfo=UTC)),
    ],
)
def test_a_record_counts_from_the_latest_of_fetch_report_and_upload(reported: Any, uploaded: Any, known: Any) -> None:
    assert available_at(FETCHED, reported, uploaded) == known


def test_numbers_words_and_names() -> None:
    assert (money("1001.0"), money(0), money(None), shares("")) == (1001, 0, None, None)
    for wrong in ("NaN", "Infinity", "-1", "1e12", "x", "\u0661", True, [1]):
        with pytest.raises(RecordError, match="makes no sense"):
            money(wrong)
    with pytest.raises(RecordError, match="makes no sense"):
        shares("1e9")
    with pytest.raises(RecordError, match="makes no sense"):
        amounts("$1,000,000,000,000")
    assert [truth(word) for word in (True, "false", 1, None, "perhaps")] == [True, False, True, None, None]
    assert [party(word) for word in ("Democratic", "R", "ID", "Green", None)] == ["D", "R", "I", "Green", None]
    assert [chamber(word) for word in ("Representatives", "sen", "Joint", "Lords", "")] == [
        "house", "senate", "joint", "Lords", None,
    ]
    assert folded_name("Ms. José  O'Neil, Jr.") == "jose o'neil jr"
    assert [asset_type(*words) for words in (
        (None, None), ("ST", None), ("Stock Option", None), ("ST", "CALL OPTION CONTRACTS."), ("GS", "Notes"),
        ("Stock", "An optional dividend"),
    )] == ["stock", "stock", "option", "option", "GS", "stock"]
    assert digest([Decimal("100.0"), None]) == digest([Decimal(100), None]) != digest([Decimal(10), None])


def congress(record: dict[str, Any], shape: quiver_congress.Shape = quiver_congress.V1) -> dict[str, Any]:
    return quiver_congress.normalise(record, shape, FETCHED)


def test_a_trade_in_the_feed_and_in_the_history_is_the_same() -> None:
    feed = congress(live_record())
    history = congress(bulk_record(Subholding="IRA"), quiver_congress.V2)
    assert feed["trade_key"] == history["trade_key"]
    assert {name for name in feed if feed[name] != history[name]} == {"owner"}
    unnamed = congress(live_record(BioGuideID=None, Representative="Ms. Ada  EXAMPLE"))
    assert unnamed["trade_key"] == congress(live_record(BioGuideID=None))["trade_key"] != feed["trade_key"]


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"ReportDate": "2025-03-12", "last_modified": "x", "ExcessReturn": 3, "Party": "R"}, True),
        ({"Range": "$15,001 - $100,000"}, True), ({"Range": None}, True), ({"Description": "shares"}, True),
        ({"Range": "$1,001 - $15,000"}, False), ({"TransactionDate": "2025-02-21"}, False), ({"Ticker": "AMD"}, False),
        ({"Transaction": "Sale"}, False), ({"House": "Senate"}, False), ({"BioGuideID": "E000002"}, False),
        ({"TickerType": "OP"}, False),
    ],
)
def test_what_makes_a_trade_of_congress_itself(changes: dict[str, Any], same: bool) -> None:
    assert (congress(live_record(**changes))["trade_key"] == congress(live_record())["trade_key"]) is same


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"fileDate": "2025-03-14", "uploaded": None, "officerTitle": "CEO"}, True), ({"Shares": "100"}, True),
        ({"Name": "Example  Ada"}, True), ({"Ticker": "NYSE:NVDA"}, True), ({"Shares": 101}, False),
        ({"PricePerShare": 0}, False), ({"PricePerShare": None}, False), ({"SharesOwnedFollowing": 5e9}, False),
        ({"directOrIndirectOwnership": "I"}, False), ({"AcquiredDisposedCode": "D"}, False),
    ],
)
def test_what_makes_an_insiders_trade_itself(changes: dict[str, Any], same: bool) -> None:
    rows = [quiver_insider.normalise(insider_record(**change), FETCHED) for change in ({}, changes)]
    assert (rows[0]["natural_key"] == rows[1]["natural_key"]) is same


@pytest.mark.parametrize(
    ("code", "way", "meaning"),
    [("P", "A", "buy"), ("S", "D", "sell"), ("P", "D", None), ("A", "A", None), ("", "", None)],
)
def test_only_open_market_trades_of_insiders_have_a_side(code: str, way: str, meaning: str | None) -> None:
    record = insider_record(TransactionCode=code, AcquiredDisposedCode=way)
    assert quiver_insider.normalise(record, FETCHED)["side"] == meaning


@pytest.mark.parametrize(
    ("normalise", "record"),
    [
        (congress, live_record(Representative=" ")), (congress, live_record(TransactionDate=None)),
        (lambda record: quiver_insider.normalise(record, FETCHED), insider_record(Name=None)),
        (legislators.member, {"id": {"bioguide": "X"}, "name": {}, "terms": []}),
        (legislators.member, {"id": {}, "name": {"first": "A"}, "terms": [{}]}),
        (legislators.committee, {"name": "N", "type": "house"}), (legislators.seat, {"bioguide": "X"}),
    ],
)
def test_a_record_without_what_it_is_about_is_unusable(normalise: Any, record: dict[str, Any]) -> None:
    found = sort_out([record, [1]], normalise)
    assert (found.rows, len(found.unusable)) == ([], 2)


class Known:
    """Lots that are known already."""

    def __init__(self, **lots: date) -> None:
        self._lots = lots

    def known_lots(self, keys: list[str]) -> list[dict[str, Any]]:
        return [
            {"trade_key": "k", "lot": int(name[1:]), "disclosure_date": day} for name, day in self._lots.items()
        ] if "k" in keys else []


JANUARY, FEBRUARY, MARCH = (date(2025, month, 1) for month in (1, 2, 3))


@pytest.mark.parametrize(
    ("known", "reported", "lots"),
    [
        ({}, [MARCH, MARCH, FEBRUARY], [0, 1, 2]),
        ({"l0": MARCH, "l1": MARCH}, [MARCH, MARCH, MARCH], [0, 1, 2]),
        ({"l0": FEBRUARY, "l1": MARCH}, [MARCH], [1]),
        ({"l0": FEBRUARY}, [MARCH], [0]),
        ({"l0": FEBRUARY}, [MARCH, FEBRUARY], [1, 0]),
        ({"l0": JANUARY, "l1": MARCH}, [MARCH, FEBRUARY], [1, 0]),
    ],
)
def test_equal_trades_keep_their_lots(known: dict[str, date], reported: list[date], lots: list[int]) -> None:
    for together in (True, False):
        rows = [{"trade_key": "k", "disclosure_date": day} for day in reported]
        numbering = Lots(Known(**known))  # type: ignore[arg-type]
        for page in [rows] if together else [[row] for row in rows]:
            numbering.number(page)
        numbered = [row["lot"] for row in rows]
        assert sorted(numbered) == sorted(lots)
        if together:
            assert numbered == lots
            assert [row["natural_key"] for row in rows] == [f"k-{lot}" for lot in lots]
