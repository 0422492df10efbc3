"""From a filing at its source to a closed trade, and back by one question in SQL."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from data_fetch.quiver_congress import LIVE
from tests.flow.disclosing import decisions, priced, run
from tests.flow.sources import NOW, Desk, live_record
from tests.flow.world import World

DOCUMENT = Path(__file__).parents[2] / "docs" / "strategies.md"
COMMITTEES = {
    "/legislators-current.json": [
        {"id": {"bioguide": "E000001"}, "name": {"official_full": "Ada Example"}, "terms": [{"type": "rep"}]},
    ],
    "/committees-current.json": [
        {"type": "house", "name": "Committee on Examples", "thomas_id": "HSEX", "jurisdiction": "Semiconductors."},
    ],
    "/committee-membership-current.json": {"HSEX": [{"bioguide": "E000001", "name": "Ada Example"}]},
}


def documented_question() -> str:
    """The SQL of the chapter that promises it."""
    chapter = DOCUMENT.read_text(encoding="utf-8").partition("## From a filing to a closed trade")[2]
    return chapter.partition("```sql\n")[2].partition("```")[0]


def at(world: World, desk: Desk, moment: datetime) -> None:
    desk.clock.set(moment)
    world.clock.set(moment)
    world.market.set_time(moment)


def test_filings_become_a_closed_trade_and_one_question_leads_back(world: World, desk: Desk) -> None:
    at(world, desk, NOW)
    desk.sources.files |= COMMITTEES | {LIVE: [
        live_record(), live_record(Representative="Ben Sample", BioGuideID="S000002", Range="$50,001 - $100,000",
                                   Amount="50001.0"),
        live_record(Representative="Cleo Late", BioGuideID="L000003", Ticker="AMD"),
    ]}
    desk.run("maintenance_daily")
    fetched = desk.run("congress_daily")
    at(world, desk, NOW + timedelta(hours=3))  # 10:00 in New York
    priced(world)
    plan, results = run(world)
    assert (results, [found.signal.parts["committee"] for found in plan.planned]) == ({"placed": 1}, [1 / 2])
    world.monitor()
    world.price("NVDA", "153")
    world.monitor()

    rows = world.db.execute_query(documented_question())
    decision, trade = decisions(world)[0], world.one("trade_journal")
    assert [(row["person_name"], row["order_type"], row["side"]) for row in rows] == [
        ("Ada Example", "ENTRY", "buy"), ("Ben Sample", "ENTRY", "buy"),
        ("Ada Example", "TAKE_PROFIT", "sell"), ("Ben Sample", "TAKE_PROFIT", "sell"),
    ]
    for row in rows:
        assert (row["run_id"], row["decision_id"]) == (fetched["run_id"], decision["decision_id"])
        assert (row["trade_id"], row["exit_reason"], row["actual_pnl"]) == (
            trade["trade_id"], "TARGET_HIT", trade["actual_pnl"],
        )
        assert row["available_at"] <= row["decided_at"] <= row["filled_at"]
    assert trade["actual_pnl"] > 0
    assert (decision["status"], decision["primary_ingestion_run_id"]) == ("executed", fetched["id"])
    lineage = world.one("trade_decisions")["decision_rationale"]["data_lineage"]["ingestion_runs"]
    assert [known["task_name"] for known in lineage] == ["congress_daily", "maintenance_daily"]
