"""Records into rows: new ones are created, changed ones updated, the others left alone, and each is logged.

What an answer no longer holds stays: absence is not deletion.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from audit_trail import IngestionRun, Operation
from clock import Clock
from data_fetch.values import RecordError, digest
from db_layer import TradingDB
from log_setup import printable

SAVE_TRADES = """
WITH news AS (
    SELECT * FROM json_populate_recordset(NULL::quiver_trades, %(records)s::json)
), known AS (
    SELECT trade.id, natural_key FROM quiver_trades trade JOIN news USING (natural_key)
), written AS (
    INSERT INTO quiver_trades (
        natural_key, trade_key, lot, source, symbol, asset_type, tradable, person_name, person_id, chamber, party,
        owner, is_officer, is_director, is_ten_percent_owner, officer_title, transaction_type, side, portion,
        description, transaction_date, disclosure_date, amount_low, amount_high, shares, price, vendor_modified,
        available_at, data_ingestion_run_id, created_at, updated_at)
    SELECT natural_key, trade_key, lot, source, symbol, asset_type, tradable, person_name, person_id, chamber, party,
           owner, is_officer, is_director, is_ten_percent_owner, officer_title, transaction_type, side, portion,
           description, transaction_date, disclosure_date, amount_low, amount_high, shares, price, vendor_modified,
           available_at, %(run_id)s, %(now)s, %(now)s
    FROM news
    ON CONFLICT (natural_key) DO UPDATE
    SET amount_high = EXCLUDED.amount_high, disclosure_date = EXCLUDED.disclosure_date, party = EXCLUDED.party,
        vendor_modified = EXCLUDED.vendor_modified, updated_at = EXCLUDED.updated_at
    WHERE (quiver_trades.amount_high, quiver_trades.disclosure_date, quiver_trades.party,
           quiver_trades.vendor_modified)
          IS DISTINCT FROM (EXCLUDED.amount_high, EXCLUDED.disclosure_date, EXCLUDED.party, EXCLUDED.vendor_modified)
    RETURNING id, natural_key
)
SELECT CASE WHEN written.id IS NULL THEN 'skipped' WHEN known.id IS NULL THEN 'created' ELSE 'updated' END AS operation,
       array_agg(COALESCE(written.id, known.id)) AS ids
FROM news LEFT JOIN known USING (natural_key) LEFT JOIN written USING (natural_key)
GROUP BY 1
"""

SAVE_MEMBERS = """
WITH news AS (
    SELECT * FROM json_populate_recordset(NULL::politician_profiles, %(records)s::json)
), known AS (
    SELECT member.id, bioguide_id FROM politician_profiles member JOIN news USING (bioguide_id)
), written AS (
    INSERT INTO politician_profiles (bioguide_id, name, party, state, chamber, created_at, updated_at)
    SELECT bioguide_id, name, party, state, chamber, %(now)s, %(now)s FROM news
    ON CONFLICT (bioguide_id) DO UPDATE
    SET name = EXCLUDED.name, party = EXCLUDED.party, state = EXCLUDED.state, chamber = EXCLUDED.chamber,
        updated_at = EXCLUDED.updated_at
    WHERE (politician_profiles.name, politician_profiles.party, politician_profiles.state, politician_profiles.chamber)
          IS DISTINCT FROM (EXCLUDED.name, EXCLUDED.party, EXCLUDED.state, EXCLUDED.chamber)
    RETURNING id, bioguide_id
)
SELECT CASE WHEN written.id IS NULL THEN 'skipped' WHEN known.id IS NULL THEN 'created' ELSE 'updated' END AS operation,
       array_agg(COALESCE(written.id, known.id)) AS ids
FROM news LEFT JOIN known USING (bioguide_id) LEFT JOIN written USING (bioguide_id)
GROUP BY 1
"""

SAVE_COMMITTEES = """
WITH news AS (
    SELECT * FROM json_populate_recordset(NULL::committees, %(records)s::json)
), known AS (
    SELECT committee.id, code FROM committees committee JOIN news USING (code)
), written AS (
    INSERT INTO committees (code, name, chamber, parent_code, jurisdiction, created_at, updated_at)
    SELECT code, name, chamber, parent_code, jurisdiction, %(now)s, %(now)s FROM news
    ON CONFLICT (code) DO UPDATE
    SET name = EXCLUDED.name, chamber = EXCLUDED.chamber, parent_code = EXCLUDED.parent_code,
        jurisdiction = EXCLUDED.jurisdiction, updated_at = EXCLUDED.updated_at
    WHERE (committees.name, committees.chamber, committees.parent_code, committees.jurisdiction)
          IS DISTINCT FROM (EXCLUDED.name, EXCLUDED.chamber, EXCLUDED.parent_code, EXCLUDED.jurisdiction)
    RETURNING id, code
)
SELECT CASE WHEN written.id IS NULL THEN 'skipped' WHEN known.id IS NULL THEN 'created' ELSE 'updated' END AS operation,
       array_agg(COALESCE(written.id, known.id)) AS ids
FROM news LEFT JOIN known USING (code) LEFT JOIN written USING (code)
GROUP BY 1
"""

SAVE_SEATS = """
WITH news AS (
    SELECT * FROM json_populate_recordset(NULL::committee_memberships, %(records)s::json)
), known AS (
    SELECT seat.id, bioguide_id, committee_code
    FROM committee_memberships seat JOIN news USING (bioguide_id, committee_code)
), written AS (
    INSERT INTO committee_memberships (bioguide_id, committee_code, role, created_at, updated_at)
    SELECT bioguide_id, committee_code, role, %(now)s, %(now)s FROM news
    ON CONFLICT (bioguide_id, committee_code) DO UPDATE
    SET role = EXCLUDED.role, updated_at = EXCLUDED.updated_at
    WHERE committee_memberships.role IS DISTINCT FROM EXCLUDED.role
    RETURNING id, bioguide_id, committee_code
)
SELECT CASE WHEN written.id IS NULL THEN 'skipped' WHEN known.id IS NULL THEN 'created' ELSE 'updated' END AS operation,
       array_agg(COALESCE(written.id, known.id)) AS ids
FROM news LEFT JOIN known USING (bioguide_id, committee_code) LEFT JOIN written USING (bioguide_id, committee_code)
GROUP BY 1
"""

QUARANTINE = """
WITH news AS (
    SELECT * FROM json_populate_recordset(NULL::audit.quarantined_records, %(records)s::json)
), known AS (
    SELECT bad.id FROM audit.quarantined_records bad JOIN news USING (natural_key)
), written AS (
    INSERT INTO audit.quarantined_records (natural_key, data_ingestion_run_id, source, reason, record, created_at)
    SELECT natural_key, %(run_id)s, %(source)s, reason, record, %(now)s FROM news
    ON CONFLICT (natural_key) DO NOTHING
    RETURNING id
)
SELECT 'skipped' AS operation, array_agg(id) AS ids FROM (SELECT id FROM known UNION ALL SELECT id FROM written) AS bad
"""

KNOWN_LOTS = """
SELECT trade_key, lot, disclosure_date FROM quiver_trades WHERE trade_key = ANY(%(keys)s::text[]) ORDER BY lot
"""

LIFT_EXPIRED = "DELETE FROM blocked_assets WHERE expires_at <= %(now)s"

Row = dict[str, Any]
# Where each kind of record is kept, what makes it itself, and how it is saved.
TABLES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "quiver_trades": (("natural_key",), SAVE_TRADES),
    "politician_profiles": (("bioguide_id",), SAVE_MEMBERS),
    "committees": (("code",), SAVE_COMMITTEES),
    "committee_memberships": (("bioguide_id", "committee_code"), SAVE_SEATS),
}


@dataclass(frozen=True)
class Sorted:
    """Records of an answer as rows, and those that cannot be used, each with the reason."""

    rows: list[Row]
    unusable: list[tuple[Any, str]]


def sort_out(records: Iterable[Any], normalise: Callable[[Row], Row]) -> Sorted:
    """Make each record a row; what `normalise` refuses with RecordError, and what is no object, is unusable."""
    found = Sorted([], [])
    for record in records:
        try:
            if not isinstance(record, dict):
                raise RecordError("it is not an object")
            found.rows.append(normalise(record))
        except RecordError as error:
            found.unusable.append((record, str(error)))
    return found


class Records:
    """What one run writes."""

    def __init__(self, db: TradingDB, run: IngestionRun, clock: Clock) -> None:
        self._db = db
        self._run = run
        self._clock = clock
        self.unusable = 0

    def save(self, table: str, found: Sorted) -> None:
        """Write the records of one answer and what was done with them, in one transaction. Raises DatabaseError."""
        columns, statement = TABLES[table]
        rows = {tuple(row[column] for column in columns): row for row in found.rows}
        days = [row["disclosure_date"] for row in found.rows if row.get("disclosure_date")]
        self._run.write_calls()
        with self._db.transaction():
            if rows:
                ids = self._write(statement, list(rows.values()))
                self._run.log_records(table, ids, len(found.rows) - len(rows), days)
            if found.unusable:
                self._run.log_records("quarantined_records", self._write(QUARANTINE, self._quarantined(found.unusable)))
        self.unusable += len(found.unusable)

    def known_lots(self, keys: Sequence[str]) -> list[Row]:
        """Return the lots that are known of these trades. Raises DatabaseError."""
        return self._db.execute_query(KNOWN_LOTS, {"keys": list(keys)})

    def lift_expired_blocks(self) -> int:
        """Remove the blocks whose time is over and return how many there were. Raises DatabaseError."""
        return self._db.execute_update(LIFT_EXPIRED, {"now": self._clock.now()})

    def _write(self, statement: str, rows: list[Row]) -> dict[Operation, list[int]]:
        done = self._db.execute_query(statement, {
            "records": json.dumps(rows, default=str), "run_id": self._run.id, "source": self._run.data_source,
            "now": self._clock.now(),
        })
        return {Operation(row["operation"]): row["ids"] for row in done}

    def _quarantined(self, unusable: Sequence[tuple[Any, str]]) -> list[Row]:
        rows: list[Row] = []
        equal: Counter[str] = Counter()
        for record, reason in unusable:
            # The escapes of JSON stand for what PostgreSQL cannot hold as text.
            said = json.dumps(record, default=str)
            key = digest([self._run.data_source, said])
            rows.append({"natural_key": f"{key}-{equal[key]}", "reason": printable(reason), "record": said})
            equal[key] += 1
        return rows


class Lots:
    """Numbers equal trades of one answer, so that each is itself again in the next answer.

    A member may make the same trade in several accounts, and the answers do not say in which. Lots are told apart by
    their report dates first; what is left over is a known lot whose report date was changed, or else a new one. An
    answer of several pages is numbered with one object.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._free: dict[str, dict[int, date | None]] = {}
        self._next: Counter[str] = Counter()

    def number(self, rows: Sequence[Row]) -> None:
        """Give each row its `lot` and `natural_key`. Raises DatabaseError."""
        self._look_up({row["trade_key"] for row in rows})
        left = [row for row in rows if not self._same_report(row)]
        for row in left:
            free = self._free[row["trade_key"]]
            lot = min(free) if free else self._next[row["trade_key"]]
            self._take(row, lot)

    def _look_up(self, keys: set[str]) -> None:
        news = sorted(keys - self._free.keys())
        self._free.update((key, {}) for key in news)
        for known in self._records.known_lots(news):
            self._free[known["trade_key"]][known["lot"]] = known["disclosure_date"]
            self._next[known["trade_key"]] = known["lot"] + 1

    def _same_report(self, row: Row) -> bool:
        free = self._free[row["trade_key"]]
        lot = next((lot for lot, day in free.items() if day == row["disclosure_date"]), None)
        if lot is None:
            return False
        self._take(row, lot)
        return True

    def _take(self, row: Row, lot: int) -> None:
        key = row["trade_key"]
        self._free[key].pop(lot, None)
        self._next[key] = max(self._next[key], lot + 1)
        row |= {"lot": lot, "natural_key": f"{key}-{lot}"}
