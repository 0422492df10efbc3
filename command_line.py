"""What the command-line programs share: arguments, logging, one-line errors and exit statuses."""

import argparse
import os
import pwd
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from config import Settings, load_settings
from db_layer import CONNECTING, DatabaseError
from environment import ConfigError
from log_setup import configure_logging, printable

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
LONGEST_OPERATOR = 100
HINTS = {  # by SQLSTATE
    "42P01": "; run: python scripts/create_production_tables.py",
    "42501": "; see docs/database-setup.md for the roles and their rights",
}


def arguments(description: str, *flags: tuple[str, str]) -> argparse.ArgumentParser:
    """Return a parser with `--test-mode` and further switches (name, help)."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    add_test_mode(parser)
    for name, text in flags:
        parser.add_argument(name, action="store_true", help=text)
    return parser


def add_test_mode(parser: argparse.ArgumentParser, default: bool | str = False) -> None:
    """Add the switch `--test-mode` to a parser; the default SUPPRESS lets it stand before a command as well."""
    parser.add_argument(
        "--test-mode", action="store_true", default=default,
        help="work on the test database and the local paper broker; nothing needs to be configured",
    )


def run_program(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, work: Callable[[argparse.Namespace, Settings], int],
    foreseeable: tuple[type[Exception], ...] = (),
) -> int:
    """Do work that needs all settings, as run_guarded does; return the exit status."""
    return run_guarded(parser, argv, lambda options: work(options, all_settings(options.test_mode)), foreseeable)


def all_settings(test_mode: bool) -> Settings:
    """Read the settings and log as they say. Raises ConfigError."""
    settings = load_settings(test_mode)
    configure_logging(settings.log_level, settings.log_format, settings.secrets)
    return settings


def run_guarded(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, work: Callable[[argparse.Namespace], int],
    foreseeable: tuple[type[Exception], ...] = (),
) -> int:
    """Parse, work, and turn foreseeable errors into one line on standard error; return the exit status.

    `foreseeable` are the errors, beside the settings' and the database's, that mean the work could not be done.
    """
    signal.signal(signal.SIGTERM, _terminate)
    options = parser.parse_args(argv)
    configure_logging("WARNING", "text")
    try:
        status = work(options)
        _finish_output()
        return status
    except ConfigError as error:
        return _complain(parser.prog, str(error), EXIT_USAGE)
    except DatabaseError as error:
        return _complain(parser.prog, f"{error}{_hint(error)}", EXIT_FAILED)
    except foreseeable as error:
        return _complain(parser.prog, str(error), EXIT_FAILED)
    except BrokenPipeError:  # an answer that is printed while it is read from the books has lost its reader
        _drop_output()
        return EXIT_DONE
    except KeyboardInterrupt:
        return _complain(parser.prog, "interrupted", 128 + signal.SIGINT)


def operator() -> str:
    """Return who runs this program: the account by the system's word, not the environment's, and the host."""
    number = os.getuid()
    try:
        user = pwd.getpwuid(number).pw_name
    except KeyError:
        user = f"user id {number}"
    return printable(f"{user}@{socket.gethostname()}", LONGEST_OPERATOR)


def show(text: str) -> None:
    """Print a result on standard output, control characters escaped; whether anybody reads it changes nothing."""
    try:
        for line in text.splitlines():
            print(printable(line))
    except OSError:
        _drop_output()


def _finish_output() -> None:
    """Write out what is buffered; a reader that has gone away changes nothing about the work that was done."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _hint(error: DatabaseError) -> str:
    if str(error).startswith(CONNECTING):
        return "; see whether the server runs, and look at the POSTGRES_ settings"
    return HINTS.get(error.sqlstate or "", "")


def _complain(name: str, error: str, status: int) -> int:
    print(f"{name}: {printable(error)}", file=sys.stderr)
    return status


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    # An ordinary exit lets open transactions roll back and the embedded server stop.
    raise SystemExit(128 + number)
