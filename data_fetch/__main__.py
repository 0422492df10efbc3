"""Fetches outside data: `python -m data_fetch congress_daily`."""

import argparse
import sys

from alert_round import run_worker
from audit_trail import Operation
from clock import SystemClock
from command_line import EXIT_DONE, add_test_mode, show
from config import Settings
from data_fetch.source_line import SourceError
from data_fetch.tasks import TASKS, run_task
from parts import open_database

MOST_DAYS = 5000


def main(argv: list[str] | None = None) -> int:
    """Do one run and return the exit status: 1 when it failed, 2 for settings or arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m data_fetch", description="Fetch outside data: one recorded run.", allow_abbrev=False,
    )
    parser.add_argument("task", choices=sorted(TASKS), help="what to fetch")
    parser.add_argument(
        "--days-back", type=_days, metavar="N",
        help="cover at least the reports of the last N days; without it, what the source shows as new, and 7 days of "
             "insiders. maintenance_daily reads the present state whatever N is",
    )
    add_test_mode(parser)
    return run_worker(parser, argv, _work, (SourceError,))


def _days(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MOST_DAYS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 1 to {MOST_DAYS}")
    return int(text)


def _work(options: argparse.Namespace, settings: Settings) -> int:
    with open_database(options.test_mode, settings, options.task) as db:
        done = run_task(options.task, db, SystemClock(), settings, options.days_back)
    counts = ", ".join(f"{done.run.counts[operation]} {operation}" for operation in Operation)
    unusable = f" ({done.unusable} of them unusable)" if done.unusable else ""
    show(f"{options.task}: {done.run.counts.total()} records fetched: {counts}{unusable}. Run {done.run.run_id}.")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
