"""The rows of `analysis_decision`, which belong to n8n and NocoDB: read as they are, marked with their outcome."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from db_layer import DatabaseError, TradingDB
from decision import MAX_BYTES

# One more than a decision may have bytes, so that a longer one is cut and still refused for its length.
LONGEST_DECISION = MAX_BYTES + 1
UNLIMITED = 1_000_000_000
REFUSAL = "REJECTED: "
SHORTEST_REMARKS = 100
LONGEST_ID = 255
# What NocoDB's table has to have, the four fields that are added for us last.
FIELDS = {
    "Analysis_Id": "varchar", "Date_time": "timestamp", "Ticker": "varchar", "Decision": "json", "Approve": "boolean",
    "Date": "date", "Remarks": "text",
    "existing_order_id": "varchar", "existing_trade_journal_id": "integer",
    "executed": "boolean", "execution_time": "timestamp",
}

# NocoDB's own tables have `id` as primary key, tables made from SQL have "Analysis_Id".
FIND_KEY = """
SELECT attribute.attname AS name
FROM pg_index JOIN pg_attribute attribute
     ON attribute.attrelid = pg_index.indrelid AND attribute.attnum = ANY(pg_index.indkey)
WHERE pg_index.indrelid = to_regclass('analysis_decision') AND pg_index.indisprimary
"""
FIND_COLUMNS = """
SELECT attname AS name, CASE WHEN atttypmod > 4 THEN atttypmod - 4 END AS room FROM pg_attribute
WHERE attrelid = to_regclass('analysis_decision') AND attnum > 0 AND NOT attisdropped
"""
# Times without zone are wall time in ANALYSIS_TIMEZONE, others are shown in the session's zone, UTC; a checkbox may be
# NULL, which means false. A time that Python cannot hold (a year such as 20250, or infinity) counts as none, so that
# only its own row is refused.
ROW_COLUMNS = """
SELECT {key}::text AS row_key, "Analysis_Id"::text AS analysis_id, "Ticker"::text AS ticker,
       left("Decision"::text, %(longest)s) AS text,
       CASE WHEN COALESCE("Date_time"::timestamp, "Date"::timestamp) BETWEEN '0001-01-02' AND '9999-12-30'
            THEN COALESCE("Date_time"::timestamp, "Date"::timestamp) AT TIME ZONE
                 CASE WHEN "Date_time" IS NOT NULL AND pg_typeof("Date_time") = 'timestamptz'::regtype
                      THEN 'UTC' ELSE %(zone)s END END AS decided_at,
       "Remarks"::text AS remarks, existing_order_id::text AS existing_order_id,
       existing_trade_journal_id::bigint AS existing_trade_journal_id
FROM analysis_decision
WHERE executed IS NOT TRUE AND "Approve" IS TRUE
"""
CANDIDATES = ROW_COLUMNS + 'ORDER BY "Date_time" NULLS LAST, {key}'
# The key is compared as an untyped literal, so that the index of any key type serves.
FIND_ROW = ROW_COLUMNS + "AND {key} = %(row_key)s"
LOCK_ROW = FIND_ROW + " FOR UPDATE SKIP LOCKED"
# The row of a decision under way, or of one whose shares are held, says something else now. A row that was set back to
# unexecuted is a new decision, and of several decisions from one row only the last one can be told from an edit.
EDITED = """
SELECT decision.analysis_row_key AS row_key, decision.analysis_decision_id AS analysis_id
FROM audit.trade_decisions decision JOIN analysis_decision source ON source.{key}::text = decision.analysis_row_key
WHERE decision.id IN (SELECT id FROM audit.trade_decisions WHERE status = 'pending'
                      UNION ALL SELECT trade_decision_id FROM trade_journal WHERE status = 'POSITION')
  AND source.executed IS TRUE
  AND (left(source."Decision"::text, %(longest)s) <> decision.source_bytes
       OR upper(btrim(split_part(source."Ticker"::text, ':', 1), E' \\t\\r\\n')) NOT IN ('', decision.symbol))
  AND left(source."Analysis_Id"::text, %(longest_id)s) IS NOT DISTINCT FROM decision.analysis_decision_id
  AND NOT EXISTS (SELECT 1 FROM audit.trade_decisions later
                  WHERE later.analysis_row_key = decision.analysis_row_key AND later.id > decision.id)
"""
# A row that has another Analysis_Id by now holds another decision.
THE_SAME = 'WHERE {key} = %(row_key)s AND left("Analysis_Id"::text, %(longest_id)s) IS NOT DISTINCT FROM %(known_as)s'
DONE = """
SET executed = true, execution_time = %(now)s::timestamptz AT TIME ZONE
        CASE WHEN pg_typeof(execution_time) = 'timestamptz'::regtype THEN 'UTC' ELSE %(zone)s END,
"""
# An earlier refusal is over with an order; what people wrote below it stays.
MARK_PLACED = "UPDATE analysis_decision" + DONE + """
    "Remarks" = CASE WHEN "Remarks"::text LIKE %(refusal)s || '%%'
                     THEN NULLIF(regexp_replace("Remarks"::text, '^(' || %(refusal)s || '[^\n]*(\n|$))+', ''), '')
                     ELSE "Remarks"::text END,
    existing_order_id = %(order_id)s, existing_trade_journal_id = %(journal_id)s
""" + THE_SAME + " RETURNING 1"
MARK_REFUSED = "UPDATE analysis_decision" + DONE + """
    "Remarks" = left(concat_ws(chr(10), %(remark)s::text, NULLIF("Remarks"::text, '')), %(room)s)
""" + THE_SAME + " RETURNING 1"


@dataclass(frozen=True)
class AnalysisRow:
    """An approved row that is not carried out yet; `text` is the Decision column letter for letter.

    A decision of our own strategies (written_decisions) takes the same form, with its `decision_id` in
    audit.trade_decisions, because it is written down before it is carried out; there is no row to be marked then.
    """

    row_key: str
    analysis_id: str | None
    ticker: str | None
    text: str | None
    decided_at: datetime | None
    remarks: str | None = None
    existing_order_id: str | None = None
    existing_trade_journal_id: int | None = None
    decision_id: int | None = None

    @property
    def name(self) -> str | None:
        """What it is called for people."""
        return self.analysis_id if self.decision_id is None else self.ticker

    @property
    def known_as(self) -> str | None:
        """The Analysis_Id as the books keep it: with the row's key it names a decision."""
        return self.analysis_id and self.analysis_id[:LONGEST_ID]

    @property
    def text_sha256(self) -> str:
        """The hex digest of the text's UTF-8 bytes."""
        return hashlib.sha256((self.text or "").encode("utf-8")).hexdigest()

    def says(self, reason: str) -> bool:
        """True when the remarks hold the refusal for this reason already, as far as they had room for it."""
        return f"{REFUSAL}{reason}"[:SHORTEST_REMARKS] in (self.remarks or "")


class AnalysisRows:
    """The table of decisions as the executor sees it; `zone` is ANALYSIS_TIMEZONE."""

    def __init__(self, db: TradingDB, zone: ZoneInfo) -> None:
        self._db = db
        self._zone = zone.key
        self._key: str | None = None
        self._room = UNLIMITED

    def candidates(self) -> list[AnalysisRow]:
        """Return the approved rows not carried out yet, in the order of "Date_time". Raises DatabaseError."""
        return self._rows(CANDIDATES, {})

    def is_approved(self, row_key: str, known_as: str | None) -> bool:
        """Tell whether a decision is such a row still; not when it is gone, carried out, or another's by now.

        Raises DatabaseError.
        """
        return any(row.known_as == known_as for row in self._rows(FIND_ROW, {"row_key": row_key}))

    def lock(self, row_key: str) -> AnalysisRow | None:
        """Lock one such row in the open transaction; None when it is taken, changed or gone."""
        rows = self._rows(LOCK_ROW, {"row_key": row_key})
        return rows[0] if rows else None

    def edited(self) -> dict[str, str]:
        """Return the Analysis_Ids, by row key, of decisions in force whose rows were edited. Raises DatabaseError."""
        rows = self._db.execute_query(
            self._keyed(EDITED), {"longest": LONGEST_DECISION, "longest_id": LONGEST_ID},
        )
        return {row["row_key"]: row["analysis_id"] for row in rows}

    def mark_placed(
        self, row_key: str, known_as: str | None, order_id: str | None, journal_id: int, now: datetime,
    ) -> bool:
        """Mark the row as carried out, with the broker's order placed or cancelled; False when the row is gone.

        Raises DatabaseError.
        """
        return self._mark(MARK_PLACED, {
            "row_key": row_key, "known_as": known_as, "order_id": order_id, "journal_id": journal_id, "now": now,
            "refusal": REFUSAL,
        })

    def mark_refused(self, row_key: str, known_as: str | None, reason: str, now: datetime) -> bool:
        """Mark the row as done with and say why in the first line of its remarks; False when it is gone.

        Remarks that no longer fit the column are cut at their end. Raises DatabaseError.
        """
        return self._mark(MARK_REFUSED, {
            "row_key": row_key, "known_as": known_as, "remark": f"{REFUSAL}{reason}", "now": now,
        })

    def _rows(self, statement: str, parameters: dict[str, object]) -> list[AnalysisRow]:
        known = {"zone": self._zone, "longest": LONGEST_DECISION}
        return [AnalysisRow(**row) for row in self._db.execute_prepared(self._keyed(statement), known | parameters)]

    def _mark(self, statement: str, parameters: dict[str, object]) -> bool:
        known = {"zone": self._zone, "room": self._room, "longest_id": LONGEST_ID}
        return bool(self._db.execute_prepared(self._keyed(statement), known | parameters))

    def _keyed(self, statement: str) -> str:
        if self._key is None:
            key = key_column(self._db).replace('"', '""').replace("%", "%%")
            self._key = f'"{key}"'
            room = {row["name"]: row["room"] for row in self._db.execute_query(FIND_COLUMNS)}["Remarks"]
            self._room = room or UNLIMITED
        return statement.format(key=self._key)


def key_column(db: TradingDB) -> str:
    """Return the name of the primary key of `analysis_decision`.

    Raises DatabaseError when the table, a field that we use or a single-column key is missing.
    """
    columns = {row["name"] for row in db.execute_query(FIND_COLUMNS)}
    if not columns:
        raise DatabaseError(
            f"there is no table analysis_decision in the schema {db.schema} (POSTGRES_SCHEMA); "
            "it is made in NocoDB, not here"
        )
    missing = [f"{name} ({kind})" for name, kind in FIELDS.items() if name not in columns]
    if missing:
        lacking = ", ".join(missing)
        raise DatabaseError(f"analysis_decision lacks the fields {lacking}; add them in NocoDB, spelt like this")
    keys = [row["name"] for row in db.execute_query(FIND_KEY)]
    if len(keys) != 1:
        raise DatabaseError("analysis_decision needs a primary key of one column, so that exactly one row is marked")
    return str(keys[0])
