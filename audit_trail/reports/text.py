"""A report as plain text for a terminal or a message: lines of a given width, long tables cut with a word about it."""

import textwrap

from audit_trail.reports.report import RIGHT, ROWS_FOR_PEOPLE, Facts, Report, Table, shown
from log_setup import printable
from tables import table_text

WIDTH = 80


def as_text(report: Report, width: int = WIDTH) -> str:
    """Return the whole report as text; every line fits the width."""
    head = [printable(report.title), *report.notes]
    parts = ["\n".join(line for words in head for line in textwrap.wrap(words, width))]
    for section in report.sections:
        body = _facts(section, width) if isinstance(section, Facts) else _table(section, width)
        parts.append(f"{section.title}\n{'-' * min(len(section.title), width)}\n{body}")
    return "\n\n".join(parts) + "\n"


def _facts(section: Facts, width: int) -> str:
    labels = max(len(fact.label) for fact in section.facts)
    lines: list[str] = []
    for fact in section.facts:
        value = shown(fact.value, fact.kind) or "-"
        said = f"{value} ({printable(fact.remark)})" if fact.remark else value
        lines += textwrap.wrap(said, width, initial_indent=f"{fact.label:<{labels}}  ",
                               subsequent_indent=" " * (labels + 2))
    return "\n".join(lines)


def _table(section: Table, width: int) -> str:
    if not section.rows:
        return "\n".join(textwrap.wrap(section.empty, width))
    columns = [column for column in section.columns if not column.detail]
    kept = section.rows[:ROWS_FOR_PEOPLE]
    headings = [f">{column.heading}" if column.kind in RIGHT else column.heading for column in columns]
    lines = [table_text(headings, [[shown(row[column.key], column.kind) for column in columns] for row in kept], width)]
    if len(kept) < len(section.rows):
        lines.append(f"... and {len(section.rows) - len(kept):,} more: --format csv or json gives all of them.")
    lines += textwrap.wrap(section.note, width)
    return "\n".join(lines)
