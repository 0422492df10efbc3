"""The rows of `analysis_decision` as n8n and NocoDB leave them, in every shape met in the field."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from psycopg2 import sql

from analysis_rows import LONGEST_DECISION, AnalysisRow, AnalysisRows, key_column
from db_layer import DatabaseError, TradingDB

UTC_ZONE, NEW_YORK = ZoneInfo("UTC"), ZoneInfo("America/New_York")
NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
TEXT = '{"b": 133.80,  "a": 1, "a": 2}'
# What NocoDB makes when the table is drawn in its grid: own key, own columns, everything nullable.
NOCODB_TABLE = """
DROP TABLE analysis_decision;
CREATE TABLE analysis_decision (
    id serial PRIMARY KEY, created_at timestamp, updated_at timestamp, created_by varchar, nc_order numeric, title text,
    "Analysis_Id" text, "Date_time" timestamp, "Ticker" text, "Chart" text, "Analysis_Prompt" text,
    "3_Month_Chart" text, "Analysis" text, "Trade_Type" text, "Decision" json, "Approve" boolean, "Date" date,
    "Remarks" text, existing_order_id text, existing_trade_journal_id bigint, executed boolean, execution_time timestamp
)
"""
RETYPE = 'ALTER TABLE analysis_decision ALTER COLUMN "Decision" TYPE {kind} USING "Decision"::{kind}'
ADD = """
INSERT INTO analysis_decision ("Analysis_Id", "Date_time", "Ticker", "Decision", "Approve", "Date", "Remarks", executed)
VALUES (%(id)s, %(at)s, %(ticker)s, %(text)s, %(approve)s, %(date)s, %(remarks)s, %(executed)s)
"""
ALL = 'SELECT * FROM analysis_decision ORDER BY "Analysis_Id", "Date_time"'


def add(db: TradingDB, analysis_id: str | None = "a1", **changes: Any) -> None:
    row: dict[str, Any] = {
        "id": analysis_id, "at": "2025-01-15 09:30", "ticker": "NVDA:NASDAQ", "text": TEXT, "approve": True,
        "date": None, "remarks": None, "executed": None,
    }
    db.execute_update(ADD, row | changes)


def rows(db: TradingDB) -> list[dict[str, Any]]:
    return db.execute_query(ALL)


@pytest.fixture
def analysis(db: TradingDB) -> AnalysisRows:
    return AnalysisRows(db, UTC_ZONE)


@pytest.fixture
def nocodb(db: TradingDB) -> TradingDB:
    """A database whose analysis_decision was made by NocoDB."""
    db.execute_update(NOCODB_TABLE)
    return db


@pytest.fixture
def other(database: dict[str, Any]) -> Iterator[TradingDB]:
    with TradingDB(config=database) as other:
        yield other


def ids(analysis: AnalysisRows) -> list[str | None]:
    return [row.analysis_id for row in analysis.candidates()]


def test_a_row_is_read_as_it_stands(db: TradingDB, analysis: AnalysisRows) -> None:
    add(db)
    at = datetime(2025, 1, 15, 9, 30, tzinfo=UTC)
    assert analysis.candidates() == [AnalysisRow("a1", "a1", "NVDA:NASDAQ", TEXT, at)]


@pytest.mark.parametrize(
    ("approve", "executed", "taken"),
    [(True, None, True), (True, False, True), (True, True, False), (False, None, False), (None, None, False),
     (None, False, False)],
)
def test_a_checkbox_that_is_null_means_false(
    db: TradingDB, analysis: AnalysisRows, approve: bool | None, executed: bool | None, taken: bool,
) -> None:
    add(db, approve=approve, executed=executed)
    assert ids(analysis) == (["a1"] if taken else [])
    assert (analysis.lock("a1") is not None) == taken


def test_rows_come_in_the_order_of_their_time_and_those_without_last(db: TradingDB, analysis: AnalysisRows) -> None:
    add(db, "late", at="2025-01-15 10:00")
    add(db, "none-2", at=None)
    add(db, "none-1", at=None, date="2020-01-01")
    add(db, "early", at="2025-01-15 09:00")
    assert ids(analysis) == ["early", "late", "none-1", "none-2"]


@pytest.mark.parametrize(("kind", "text"), [("text", TEXT), ("json", TEXT), ("jsonb", '{"a": 2, "b": 133.80}')])
def test_the_decision_is_text_whatever_its_column(db: TradingDB, analysis: AnalysisRows, kind: str, text: str) -> None:
    db.execute_update(sql.SQL(RETYPE).format(kind=sql.SQL(kind)))
    add(db)
    add(db, "a2", text=None)
    assert [row.text for row in analysis.candidates()] == [text, None]


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_huge_decision_is_cut_at_the_cap(db: TradingDB, analysis: AnalysisRows, kind: str) -> None:
    db.execute_update(sql.SQL(RETYPE).format(kind=sql.SQL(kind)))
    add(db, text='"' + "\u00e9" * 1_000_000 + '"')
    text = analysis.candidates()[0].text
    assert text is not None
    assert len(text) == LONGEST_DECISION


@pytest.mark.parametrize(
    ("at", "day", "zone", "expected"),
    [
        ("2025-01-15 09:30", None, UTC_ZONE, datetime(2025, 1, 15, 9, 30, tzinfo=UTC)),
        ("2025-01-15 09:30", None, NEW_YORK, datetime(2025, 1, 15, 14, 30, tzinfo=UTC)),
        ("2025-03-07 09:30", None, NEW_YORK, datetime(2025, 3, 7, 14, 30, tzinfo=UTC)),
        ("2025-03-10 09:30", None, NEW_YORK, datetime(2025, 3, 10, 13, 30, tzinfo=UTC)),
        ("2025-10-31 09:30", None, NEW_YORK, datetime(2025, 10, 31, 13, 30, tzinfo=UTC)),
        ("2025-11-03 09:30", None, NEW_YORK, datetime(2025, 11, 3, 14, 30, tzinfo=UTC)),
        ("2025-07-01 09:30", "2020-01-01", NEW_YORK, datetime(2025, 7, 1, 13, 30, tzinfo=UTC)),
        (None, "2025-07-01", NEW_YORK, datetime(2025, 7, 1, 4, tzinfo=UTC)),
        (None, "2025-07-01", UTC_ZONE, datetime(2025, 7, 1, tzinfo=UTC)),
        (None, None, UTC_ZONE, None),
    ],
)
def test_times_without_zone_are_read_in_the_given_zone(
    db: TradingDB, at: str | None, day: str | None, zone: ZoneInfo, expected: datetime | None,
) -> None:
    add(db, at=at, date=day)
    assert [row.decided_at for row in AnalysisRows(db, zone).candidates()] == [expected]


@pytest.mark.parametrize("at", ["20250-01-15 09:30", "infinity", "-infinity", "0044-03-15 09:00 BC", "0001-01-01"])
@pytest.mark.parametrize("zone", [UTC_ZONE, NEW_YORK])
def test_an_unusable_time_counts_as_none_and_stops_no_other_row(db: TradingDB, at: str, zone: ZoneInfo) -> None:
    add(db, "good")
    add(db, "typo", at=at)
    found = {row.analysis_id: row.decided_at for row in AnalysisRows(db, zone).candidates()}
    assert found["typo"] is None
    assert found["good"] is not None


@pytest.mark.parametrize("day", ["20250-01-15", "infinity"])
def test_an_unusable_date_counts_as_none(db: TradingDB, analysis: AnalysisRows, day: str) -> None:
    add(db, at=None, date=day)
    assert [row.decided_at for row in analysis.candidates()] == [None]


@pytest.mark.parametrize(
    ("now", "zone", "written"),
    [
        (NOW, UTC_ZONE, datetime(2025, 1, 15, 15, 0)),
        (NOW, NEW_YORK, datetime(2025, 1, 15, 10, 0)),
        (datetime(2025, 7, 15, 15, 0, tzinfo=UTC), NEW_YORK, datetime(2025, 7, 15, 11, 0)),
        (datetime(2025, 3, 9, 6, 59, tzinfo=UTC), NEW_YORK, datetime(2025, 3, 9, 1, 59)),
        (datetime(2025, 3, 9, 7, 0, tzinfo=UTC), NEW_YORK, datetime(2025, 3, 9, 3, 0)),
    ],
)
def test_the_time_of_execution_is_written_in_the_given_zone(
    db: TradingDB, now: datetime, zone: ZoneInfo, written: datetime,
) -> None:
    add(db, "placed")
    add(db, "refused")
    analysis = AnalysisRows(db, zone)
    analysis.mark_placed("placed", "placed", "order-1", 7, now)
    analysis.mark_refused("refused", "refused", "why", now)
    assert [row["execution_time"] for row in rows(db)] == [written, written]


def test_a_placed_row_carries_the_order_and_the_trade(db: TradingDB, analysis: AnalysisRows) -> None:
    add(db, remarks="by hand")
    add(db, "a2")
    analysis.mark_placed("a1", "a1", "order-1", 7, NOW)
    first, second = rows(db)
    assert (first["executed"], first["existing_order_id"], first["existing_trade_journal_id"]) == (True, "order-1", 7)
    assert first["Remarks"] == "by hand"
    assert (second["executed"], second["existing_order_id"], second["execution_time"]) == (None, None, None)
    assert ids(analysis) == ["a2"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "REJECTED: too old"),
        ("", "REJECTED: too old"),
        ("seen by Ann", "REJECTED: too old\nseen by Ann"),
        ("100 %s\\", "REJECTED: too old\n100 %s\\"),
    ],
)
def test_a_refusal_is_a_new_first_line_of_the_remarks(
    db: TradingDB, analysis: AnalysisRows, before: str | None, after: str,
) -> None:
    add(db, remarks=before)
    analysis.mark_refused("a1", "a1", "too old", NOW)
    row = rows(db)[0]
    assert (row["Remarks"], row["executed"], row["existing_order_id"]) == (after, True, None)


def test_marking_says_whether_the_row_was_still_there(db: TradingDB, analysis: AnalysisRows) -> None:
    add(db)
    assert analysis.mark_placed("a1", "a1", "order-1", 7, NOW)
    assert analysis.mark_refused("a1", "a1", "why", NOW)
    assert not analysis.mark_refused("a1", "another", "why", NOW)
    assert not analysis.mark_placed("gone", "gone", "order-1", 7, NOW)
    assert not analysis.mark_refused("gone", "gone", "why", NOW)


def test_a_row_locked_by_one_is_not_taken_by_another(db: TradingDB, other: TradingDB, analysis: AnalysisRows) -> None:
    add(db)
    with db.transaction():
        assert analysis.lock("a1") is not None
        with other.transaction():
            assert AnalysisRows(other, UTC_ZONE).lock("a1") is None
    with other.transaction():
        assert AnalysisRows(other, UTC_ZONE).lock("a1") is not None


@pytest.mark.parametrize("key", ["a2", "", "a1' OR true --"])
def test_only_the_row_of_the_key_is_locked(db: TradingDB, analysis: AnalysisRows, key: str) -> None:
    add(db)
    assert analysis.lock(key) is None


def test_a_table_made_by_nocodb_is_keyed_by_its_own_id(nocodb: TradingDB) -> None:
    assert key_column(nocodb) == "id"


def test_in_a_table_made_by_nocodb_exactly_the_claimed_row_is_marked(nocodb: TradingDB) -> None:
    add(nocodb, "same", at="2025-01-15 09:00")
    add(nocodb, "same", at="2025-01-15 10:00")
    add(nocodb, None, at="2025-01-15 11:00")
    analysis = AnalysisRows(nocodb, UTC_ZONE)
    first, second, third = analysis.candidates()
    assert [first.analysis_id, second.analysis_id, third.analysis_id] == ["same", "same", None]
    analysis.mark_placed(first.row_key, "same", "order-1", 7, NOW)
    analysis.mark_refused(third.row_key, None, "why", NOW)
    assert [row["executed"] for row in rows(nocodb)] == [True, None, True]
    assert analysis.candidates() == [second]
    assert analysis.lock(second.row_key) == second


def test_columns_of_others_are_left_alone(nocodb: TradingDB) -> None:
    add(nocodb)
    before = rows(nocodb)[0]
    AnalysisRows(nocodb, UTC_ZONE).mark_refused("1", "a1", "why", NOW)
    changed = {name for name, value in rows(nocodb)[0].items() if value != before[name]}
    assert changed == {"executed", "execution_time", "Remarks"}


def test_the_default_table_is_keyed_by_its_analysis_id(db: TradingDB) -> None:
    assert key_column(db) == "Analysis_Id"


def test_a_missing_table_is_said_to_be_made_in_nocodb(db: TradingDB, analysis: AnalysisRows) -> None:
    db.execute_update("DROP TABLE analysis_decision")
    with pytest.raises(DatabaseError, match="no table analysis_decision in the schema public"):
        analysis.candidates()


@pytest.mark.parametrize(("renamed", "missing"), [
    ('"Remarks" TO "Remark"', r"Remarks \(text\)"), ('"Date" TO date', r"Date \(date\)"),
    ('"Ticker" TO "Symbol"', r"Ticker \(varchar\)"),
])
def test_a_field_with_another_name_is_missing(db: TradingDB, renamed: str, missing: str) -> None:
    db.execute_update(f"ALTER TABLE analysis_decision RENAME {renamed}")
    with pytest.raises(DatabaseError, match=f"lacks the fields {missing}; add them in NocoDB, spelt like this"):
        key_column(db)


def test_times_with_a_zone_of_their_own_are_taken_at_their_word(db: TradingDB) -> None:
    db.execute_update('ALTER TABLE analysis_decision ALTER "Date_time" TYPE timestamptz, '
                      "ALTER execution_time TYPE timestamptz")
    add(db, at="2025-01-15 09:30-05")
    add(db, "a2", at=None, date="2025-01-15")
    analysis = AnalysisRows(db, NEW_YORK)
    decided = datetime(2025, 1, 15, 14, 30, tzinfo=UTC), datetime(2025, 1, 15, 5, tzinfo=UTC)
    assert tuple(row.decided_at for row in analysis.candidates()) == decided
    analysis.mark_refused("a1", "a1", "why", NOW)
    analysis.mark_placed("a2", "a2", "order-1", 7, NOW)
    assert [row["execution_time"] for row in rows(db)] == [NOW, NOW]


@pytest.mark.parametrize(("before", "after"), [
    (None, None), ("", ""), ("seen by Ann", "seen by Ann"), ("REJECTED: too old", None),
    ("REJECTED: too old\nREJECTED: over 5 %\nseen by Ann\nREJECTED: says Bob", "seen by Ann\nREJECTED: says Bob"),
])
def test_a_refused_row_that_is_carried_out_after_all_loses_the_refusal(
    db: TradingDB, analysis: AnalysisRows, before: str | None, after: str | None,
) -> None:
    add(db, remarks=before)
    analysis.mark_placed("a1", "a1", "order-1", 7, NOW)
    assert rows(db)[0]["Remarks"] == after


def test_missing_fields_are_named_with_their_types(db: TradingDB, analysis: AnalysisRows) -> None:
    db.execute_update("ALTER TABLE analysis_decision DROP COLUMN executed, DROP COLUMN existing_order_id")
    with pytest.raises(DatabaseError, match=r"lacks the fields existing_order_id \(varchar\), executed \(boolean\);"):
        analysis.candidates()
    db.execute_update("ALTER TABLE analysis_decision ADD executed boolean, ADD existing_order_id varchar")
    assert analysis.candidates() == []


@pytest.mark.parametrize("key", ["", ', ADD PRIMARY KEY ("Analysis_Id", "Ticker")'])
def test_a_table_without_a_key_of_one_column_is_refused(db: TradingDB, analysis: AnalysisRows, key: str) -> None:
    db.execute_update("ALTER TABLE analysis_decision DROP CONSTRAINT analysis_decision_pkey" + key)
    with pytest.raises(DatabaseError, match="needs a primary key of one column"):
        analysis.candidates()


def test_a_hostile_reason_stays_a_reason(db: TradingDB, analysis: AnalysisRows) -> None:
    add(db)
    analysis.mark_refused("a1", "a1", "x'); DROP TABLE analysis_decision; -- %(now)s {key}", NOW)
    assert rows(db)[0]["Remarks"] == "REJECTED: x'); DROP TABLE analysis_decision; -- %(now)s {key}"
