"""Asks the audit trail and takes care of it: `python -m audit_trail --help`."""

import argparse
import sys

from audit_trail.anchors import AnchorError
from audit_trail.commands import alerting, caring, reporting, tracing
from audit_trail.commands.command import Call
from clock import SystemClock
from command_line import add_test_mode, run_program
from config import Settings, get_postgres_config
from db_layer import TradingDB

COMMANDS = (
    *reporting.COMMANDS,
    *alerting.COMMANDS,
    *tracing.COMMANDS,
    *caring.COMMANDS,
)


def main(argv: list[str] | None = None) -> int:
    """Answer one question and return the exit status: 1 when nothing was found, 2 for a usage error."""
    parser = argparse.ArgumentParser(
        prog="python -m audit_trail", description="Ask the audit trail.", allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        added = commands.add_parser(command.name, help=command.help, description=command.help, allow_abbrev=False)
        command.add_arguments(added)
        add_test_mode(added)
        added.set_defaults(run=command.run)
    return run_program(parser, argv, _work, (AnchorError,))


def _work(options: argparse.Namespace, settings: Settings) -> int:
    config = get_postgres_config(options.test_mode, settings)
    with TradingDB(options.test_mode, config, settings.postgres.schema, "audit_trail") as db:
        if options.test_mode:
            db.create_schema(test_mode=True)
        status: int = options.run(Call(options, db, settings, SystemClock()))
        return status


if __name__ == "__main__":
    sys.exit(main())
