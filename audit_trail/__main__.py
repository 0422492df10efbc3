"""Asks the audit trail and takes care of it: `python -m audit_trail --help`."""

import argparse
import csv
import json
import sys

from audit_trail.anchors import AnchorError
from audit_trail.care import add_commands, show_anchor, show_purge, show_storage, show_verify
from audit_trail.trace import as_json, chain, find_decisions
from command_line import add_test_mode, run_program
from config import Settings, get_postgres_config
from db_layer import TradingDB
from log_setup import printable
from tables import print_table


def main(argv: list[str] | None = None) -> int:
    """Answer one question and return the exit status: 1 when nothing was found, 2 for a usage error."""
    parser = argparse.ArgumentParser(
        prog="python -m audit_trail", description="Ask the audit trail.", allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    words = "everything known about one trade, order or decision"
    trace = commands.add_parser("trace", help=words, allow_abbrev=False)
    trace.add_argument("name", metavar="ID", help="trade id, decision id, Analysis_Id or an order's id")
    _add_shared(trace)
    add_commands(commands, _add_shared)
    return run_program(parser, argv, _work, (AnchorError,))


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("text", "json", "csv"), default="text")
    add_test_mode(parser)


def _work(options: argparse.Namespace, settings: Settings) -> int:
    config = get_postgres_config(options.test_mode, settings)
    if options.command == "purge" and settings.audit.purge_user:
        config |= {"user": settings.audit.purge_user, "password": settings.audit.purge_password}
    with TradingDB(options.test_mode, config, settings.postgres.schema, "audit_trail") as db:
        if options.test_mode:
            db.create_schema(test_mode=True)
        if options.command == "verify":
            return show_verify(db, settings, options)
        if options.command == "anchor":
            return show_anchor(db, settings, options)
        if options.command == "purge":
            return show_purge(db, settings, options)
        if options.command == "storage-stats":
            return show_storage(db, options)
        return _trace(db, options.name, options.format)


def _trace(db: TradingDB, name: str, style: str) -> int:
    decisions = find_decisions(db, name)
    if not decisions:
        print(f"audit_trail: nothing is recorded under {printable(name)}", file=sys.stderr)
        return 1
    for decision_id in decisions:
        rows = chain(db, decision_id)
        if style == "json":
            print(json.dumps(as_json(rows), indent=2))
        elif style == "csv":
            writer = csv.DictWriter(sys.stdout, ("at", "event", "what", "detail"))
            writer.writeheader()
            writer.writerows(as_json(rows))
        else:
            print_chain(name, rows)
    return 0


def print_chain(name: str, rows: list[dict[str, object]]) -> None:
    """Print a chain as a table."""
    print_table(
        f"What is recorded about {printable(name)} (times in UTC)", ("Time", "Event", "What", "Detail"),
        [(f"{row['at']:%Y-%m-%d %H:%M:%S.%f}"[:-3], row["event"], row["what"], row["detail"]) for row in rows],
    )


if __name__ == "__main__":
    sys.exit(main())
