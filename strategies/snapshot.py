"""What was known at a moment, from the books: by the time a row became available to us, never by a trade's date.

A row that has changed since that moment is left out, because what it said then is not kept.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, time, timedelta
from decimal import Decimal

from clock import MARKET_ZONE
from data_fetch.values import SHARE, is_tradable
from db_layer import Row, TradingDB
from strategies.signals import Disclosure, Snapshot, Strategy

LOAD_DISCLOSURES = """
SELECT trade.id, trade.symbol, trade.side, COALESCE(trade.person_id, lower(trade.person_name)) AS person,
       trade.person_name, COALESCE(trade.amount_low, trade.shares * trade.price, 0) AS dollars,
       trade.transaction_date, trade.disclosure_date, trade.available_at, run.id AS run_id,
       COALESCE(trade.is_officer, false) AS is_officer, COALESCE(trade.is_director, false) AS is_director
FROM quiver_trades trade
LEFT JOIN audit.data_ingestion_runs run ON run.id = trade.data_ingestion_run_id
      AND run.status = 'completed' AND run.completed_at <= %(now)s
WHERE trade.source = %(source)s AND trade.tradable AND trade.side IS NOT NULL
  AND trade.available_at BETWEEN %(since)s AND %(now)s AND trade.updated_at <= %(now)s
  AND trade.disclosure_date >= %(first_day)s
  AND NOT EXISTS (SELECT 1 FROM audit.trade_decision_disclosures decided
                  WHERE decided.quiver_trade_id = trade.id AND decided.strategy_name = %(strategy)s)
ORDER BY trade.id
"""
# The seats that the latest complete run saw.
LOAD_SEATS = """
SELECT seat.bioguide_id AS person, concat_ws(': ', committee.name, committee.jurisdiction) AS about
FROM audit.data_ingestion_run_records seen
JOIN committee_memberships seat ON seat.id = seen.record_id
JOIN committees committee ON committee.code = seat.committee_code AND committee.updated_at <= %(now)s
WHERE seen.record_type = 'committee_memberships' AND seat.bioguide_id = ANY(%(people)s)
  AND seen.data_ingestion_run_id = (
      SELECT id FROM audit.data_ingestion_runs
      WHERE task_name = 'maintenance_daily' AND status = 'completed' AND completed_at <= %(now)s
      ORDER BY completed_at DESC, id DESC LIMIT 1)
ORDER BY committee.code
"""


def load_snapshot(db: TradingDB, strategy: Strategy, now: datetime) -> Snapshot:
    """Return what a strategy may know at this moment and has not decided on yet. Raises DatabaseError."""
    today = now.astimezone(MARKET_ZONE).date()
    first_day = today - timedelta(days=strategy.look_back_days)
    rows = db.execute_query(LOAD_DISCLOSURES, {
        "now": now, "source": strategy.source, "strategy": strategy.name, "first_day": first_day,
        # What is reported on a day becomes available on that day at the earliest.
        "since": datetime.combine(first_day, time(), MARKET_ZONE),
    })
    # What is no symbol is not asked about: its characters could ask for something else.
    disclosures = [
        Disclosure(**row | {"dollars": Decimal(row["dollars"])}) for row in rows if is_tradable(row["symbol"], SHARE)
    ]
    return Snapshot(now, today, disclosures, _seats(db, {found.person for found in disclosures}, now))


def _seats(db: TradingDB, people: Iterable[str], now: datetime) -> dict[str, list[str]]:
    seats: dict[str, list[str]] = defaultdict(list)
    rows: list[Row] = db.execute_query(LOAD_SEATS, {"now": now, "people": sorted(people)})
    for row in rows:
        seats[row["person"]].append(row["about"])
    return dict(seats)
