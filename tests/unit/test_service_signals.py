"""What a service manager and a dead man's switch hear from us."""

from __future__ import annotations

import logging
import socket
import tempfile
from pathlib import Path

import pytest

from config import load_settings
from heartbeat import beat
from service_notify import ALIVE, READY, notify
from tests.receiver import receive


def test_the_service_manager_is_told_by_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = str(Path(folder) / "notify")
        manager.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        assert notify(READY)
        assert notify(f"{ALIVE}\nSTATUS=well")
        assert [manager.recv(100) for _ in range(2)] == [b"READY=1", b"WATCHDOG=1\nSTATUS=well"]


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all", "@trading-monitor-nobody-listens"])
def test_where_nobody_listens_nothing_goes_wrong(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify(READY)


def test_a_heartbeat_asks_for_its_address_and_keeps_it_secret(caplog: pytest.LogCaptureFixture) -> None:
    assert beat(load_settings(True, {})) is None
    with receive() as receiver:
        needed = dict.fromkeys(
            ("ALPACA_API_KEY", "ALPACA_SECRET_KEY", "POSTGRES_HOST", "POSTGRES_DB", "POSTGRES_USER"), "some",
        )
        settings = load_settings(environ=needed | {"HEARTBEAT_URL": f"http://{receiver.address}/s3cret-check"})
        for status in (200, 500):
            receiver.status = status
            asking = beat(settings)
            assert asking is not None
            assert asking.daemon
            asking.join(5)
        assert receiver.requests == ["/s3cret-check"] * 2
    asking = beat(settings)
    assert asking is not None
    asking.join(5)
    said = [record.__dict__ for record in caplog.records if record.levelno == logging.WARNING]
    assert [(record.get("status"), record.get("error")) for record in said] == [(500, None), (None, "ConnectionError")]
    assert "s3cret" not in str(said)
