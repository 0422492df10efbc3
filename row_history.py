"""What was made of a row of `analysis_decision` before, so that nothing is done twice and no mark stays missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from analysis_rows import AnalysisRow
from db_layer import Row, TradingDB
from order_life import DecisionStatus

# What was made of this row, or of another with its Analysis_Id, with the orders that came of it.
HISTORY = """
SELECT decision.id, decision.analysis_row_key, decision.status, decision.status_reason, decision.created_at,
       decision.source_bytes_sha256, orders.id AS order_id, orders.alpaca_order_id,
       target.trade_journal_id AS target_journal_id
FROM audit.trade_decisions decision
LEFT JOIN order_execution orders ON orders.trade_decision_id = decision.id AND orders.order_type = 'ENTRY'
LEFT JOIN order_execution target ON target.id = decision.target_order_id
WHERE decision.analysis_decision_id = %(analysis_id)s OR decision.analysis_row_key = %(row_key)s
ORDER BY decision.id, orders.id
"""


class Seen(StrEnum):
    """How a row was met before."""

    UNFINISHED = "unfinished"
    UNMARKED = "unmarked"
    DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Before:
    """Why a row is not judged anew; `order_id` is the order (our id) whose mark is missing."""

    seen: Seen
    reason: str
    order_id: int | None = None


def load_history(db: TradingDB, row: AnalysisRow, changes: bool) -> list[Row]:
    """Return the earlier decisions that count for a row, oldest first. Raises DatabaseError.

    For one that changes an order only its own text counts of the row itself: n8n may turn the row of an order into the
    one that cancels or amends it.
    """
    history = db.execute_prepared(HISTORY, {"analysis_id": row.analysis_id, "row_key": row.row_key})
    newest = next((entry for entry in reversed(history) if _is_own(entry, row)), None)
    for entry in history:
        entry["superseded"] = newest is not None and _is_own(entry, row) and not _same_text(newest, row)
    return [entry for entry in history if not changes or not _is_own(entry, row) or _same_text(entry, row)]


def seen_before(row: AnalysisRow, history: Sequence[Row]) -> Before | None:
    """Say how a row was met before; None when that hinders nothing."""
    own = [entry for entry in history if _is_own(entry, row)]
    if any(entry["order_id"] is None and entry["status"] == DecisionStatus.PENDING for entry in own):
        return Before(Seen.UNFINISHED, "its cancel or amend is not finished yet")
    ordered = [entry for entry in own if entry["order_id"] is not None]
    if any(entry["alpaca_order_id"] is None and entry["status"] == DecisionStatus.PENDING for entry in ordered):
        return Before(Seen.UNFINISHED, "its order is not settled yet")
    order = next((entry for entry in reversed(ordered) if _same_text(entry, row)), None)
    if order is not None and order["superseded"]:
        when = f"{order['created_at']:%Y-%m-%d %H:%M} UTC"
        words = f"duplicate: this row decided the same on {when} and was changed since; use a new row"
        return Before(Seen.DUPLICATE, words)
    if order is not None:
        # An order that a person replaced in the broker's app has several ids.
        heard = [entry["alpaca_order_id"] for entry in own if entry["id"] == order["id"] and entry["alpaca_order_id"]]
        marked = row.existing_order_id in heard if heard else row.says(order["status_reason"])
        if not marked:
            return Before(Seen.UNMARKED, "its outcome is known already", order["order_id"])
    last = own[-1] if own else None
    if last is not None and _refused(last) and not row.says(last["status_reason"]) and _same_text(last, row):
        return Before(Seen.UNMARKED, last["status_reason"])
    carried_out = next((entry for entry in history if _carried_out(entry, row)), None)
    if carried_out is None:
        return None
    first = f"{carried_out['created_at']:%Y-%m-%d %H:%M} UTC"
    return Before(Seen.DUPLICATE, f"duplicate: Analysis_Id {row.analysis_id} was carried out on {first}")


def cancelled_trades(history: Sequence[Row]) -> list[int]:
    """Return the journal ids of the trades whose entry was cancelled by one of these decisions."""
    done = [entry for entry in history if entry["order_id"] is None and entry["status"] == DecisionStatus.EXECUTED]
    return [entry["target_journal_id"] for entry in done]


def _carried_out(entry: Row, row: AnalysisRow) -> bool:
    """Tell whether an earlier decision makes a row a duplicate: it has an order, or is another row's change."""
    changing = entry["status"] in (DecisionStatus.PENDING, DecisionStatus.EXECUTED)
    return entry["order_id"] is not None or (changing and not _is_own(entry, row))


def _refused(entry: Row) -> bool:
    return entry["order_id"] is None and entry["status"] == DecisionStatus.FAILED


def _is_own(entry: Row, row: AnalysisRow) -> bool:
    return bool(entry["analysis_row_key"] == row.row_key)


def _same_text(entry: Row, row: AnalysisRow) -> bool:
    return bool(entry["source_bytes_sha256"] == row.text_sha256)
