"""Pictures of a table's rows as SVG: a bar for each row with its value beside it, or a line for each series."""

from collections.abc import Sequence
from html import escape
from typing import Any

from audit_trail.reports.report import Chart, Kind, Table, shown

WIDTH, BAR, LABELS, VALUES = 760, 20, 220, 120
HEIGHT, MARGIN = 260, 40
LONGEST_LABEL = 32
MOST_BARS = 24
COLOURS = ("#2f6db5", "#c26a1a", "#3d8a55", "#8a4fa3", "#b0413e", "#5b6b7a")


def draw(chart: Chart, table: Table) -> str:
    """Return a chart of the table's rows; nothing where no row has a value."""
    rows = [row for row in table.rows if row[chart.value] is not None]
    if not rows:
        return ""
    return _lines(chart, rows) if chart.form == "line" else _bars(chart, rows[:MOST_BARS])


def _bars(chart: Chart, rows: Sequence[Any]) -> str:
    values = [float(row[chart.value]) for row in rows]
    low, high = min(0.0, *values), max(0.0, *values)
    scale = (WIDTH - LABELS - VALUES) / ((high - low) or 1)
    zero = LABELS - low * scale
    height = BAR * len(rows)
    parts = []
    for number, (row, value) in enumerate(zip(rows, values, strict=True)):
        top, left = number * BAR, zero + min(value, 0) * scale
        end = max(zero, zero + value * scale) + 6
        colour = COLOURS[0] if value >= 0 else COLOURS[4]
        parts.append(
            f'<text x="{LABELS - 8}" y="{top + 14}" text-anchor="end">{_words(_label(chart, row))}</text>'
            f'<rect x="{left:.1f}" y="{top + 3}" width="{max(abs(value) * scale, 1):.1f}" height="{BAR - 6}" '
            f'fill="{colour}"/><text x="{end:.1f}" y="{top + 14}">{_words(shown(row[chart.value], chart.kind))}</text>'
        )
    return _picture(chart.title, WIDTH, height, "".join(parts))


def _lines(chart: Chart, rows: Sequence[Any]) -> str:
    series: dict[str, dict[str, float]] = {}
    for row in rows:
        series.setdefault(_series(row), {})[str(row[chart.label])] = float(row[chart.value])
    labels = sorted({label for points in series.values() for label in points})
    every = [value for points in series.values() for value in points.values()]
    low, high = min(0.0, *every), max(0.0, *every)
    across = (WIDTH - 2 * MARGIN - VALUES) / max(len(labels) - 1, 1)
    place = {label: 2 * MARGIN + number * across for number, label in enumerate(labels)}
    upward = (HEIGHT - 2 * MARGIN) / ((high - low) or 1)

    def level(value: float) -> float:
        return HEIGHT - MARGIN - (value - low) * upward

    parts = [
        f'<path d="M{2 * MARGIN} {level(value):.1f}H{WIDTH - VALUES}" stroke="#d5dce3"/>'
        f'<text x="{2 * MARGIN - 8}" y="{level(value) + 4:.1f}" text-anchor="end">'
        f"{_words(shown(value, chart.kind))}</text>"
        for value in sorted({low, 0.0, high})
    ]
    step = max(1, len(labels) // 8)
    parts += [
        f'<text x="{place[label]:.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{_words(label)}</text>'
        for label in labels[::step]
    ]
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{place[label]:.1f},{level(points[label]):.1f}" for label in labels if label in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{WIDTH - VALUES + 10}" y="{MARGIN + number * 16}" fill="{colour}">{_words(name)}</text>'
        )
    return _picture(chart.title, WIDTH, HEIGHT, "".join(parts))


def _picture(title: str, width: int, height: int, content: str) -> str:
    return (
        f'<p>{escape(title)}</p><svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="system-ui, sans-serif" font-size="12" fill="#1c2733">'
        f"{content}</svg>"
    )


def _series(row: Any) -> str:
    return f"{row['strategy_name']} {row['strategy_version']}"


def _label(chart: Chart, row: Any) -> str:
    return _series(row) if chart.label == "strategy" else str(row[chart.label])


def _words(text: str) -> str:
    safe = shown(text, Kind.TEXT)
    return escape(safe if len(safe) <= LONGEST_LABEL else f"{safe[:LONGEST_LABEL - 3]}...")
