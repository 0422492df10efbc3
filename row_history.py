"""What was made of a row of `analysis_decision` before, so that nothing is done twice and no mark stays missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from analysis_rows import AnalysisRow
from audit_trail import AlertKind
from db_layer import Row, TradingDB
from order_life import DecisionStatus

# What was made of this row, or of another with its Analysis_Id, with the orders that came of it.
HISTORY = """
SELECT decision.id, decision.analysis_row_key, decision.analysis_decision_id, decision.status, decision.status_reason,
       decision.created_at, decision.source_bytes_sha256, orders.id AS order_id, orders.alpaca_order_id,
       target.trade_journal_id AS target_journal_id,
       EXISTS (SELECT 1 FROM audit.alerts alert
               WHERE alert.kind = %(not_marked)s AND alert.subject = decision.analysis_row_key
                 AND alert.resolved_at IS NULL) AS not_marked
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
    found = db.execute_prepared(HISTORY, {
        "analysis_id": row.analysis_id, "row_key": row.row_key, "not_marked": AlertKind.DECISION_ROW_NOT_MARKED,
    })
    # The same text in the same row would go under the same client order id, whatever Analysis_Id it has by now.
    history = [entry for entry in found if _has_its_id(entry, row) or _same_text(entry, row)]
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
        words = f"duplicate: this row decided the same on {_when(order)} and was changed since; use a new row"
        return Before(Seen.DUPLICATE, words)
    if order is not None:
        # An order that a person replaced in the broker's app has several ids.
        heard = [entry["alpaca_order_id"] for entry in own if entry["id"] == order["id"] and entry["alpaca_order_id"]]
        marked = row.existing_order_id in heard if heard else row.says(order["status_reason"])
        if not marked:
            return Before(Seen.UNMARKED, "its outcome is known already", order["order_id"])
    last = own[-1] if own else None
    # A row without its refusal that could be marked was cleared by a person, who wants it judged anew.
    if last is not None and last["not_marked"] and _refused(last) and not row.says(last["status_reason"]) and (
        _same_text(last, row)
    ):
        return Before(Seen.UNMARKED, last["status_reason"])
    carried_out = next((entry for entry in history if _carried_out(entry, row)), None)
    if carried_out is None:
        return None
    if not _has_its_id(carried_out, row):
        words = f"duplicate: this row decided the same as {carried_out['analysis_decision_id']} on {_when(carried_out)}"
        return Before(Seen.DUPLICATE, f"{words}; use a new row")
    return Before(Seen.DUPLICATE, f"duplicate: Analysis_Id {row.analysis_id} was carried out on {_when(carried_out)}")


def cancelled_trades(history: Sequence[Row]) -> list[int]:
    """Return the journal ids of the trades whose entry was cancelled by one of these decisions."""
    done = [entry for entry in history if entry["order_id"] is None and entry["status"] == DecisionStatus.EXECUTED]
    return [entry["target_journal_id"] for entry in done]


def _carried_out(entry: Row, row: AnalysisRow) -> bool:
    """Tell whether an earlier decision makes a row a duplicate: it has an order, or is another row's change."""
    changing = entry["status"] in (DecisionStatus.PENDING, DecisionStatus.EXECUTED)
    others = changing and not _is_own(entry, row) and _has_its_id(entry, row)
    return entry["order_id"] is not None or others


def _refused(entry: Row) -> bool:
    return entry["order_id"] is None and entry["status"] == DecisionStatus.FAILED


def _is_own(entry: Row, row: AnalysisRow) -> bool:
    # Rows are used again for new decisions, and the keys of a table made anew start again.
    return bool(entry["analysis_row_key"] == row.row_key) and _has_its_id(entry, row)


def _has_its_id(entry: Row, row: AnalysisRow) -> bool:
    return bool(entry["analysis_decision_id"] == row.known_as)


def _same_text(entry: Row, row: AnalysisRow) -> bool:
    return bool(entry["source_bytes_sha256"] == row.text_sha256)


def _when(entry: Row) -> str:
    return f"{entry['created_at']:%Y-%m-%d %H:%M} UTC"
