"""Commands for people, called as their programs call them: what they need, what they say, and how they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import db_layer
import flattening
import order_executor
from db_layer import TradingDB
from kill_switch import TradingState, current_control
from scripts import create_production_tables, demo, trading_control
from tests.flow.world import World, swing

UNFINISHED = "run order_monitor.py until status shows no position"


@pytest.fixture
def connected(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Settings that name the database and nothing else."""
    for name, value in {"HOST": "host", "PORT": "port", "DB": "dbname"}.items():
        monkeypatch.setenv(f"POSTGRES_{name}", str(database[value]))
    monkeypatch.setenv("POSTGRES_USER", "trading_app")
    return monkeypatch


@pytest.fixture
def with_broker(connected: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Settings that are enough for every command; nobody answers at the broker's address."""
    for name in ("ALPACA_API_KEY", "ALPACA_SECRET_KEY"):
        connected.setenv(name, "key")
    connected.setenv("ALPACA_BASE_URL", "http://127.0.0.1:9")
    return connected


def control(command: str) -> int:
    return trading_control.main([command] if command == "status" else [command, "--reason", "drill"])


@pytest.mark.parametrize("command", ["status", "halt", "resume"])
def test_the_switch_needs_the_database_and_no_other_setting(
    db: TradingDB, connected: pytest.MonkeyPatch, command: str,
) -> None:
    for name, value in {"RETENTION_DAY": "31", "ORDER_EXECUTOR_TIME": "9:45", "LOG_LEVEL": "LOUD"}.items():
        connected.setenv(name, value)
    assert control(command) == 0
    assert len(db.query("trading_control")) == (command != "status")


@pytest.mark.parametrize("command", ["reduce", "flatten"])
def test_a_command_that_speaks_to_the_broker_needs_every_setting(
    db: TradingDB, connected: pytest.MonkeyPatch, command: str,
) -> None:
    assert control(command) == 2
    assert db.query("trading_control") == []


def test_the_tables_are_made_without_keys_of_the_broker(
    database: dict[str, Any], connected: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    connected.setenv("POSTGRES_USER", str(database["user"]))
    assert create_production_tables.main([]) == 0
    assert "analysis_decision is ready" in capsys.readouterr().out


def test_halt_is_in_force_although_somebody_is_at_the_alerts(
    db: TradingDB, database: dict[str, Any], connected: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    control("halt")
    connected.setitem(db_layer.SESSION_SETTINGS, "lock_timeout", "100ms")
    with TradingDB(config=database) as person, person.transaction():
        person.execute_update("UPDATE audit.alerts SET acknowledged_at = now()")
        assert control("halt") == 0
    assert current_control(db).state is TradingState.HALTED
    assert len(db.query("trading_control")) == 2
    assert "The alert about it could not be written: canceling statement due to lock timeout" in capsys.readouterr().out


@pytest.mark.usefixtures("db")
def test_a_flatten_that_is_interrupted_says_what_to_do(
    with_broker: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(_self: flattening.Flattening) -> None:
        raise KeyboardInterrupt

    with_broker.setattr(flattening.Flattening, "run", interrupted)
    assert control("flatten") == 130
    assert UNFINISHED in capsys.readouterr().out


@pytest.mark.usefixtures("db", "with_broker")
@pytest.mark.parametrize("command", ["resume", "halt"])
def test_calling_a_flatten_off_says_that_its_orders_are_to_be_followed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str,
) -> None:
    monkeypatch.setattr(flattening, "FOLLOW", flattening.POSITIONS_LAG * 0)
    assert control("flatten") == 1
    assert UNFINISHED not in capsys.readouterr().out
    assert control(command) == 0
    assert UNFINISHED in capsys.readouterr().out


def test_the_executor_says_why_it_refused(
    world: World, with_broker: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    with_broker.setenv("ALPACA_BASE_URL", world.server.url)
    with_broker.setenv("ALPACA_DATA_URL", world.server.url)
    world.decide(swing(qty=-1))
    world.execute()
    world.decide("[]")
    assert order_executor.main([]) == 0
    assert capsys.readouterr().out == "refused: 1\nA2: refused: the Decision must be a JSON object, not a list\n"


def test_a_demo_that_cannot_write_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(demo, "STATE", tmp_path / "file" / "demo")
    assert demo.main([]) == 2
    assert "which cannot be written" in capsys.readouterr().err
