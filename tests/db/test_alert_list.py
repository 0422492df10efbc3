"""The open alerts on a terminal and for programs, and taking note of one."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from audit_trail import AlertKind, AlertLevel, raise_alert
from audit_trail.alert_list import acknowledge, open_alerts, print_alerts
from db_layer import TradingDB

NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
HOSTILE = "=cmd|'/c calc'!A1\n\x1b[2Jgone\u202e, \"x\" " + "long" * 60


@pytest.fixture
def alerts(db: TradingDB) -> TradingDB:
    raise_alert(db, AlertLevel.INFO, AlertKind.SPLIT, "NVDA", "a split", NOW)
    raise_alert(db, AlertLevel.WARNING, AlertKind.READ_FAILED, " =1+1", HOSTILE, NOW)
    for minutes in (0, 10):
        at = NOW + timedelta(minutes=minutes)
        raise_alert(db, AlertLevel.CRITICAL, AlertKind.ORDER_LOST, "o" * 90, "the broker has lost it", at)
    return db


def test_the_worst_comes_first_and_every_line_fits_a_terminal(
    alerts: TradingDB, capsys: pytest.CaptureFixture[str],
) -> None:
    print_alerts(open_alerts(alerts), "text")
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert [word for word in text.split() if word.isupper() and word in ("CRITICAL", "WARNING", "INFO")] == [
        "CRITICAL", "WARNING", "INFO",
    ]
    assert max(map(len, lines)) < 80
    assert "       since 2025-01-15 15:00 UTC, seen 2 times, last at 2025-01-15 15:10" in lines
    assert not {"\x1b", "\u202e"} & set(text)


def test_programs_get_every_column_in_both_formats(alerts: TradingDB, capsys: pytest.CaptureFixture[str]) -> None:
    print_alerts(open_alerts(alerts), "json")
    rows = json.loads(capsys.readouterr().out)
    assert (rows[1]["message"], rows[0]["occurrences"]) == (HOSTILE, 2)
    print_alerts(open_alerts(alerts), "csv")
    text = capsys.readouterr().out
    table = list(csv.DictReader(io.StringIO(text)))
    assert [list(row) for row in table] == [list(rows[0])] * 3
    assert [row["id"] for row in table] == [str(row["id"]) for row in rows]
    assert table[1]["subject"] == "' =1+1"
    assert table[1]["message"].startswith("'=cmd|'/c calc'!A1\\n\\x1b[2J")


def test_note_is_taken_once_of_what_is_open(alerts: TradingDB, capsys: pytest.CaptureFixture[str]) -> None:
    number = open_alerts(alerts)[0]["id"]
    for minutes in (30, 60):
        (row,) = acknowledge(alerts, number, NOW + timedelta(minutes=minutes))
        assert row["acknowledged_at"] == NOW + timedelta(minutes=30)
    print_alerts([row], "text")
    assert "acknowledged at 2025-01-15 15:30" in " ".join(capsys.readouterr().out.split())
    alerts.execute_update("UPDATE audit.alerts SET resolved_at = now()")
    assert acknowledge(alerts, number, NOW) == []
    print_alerts(open_alerts(alerts), "text")
    assert capsys.readouterr().out == "No alert is open.\n"
