"""The adapters on real answers and files, which may not be copied into the project: skipped without them."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from data_fetch import legislators, quiver_congress, quiver_insider
from tests.flow.sources import Desk, insider_record

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the real samples are not at {DATA}: most of them may not be redistributed",
)
LIVE, BULK, INSIDERS = quiver_congress.LIVE, quiver_congress.BULK_CONGRESS, quiver_insider.LIVE
SEATS_OF_LATEST_RUN = """
SELECT count(*) AS seats FROM audit.data_ingestion_run_records
WHERE record_type = 'committee_memberships' AND data_ingestion_run_id = (
    SELECT max(id) FROM audit.data_ingestion_runs WHERE task_name = 'maintenance_daily' AND status = 'completed')
"""


def sample(name: str) -> Any:
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def at(day: str) -> datetime:
    return datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=UTC)


def test_two_live_answers_two_weeks_apart_and_the_whole_history(desk: Desk) -> None:
    first, second = (sample(f"quiver_shape/live_congresstrading_asof_2025-03-{day}.json") for day in (14, 31))
    history = sample("quiver_shape/bulk_congresstrading_v2_2024-07_2025-03.json")
    desk.clock.set(at("2025-03-14"))
    desk.sources.files[LIVE] = first
    assert desk.counts() == (825, 825, 0, 0)
    before = {row["id"]: row for row in desk.trades()}
    desk.clock.set(at("2025-03-31"))
    desk.sources.files[LIVE] = second
    assert desk.counts() == (861, 216, 0, 645)
    assert {row["id"]: row for row in desk.trades() if row["id"] in before} == before
    assert desk.counts() == (861, 0, 0, 861)
    assert len(desk.trades()) == 825 + 216
    # The history has every trade of the feeds in another spelling.
    desk.sources.files[BULK] = history
    new = 2782 - 825 - 216
    assert desk.counts(days_back=600) == (861 + 2782, new, 0, 861 + 2782 - new)
    trades = desk.trades()
    assert len(trades) == len({row["natural_key"] for row in trades}) == 2782
    assert all(row["available_at"] >= at("2025-03-14") for row in trades)
    assert {row["side"] for row in trades} == {"buy", "sell", None}
    assert {row["symbol"] for row in trades if not row["tradable"] and row["asset_type"] == "stock"} == {
        "CEQP ET", "LSXMK SIRI",
    }
    assert desk.counts(days_back=600) == (861 + 2782, 0, 0, 861 + 2782)
    assert desk.sources.pages() == ["1", "2", "3"] * 2
    assert (desk.runs()[-1]["data_date_start"], desk.runs()[-1]["data_date_end"]) == (
        datetime(2024, 7, 1).date(), datetime(2025, 3, 29).date(),
    )


def test_every_row_of_the_insider_samples_is_accounted_for(desk: Desk) -> None:
    desk.clock.set(at("2026-01-02"))
    desk.sources.files[INSIDERS] = sample("quiver_shape/live_insiders_2025-07_2025-12.json")
    assert desk.counts("insider_daily", 170) == (810, 810, 0, 0)
    today = {"uploaded": "2026-01-02"}
    desk.sources.files[INSIDERS] = [row | today for row in desk.sources.files[INSIDERS]]
    assert desk.counts("insider_daily") == (810, 0, 0, 810)
    with (DATA / "insiders" / "form4_transactions_2025-07_2025-12.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["table_type"] == "non-derivative"]
    # The forms the answer was made from, where nothing was rounded or left out.
    desk.sources.files[INSIDERS] = [insider_record(
        Ticker=row["ticker"], Date=row["transaction_date"], Name=row["owner_name"],
        AcquiredDisposedCode=row["acquired_disposed_code"], TransactionCode=row["transaction_code"],
        Shares=row["shares"], PricePerShare=row["price_per_share"] or None,
        SharesOwnedFollowing=row["shares_owned_following"], fileDate=row["filing_date"],
        directOrIndirectOwnership=row["direct_or_indirect"], **today,
    ) for row in rows]
    fetched, created, updated, skipped = desk.counts("insider_daily")
    assert (fetched, updated) == (len(rows), 0)
    assert len(desk.trades()) == 810 + created
    assert skipped >= 810 - created


@pytest.mark.parametrize(("congress", "day"), [("119th", "2025-04-04"), ("117th", "2021-05-15")])
def test_members_committees_and_seats_of_a_congress(desk: Desk, congress: str, day: str) -> None:
    desk.clock.set(at(day))
    desk.sources.files |= {
        legislators.MEMBERS: sample(f"legislators/legislators_{congress}_{day}.json"),
        legislators.COMMITTEES: sample(f"legislators/committees_{congress}_{day}.json"),
        legislators.SEATS: sample(f"legislators/committee_membership_{congress}_{day}.json"),
    }
    members, committees, seats = {"119th": (539, 235, 3817), "117th": (536, 249, 1988)}[congress]
    everything = members + committees + seats
    assert desk.counts("maintenance_daily") == (everything, everything, 0, 0)
    assert desk.counts("maintenance_daily") == (everything, 0, 0, everything)
    assert desk.db.execute_query(SEATS_OF_LATEST_RUN) == [{"seats": seats}]


def test_a_mirror_of_the_old_api_gives_committees_members_and_seats(desk: Desk) -> None:
    desk.clock.set(at("2025-04-04"))
    for house in ("house", "senate", "joint"):
        desk.sources.files[f"/119/{house}/committees.json"] = sample(f"propublica_shape/committees_{house}_119.json")
        for detail in sample(f"propublica_shape/committee_details_{house}_119.json"):
            desk.sources.files[f"/119/{house}/committees/{detail['results'][0]['id']}.json"] = detail
    first = desk.run("maintenance_daily")
    assert len(desk.db.query("committee_memberships")) == 856 + 413 + 58
    committees = desk.db.query("committees")
    assert len([row for row in committees if row["parent_code"] is None]) == 51
    assert {row["chamber"] for row in committees} == {"house", "senate", "joint"}
    assert len(desk.db.query("politician_profiles")) > 500
    fetched = first["records_fetched"]
    assert desk.counts("maintenance_daily") == (fetched, 0, 0, fetched)
