"""Tables for people on a terminal; widths follow the content, control characters are escaped."""

import io
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from log_setup import printable

PIPE_WIDTH = 160


def print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under headings on standard output; numbers are aligned right, None is empty."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    table = _table(headings, rows)
    table.title, table.title_justify = title, "left"
    Console(width=width, highlight=False).print(table)


def table_text(headings: Sequence[str], rows: Iterable[Sequence[Any]], width: int) -> str:
    """Return rows under headings as lines of at most `width` characters, without colours; a `>` aligns right."""
    written = io.StringIO()
    table = _table(headings, rows)
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    Console(width=width, file=written, highlight=False, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in written.getvalue().strip("\n").splitlines())


def _table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    table = Table(box=SIMPLE)
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(heading.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else printable(str(value))) for value in row))
    return table
