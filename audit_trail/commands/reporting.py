"""The commands that print reports."""

import argparse
import sys
from datetime import date, datetime

from audit_trail.commands.command import Call, Command, add_format
from audit_trail.reports import as_csv, as_json, as_text, daily_summary
from audit_trail.reports.report import Report
from clock import MARKET_ZONE
from command_line import EXIT_DONE

WRITERS = {"text": as_text, "json": as_json, "csv": as_csv}
FIRST_YEAR, LAST_YEAR = 1990, 2199


def day(text: str) -> date:
    """Return a day of the command line. Raises ArgumentTypeError."""
    try:
        found = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=MARKET_ZONE).date()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day like 2025-01-31") from None
    if not FIRST_YEAR <= found.year <= LAST_YEAR:
        raise argparse.ArgumentTypeError(f"{text!r} is not a year between {FIRST_YEAR} and {LAST_YEAR}")
    return found


def write(call: Call, report: Report) -> int:
    """Print a report as the call wants it."""
    sys.stdout.write(WRITERS[call.options.format](report))
    return EXIT_DONE


def today(call: Call) -> date:
    """Return the US Eastern day it is."""
    return call.clock.now().astimezone(MARKET_ZONE).date()


def add_day(parser: argparse.ArgumentParser) -> None:
    """Add what `daily-summary` takes."""
    parser.add_argument("--date", type=day, metavar="D", help="a US Eastern day like 2025-01-31 (default: today)")
    add_format(parser)


def summarise_day(call: Call) -> int:
    """Print the summary of a day."""
    return write(call, daily_summary(call.db, call.options.date or today(call)))


COMMANDS = (
    Command("daily-summary", "what a day brought, what stands now and what to look at", add_day, summarise_day),
)
