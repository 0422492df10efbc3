"""Creates every table except `analysis_decision`, and says what that one lacks; may be run again at any time."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import requirements_check  # noqa: F401 isort: skip

from analysis_rows import key_column
from command_line import EXIT_DONE, run_guarded, show
from config import get_postgres_config, load_database_settings
from db_layer import SCHEMA_EXISTS, DatabaseError, TradingDB

ELSEWHERE = """
SELECT schemaname AS schema FROM pg_tables
WHERE tablename = 'analysis_decision' AND schemaname <> %(schema)s ORDER BY schemaname
"""


def main(argv: list[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    return run_guarded(argparse.ArgumentParser(description=__doc__), argv, _work)


def _work(_options: argparse.Namespace) -> int:
    settings = load_database_settings()
    schema = settings.postgres.schema
    with TradingDB(False, get_postgres_config(False, settings), schema, "create_production_tables") as db:
        new = not db.execute_query(SCHEMA_EXISTS, {"schema": schema})
        db.create_schema()
        if new:
            show(f"The schema {schema} (POSTGRES_SCHEMA) was not there and has been made.")
        show(f"The trading tables are in the schema {schema}, the audit tables in the schema audit.")
        try:
            show(f"analysis_decision is ready; its primary key is {key_column(db)}.")
        except DatabaseError as error:
            show(f"Still to do: {error}.")
            for row in db.execute_query(ELSEWHERE, {"schema": schema}):
                show(f"There is an analysis_decision in the schema {row['schema']}; is POSTGRES_SCHEMA right?")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
