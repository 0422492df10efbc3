"""The commands that print reports."""

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from audit_trail.anchors import current_anchor
from audit_trail.commands.command import Call, Command, add_format
from audit_trail.reports import (
    Period,
    Report,
    as_csv,
    as_json,
    as_page,
    as_text,
    daily_summary,
    failure_analysis,
    known_at,
    origin,
    strategy_performance,
    symbol_report,
)
from audit_trail.reports.sending import send_summary
from clock import MARKET_ZONE
from command_line import EXIT_DONE, EXIT_FAILED
from environment import ConfigError

Found = TypeVar("Found", date, datetime)

WRITERS = {"text": as_text, "json": as_json, "csv": as_csv}
FIRST_YEAR, LAST_YEAR = 1990, 2199
LARGEST_ID = 2**63 - 1
YEAR = timedelta(days=364)


def day(text: str) -> date:
    """Return a day of the command line. Raises ArgumentTypeError."""
    return _read(text, "a day like 2025-01-31", lambda: date.fromisoformat(text))


def moment(text: str) -> datetime:
    """Return a moment of the command line in UTC, US Eastern where it names no zone. Raises ArgumentTypeError."""
    found = _read(text, "a time like 2025-01-31T09:00", lambda: datetime.fromisoformat(text))
    return (found if found.tzinfo else found.replace(tzinfo=MARKET_ZONE)).astimezone(UTC)


def symbol(text: str) -> str:
    """Return a symbol as the tables spell it."""
    return text.strip().upper()


def number(text: str) -> int:
    """Return an id of the command line. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal() and int(text) <= LARGEST_ID):
        raise argparse.ArgumentTypeError(f"{text!r} is not an id like 12345")
    return int(text)


def write(call: Call, report: Report) -> int:
    """Print a report as the call wants it, or write it to the file of `--html`. Raises ConfigError."""
    if call.options.html is not None:
        return write_page(call, report)
    sys.stdout.write(WRITERS[call.options.format](report))
    return EXIT_DONE


def write_page(call: Call, report: Report) -> int:
    """Write a report to the file of `--html`. Raises ConfigError."""
    path = Path(call.options.html)
    try:
        path.write_text(as_page(report), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html {path}: cannot be written: {error.strerror}") from error
    print(f"written to {path}")
    return EXIT_DONE


def today(call: Call) -> date:
    """Return the US Eastern day it is."""
    return call.clock.now().astimezone(MARKET_ZONE).date()


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add how a report is written."""
    add_format(parser)
    add_page(parser)


def add_page(parser: argparse.ArgumentParser) -> None:
    """Add `--html` to a command's arguments."""
    parser.add_argument("--html", metavar="FILE", help="write a self-contained page to this file instead")


def add_period(parser: argparse.ArgumentParser) -> None:
    """Add the period of a report, a year where nothing is said."""
    parser.add_argument("--from", dest="first", type=day, metavar="D", help="first US Eastern day (default: a year)")
    parser.add_argument("--to", dest="last", type=day, metavar="D", help="last US Eastern day (default: today)")
    add_output(parser)


def period(call: Call) -> Period:
    """Return the period of a call. Raises ConfigError."""
    last = call.options.last or today(call)
    first = call.options.first or last - YEAR
    if first > last:
        raise ConfigError(f"the first day, {first}, is after the last one, {last}")
    return Period(first, last)


def add_day(parser: argparse.ArgumentParser) -> None:
    """Add what `daily-summary` takes."""
    parser.add_argument("--date", type=day, metavar="D", help="a US Eastern day like 2025-01-31 (default: today)")
    parser.add_argument("--send", action="store_true", help="send it to the channels of ALERT_URLS too")
    add_output(parser)


def add_symbol_period(parser: argparse.ArgumentParser) -> None:
    """Add what `symbol-report` takes."""
    parser.add_argument("symbol", metavar="SYMBOL", type=symbol)
    parser.add_argument("first", metavar="FROM", type=day, help="first US Eastern day, like 2025-01-01")
    parser.add_argument("last", metavar="TO", type=day, help="last US Eastern day, counted too")
    add_output(parser)


def add_strategy(parser: argparse.ArgumentParser) -> None:
    """Add what `strategy-performance` takes."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="one strategy (default: all)")
    add_period(parser)


def add_symbol_moment(parser: argparse.ArgumentParser) -> None:
    """Add what `known-at` takes."""
    parser.add_argument("symbol", metavar="SYMBOL", type=symbol)
    parser.add_argument("at", metavar="TIME", type=moment, help="as in 2025-01-31T09:00; US Eastern without a zone")
    add_output(parser)


def add_disclosed(parser: argparse.ArgumentParser) -> None:
    """Add what `origin` takes."""
    parser.add_argument("quiver_trade_id", metavar="QUIVER_TRADE_ID", type=number)
    add_output(parser)


def tell_day(call: Call) -> int:
    """Print the summary of a day, and send it where that is asked for; 1 when a channel did not take it."""
    report = daily_summary(call.db, call.options.date or today(call))
    status = write(call, report)
    if not call.options.send:
        return status
    if not call.settings.messages.alert_urls:
        raise ConfigError("--send: ALERT_URLS is empty, so there is nobody to send the summary to")
    failures = send_summary(call.settings, report, str(current_anchor(call.db, call.clock.now())))
    for failure in failures:
        print(f"audit_trail: the summary was not sent: {failure}", file=sys.stderr)
    return EXIT_FAILED if failures else status


def tell_origin(call: Call) -> int:
    """Print where a disclosed trade came from."""
    found = origin(call.db, call.options.quiver_trade_id)
    if found is None:
        print(f"audit_trail: there is no disclosed trade {call.options.quiver_trade_id}", file=sys.stderr)
        return EXIT_FAILED
    return write(call, found)


def _read(text: str, like: str, parse: Callable[[], Found]) -> Found:
    try:
        found = parse()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {like}") from None
    if not FIRST_YEAR <= found.year <= LAST_YEAR:
        raise argparse.ArgumentTypeError(f"{text!r} is not in a year between {FIRST_YEAR} and {LAST_YEAR}")
    return found


COMMANDS = (
    Command("symbol-report", "all about a symbol in a period: data, decisions, orders, trades", add_symbol_period,
            lambda call: write(call, symbol_report(call.db, call.options.symbol, period(call)))),
    Command("strategy-performance", "what strategies' signals were worth, and how they were carried out", add_strategy,
            lambda call: write(call, strategy_performance(call.db, period(call), call.options.name))),
    Command("failure-analysis", "why decisions failed, when, where and how often", add_period,
            lambda call: write(call, failure_analysis(call.db, period(call)))),
    Command("daily-summary", "what a day brought, what stands now and what to look at", add_day,
            tell_day),
    Command("known-at", "what was known about a symbol at a moment", add_symbol_moment,
            lambda call: write(call, known_at(call.db, call.options.symbol, call.options.at))),
    Command("origin", "which run brought a disclosed trade, by which calls, and what rests on it", add_disclosed,
            tell_origin),
)
