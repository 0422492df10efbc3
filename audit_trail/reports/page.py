"""A report as one self-contained page: no scripts, nothing loaded from elsewhere, pictures as SVG."""

from html import escape

from audit_trail.reports.charts import draw
from audit_trail.reports.report import RIGHT, Facts, Kind, Report, Table, shown

ROWS_OF_A_PAGE = 500
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; background: #fff; margin: 2rem auto; max-width: 72rem;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; color: #52606d; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: .25rem .6rem; text-align: left;
       border-bottom: 1px solid #e4e9ee; vertical-align: top; max-width: 26rem; overflow-wrap: break-word; }
th { color: #52606d; font-weight: 600; white-space: nowrap; }
.right { text-align: right; } .right, .when { white-space: nowrap; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content auto; gap: .15rem 1.2rem; margin: 0; }
dt { color: #52606d; } dd { margin: 0; } dd small { color: #52606d; }
svg { display: block; margin: .8rem 0; max-width: 100%; height: auto; }
"""


def as_page(report: Report) -> str:
    """Return the report as HTML in which values are text only, whatever they hold."""
    parts = [_facts(section) if isinstance(section, Facts) else _table(section) for section in report.sections]
    notes = "".join(f"<p>{escape(note)}</p>" for note in report.notes)
    title = escape(shown(report.title, Kind.TEXT))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{notes}\n"
        + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def _facts(section: Facts) -> str:
    items = "".join(
        f"<dt>{escape(fact.label.strip())}</dt><dd>{escape(shown(fact.value, fact.kind) or '-')}"
        + (f" <small>{escape(shown(fact.remark, Kind.TEXT))}</small>" if fact.remark else "") + "</dd>"
        for fact in section.facts
    )
    return f"<h2>{escape(section.title)}</h2>\n<dl>{items}</dl>"


def _table(section: Table) -> str:
    title = f"<h2>{escape(section.title)}</h2>"
    if not section.rows:
        return f"{title}\n<p>{escape(section.empty)}</p>"
    pictures = "".join(draw(chart, section) for chart in section.charts)
    classes = {column.key: _class(column.kind) for column in section.columns}
    head = "".join(f"<th{classes[column.key]}>{escape(column.heading)}</th>" for column in section.columns)
    body = "\n".join(
        "<tr>" + "".join(
            f"<td{classes[column.key]}>{escape(shown(row[column.key], column.kind))}</td>" for column in section.columns
        ) + "</tr>"
        for row in section.rows[:ROWS_OF_A_PAGE]
    )
    left = len(section.rows) - ROWS_OF_A_PAGE
    more = f"<p>... and {left:,} more: --format csv or json gives all of them.</p>" if left > 0 else ""
    note = f"<p>{escape(section.note)}</p>" if section.note else ""
    return (
        f'{title}\n{pictures}<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>\n{more}{note}"
    )


def _class(kind: Kind) -> str:
    return ' class="right"' if kind in RIGHT else ' class="when"' if kind in (Kind.TIME, Kind.DAY) else ""
