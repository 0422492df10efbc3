"""The open alerts as people and programs read them, and taking note of one."""

import csv
import json
import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from audit_trail.reports.data import cell
from db_layer import Row, TradingDB
from log_setup import printable

OPEN_ALERTS = """
SELECT id, level, kind, subject, message, occurrences, first_seen_at, last_seen_at, acknowledged_at
FROM audit.alerts WHERE resolved_at IS NULL
ORDER BY array_position(ARRAY['critical', 'warning', 'info'], level), id
"""
ACKNOWLEDGE = """
UPDATE audit.alerts SET acknowledged_at = COALESCE(acknowledged_at, %(now)s) WHERE id = %(id)s AND resolved_at IS NULL
RETURNING id, level, kind, subject, message, occurrences, first_seen_at, last_seen_at, acknowledged_at
"""
COLUMNS = (
    "id", "level", "kind", "subject", "message", "occurrences", "first_seen_at", "last_seen_at", "acknowledged_at",
)
WIDTH = 79
NONE_OPEN = "No alert is open."


def open_alerts(db: TradingDB) -> list[Row]:
    """Return the open alerts, the worst first, as rows of COLUMNS. Raises DatabaseError."""
    return db.execute_query(OPEN_ALERTS)


def acknowledge(db: TradingDB, alert_id: int, now: datetime) -> list[Row]:
    """Take note of an open alert and return it; nothing when there is none with this id. Raises DatabaseError.

    It is not told again until it says something else.
    """
    return db.execute_query(ACKNOWLEDGE, {"id": alert_id, "now": now})


def print_alerts(rows: Sequence[Row], style: str) -> None:
    """Print alerts as text of 80 columns, JSON or CSV; what others wrote into them is made harmless."""
    if style == "json":
        print(json.dumps([{name: _plain(row[name]) for name in COLUMNS} for row in rows], indent=2))
    elif style == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(COLUMNS)
        writer.writerows([cell(row[name]) for name in COLUMNS] for row in rows)
    else:
        print("\n\n".join(map(_paragraph, rows)) or NONE_OPEN)


def _paragraph(row: Row) -> str:
    head = f"{row['id']:>5}  {row['level'].upper()}  {row['kind']}  {printable(row['subject'])}"
    times = [f"since {row['first_seen_at']:%Y-%m-%d %H:%M} UTC"]
    if row["occurrences"] > 1:
        times.append(f"seen {row['occurrences']} times, last at {row['last_seen_at']:%Y-%m-%d %H:%M}")
    if row["acknowledged_at"]:
        times.append(f"acknowledged at {row['acknowledged_at']:%Y-%m-%d %H:%M}")
    return "\n".join(_fold(line, indent) for line, indent in (
        (head, ""), (printable(row["message"]), " " * 7), (", ".join(times), " " * 7),
    ))


def _fold(line: str, indent: str) -> str:
    return textwrap.fill(
        line, WIDTH, initial_indent=indent, subsequent_indent=" " * 7, drop_whitespace=True, replace_whitespace=False,
    )


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
