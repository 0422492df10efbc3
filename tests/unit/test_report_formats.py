"""A report as text, JSON, CSV and as a page, whatever its values hold."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest

from audit_trail.reports import Report, as_csv, as_json, as_page, as_text
from audit_trail.reports.report import ROWS_FOR_PEOPLE, Chart, Column, Fact, Facts, Kind, Table, shown

HOSTILE = [
    "\x1b[31mred\x1b[0m", "bell\x07 and \x9b2J", "two\nlines\r\n", "\u202egnp.exe", "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>', "=HYPERLINK(\"http://x\")", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "|cmd", "\ud800",
    " =1", "x" * 5000, "\x00",
]
ALLOWED = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "dl", "dt", "dd", "small", "div", "table",
           "thead", "tbody", "tr", "th", "td", "svg", "text", "rect", "path", "polyline"}


def report(value: Any, count: int = 1) -> Report:
    """A report that has a value everywhere a value can be."""
    rows = [{"words": value, "number": Decimal("-1234.5"), "strategy_name": value, "strategy_version": "1"}] * count
    columns = (Column("words", "Words"), Column("number", "Number", Kind.DOLLARS))
    return Report("sample", f"About {value}", (
        Facts("facts", "Facts", (Fact("fact", "Fact", value, Kind.TEXT, str(value)),)),
        Table("rows", "Rows", columns, rows, "None.", charts=(
            Chart("Bars", "bars", "words", "number", Kind.DOLLARS), Chart("Lines", "line", "words", "number"),
        )),
    ))


class Page(HTMLParser):
    """The elements of a page, and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize("value", HOSTILE)
def test_text_for_a_terminal_holds_no_control_characters_and_fits_it(value: str) -> None:
    text = as_text(report(value))
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text) is None
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("value", HOSTILE)
def test_no_cell_of_a_csv_can_be_taken_for_a_formula_or_a_line(value: str) -> None:
    written = as_csv(report(value))
    rows = list(csv.DictReader(io.StringIO(written)))
    assert len(rows) == len(written.splitlines()) - 1 == 2
    for cell in (rows[0]["fact"], rows[1]["words"]):
        assert cell.strip()[:1] not in set("=+-@|%")
        assert cell.isprintable()


def test_a_negative_number_stays_a_number_in_a_csv() -> None:
    assert list(csv.DictReader(io.StringIO(as_csv(report("x")))))[1]["number"] == "-1234.5"


@pytest.mark.parametrize("value", HOSTILE)
def test_json_gives_back_the_very_value_in_plain_ascii(value: str) -> None:
    written = as_json(report(value))
    assert written.isascii()
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f]", written) is None
    assert json.loads(written)["rows"][0] == {"words": value, "number": "-1234.5"}


@pytest.mark.parametrize("value", HOSTILE)
def test_a_page_takes_values_for_words(value: str) -> None:
    written = as_page(report(value))
    page = Page(written)
    assert set(page.elements) <= ALLOWED
    assert not [name for name in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", written) is None


def test_a_page_loads_nothing_from_elsewhere() -> None:
    written = as_page(report("x"))
    assert "default-src 'none'" in written
    assert "http" not in written.replace("http-equiv", "")


def test_a_page_has_its_charts() -> None:
    assert Page(as_page(report("x"))).elements.count("svg") == 2


def test_a_long_table_is_cut_for_people_and_says_so() -> None:
    text = as_text(report("word", ROWS_FOR_PEOPLE + 1234))
    assert sum("word" in line for line in text.splitlines()) < ROWS_FOR_PEOPLE + 5
    assert "... and 1,234 more: --format csv or json gives all of them." in text
    assert len(json.loads(as_json(report("word", 1234)))["rows"]) == 1234


def test_an_empty_table_says_so_in_text_and_on_a_page() -> None:
    assert "None." in as_text(report("x", 0))
    assert "None." in as_page(report("x", 0))


@pytest.mark.parametrize(("value", "kind", "words"), [
    (None, Kind.COUNT, ""), (1234567, Kind.COUNT, "1,234,567"), (Decimal("-1234.567000"), Kind.DOLLARS, "-1,234.57"),
    (Decimal("133.800000"), Kind.PRICE, "133.80"), (Decimal("0.123400"), Kind.PRICE, "0.1234"),
    (Decimal("100.000000"), Kind.PRICE, "100.00"), (Decimal("45.000000000"), Kind.SHARES, "45"),
    (Decimal("0.500000000"), Kind.SHARES, "0.5"), (1001, Kind.SHARES, "1,001"),
    (Decimal("66.666"), Kind.PERCENT, "66.7 %"),
    (1.25, Kind.SECONDS, "1.2 s"), (600, Kind.SECONDS, "10 min"), (59.96, Kind.SECONDS, "60.0 s"),
    (3660, Kind.SECONDS, "1 h 01 min"), (Decimal("1.4567"), Kind.RATIO, "1.46"), (True, Kind.FLAG, "yes"),
    (False, Kind.FLAG, ""), (date(2025, 1, 15), Kind.DAY, "2025-01-15"),
    (datetime(2025, 1, 15, 15, 0, 1, tzinfo=UTC), Kind.TIME, "2025-01-15 10:00"),
    (datetime(2025, 7, 1, 3, 0, tzinfo=UTC), Kind.TIME, "2025-06-30 23:00"),
])
def test_a_value_is_written_for_people(value: Any, kind: Kind, words: str) -> None:
    assert shown(value, kind) == words
