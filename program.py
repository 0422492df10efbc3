"""What the command-line programs share: arguments, logging, building the parts, one-line errors and exit statuses."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import local_broker
from alpaca_client import Broker, BrokerError
from analysis_rows import AnalysisRows
from audit_trail import PayloadPolicy
from clock import Clock, SystemClock
from config import ConfigError, Settings, get_postgres_config, load_settings
from db_layer import DatabaseError, TradingDB
from log_setup import configure_logging, printable
from order_desk import OrderDesk

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
UNDEFINED_TABLE = "42P01"

log = logging.getLogger("program")


@dataclass(frozen=True)
class Parts:
    """What a worker works with; made once for a program, or by a test."""

    settings: Settings
    db: TradingDB
    broker: Broker
    clock: Clock
    analysis: AnalysisRows
    desk: OrderDesk


def build_parts(
    test_mode: bool = False, db: TradingDB | None = None, broker: Broker | None = None, clock: Clock | None = None,
    settings: Settings | None = None, application_name: str = "trading-monitor",
) -> Parts:
    """Build whatever was not given; in test mode the schema is created and the local paper broker started.

    Raises ConfigError, DatabaseError and BrokerError.
    """
    settings = settings or load_settings(test_mode)
    if db is None:
        db = TradingDB(test_mode, get_postgres_config(test_mode, settings), settings.postgres.schema, application_name)
        db.connect()
        if test_mode:
            db.create_schema(test_mode=True)
    if broker is None:
        alpaca = local_broker.use(settings.alpaca) if settings.alpaca.local_broker else settings.alpaca
        broker = Broker(alpaca)
    clock = clock or SystemClock()
    analysis = AnalysisRows(db, settings.analysis_timezone)
    policy = PayloadPolicy(settings.use_audit_trail, settings.secrets)
    return Parts(settings, db, broker, clock, analysis, OrderDesk(db, broker, clock, policy, analysis))


def arguments(description: str, *flags: tuple[str, str]) -> argparse.ArgumentParser:
    """Return a parser with `--test-mode` and further switches (name, help)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--test-mode", action="store_true",
        help="work on the test database and the local paper broker; nothing needs to be configured",
    )
    for name, text in flags:
        parser.add_argument(name, action="store_true", help=text)
    return parser


def run_program(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, work: Callable[[argparse.Namespace, Settings], int],
) -> int:
    """Parse, work, and turn foreseeable errors into one line on standard error; return the exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    options = parser.parse_args(argv)
    configure_logging("WARNING", "text")
    try:
        settings = load_settings(getattr(options, "test_mode", False))
        configure_logging(settings.log_level, settings.log_format, settings.secrets)
        return work(options, settings)
    except ConfigError as error:
        return _complain(parser.prog, error, EXIT_USAGE)
    except DatabaseError as error:
        hint = "; run: python scripts/create_production_tables.py" if error.sqlstate == UNDEFINED_TABLE else ""
        return _complain(parser.prog, f"{error}{hint}", EXIT_FAILED)
    except (BrokerError, local_broker.LocalBrokerError) as error:
        return _complain(parser.prog, error, EXIT_FAILED)
    except KeyboardInterrupt:
        return _complain(parser.prog, "interrupted", 130)


def show(text: str) -> None:
    """Print a result on standard output, control characters escaped."""
    for line in text.splitlines():
        print(printable(line))


def _complain(name: str, error: Any, status: int) -> int:
    print(f"{name}: {printable(str(error))}", file=sys.stderr)
    return status


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    # An ordinary exit lets open transactions roll back and the embedded server stop.
    raise SystemExit(128 + number)
