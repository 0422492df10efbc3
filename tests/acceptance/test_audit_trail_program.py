"""`python -m audit_trail` called as people call it: answers, formats, and how it ends."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from audit_trail.__main__ import main
from db_layer import TradingDB
from tests.db.ledger import NOON, Ledger

REPORTS = (
    ("symbol-report", "nvda", "2025-01-01", "2025-12-31"), ("strategy-performance", "--to", "2025-12-31"),
    ("strategy-performance", "n8n_analysis", "--from", "2025-01-01", "--to", "2025-12-31"),
    ("failure-analysis", "--to", "2025-12-31"), ("daily-summary", "--date", "2025-01-15"),
    ("known-at", "NVDA", "2025-01-15T13:00"), ("origin", "1"),
)


@pytest.fixture(scope="module")
def books(clones: Any) -> Any:
    """The settings that name a database with a trade, a failure and a disclosed trade in it."""
    database = clones.create()
    with TradingDB(config=database) as db:
        ledger = Ledger(db)
        disclosed = ledger.disclosed(ledger.run())
        decision = ledger.decided(primary_quiver_trade_id=disclosed, analysis_decision_id="A-WON")
        ledger.ordered(decision, ledger.traded(decision))
        ledger.decided(status="failed", status_reason="=1+1 \x1b[31m<b>over</b>", analysis_decision_id="A-FAILED")
        run_id = db.query("data_ingestion_runs")[0]["run_id"]
    yield database | {"run_id": run_id}
    clones.drop(database)


@pytest.fixture
def connected(books: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, value in {"HOST": "host", "PORT": "port", "DB": "dbname"}.items():
        monkeypatch.setenv(f"POSTGRES_{name}", str(books[value]))
    monkeypatch.setenv("POSTGRES_USER", "trading_reader")
    for name in ("ALPACA_API_KEY", "ALPACA_SECRET_KEY"):
        monkeypatch.setenv(name, "key")
    return books


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("command", REPORTS, ids=" ".join)
def test_a_report_is_written_in_each_format_for_a_role_that_only_reads(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:
    assert main([*command]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "US Eastern" in text
    assert main([*command, "--format", "json"]) == 0
    assert "report" in json.loads(capsys.readouterr().out)
    assert main([*command, "--format", "csv"]) == 0
    assert all("section" in row for row in csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert main([*command, "--html", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_trace_takes_every_name_and_writes_a_page_too(
    connected: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:
    for name in ("A-WON", "tm-4-e", "broker-4", connected["run_id"], "NVDA-3"):
        assert main(["trace", name, "--payloads", "--format", "csv"]) == 0, name
        assert capsys.readouterr().out.startswith("at,event,what,detail")
    assert main(["trace", "A-FAILED", "--html", str(tmp_path / "page.html")]) == 0
    assert "&lt;b&gt;over&lt;/b&gt;" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize(("command", "words"), [
    (("trace", "nothing-like-it"), "nothing is recorded under nothing-like-it"),
    (("origin", "999"), "there is no disclosed trade 999"),
])
def test_what_nobody_knows_ends_with_one(
    command: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*command]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize(("command", "words"), [
    (("failure-analysis", "--from", "2025-02-01", "--to", "2025-01-01"), "2025-02-01, is after the last one"),
    (("symbol-report", "NVDA", "2025-02-30", "2025-03-01"), "'2025-02-30' is not a day like 2025-01-31"),
    (("symbol-report", "NVDA", "0001-01-01", "2025-03-01"), "'0001-01-01' is not in a year between"),
    (("known-at", "NVDA", "nine"), "'nine' is not a time like 2025-01-31T09:00"),
    (("origin", "x"), "'x' is not an id like 12345"), (("origin", "9" * 30), "is not an id like 12345"),
    (("daily-summary", "--html", "/nowhere/page.html"), "/nowhere/page.html: cannot be written"),
])
def test_a_question_that_makes_no_sense_is_a_usage_error_in_one_sentence(
    command: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        status = main([*command])
    except SystemExit as error:
        status = int(str(error.code))
    assert status == 2
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("connected")
def test_a_time_without_a_zone_is_one_of_new_york(capsys: pytest.CaptureFixture[str]) -> None:
    for at in ("2025-01-15T12:00", "2025-01-15T17:00+00:00", "2025-01-15T17:00Z"):
        main(["known-at", "NVDA", at, "--format", "json"])
        assert json.loads(capsys.readouterr().out)["report"]["parameters"]["at"] == NOON.isoformat()
