"""Anchors: the head of the hash chain, written down where whoever rewrites the chain does not reach."""

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from os import SEEK_END
from pathlib import Path

from db_layer import TradingDB

READ_HEAD = """
SELECT head.chain, head.seq, encode(head.entry_hash, 'hex') AS hash, genesis.detail AS chain_id
FROM audit.audit_head head JOIN audit.audit_log genesis ON genesis.seq = 1
"""
# Only the tables' owner may write here, so only he can begin a chain.
BEGIN_CHAIN = """
INSERT INTO audit.audit_pending (event, subject_table, ids, details, digests, lengths)
VALUES ('restored', 'audit_log', ARRAY[0], ARRAY[%(anchor)s::text], ARRAY[sha256(convert_to(%(anchor)s, 'UTF8'))],
        ARRAY[octet_length(convert_to(%(anchor)s, 'UTF8'))])
"""
NO_ANCHOR = "no anchor"
LINE = re.compile(
    r"(?P<at>\S+) chain (?P<chain>[0-9]{1,9}) of (?P<chain_id>[0-9a-f-]{36}) entry (?P<seq>[0-9]{1,18}) "
    r"(?P<hash>[0-9a-f]{64})",
)

log = logging.getLogger("audit_trail")


class AnchorError(Exception):
    """The file of anchors cannot be read or written; the message says which, and what to do."""


@dataclass(frozen=True)
class Anchor:
    """The head of a chain at some moment; `chain_id` is that of its genesis."""

    at: str
    chain: int
    chain_id: str
    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.at} chain {self.chain} of {self.chain_id} entry {self.seq} {self.hash}"


def current_anchor(db: TradingDB, now: datetime) -> Anchor:
    """Return the head as it is now; `str()` of it is the line for a file, a log or a message. Raises DatabaseError."""
    row = db.execute_query(READ_HEAD)[0]
    at = now.astimezone(UTC).isoformat(timespec="seconds")
    return Anchor(at, row["chain"], row["chain_id"], row["seq"], row["hash"])


def anchor_head(db: TradingDB, file: Path, now: datetime) -> Anchor:
    """Write the head into the file and the log, and return it. Raises AnchorError and DatabaseError."""
    anchor = current_anchor(db, now)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+b") as lines:
            if lines.tell():
                lines.seek(-1, SEEK_END)
                # A disk that was full has left a part of a line.
                lines.write(b"" if lines.read() == b"\n" else b"\n")
            lines.write(f"{anchor}\n".encode("ascii"))
    except OSError as error:
        raise AnchorError(f"the anchor was not written to {file}: {error}; see AUDIT_ANCHOR_FILE") from error
    log.info("the head of the audit trail", extra={"anchor": str(anchor)})
    return anchor


def read_anchors(file: Path) -> list[Anchor]:
    """Return the anchors of a file, oldest first; none where there is no file. Raises AnchorError."""
    try:
        lines = file.read_text(encoding="ascii").splitlines() if file.exists() else []
    except (OSError, ValueError) as error:
        raise AnchorError(f"{file} cannot be read: {error}") from error
    return [_read(line, file, number) for number, line in enumerate(lines, 1) if line.strip()]


def begin_chain(db: TradingDB, last: Anchor | None) -> None:
    """Begin a new chain after a restore, in the same log, with an entry that names the last anchor.

    Raises DatabaseError, also for any role but the tables' owner.
    """
    db.execute_update(BEGIN_CHAIN, {"anchor": NO_ANCHOR if last is None else str(last)})


def parse_anchor(line: str) -> Anchor | None:
    """Return the anchor that a line is, or None."""
    found = LINE.fullmatch(line.strip())
    if found is None:
        return None
    return Anchor(found["at"], int(found["chain"]), found["chain_id"], int(found["seq"]), found["hash"])


def _read(line: str, file: Path, number: int) -> Anchor:
    anchor = parse_anchor(line)
    if anchor is None:
        raise AnchorError(f"line {number} of {file} is no anchor; somebody has edited it: compare it with the log")
    return anchor
