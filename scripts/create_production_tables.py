"""Creates every table except `analysis_decision`, and says what that one lacks; may be run again at any time."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis_rows import key_column
from config import Settings, get_postgres_config
from db_layer import DatabaseError, TradingDB
from program import EXIT_DONE, run_program, show


def main(argv: list[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    return run_program(argparse.ArgumentParser(description=__doc__), argv, _work)


def _work(_options: argparse.Namespace, settings: Settings) -> int:
    schema = settings.postgres.schema
    with TradingDB(False, get_postgres_config(False, settings), schema, "create_production_tables") as db:
        db.create_schema()
        show(f"The trading tables are in the schema {schema}, the audit tables in the schema audit.")
        try:
            show(f"analysis_decision is ready; its primary key is {key_column(db)}.")
        except DatabaseError as error:
            show(f"Still to do: {error}.")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
