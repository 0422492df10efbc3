"""The programs over a database as NocoDB leaves it: a schema with a generated name, and a table it made itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg2 import sql

from db_layer import TradingDB
from paper_broker import PaperBroker, SimulatedClock, serve
from tests.flow.world import START, World, swing, trend

BASE = "pa9idbnom3cubse"  # NocoDB names the schema of a base after the base's id
EMPTY = "DROP SCHEMA public CASCADE; DROP SCHEMA audit CASCADE; CREATE SCHEMA public"
# The table as NocoDB makes it from fields drawn in its grid, the four added fields last.
TABLE = """
CREATE TABLE {base}.analysis_decision (
    id serial PRIMARY KEY, created_at timestamp, updated_at timestamp, created_by varchar, updated_by varchar,
    nc_order numeric, title text, "Analysis_Id" text, "Date_time" timestamp, "Ticker" text, "Chart" text,
    "Analysis_Prompt" text, "3_Month_Chart" text, "Analysis" text, "Trade_Type" text, "Decision" {kind},
    "Approve" boolean DEFAULT false, "Date" date, "Remarks" text, existing_order_id text,
    existing_trade_journal_id bigint, executed boolean DEFAULT false, execution_time timestamp
)
"""
# A row from n8n's Postgres node leaves NocoDB's own columns empty; one from NocoDB's grid fills them in.
ADD = """
INSERT INTO analysis_decision (
    created_at, created_by, nc_order, title, "Analysis_Id", "Date_time", "Ticker", "Decision", "Approve", executed)
VALUES (%(created_at)s, %(created_by)s, %(nc_order)s, %(title)s, %(id)s, %(at)s, %(ticker)s, %(decision)s, %(approve)s,
        %(executed)s)
"""
USE_AGAIN = """
UPDATE analysis_decision
SET "Analysis_Id" = %(id)s, "Decision" = %(decision)s, "Date_time" = %(at)s, executed = false, "Remarks" = NULL,
    existing_order_id = NULL, existing_trade_journal_id = NULL
"""
ROWS = "SELECT * FROM analysis_decision ORDER BY id"
OURS = {"executed", "execution_time", "existing_order_id", "existing_trade_journal_id", "Remarks"}
TABLES_OF = "SELECT tablename FROM pg_tables WHERE schemaname = %(schema)s"
KEYS_OF = """
SELECT conname FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
WHERE contype = 'f' AND (relnamespace = to_regnamespace(%(schema)s) OR confrelid = to_regclass('analysis_decision'))
  AND relnamespace <> to_regnamespace('audit')
"""


@pytest.fixture(params=["json", "jsonb", "text"])
def base(request: pytest.FixtureRequest, database: dict[str, Any]) -> Iterator[World]:
    """The world over a NocoDB base, whose database tells New York time; "Decision" has each type met in the field."""
    with TradingDB(config=database) as admin:
        admin.execute_update(EMPTY)
        admin.execute_update(sql.SQL("ALTER DATABASE {} SET timezone TO 'America/New_York'").format(
            sql.Identifier(database["dbname"]),
        ))
        admin.execute_update(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(BASE)))
        names = {"base": sql.Identifier(BASE), "kind": sql.SQL(request.param)}
        admin.execute_update(sql.SQL(TABLE).format(**names))
    with TradingDB(config=database, schema=BASE) as db, serve(PaperBroker(clock=SimulatedClock(START))) as server:
        db.create_schema()
        with closing(World(db, server)) as world:
            yield world


def add(world: World, analysis_id: str | None, decision: Any, **changes: Any) -> None:
    """Write a row as n8n's Postgres node does, or with changes as NocoDB's grid does."""
    row = {
        "created_at": None, "created_by": None, "nc_order": None, "title": None, "id": analysis_id,
        "at": START.replace(tzinfo=None) - timedelta(minutes=15), "ticker": "NVDA:NASDAQ",
        "decision": json.dumps(decision), "approve": True, "executed": None,
    }
    world.db.execute_update(ADD, row | changes)


def rows(world: World) -> list[dict[str, Any]]:
    return world.db.execute_query(ROWS)


def use_again(world: World, analysis_id: str, decision: Any) -> None:
    """Write the next decision into the one row there is, its marks cleared."""
    at = world.clock.now().replace(tzinfo=None)
    world.db.execute_update(USE_AGAIN, {"id": analysis_id, "at": at, "decision": json.dumps(decision)})


def test_a_trade_goes_from_its_row_to_its_profit_and_touches_only_its_own_fields(base: World) -> None:
    add(base, "A1", swing())
    before = rows(base)[0]
    assert base.execute() == {"placed": 1}
    base.price("NVDA", "133.50")
    base.monitor()
    base.price("NVDA", "140")
    base.value()
    assert base.one("position_tracking")["unrealized_pnl"] == Decimal("292.50")
    base.price("NVDA", "146")
    base.monitor()
    base.value()
    journal, (row,) = base.one("trade_journal"), rows(base)
    assert (journal["status"], journal["exit_reason"], journal["actual_pnl"]) == ("CLOSED", "TARGET_HIT", 562.5)
    entry = base.one("order_execution", order_type="ENTRY")
    assert (row["executed"], row["execution_time"]) == (True, datetime(2025, 1, 15, 15, 0))
    assert (row["existing_order_id"], row["existing_trade_journal_id"]) == (entry["alpaca_order_id"], journal["id"])
    assert {name for name in row if row[name] != before[name]} == OURS - {"Remarks"}
    assert base.market.state.positions == {}
    assert base.db.query("alerts") == []


@pytest.mark.parametrize("approve", [None, False])
def test_rows_without_approval_or_action_stay_letter_for_letter(base: World, approve: bool | None) -> None:
    add(base, "NOT-APPROVED", swing(), approve=approve)
    add(base, "NOTHING", {"symbol": "NVDA", "primary_action": "NO_ACTION"}, executed=False)
    add(base, "DONE", swing(), executed=True)
    before = rows(base)
    assert base.execute() == {"untouched": 1}
    base.monitor()
    base.value()
    assert rows(base) == before
    assert base.db.query("trade_decisions") == []


def test_rows_of_n8n_and_of_the_grid_are_taken_alike(base: World) -> None:
    base.price("AMD", "120")
    add(base, "N8N", swing(qty=10))
    filled_in = {"created_at": "2025-01-15 14:40", "created_by": "usvx1", "nc_order": 2, "title": "AMD"}
    grid = trend("AMD", limit_price=119, stop_loss=110)
    add(base, "GRID", grid, ticker="AMD", executed=False, at="2025-01-15 14:50", **filled_in)
    assert base.execute() == {"placed": 2}
    assert [order["symbol"] for order in base.posted()] == ["NVDA", "AMD"]
    assert [row["executed"] for row in rows(base)] == [True, True]


def test_a_decision_encoded_twice_is_carried_out(base: World) -> None:
    add(base, "TWICE", json.dumps(swing()))
    assert base.execute() == {"placed": 1}
    base.price("NVDA", "133.50")
    base.monitor()
    assert base.one("trade_journal")["status"] == "POSITION"


def test_exactly_the_claimed_row_is_marked_where_ids_repeat_or_are_missing(base: World) -> None:
    add(base, "SAME", swing(qty=10))
    add(base, "SAME", swing(qty=20))
    add(base, None, swing(qty=-1))
    assert base.execute() == {"placed": 1, "refused": 2}
    first, second, third = rows(base)
    assert [order["qty"] for order in base.posted()] == ["10"]
    assert (first["existing_order_id"] is not None, first["Remarks"]) == (True, None)
    assert (second["existing_order_id"], third["existing_order_id"]) == (None, None)
    assert "duplicate" in second["Remarks"]
    assert third["Remarks"].startswith("REJECTED: qty must be")


def test_times_without_zone_are_read_and_written_in_the_zone_of_the_analysis(base: World) -> None:
    base.configure(ANALYSIS_TIMEZONE="America/New_York", DECISION_MAX_AGE_HOURS="1")
    add(base, "FRESH", swing(qty=10), at="2025-01-15 09:30")
    add(base, "OLD", swing(qty=20), at="2025-01-15 08:30")
    assert base.execute() == {"placed": 1, "refused": 1}
    assert [order["qty"] for order in base.posted()] == ["10"]
    assert {row["execution_time"] for row in rows(base)} == {datetime(2025, 1, 15, 10, 0)}


def test_our_tables_lie_beside_nocodbs_without_keys_that_would_become_links(base: World) -> None:
    ours = {row["tablename"] for row in base.db.execute_query(TABLES_OF, {"schema": BASE})}
    assert {"analysis_decision", "trade_journal", "order_execution", "order_fill", "position_tracking"} <= ours
    assert base.db.execute_query(TABLES_OF, {"schema": "public"}) == []
    assert base.db.execute_query(KEYS_OF, {"schema": BASE}) == []
    base.db.create_schema()
    assert {row["tablename"] for row in base.db.execute_query(TABLES_OF, {"schema": BASE})} == ours


def test_a_row_that_nocodb_deletes_or_edits_afterwards_changes_nothing_of_its_trade(base: World) -> None:
    add(base, "A1", swing())
    base.execute()
    base.db.execute_update('UPDATE analysis_decision SET "Decision" = %s', [json.dumps(swing(qty=1))])
    base.price("NVDA", "133.50")
    base.monitor()
    base.db.execute_update("DELETE FROM analysis_decision")
    base.price("NVDA", "146")
    base.monitor()
    base.value()
    journal = base.one("trade_journal")
    assert (journal["status"], journal["actual_qty"], journal["actual_pnl"]) == ("CLOSED", 45, Decimal("562.50"))


@pytest.mark.parametrize("base", ["text"], indirect=True)
def test_a_table_made_anew_starts_its_ids_again_and_its_rows_are_new_decisions(base: World) -> None:
    base.price("AMD", "120")
    add(base, "OLD", swing(qty=10))
    assert base.execute() == {"placed": 1}
    base.db.execute_update("TRUNCATE analysis_decision RESTART IDENTITY")
    add(base, "NEW", trend("AMD", limit_price=118, stop_loss=110), ticker="AMD")
    assert base.execute() == {"placed": 1}
    assert [order["symbol"] for order in base.posted()] == ["NVDA", "AMD"]


@pytest.mark.parametrize("base", ["text"], indirect=True)
def test_a_row_used_again_under_a_new_analysis_id_is_a_new_decision(base: World) -> None:
    add(base, "MONDAY", swing(qty=10))
    base.execute()
    base.pass_time(days=1)
    base.monitor()
    use_again(base, "TUESDAY", swing(qty=12))
    assert base.execute() == {"placed": 1}
    assert [order["qty"] for order in base.posted()] == ["10", "12"]


@pytest.mark.parametrize("base", ["text"], indirect=True)
def test_the_same_text_in_the_same_row_is_refused_with_the_id_under_which_it_was_carried_out(base: World) -> None:
    add(base, "MONDAY", swing(qty=10))
    base.execute()
    base.pass_time(minutes=20)
    use_again(base, "TUESDAY", swing(qty=10))
    assert base.execute() == {"refused": 1}
    assert rows(base)[0]["Remarks"] == (
        "REJECTED: duplicate: this row decided the same as MONDAY on 2025-01-15 15:00 UTC; use a new row"
    )


@pytest.mark.parametrize("base", ["text"], indirect=True)
def test_the_outcome_of_an_earlier_decision_is_not_written_onto_the_next_one_in_its_row(base: World) -> None:
    add(base, "MONDAY", swing(qty=10))
    base.execute_with_the_line_down()
    use_again(base, "TUESDAY", swing(qty=12))
    assert base.execute() == {"refused": 1, "placed": 1}
    monday, tuesday = base.db.query("trade_decisions")
    assert (monday["status"], tuesday["analysis_decision_id"]) == ("cancelled", "TUESDAY")
    assert [order["qty"] for order in base.posted()] == ["12"]
    entry = base.one("order_execution", trade_decision_id=tuesday["id"], order_type="ENTRY")
    assert rows(base)[0]["existing_order_id"] == entry["alpaca_order_id"]
