"""A report for programs: JSON with exact values, or one CSV table in which no cell can be taken for a formula."""

import csv
import io
import json
from typing import Any

from audit_trail.reports.report import Facts, Report, Table, plain
from log_setup import printable

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "|", "%")
LONGEST_CELL = 32_000  # characters; spreadsheets hold 32,767


def as_json(report: Report) -> str:
    """Return the report as one JSON object: its head under `report`, and each part under its key.

    Amounts, prices, shares and ratios are text with exact digits; times are UTC with their offset.
    """
    head = {"name": report.name, "title": report.title, "notes": list(report.notes), "parameters": report.parameters}
    parts = {
        section.key: _rows(section)[0] if isinstance(section, Facts) else _rows(section) for section in report.sections
    }
    return json.dumps({"report": head} | parts, indent=2, default=plain) + "\n"


def as_csv(report: Report) -> str:
    """Return the report as one table; the column `section` tells its parts apart, and what a part lacks is empty."""
    names = ["section"]
    for section in report.sections:
        names += [name for name in _names(section) if name not in names]
    written = io.StringIO()
    writer = csv.DictWriter(written, names, restval="")
    writer.writeheader()
    for section in report.sections:
        for row in _rows(section):
            writer.writerow({"section": section.key} | {key: cell(value) for key, value in row.items()})
    return written.getvalue()


def cell(value: Any) -> Any:
    """Return a value for a CSV cell: text is free of control characters and never begins like a formula."""
    if not isinstance(value, str):
        return "" if value is None else plain(value)
    safe = printable(value, LONGEST_CELL)
    return f"'{safe}" if safe.lstrip().startswith(FORMULA_STARTS) else safe


def _names(section: Facts | Table) -> list[str]:
    return [item.key for item in (section.facts if isinstance(section, Facts) else section.columns)]


def _rows(section: Facts | Table) -> list[dict[str, Any]]:
    """Return the rows of a part; facts are one."""
    if isinstance(section, Facts):
        return [{fact.key: fact.value for fact in section.facts}]
    return [{column.key: row[column.key] for column in section.columns} for row in section.rows]
