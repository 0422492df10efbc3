"""The paper broker that test mode starts by itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import local_broker
from alpaca_client import Broker
from config import AlpacaSettings, load_settings

HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "a")
fcntl.flock(lock, fcntl.LOCK_SH)
print("held", flush=True)
input()
"""


@pytest.fixture
def alpaca() -> Iterator[AlpacaSettings]:
    yield load_settings(True, {}).alpaca
    local_broker.leave()


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/control/health", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_it_starts_on_demand_and_is_found_again(alpaca: AlpacaSettings) -> None:
    first, second = local_broker.use(alpaca), local_broker.use(alpaca)
    assert first.base_url == first.data_url == second.base_url
    assert Broker(first).account()["status"] == "ACTIVE"


def test_it_ends_with_its_last_user(alpaca: AlpacaSettings) -> None:
    url = local_broker.use(alpaca).base_url
    assert answers(url)
    local_broker.leave()
    assert not answers(url)


def test_its_orders_outlive_it(alpaca: AlpacaSettings) -> None:
    broker = Broker(local_broker.use(alpaca))
    order = {
        "symbol": "NVDA", "qty": "1", "side": "buy", "type": "limit", "limit_price": "10", "time_in_force": "gtc",
        "client_order_id": f"kept-{os.getpid()}",
    }
    sent = broker.send(broker.order_request(order))
    local_broker.leave()
    found = Broker(local_broker.use(alpaca)).find_order(order["client_order_id"])
    assert found is not None
    assert found["id"] == sent.order()["id"]


def test_a_broker_that_cannot_start_says_why(alpaca: AlpacaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    local_broker.FOLDER.mkdir(parents=True, exist_ok=True)
    (local_broker.FOLDER / "state.json").write_text("not a state", encoding="utf-8")
    try:
        with pytest.raises(local_broker.LocalBrokerError, match="did not start: paper_broker: "):
            local_broker.use(alpaca)
    finally:
        (local_broker.FOLDER / "state.json").unlink()


def test_a_folder_that_cannot_be_used_is_named_with_its_owner(
    alpaca: AlpacaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "paper_broker"
    monkeypatch.setattr(local_broker, "FOLDER", folder)
    (folder / "users.lock").mkdir(parents=True)  # refused to every user alike
    owner = f"belongs to user id {os.geteuid()}, and this is {os.geteuid()}; run as its owner, or delete {folder} "
    with pytest.raises(local_broker.LocalBrokerError, match=re.escape(owner)) as caught:
        local_broker.use(alpaca)
    assert f"cannot use {folder / 'users.lock'}: Is a directory" in str(caught.value)


def test_another_user_keeps_it_running(alpaca: AlpacaSettings) -> None:
    url = local_broker.use(alpaca).base_url
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(local_broker.FOLDER / "users.lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        local_broker.leave()
        assert answers(url)
        assert local_broker.use(alpaca).base_url == url
        other.communicate("\n")
