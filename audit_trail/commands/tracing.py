"""The command that brings back everything recorded under a name."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence

from audit_trail.commands.command import Call, Command, add_format
from audit_trail.commands.reporting import add_page, write_page
from audit_trail.reports import Report
from audit_trail.reports.data import cell
from audit_trail.reports.report import ZONE_WORDS, Column, Kind, Table
from audit_trail.trace import as_json, chains
from command_line import EXIT_DONE, EXIT_FAILED
from db_layer import Row
from log_setup import printable
from tables import print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `trace` takes."""
    words = "trade id, decision id, Analysis_Id, an order's id (ours or the broker's), or a run's id"
    parser.add_argument("name", metavar="ID", help=words)
    parser.add_argument("--payloads", action="store_true", help="with the exact texts of requests and answers")
    add_format(parser)
    add_page(parser)


def trace(call: Call) -> int:
    """Print the chains of a name."""
    name, style = call.options.name, call.options.format
    found = chains(call.db, name, call.options.payloads)
    if not found:
        print(f"audit_trail: nothing is recorded under {printable(name)}", file=sys.stderr)
        return EXIT_FAILED
    if call.options.html is not None:
        return write_page(call, _report(name, found))
    for rows in found:
        if style == "json":
            print(json.dumps(as_json(rows), indent=2))
        elif style == "csv":
            _print_csv(rows)
        else:
            print_chain(name, rows)
            _print_texts(rows)
    return EXIT_DONE


def print_chain(name: str, rows: Sequence[Row]) -> None:
    """Print a chain as a table."""
    print_table(
        f"What is recorded about {printable(name)} (times in UTC)", ("Time", "Event", "What", "Detail"),
        [(f"{row['at']:%Y-%m-%d %H:%M:%S.%f}"[:-3], row["event"], row["what"], row["detail"]) for row in rows],
    )


def _print_texts(rows: Sequence[Row]) -> None:
    for row in rows:
        for number, text in row.get("texts", {}).items():
            print(f"payload {number}:\n{printable(text, sys.maxsize)}\n")


def _print_csv(rows: list[Row]) -> None:
    writer = csv.writer(sys.stdout)
    names = [name for name in rows[0] if name != "payloads"]
    writer.writerow(names)
    for row in as_json(rows):
        plain = row | {"texts": json.dumps(row.get("texts"))}
        writer.writerow([cell(plain[name]) for name in names])


def _report(name: str, found: Sequence[Sequence[Row]]) -> Report:
    columns = (
        Column("at", "Time", Kind.TIME), Column("event", "Event"), Column("what", "What"), Column("detail", "Detail"),
    )
    tables = [Table(f"chain_{number}", "In the order of time", columns, rows, "") for number, rows in enumerate(found)]
    return Report("trace", f"What is recorded about {name}", tables, (ZONE_WORDS,))


COMMANDS = (Command("trace", "everything known about one trade, order, decision or run", add_arguments, trace),)
