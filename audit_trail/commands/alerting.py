"""The command that lists the open alerts, and takes note of one."""

import argparse
import re
import sys

from audit_trail.alert_list import acknowledge, open_alerts, print_alerts
from audit_trail.commands.command import Call, Command, add_format
from command_line import EXIT_DONE, EXIT_FAILED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `alerts` takes."""
    parser.add_argument("--ack", metavar="ID", type=_number, help="take note of the alert with this number")
    add_format(parser)


def alerts(call: Call) -> int:
    """Print the open alerts, or the one that was taken note of."""
    number = call.options.ack
    rows = open_alerts(call.db) if number is None else acknowledge(call.db, number, call.clock.now())
    if number is not None and not rows:
        print(f"audit_trail: there is no open alert with the number {number}", file=sys.stderr)
        return EXIT_FAILED
    print_alerts(rows, call.options.format)
    return EXIT_DONE


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no alert's number")
    return int(text)


COMMANDS = (Command("alerts", "what a person should look at, and taking note of it", add_arguments, alerts),)
