"""The documents and the code name the same things."""

from __future__ import annotations

import re
from pathlib import Path

from audit_trail import AlertKind
from tests.unit.test_layers import ALONE, LAYERS, SOURCES

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_kind_of_alert_is_explained_once() -> None:
    explained = re.findall(r"^\| `(\w+)` ", (DOCS / "alerts.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(explained) == sorted(AlertKind)


def test_the_alerts_that_hold_entries_back_are_the_marked_ones() -> None:
    marked = re.findall(r"^\| `(\w+)` \*", (DOCS / "alerts.md").read_text(encoding="utf-8"), re.MULTILINE)
    barrier = (DOCS.parent / "startup_barrier.py").read_text(encoding="utf-8")
    assert set(marked) == {kind for kind in AlertKind if f"'{kind}'" in barrier}


def test_the_table_of_the_architecture_has_the_rows_of_the_layers() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("| row | modules |\n")[2].partition("\n\n")[0]
    rows = [set(re.findall(r"`(\w+)`", line)) for line in table.splitlines()[1:]]
    assert rows == [set(layer) for layer in LAYERS]


def test_every_module_of_the_layers_exists() -> None:
    assert {module for layer in LAYERS for module in layer} | {ALONE} == SOURCES.keys()
