"""Whenever things became known, in whatever order: no decision used what became known after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_trail import NewDecision, create_decision
from db_layer import TradingDB
from strategies import STRATEGIES
from strategies.plan import judge
from strategies.snapshot import load_snapshot
from strategies.written import write_plan
from tests.conftest import Clones
from tests.flow.disclosing import disclose, ingest, still_market
from tests.flow.world import START

SYMBOLS = ("NVDA", "AMD", "JPM")
DAY = timedelta(days=1)
LATER_THAN_THEIR_DECISION = """
SELECT decision.id, 'a disclosure' AS what
FROM audit.trade_decisions decision
JOIN audit.trade_decision_disclosures noted ON noted.trade_decision_id = decision.id
JOIN quiver_trades trade ON trade.id = noted.quiver_trade_id
WHERE trade.available_at > decision.created_at OR trade.updated_at > decision.created_at
UNION ALL
SELECT decision.id, 'the disclosure that triggered it'
FROM audit.trade_decisions decision JOIN quiver_trades trade ON trade.id = decision.primary_quiver_trade_id
WHERE trade.available_at > decision.created_at
UNION ALL
SELECT decision.id, 'a run'
FROM audit.trade_decisions decision
LEFT JOIN LATERAL jsonb_array_elements(decision.decision_rationale #> '{data_lineage,ingestion_runs}') known ON true
JOIN audit.data_ingestion_runs run
     ON run.run_id = (known ->> 'run_id')::uuid OR run.id = decision.primary_ingestion_run_id
WHERE run.completed_at IS NULL OR run.completed_at > COALESCE(
    (decision.decision_rationale #>> '{trigger_event,decided_at}')::timestamptz, decision.created_at)
"""

# Before the decision, just then, and after it.
MOMENTS = st.one_of(
    st.sampled_from([timedelta(0), timedelta(microseconds=1), timedelta(microseconds=-1)]),
    st.timedeltas(-3 * DAY, 3 * DAY),
).map(lambda off: START + off)
TRADES = st.fixed_dictionaries({
    "at": MOMENTS, "updated": st.just(timedelta(0)) | st.timedeltas(-2 * DAY, 4 * DAY),
    "symbol": st.sampled_from(SYMBOLS), "person_id": st.sampled_from("ABCDE"), "run": st.integers(0, 3),
    "side": st.sampled_from(["buy", "buy", "buy", "sell"]),
})
RUNS = st.lists(st.tuples(MOMENTS, st.sampled_from(["completed", "completed", "running"])), min_size=4, max_size=4)

pytestmark = pytest.mark.no_cover


class UndoneError(Exception):
    """So that nothing of an example stays."""


@pytest.fixture(scope="module")
def books(clones: Clones) -> Iterator[TradingDB]:
    database = clones.create()
    with TradingDB(config=database) as db:
        yield db
    clones.drop(database)


def fill(db: TradingDB, runs: list[Any], trades: list[Any]) -> None:
    ids = [ingest(db, at, f"task {number}", status) for number, (at, status) in enumerate(runs)]
    for number, trade in enumerate(trades):
        disclose(
            db, trade["at"], trade["symbol"], person_id=trade["person_id"], side=trade["side"], amount_low=100_001,
            updated_at=trade["at"] + trade["updated"], data_ingestion_run_id=ids[trade["run"]],
            natural_key=f"trade {number}",
        )


def decide(db: TradingDB, now: datetime) -> list[int]:
    strategy = STRATEGIES["congressional"]
    snapshot = load_snapshot(db, strategy, now)
    return write_plan(db, judge(strategy, now, strategy.signals(snapshot), still_market(SYMBOLS)), now)


@settings(max_examples=80)
@given(runs=RUNS, trades=st.lists(TRADES, min_size=4, max_size=14), waited=st.timedeltas(timedelta(0), DAY))
def test_no_decision_used_a_later_record(books: TradingDB, runs: Any, trades: Any, waited: timedelta) -> None:
    with suppress(UndoneError), books.transaction():
        fill(books, runs, trades)
        for now in (START, START + DAY):
            decide(books, now)
        decided = START - waited  # a row of n8n's, which waited for its claim
        create_decision(books, NewDecision(
            "n8n_analysis", "1", "new_trade", "NVDA", "a" * 64, decided_at=decided,
            rationale={"trigger_event": {"decided_at": decided.isoformat()}},
        ), START)
        assert books.execute_query(LATER_THAN_THEIR_DECISION) == []
        raise UndoneError


@settings(max_examples=40)
@given(runs=RUNS, trades=st.lists(TRADES, min_size=4, max_size=14))
def test_what_comes_later_changes_no_signal(books: TradingDB, runs: Any, trades: Any) -> None:
    strategy = STRATEGIES["congressional"]
    known = [trade for trade in trades if max(trade["at"], trade["at"] + trade["updated"]) <= START]
    seen = []
    for told in (trades, known):
        with suppress(UndoneError), books.transaction():
            fill(books, runs, told)
            signals = strategy.signals(load_snapshot(books, strategy, START))
            seen.append([(found.symbol, found.strength, found.confidence, found.people) for found in signals])
            raise UndoneError
    assert seen[0] == seen[1]
