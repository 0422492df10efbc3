"""Care of the audit trail from the command line: is it what was written, what may go, and what does it take."""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from audit_trail.alerts import AlertKind, AlertLevel, raise_alert, resolve_alerts
from audit_trail.anchors import anchor_head, begin_chain, read_anchors
from audit_trail.retention import Purge, body_sizes, purge, table_sizes
from audit_trail.verify import Report, verify
from clock import SystemClock
from command_line import EXIT_DONE, EXIT_FAILED
from config import Settings
from db_layer import TABLES, DatabaseError, TradingDB
from progress import progress
from tables import print_table

CHAIN = "audit_log"  # the subject of alerts about the chain
BODIES = "api_payloads"
EXPECTED = """
SELECT head.seq + (SELECT COALESCE(sum(GREATEST(reltuples, 0)), 0) FROM pg_class
                   WHERE oid = ANY(ARRAY['audit.trade_decisions', 'audit.trade_executions', 'audit.api_payloads',
                                         'order_fill']::regclass[]))::bigint AS rows
FROM audit.audit_head head
"""
NOT_ALLOWED = ("42501", "25006")  # SQLSTATEs: no right to, and read only


def add_commands(commands: Any, add_shared: Any) -> None:
    """Add the parsers of verify, anchor, purge and storage-stats; `add_shared` adds what all commands take."""
    checked = commands.add_parser("verify", help="hold the books against the hash chain", allow_abbrev=False)
    checked.add_argument("--anchors", type=Path, metavar="FILE", help="anchors; default: AUDIT_ANCHOR_FILE")
    anchored = commands.add_parser("anchor", help="write the chain's head outside the database", allow_abbrev=False)
    words = "begin a new chain that names the last anchor; for the tables' owner only"
    anchored.add_argument("--after-restore", action="store_true", help=words)
    purged = commands.add_parser("purge", help="remove texts whose time is over", allow_abbrev=False)
    purged.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    sizes = commands.add_parser("storage-stats", help="what the audit trail takes", allow_abbrev=False)
    for parser in (checked, anchored, purged, sizes):
        add_shared(parser)


def show_verify(db: TradingDB, settings: Settings, options: argparse.Namespace) -> int:
    """Verify, keep the alert about it, and print what was found; 1 for a fault."""
    file = options.anchors or settings.audit.anchor_file
    anchors = read_anchors(file)
    with progress("entries and rows", db.execute_query(EXPECTED)[0]["rows"]) as advance:
        report = verify(db, anchors, advance)
    if not anchors:
        report.notes.append(f"{file} holds no anchor: a chain that was cut off with its rows would not be noticed")
    _keep_alert(db, report)
    result = {key: value for key, value in vars(report).items() if key != "notes"} | {"notes": "; ".join(report.notes)}
    if options.format == "text":
        for note in report.notes:
            print(f"note: {note}")
        read = f"{report.entries:,} entries, {report.rows:,} rows, {report.bodies:,} bodies, {report.anchors} anchors"
        print(f"{read} read")
        print(f"FAULT: {report.fault}" if report.fault else "all is as it was written")
    else:
        show_rows([result], options.format)
    return EXIT_FAILED if report.fault else EXIT_DONE


def show_anchor(db: TradingDB, settings: Settings, options: argparse.Namespace) -> int:
    """Anchor the head and print the line; after a restore begin a new chain first."""
    file = settings.audit.anchor_file
    if options.after_restore:
        begin_chain(db, next(reversed(read_anchors(file)), None))
    anchor = anchor_head(db, file, SystemClock().now())
    if options.format == "text":
        print(anchor)
    else:
        show_rows([vars(anchor)], options.format)
    return EXIT_DONE


def show_purge(db: TradingDB, settings: Settings, options: argparse.Namespace) -> int:
    """Purge, with an alert that says so, and print what went."""
    now = SystemClock().now()
    days = settings.audit.payload_retention_days
    with progress("bodies") as advance:
        done = run_purge(db, days, now, options.dry_run, advance)
    words = "would be removed" if options.dry_run else "removed"
    if options.format == "text":
        print(f"{done.bodies:,} bodies {words}: {done.bytes:,} bytes of text, {done.stored_bytes:,} as stored")
    else:
        show_rows([vars(done) | {"dry_run": options.dry_run}], options.format)
    return EXIT_DONE


def run_purge(
    db: TradingDB, days: int, now: datetime, dry_run: bool = False, advance: Callable[..., None] = lambda count=1: None,
) -> Purge:
    """Remove texts older than so many days, with an alert about it or about the failure; return the Purge.

    Raises DatabaseError.
    """
    try:
        done = purge(db, timedelta(days=days), now, dry_run, advance)
    except DatabaseError as error:
        if not error.lost_connection:
            raise_alert(db, AlertLevel.WARNING, AlertKind.PURGE, BODIES, f"texts were not removed: {error}", now)
        raise
    if done.bodies and not dry_run:
        message = f"{done.bodies} texts of {done.bytes} bytes were removed, the latest of {done.latest:%Y-%m-%d}"
        raise_alert(db, AlertLevel.INFO, AlertKind.PURGE, BODIES, message, now)
    return done


def show_storage(db: TradingDB, options: argparse.Namespace) -> int:
    """Print what tables and payloads take."""
    tables, bodies = table_sizes(db, sorted(TABLES - {"analysis_decision"})), body_sizes(db)
    if options.format == "json":
        print(json.dumps({"tables": tables, "payloads": bodies}, default=str, indent=2))
        return EXIT_DONE
    if options.format == "csv":
        show_rows(tables, "csv")
        return EXIT_DONE
    print_table("Tables, the largest first (rows are estimates)", ("Table", ">Rows", ">MB", ">MB of indexes"), [
        (row["name"], f"{row['rows']:,}", _megabytes(row["table_bytes"]), _megabytes(row["index_bytes"]))
        for row in tables
    ])
    print_table("Payloads", ("Source", ">Payloads", ">Bodies", ">Purged", ">MB of text", ">MB stored", "Oldest"), [
        (row["source"], f"{row['payloads']:,}", f"{row['bodies']:,}", f"{row['purged']:,}", _megabytes(row["bytes"]),
         _megabytes(row["stored_bytes"]), f"{row['oldest']:%Y-%m-%d}") for row in bodies
    ])
    return EXIT_DONE


def show_rows(rows: Sequence[Mapping[str, Any]], style: str) -> None:
    """Print rows as json or csv."""
    if style == "json":
        print(json.dumps(rows, default=str, indent=2))
        return
    writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)


def _keep_alert(db: TradingDB, report: Report) -> None:
    """Raise or close the alert about the chain; a role that only reads leaves it to others."""
    now = SystemClock().now()
    try:
        if report.fault:
            raise_alert(db, AlertLevel.CRITICAL, AlertKind.CHAIN_FAULT, CHAIN, report.fault, now, quiet=True)
        else:
            resolve_alerts(db, (AlertKind.CHAIN_FAULT,), (CHAIN,), now)
    except DatabaseError as error:
        if error.sqlstate not in NOT_ALLOWED:
            raise


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f}"
