"""The command that brings back everything recorded under a name."""

import argparse
import csv
import json
import sys

from audit_trail.commands.command import Call, Command, add_format
from audit_trail.trace import as_json, chain, find_decisions
from command_line import EXIT_DONE, EXIT_FAILED
from log_setup import printable
from tables import print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `trace` takes."""
    parser.add_argument("name", metavar="ID", help="trade id, decision id, Analysis_Id or an order's id")
    add_format(parser)


def trace(call: Call) -> int:
    """Print the chains of a name."""
    name, style = call.options.name, call.options.format
    decisions = find_decisions(call.db, name)
    if not decisions:
        print(f"audit_trail: nothing is recorded under {printable(name)}", file=sys.stderr)
        return EXIT_FAILED
    for decision_id in decisions:
        rows = chain(call.db, decision_id)
        if style == "json":
            print(json.dumps(as_json(rows), indent=2))
        elif style == "csv":
            writer = csv.DictWriter(sys.stdout, ("at", "event", "what", "detail"))
            writer.writeheader()
            writer.writerows(as_json(rows))
        else:
            print_chain(name, rows)
    return EXIT_DONE


def print_chain(name: str, rows: list[dict[str, object]]) -> None:
    """Print a chain as a table."""
    print_table(
        f"What is recorded about {printable(name)} (times in UTC)", ("Time", "Event", "What", "Detail"),
        [(f"{row['at']:%Y-%m-%d %H:%M:%S.%f}"[:-3], row["event"], row["what"], row["detail"]) for row in rows],
    )


COMMANDS = (Command("trace", "everything known about one trade, order or decision", add_arguments, trace),)
