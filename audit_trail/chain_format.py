"""What is digested for the hash chain, byte for byte: the verifier's own copy of `sql/schema/060_chain.sql`.

Everything is written as PostgreSQL's array_send writes it: a length of four bytes before each value, -1 for null.
"""

import hashlib
import json
import struct
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

Value = str | datetime | None

# The columns of a row in the order in which they are digested.
AUDITED: dict[str, tuple[str, ...]] = {
    "trade_decisions": (
        "id", "decision_id", "strategy_name", "strategy_version", "action", "symbol", "side", "quantity", "order_type",
        "limit_price", "analysis_decision_id", "analysis_row_key", "target_order_id", "primary_quiver_trade_id",
        "primary_ingestion_run_id", "decision_rationale", "source_bytes", "source_bytes_sha256", "status",
        "status_reason", "executed_at", "failed_at", "cancelled_at", "created_at",
    ),
    "trade_executions": (
        "id", "trade_decision_id", "order_execution_id", "execution_id", "attempt_number", "status",
        "api_request_payload_id", "api_response_payload_id", "client_order_id", "alpaca_order_id", "http_status_code",
        "error_code", "error_message", "error_details", "filled_quantity", "filled_avg_price", "commission",
        "submitted_at", "filled_at", "rejected_at", "created_at",
    ),
    "api_payloads": ("id", "type", "source", "captured_at", "sha256", "byte_length", "code_version"),
    "order_fill": (
        "id", "order_execution_id", "external_order_id", "execution_id", "side", "qty", "price", "filled_at",
    ),
    "trading_control": ("id", "state", "flatten", "reason", "changed_by", "changed_at"),
    "limit_raises": ("id", "limit_name", "limit_value", "reason", "changed_by", "changed_at", "expires_at"),
    "legal_holds": (
        "id", "reason", "source", "captured_from", "captured_until", "placed_by", "placed_at", "released_by",
        "released_at",
    ),
}
TIMES = frozenset({
    "executed_at", "failed_at", "cancelled_at", "created_at", "submitted_at", "filled_at", "rejected_at", "captured_at",
    "changed_at", "expires_at", "captured_from", "captured_until", "placed_at", "released_at",
})
NO_HASH = bytes(32)  # before the first entry
VERSION = 1

_YEAR_2000 = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NULL = struct.pack(">i", -1)
_LENGTH = struct.Struct(">i").pack
_HEADER = struct.Struct(">iiiii").pack
_PLACE = struct.Struct(">iqqq").pack
_TIME = struct.Struct(">q").pack
_BYTEA = 17  # the type's number in every PostgreSQL


def row_bytes(values: Iterable[Value]) -> bytes:
    """Return what is digested of a row: its columns as text, or as times."""
    parts, nulls, count = [b""], 0, 0
    for value in values:
        count += 1
        if value is None:
            nulls = 1
            parts.append(_NULL)
            continue
        data = value.encode() if isinstance(value, str) else _TIME(microseconds(value))
        parts += _LENGTH(len(data)), data
    parts[0] = _HEADER(1, nulls, _BYTEA, count, 1)
    return b"".join(parts)


def entry_hash(entry: dict[str, Any], previous: bytes) -> bytes:
    """Return the hash that an entry (a row of audit_log) must have after the one with the hash `previous`."""
    words = _words(entry["event"], entry["subject_table"], entry["actor"], entry["detail"])
    place = _PLACE(entry["chain"], entry["seq"], microseconds(entry["recorded_at"]), entry["subject_id"])
    content = bytes((entry["version"],)) + previous + place + words
    return hashlib.sha256(content + entry["body_sha256"] + _LENGTH(entry["body_length"])).digest()


@lru_cache(maxsize=1024)
def _words(*words: str | None) -> bytes:
    return row_bytes(words)


def microseconds(moment: datetime) -> int:
    """Return a time as PostgreSQL counts it: microseconds since 2000."""
    return (moment - _YEAR_2000) // _MICROSECOND


def canonical_json(text: str) -> str:
    """Return a jsonb value's text in the one form that is digested.

    Keys by length, then by bytes; one blank after `:` and `,`; numbers digit for digit. PostgreSQL writes it so today.
    """
    return _canonical(json.loads(text, parse_float=_Number, parse_int=_Number))


class _Number(str):
    """A number as it is written."""


def _canonical(value: Any) -> str:
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return "{" + ", ".join(f"{_canonical(key)}: {_canonical(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_canonical, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
