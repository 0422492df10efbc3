"""Asks the audit trail: `python -m audit_trail trace ID`."""

import argparse
import json
import sys

from audit_trail.trace import as_json, chain, find_decisions
from config import ConfigError, get_postgres_config, load_settings
from db_layer import DatabaseError, TradingDB
from log_setup import configure_logging, printable
from tables import print_table


def main(argv: list[str] | None = None) -> int:
    """Answer one question and return the exit status: 1 when nothing was found, 2 for a usage error."""
    parser = argparse.ArgumentParser(prog="python -m audit_trail", description="Ask the audit trail.")
    commands = parser.add_subparsers(dest="command", required=True)
    trace = commands.add_parser("trace", help="everything known about one trade, order or decision")
    trace.add_argument("name", metavar="ID", help="trade id, decision id, Analysis_Id or an order's id")
    trace.add_argument("--format", choices=("text", "json"), default="text")
    trace.add_argument("--test-mode", action="store_true", help="ask the test database")
    options = parser.parse_args(argv)
    try:
        settings = load_settings(options.test_mode)
        configure_logging(settings.log_level, settings.log_format, settings.secrets)
        config = get_postgres_config(options.test_mode, settings)
        with TradingDB(options.test_mode, config, settings.postgres.schema, "audit_trail") as db:
            return _trace(db, options.name, options.format)
    except ConfigError as error:
        print(f"audit_trail: {printable(str(error))}", file=sys.stderr)
        return 2
    except DatabaseError as error:
        print(f"audit_trail: {printable(str(error))}", file=sys.stderr)
        return 1


def _trace(db: TradingDB, name: str, style: str) -> int:
    decisions = find_decisions(db, name)
    if not decisions:
        print(f"audit_trail: nothing is recorded under {printable(name)}", file=sys.stderr)
        return 1
    for decision_id in decisions:
        rows = chain(db, decision_id)
        if style == "json":
            print(json.dumps(as_json(rows), indent=2))
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
