"""Alerts as a person meets them: a message after a pass, and a list with the way to take note."""

from __future__ import annotations

import json
from typing import Any

from tests.acceptance.test_programs import PROJECT, run
from tests.receiver import receive

DEAD = {"ALPACA_BASE_URL": "http://127.0.0.1:9", "ALPACA_DATA_URL": "http://127.0.0.1:9"}


def test_a_broker_out_of_reach_is_told_after_the_pass_and_can_be_acknowledged(
    configured: dict[str, str], db: Any,
) -> None:
    with receive() as receiver:
        told = configured | {"ALERT_URLS": f"json://{receiver.address}/t0ken-of-the-chat-room"}
        result = run(PROJECT, "order_monitor.py", **told | DEAD)
        assert result.returncode == 1
        (message,) = receiver.messages
    assert (message["title"], "read_failed account" in message["message"]) == ("Trading Monitor: 1 warning", True)

    listed = run(PROJECT, "-m", "audit_trail", "alerts", "--format", "json", **configured)
    (alert,) = json.loads(listed.stdout)
    assert (alert["kind"], alert["acknowledged_at"]) == ("read_failed", None)
    noted = run(PROJECT, "-m", "audit_trail", "alerts", "--ack", str(alert["id"]), **configured)
    assert (noted.returncode, "acknowledged at" in " ".join(noted.stdout.split())) == (0, True)
    assert db.query("alerts")[0]["acknowledged_at"] is not None
    unknown = run(PROJECT, "-m", "audit_trail", "alerts", "--ack", "99", **configured)
    assert (unknown.returncode, unknown.stderr) == (1, "audit_trail: there is no open alert with the number 99\n")
    assert run(PROJECT, "-m", "audit_trail", "alerts", "--ack", "x", **configured).returncode == 2


def test_a_channel_out_of_reach_changes_nothing_about_a_pass(configured: dict[str, str], db: Any) -> None:
    result = run(PROJECT, "order_monitor.py", **configured | {"ALERT_URLS": "json://127.0.0.1:9/t0ken-of-the-chat-room"})
    assert (result.returncode, result.stdout, db.query("alerts")) == (0, "Nothing changed.\n", [])
    db.insert("alerts", {
        "level": "info", "kind": "split", "subject": "NVDA", "message": "m",
        "first_seen_at": "2025-01-15", "last_seen_at": "2025-01-15",
    })
    result = run(PROJECT, "order_monitor.py", **configured | {"ALERT_URLS": "json://127.0.0.1:9/t0ken-of-the-chat-room"})
    assert (result.returncode, result.stdout) == (0, "Nothing changed.\n")
    (failing,) = [row for row in db.query("alerts") if row["kind"] == "channel_failing"]
    assert "t0ken" not in failing["message"] + result.stderr


def test_the_daily_summary_is_sent_where_that_is_asked_for(configured: dict[str, str]) -> None:
    with receive() as receiver:
        told = configured | {"ALERT_URLS": f"json://{receiver.address}/t0ken-of-the-chat-room"}
        result = run(PROJECT, "-m", "audit_trail", "daily-summary", "--send", **told)
        assert (result.returncode, result.stderr) == (0, "")
        (message,) = receiver.messages
        assert message["title"].splitlines()[0] == result.stdout.splitlines()[0]
        receiver.status = 503
        result = run(PROJECT, "-m", "audit_trail", "daily-summary", "--send", **told)
        assert (result.returncode, "the summary was not sent" in result.stderr) == (1, True)
    nobody = run(PROJECT, "-m", "audit_trail", "daily-summary", "--send", **configured)
    assert (nobody.returncode, "ALERT_URLS is empty" in nobody.stderr) == (2, True)
