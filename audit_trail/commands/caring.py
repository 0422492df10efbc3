"""Care of the audit trail from the command line: is it what was written, what may go, and what does it take."""

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from audit_trail.alerts import AlertKind, AlertLevel, raise_alert, resolve_alerts
from audit_trail.anchors import anchor_head, begin_chain, read_anchors
from audit_trail.commands.command import Call, Command, add_format
from audit_trail.reports.data import cell
from audit_trail.retention import body_sizes, purging_connection, run_purge, table_sizes
from audit_trail.verify import Report, verify
from command_line import EXIT_DONE, EXIT_FAILED
from db_layer import TABLES, DatabaseError
from progress import progress
from tables import print_table

CHAIN = "audit_log"  # the subject of alerts about the chain
EXPECTED = """
SELECT head.seq + (SELECT COALESCE(sum(GREATEST(reltuples, 0)), 0) FROM pg_class
                   WHERE oid = ANY(ARRAY['audit.trade_decisions', 'audit.trade_executions', 'audit.api_payloads',
                                         'order_fill']::regclass[]))::bigint AS rows
FROM audit.audit_head head
"""
NOT_ALLOWED = ("42501", "25006")  # SQLSTATEs: no right to, and read only


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Add what `verify` takes."""
    parser.add_argument("--anchors", type=Path, metavar="FILE", help="anchors; default: AUDIT_ANCHOR_FILE")
    add_format(parser)


def add_anchor(parser: argparse.ArgumentParser) -> None:
    """Add what `anchor` takes."""
    words = "begin a new chain that names the last anchor; for the tables' owner only"
    parser.add_argument("--after-restore", action="store_true", help=words)
    add_format(parser)


def add_purge(parser: argparse.ArgumentParser) -> None:
    """Add what `purge` takes."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    add_format(parser)


def show_verify(call: Call) -> int:
    """Verify, keep the alert about it, and print what was found; 1 for a fault."""
    db, settings, options = call.db, call.settings, call.options
    file = options.anchors or settings.audit.anchor_file
    anchors = read_anchors(file)
    with progress("entries and rows", db.execute_query(EXPECTED)[0]["rows"]) as advance:
        report = verify(db, anchors, advance)
    if not anchors:
        report.notes.append(f"{file} holds no anchor: a chain that was cut off with its rows would not be noticed")
    _keep_alert(call, report)
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


def show_anchor(call: Call) -> int:
    """Anchor the head and print the line; after a restore begin a new chain first."""
    db, settings, options = call.db, call.settings, call.options
    file = settings.audit.anchor_file
    if options.after_restore:
        begin_chain(db, next(reversed(read_anchors(file)), None))
    anchor = anchor_head(db, file, call.clock.now())
    if options.format == "text":
        print(anchor)
    else:
        show_rows([vars(anchor)], options.format)
    return EXIT_DONE


def show_purge(call: Call) -> int:
    """Purge, with an alert that says so, and print what went."""
    db, settings, options, now = call.db, call.settings, call.options, call.clock.now()
    days = settings.audit.payload_retention_days
    with progress("bodies") as advance, purging_connection(db, settings) as purger:
        done = run_purge(purger, days, now, options.dry_run, advance)
    words = "would be removed" if options.dry_run else "removed"
    if options.format == "text":
        print(f"{done.bodies:,} bodies {words}: {done.bytes:,} bytes of text, {done.stored_bytes:,} as stored")
    else:
        show_rows([vars(done) | {"dry_run": options.dry_run}], options.format)
    return EXIT_DONE


def show_storage(call: Call) -> int:
    """Print what tables and payloads take."""
    db, options = call.db, call.options
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
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)


def _keep_alert(call: Call, report: Report) -> None:
    """Raise or close the alert about the chain; a role that only reads leaves it to others."""
    db, now = call.db, call.clock.now()
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


COMMANDS = (
    Command("verify", "hold the books against the hash chain", add_verify, show_verify),
    Command("anchor", "write the chain's head outside the database", add_anchor, show_anchor),
    Command("purge", "remove texts whose time is over", add_purge, show_purge),
    Command("storage-stats", "what the audit trail takes", add_format, show_storage),
)
