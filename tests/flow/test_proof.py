"""The hash chain under real trades, and the commands that take care of the audit trail."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import config
from audit_trail import AlertKind
from audit_trail.__main__ import main
from audit_trail.verify import verify
from tests.flow.world import World, swing

TAMPER = """
ALTER TABLE audit.trade_decisions DISABLE TRIGGER ALL;
UPDATE audit.trade_decisions SET quantity = {quantity};
ALTER TABLE audit.trade_decisions ENABLE TRIGGER ALL
"""
KINDS = "SELECT DISTINCT subject_table, event FROM audit.audit_log ORDER BY 1, 2"


@pytest.fixture
def configured(world: World, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Settings of the programs' role, and the file of anchors."""
    for name, value in {"HOST": "host", "PORT": "port", "DB": "dbname"}.items():
        monkeypatch.setenv(f"POSTGRES_{name}", str(database[value]))
    for name in ("ALPACA_API_KEY", "ALPACA_SECRET_KEY"):
        monkeypatch.setenv(name, "key")
    monkeypatch.setenv("POSTGRES_USER", "trading_app")
    monkeypatch.setenv("PURGE_POSTGRES_USER", "trading_purge")
    monkeypatch.setattr(config, "PROJECT_ROOT", tmp_path)
    return tmp_path / "audit_anchors.txt"


def test_a_trade_from_decision_to_profit_is_in_the_chain(world: World) -> None:
    world.open_position(swing())
    world.price("NVDA", "146")
    world.monitor()
    world.value()
    report = verify(world.db)
    assert report.fault is None
    assert {(row["subject_table"], row["event"]) for row in world.db.execute_query(KINDS)} == {
        ("audit_log", "genesis"), ("trade_decisions", "recorded"), ("trade_decisions", "changed"),
        ("trade_executions", "recorded"), ("trade_executions", "changed"), ("api_payloads", "recorded"),
        ("order_fill", "recorded"),
    }
    assert len(world.db.query("order_fill")) == 2


def test_verify_says_what_is_wrong_ends_with_1_and_leaves_an_alert(
    world: World, configured: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    name = world.open_position(swing())
    assert main(["verify"]) == 0
    assert "holds no anchor" in capsys.readouterr().out
    assert main(["anchor"]) == 0
    assert capsys.readouterr().out == configured.read_text()
    world.db.execute_update(TAMPER.format(quantity=46))
    assert main(["verify", "--format", "json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert f"it was changed; it is part of decision 1 (NVDA, {name})" in found["fault"]
    assert found["anchors"] == 1
    alert = world.one("alerts", kind=str(AlertKind.CHAIN_FAULT))
    assert (alert["level"], alert["message"]) == ("critical", found["fault"])
    world.db.execute_update(TAMPER.format(quantity=45))
    assert main(["verify"]) == 0
    assert world.one("alerts", kind=str(AlertKind.CHAIN_FAULT))["resolved_at"] is not None
    configured.write_text("nonsense\n")
    assert main(["verify"]) == 1
    assert "line 1 of" in capsys.readouterr().err


@pytest.mark.parametrize("style", ["text", "csv"])
def test_who_tampers_cannot_paint_over_what_verify_says(
    world: World, configured: Path, capsys: pytest.CaptureFixture[str], style: str,
) -> None:
    world.open_position(swing())
    world.db.execute_update(TAMPER.format(quantity="46, analysis_decision_id = E'\\x1b[2K\\rall is as it was written'"))
    assert main(["verify", "--format", style]) == 1
    said = capsys.readouterr().out
    assert "part of decision 1 (NVDA, " in said
    assert not {"\x1b", "\r"} & set(said.replace("\r\n", "\n"))


def test_a_reader_may_verify(world: World, configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_USER", "trading_reader")
    assert main(["verify"]) == 0
    world.open_position(swing())
    world.db.execute_update(TAMPER.format(quantity=46))
    assert main(["verify"]) == 1


def test_a_purge_goes_under_its_own_role_and_says_what_it_would_do_first(
    world: World, configured: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    world.db.insert("api_payloads", {
        "type": "ApiResponse", "payload": "1", "source": "quiver", "captured_at": world.clock.now(), "byte_length": 1,
        "sha256": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
    })
    monkeypatch.setenv("PAYLOAD_RETENTION_DAYS", "30")
    assert main(["purge", "--dry-run"]) == 0
    assert "1 bodies would be removed" in capsys.readouterr().out
    assert main(["purge"]) == 0
    assert "1 bodies removed" in capsys.readouterr().out
    assert main(["verify"]) == 0
    world.db.execute_query("SELECT pg_stat_force_next_flush()")
    assert main(["storage-stats"]) == 0
    shown = capsys.readouterr().out
    assert "quiver" in shown
    assert re.search(r"audit\.api_payloads +[1-9]", shown), "rows of a table that was never analysed"
    monkeypatch.setenv("PURGE_POSTGRES_USER", "trading_app")
    world.db.insert("api_payloads", {
        "type": "ApiResponse", "payload": "2", "source": "quiver", "captured_at": world.clock.now(), "byte_length": 1,
        "sha256": "a" * 64,
    })
    assert main(["purge"]) == 1
    assert "were not removed" in world.one("alerts", kind=str(AlertKind.PURGE))["message"]
