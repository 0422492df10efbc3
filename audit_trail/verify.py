"""Reads the whole hash chain, recomputes every digest, and says where the books are not what was written."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg2 import sql

from audit_trail.anchors import Anchor, parse_anchor
from audit_trail.chain_format import AUDITED, NO_HASH, TIMES, VERSION, canonical_json, entry_hash, row_bytes
from db_layer import Row, TradingDB
from log_setup import printable

# One moment for all of it, whatever the programs write meanwhile.
SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
DECLARE_ENTRIES = """
DECLARE entries NO SCROLL CURSOR FOR
SELECT seq, chain, version, recorded_at, event, subject_table, subject_id, actor, detail, body_sha256, body_length,
       entry_hash
FROM audit.audit_log ORDER BY seq
"""
# Each row beside the last entry about it; where one of the two is missing, the other one's columns are null.
DECLARE_ROWS = """
DECLARE rows NO SCROLL CURSOR FOR
SELECT {columns}, {body} AS body, COALESCE(written.id, entry.subject_id) AS row_id,
       entry.seq AS entry_seq, entry.event AS entry_event, entry.detail AS entry_detail,
       entry.body_sha256 AS entry_sha256, entry.body_length AS entry_length
FROM {table} AS written
FULL JOIN (SELECT DISTINCT ON (subject_id) subject_id, seq, event, detail, body_sha256, body_length
           FROM audit.audit_log WHERE subject_table = %(table)s ORDER BY subject_id, seq DESC) AS entry
     ON entry.subject_id = written.id
ORDER BY row_id
"""
FETCH_ENTRIES = "FETCH 2000 FROM entries"
FETCH_ROWS = "FETCH 1000 FROM rows"
CLOSE_ENTRIES = "CLOSE entries"
CLOSE_ROWS = "CLOSE rows"
READ_HEAD = "SELECT chain, seq, entry_hash FROM audit.audit_head"
# Ids at the broker carry the first digits of the decision's digest, and nobody can change them there.
WRONG_NAMES = """
SELECT execution.id, execution.client_order_id, left(decision.source_bytes_sha256, 12) AS digest
FROM audit.trade_executions execution JOIN audit.trade_decisions decision ON decision.id = execution.trade_decision_id
WHERE starts_with(execution.client_order_id, 'tm-')
  AND substr(execution.client_order_id, 4, 12) <> left(decision.source_bytes_sha256, 12)
ORDER BY execution.id LIMIT 1
"""
# The decisions that a row is part of.
TOUCHED = """
SELECT id, symbol, analysis_decision_id FROM audit.trade_decisions
WHERE CASE %(table)s
      WHEN 'trade_decisions' THEN id = %(id)s
      WHEN 'trade_executions' THEN id IN (SELECT trade_decision_id FROM audit.trade_executions WHERE id = %(id)s)
      WHEN 'api_payloads' THEN id IN (SELECT trade_decision_id FROM audit.trade_executions
                                      WHERE %(id)s IN (api_request_payload_id, api_response_payload_id))
      WHEN 'order_fill' THEN id IN (SELECT trade_decision_id FROM order_fill fill JOIN order_execution orders
                                    ON orders.id = fill.order_execution_id WHERE fill.id = %(id)s)
      ELSE false END
ORDER BY id LIMIT 5
"""

Advance = Callable[..., None]


class ChainFault(Exception):  # noqa: N818
    """The first thing that is not as it was written; `table` and `row_id` say which row it touches, where known."""

    def __init__(self, message: str, table: str = "", row_id: int = 0) -> None:
        super().__init__(message)
        self.table = table
        self.row_id = row_id


@dataclass
class Report:
    """What was read; `fault` is the first thing wrong, with what it touches, or None. Notes are for people to judge.

    Both name words from the books, made harmless for a terminal: who changed the books may have written them for it.
    """

    entries: int = 0
    rows: int = 0
    bodies: int = 0
    anchors: int = 0
    fault: str | None = None
    notes: list[str] = field(default_factory=list)


def verify(db: TradingDB, anchors: Sequence[Anchor] = (), advance: Advance = lambda count=1: None) -> Report:
    """Check links, anchors, rows, bodies and completeness, in one snapshot of the database. Raises DatabaseError."""
    report = Report()
    with db.transaction():
        db.execute_update(SNAPSHOT)
        try:
            _Chain(db, report, anchors).read(advance)
            for table in AUDITED:
                _check_rows(db, table, report, advance)
            _check_names(db)
        except ChainFault as fault:
            report.fault = printable(f"{fault}{_touched(db, fault)}")
    return report


class _Chain:
    """Reads the entries from the first to the last."""

    def __init__(self, db: TradingDB, report: Report, anchors: Sequence[Anchor]) -> None:
        self._db = db
        self._report = report
        self._anchors: dict[int, list[Anchor]] = {}
        for anchor in anchors:
            self._anchors.setdefault(anchor.seq, []).append(anchor)
        self._seq, self._chain, self._hash = 0, 1, NO_HASH
        self._chain_id = ""
        self._ends: dict[int, int] = {}  # the last entry of each chain
        self._excused: dict[int, int] = {}  # what was lost of a chain by a restore: up to which entry

    def read(self, advance: Advance) -> None:
        for entries in _batches(self._db, DECLARE_ENTRIES, FETCH_ENTRIES, CLOSE_ENTRIES):
            for entry in entries:
                self._check(entry)
            self._report.entries += len(entries)
            advance(len(entries))
        self._ends[self._chain] = self._seq
        self._check_head()
        self._check_anchors()

    def _check(self, entry: Row) -> None:
        seq, table, row_id = entry["seq"], entry["subject_table"], entry["subject_id"]
        name = f"entry {seq} ({entry['event']} {table} {row_id})"
        if seq != self._seq + 1:
            raise ChainFault(f"{_gap(self._seq + 1, seq - 1)} missing from the chain, before {name}", table, row_id)
        if entry["version"] != VERSION:
            raise ChainFault(f"{name} has version {entry['version']}, which this program does not know", table, row_id)
        if entry["event"] == "restored":
            self._begin_chain(entry)
        entry["body_sha256"] = bytes(entry["body_sha256"])
        found = bytes(entry["entry_hash"])
        if entry["chain"] != self._chain or entry_hash(entry, self._hash) != found:
            words = "is not what was written, or does not follow the one before: its hash does not fit"
            raise ChainFault(f"{name} {words}; all entries from there on rest on it", table, row_id)
        if seq == 1:
            self._chain_id = entry["detail"]
        self._seq, self._hash = seq, found
        if seq in self._anchors:
            self._compare(found.hex(), name)

    def _begin_chain(self, entry: Row) -> None:
        self._ends[self._chain] = self._seq
        anchor = parse_anchor(entry["detail"])
        self._excused[self._chain] = anchor.seq if anchor and anchor.chain == self._chain else 0
        self._chain += 1
        lost = max(0, self._excused[self._chain - 1] - self._seq)
        words = f"at least {lost} entries of chain {self._chain - 1} were lost" if lost else "no anchor was lost"
        begin = f"chain {self._chain} begins with entry {entry['seq']}, written by {entry['actor']} after a restore"
        self._report.notes.append(printable(f"{begin}; {words}"))

    def _compare(self, found: str, name: str) -> None:
        for anchor in self._anchors[self._seq]:
            if anchor.chain == self._chain and anchor.chain_id == self._chain_id and anchor.hash != found:
                raise ChainFault(f"{name} is another one than the anchor of {anchor.at} says: the chain was rewritten")

    def _check_head(self) -> None:
        rows = self._db.execute_query(READ_HEAD)
        head = (rows[0]["seq"], bytes(rows[0]["entry_hash"])) if rows else (0, NO_HASH)
        if head[0] > self._seq:
            words = f"the chain ends with entry {self._seq}, and its head is entry {head[0]}"
            raise ChainFault(f"{words}: the tail is missing")
        if head != (self._seq, self._hash) or not self._seq:
            words = f"the head of the chain is not its last entry, {self._seq}"
            raise ChainFault(f"{words}: somebody has written to audit_head")

    def _check_anchors(self) -> None:
        for anchor in (anchor for anchors in self._anchors.values() for anchor in anchors):
            self._report.anchors += 1
            if anchor.chain_id != self._chain_id:
                words = f"the anchor of {anchor.at} is of another chain"
                raise ChainFault(f"{words}: the log was begun anew, or the file belongs to another database")
            if anchor.chain not in self._ends:
                raise ChainFault(f"the anchor of {anchor.at} is of chain {anchor.chain}, which is missing")
            end = self._ends[anchor.chain]
            if anchor.seq > max(end, self._excused.get(anchor.chain, 0)):
                words = f"chain {anchor.chain} ends with entry {end}, and the anchor of {anchor.at} is entry"
                raise ChainFault(f"{words} {anchor.seq}: the tail is missing")


def _check_rows(db: TradingDB, table: str, report: Report, advance: Advance) -> None:
    columns = AUDITED[table]
    statement = sql.SQL(DECLARE_ROWS).format(
        table=sql.SQL(table), body=sql.SQL("payload::text" if table == "api_payloads" else "NULL::text"),
        columns=sql.SQL(", ").join(
            sql.SQL("written.{}" if name in TIMES else "written.{}::text").format(sql.Identifier(name))
            for name in columns
        ),
    )
    for rows in _batches(db, statement, FETCH_ROWS, CLOSE_ROWS, {"table": table}):
        for row in rows:
            _check_row(table, columns, row)
            report.bodies += row["body"] is not None
        report.rows += len(rows)
        advance(len(rows))


def _check_row(table: str, columns: Sequence[str], row: Row) -> None:
    name = f"{table} {row['row_id']}"
    if row["entry_seq"] is None:
        raise ChainFault(f"{name} has no entry in the chain: it was inserted past it", table, row["row_id"])
    if row["id"] is None:
        words = f"{name} is missing, and entry {row['entry_seq']} says that it was there"
        raise ChainFault(words, table, row["row_id"])
    if table == "trade_decisions":
        row["decision_rationale"] = canonical_json(row["decision_rationale"])
    data = row_bytes([row[column] for column in columns])
    if len(data) != row["entry_length"] or hashlib.sha256(data).digest() != bytes(row["entry_sha256"]):
        raise ChainFault(f"{name} is not as entry {row['entry_seq']} has it: it was changed", table, row["row_id"])
    if table == "api_payloads":
        _check_body(name, row)
    elif table == "trade_decisions" and row["source_bytes"] is not None:
        _compare_digest(f"the text of {name}", row["source_bytes"], row["source_bytes_sha256"], table, row["row_id"])


def _check_body(name: str, row: Row) -> None:
    absent = row["entry_event"] == "purged" or row["entry_detail"] == "digest only"
    if absent != (row["body"] is None):
        words = "is there, although the chain says that it is not kept" if absent else "was removed, not by a purge"
        raise ChainFault(f"the body of {name} {words}", "api_payloads", row["row_id"])
    if row["body"] is not None:
        _compare_digest(f"the body of {name}", row["body"], row["sha256"], "api_payloads", row["row_id"])
        if len(row["body"].encode()) != int(row["byte_length"]):
            raise ChainFault(f"the body of {name} has another length than was recorded", "api_payloads", row["row_id"])


def _compare_digest(name: str, text: str, digest: str, table: str, row_id: int) -> None:
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise ChainFault(f"{name} does not fit its digest: it was changed", table, row_id)


def _check_names(db: TradingDB) -> None:
    for row in db.execute_query(WRONG_NAMES):
        words = f"the client order id {row['client_order_id']} of trade_executions {row['id']} does not carry"
        raise ChainFault(f"{words} its decision's digest {row['digest']}", "trade_executions", row["id"])


def _touched(db: TradingDB, fault: ChainFault) -> str:
    rows = db.execute_query(TOUCHED, {"table": fault.table, "id": fault.row_id}) if fault.table else []
    names = [f"{row['id']} ({row['symbol']}, {row['analysis_decision_id'] or 'no Analysis_Id'})" for row in rows]
    return f"; it is part of decision {', '.join(names)}" if names else ""


def _batches(
    db: TradingDB, declare: str | sql.Composable, fetch: str, close: str, parameters: dict[str, Any] | None = None,
) -> Iterator[list[Row]]:
    db.execute_update(declare, parameters)
    while rows := db.execute_query(fetch):
        yield rows
    db.execute_update(close)


def _gap(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"
