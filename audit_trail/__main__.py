"""Asks the audit trail: `python -m audit_trail trace ID`, and `alerts`."""

import argparse
import csv
import json
import re
import sys

from audit_trail.alert_list import acknowledge, open_alerts, print_alerts
from audit_trail.trace import as_json, chain, find_decisions
from clock import SystemClock
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
    alerts = commands.add_parser("alerts", help="what a person should look at, and what was noted", allow_abbrev=False)
    alerts.add_argument("--ack", metavar="ID", type=_id, help="take note of the alert with this number")
    for command in (trace, alerts):
        command.add_argument("--format", choices=("text", "json", "csv"), default="text")
        add_test_mode(command)
    return run_program(parser, argv, _work)


def _work(options: argparse.Namespace, settings: Settings) -> int:
    config = get_postgres_config(options.test_mode, settings)
    with TradingDB(options.test_mode, config, settings.postgres.schema, "audit_trail") as db:
        if options.test_mode:
            db.create_schema(test_mode=True)
        if options.command == "alerts":
            return _alerts(db, options.ack, options.format)
        return _trace(db, options.name, options.format)


def _id(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no alert's number")
    return int(text)


def _alerts(db: TradingDB, noted: int | None, style: str) -> int:
    rows = open_alerts(db) if noted is None else acknowledge(db, noted, SystemClock().now())
    if noted is not None and not rows:
        print(f"audit_trail: there is no open alert with the number {noted}", file=sys.stderr)
        return 1
    print_alerts(rows, style)
    return 0


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
