"""One command of `python -m audit_trail`: its name, its arguments, and what it does on an open database."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from clock import Clock
from config import Settings
from db_layer import TradingDB

FORMATS = ("text", "json", "csv")


@dataclass(frozen=True)
class Call:
    """What a command is given: its parsed arguments, the open database, the settings and the time."""

    options: argparse.Namespace
    db: TradingDB
    settings: Settings
    clock: Clock


class Command(NamedTuple):
    """A command; `run` prints its answer on standard output and returns the exit status.

    Foreseeable errors of `run` are those of the database and of the settings.
    """

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Call], int]


def add_format(parser: argparse.ArgumentParser) -> None:
    """Add `--format` to a command's arguments."""
    parser.add_argument("--format", choices=FORMATS, default="text", help="how the answer is written (default: text)")
