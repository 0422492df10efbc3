"""Messages that really leave: by Apprise, to a channel on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import run

import pytest

import messages
from config import Settings, load_settings
from messages import channel_name, send_message
from tests.receiver import Receiver, receive

TOKEN = "t0ken-of-the-chat-room"
PASSWORD = "pa55-w0rd"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receive() as receiver:
        yield receiver


def told(*urls: str, **more: str) -> Settings:
    return load_settings(True, {"ALERT_URLS": ", ".join(urls)} | more)


def test_a_message_reaches_every_channel_without_secrets_and_without_calling_everybody(receiver: Receiver) -> None:
    url = f"json://user:{PASSWORD}@{receiver.address}/{TOKEN}"
    other = f"json://{receiver.address}/second,part"
    settings = told(url, other, QUIVER_API_KEY="k3y-of-quiver")
    body = f"key k3y-of-quiver, {PASSWORD}\n<!channel> @everyone joe@desk \x1b[31mred\u202e"
    assert send_message(settings, "Summary\x07", body) == {channel_name(url): None, channel_name(other): None}
    assert [message["title"] for message in receiver.messages] == ["Summary\\x07 (test mode)"] * 2
    first, second = receiver.messages[0]["message"].split("\n")
    assert first == "key [redacted], [redacted]"
    assert second == "< !channel> @ everyone joe@desk \\x1b[31mred\\u202e"


def test_a_channel_that_fails_is_named_with_its_reason_and_no_part_of_its_address(receiver: Receiver) -> None:
    receiver.status = 503
    good = f"json://{receiver.address}/{TOKEN}"
    results = send_message(told(good, f"nonsense://{TOKEN}"), "Summary", "text")
    assert list(results) == [channel_name(good), channel_name(f"nonsense://{TOKEN}")]
    refused, unknown = results.values()
    assert refused is not None
    assert "503" in refused
    assert unknown == "Apprise does not understand this URL"
    assert TOKEN not in str(results)


def test_a_channel_that_does_not_answer_holds_up_neither_the_others_nor_us(receiver: Receiver) -> None:
    with receive() as deaf:
        deaf.hang = True
        silent, good = f"json://{deaf.address}/?rto=20", f"json://{receiver.address}"
        results = send_message(told(silent, good), "Summary", "text", seconds=1.5)
    assert results == {channel_name(silent): "no answer within 1.5 seconds", channel_name(good): None}


def test_what_a_channel_says_of_its_failure_gives_no_part_of_its_address_away(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "json://joe:p%40ss-word@host.example/t0ken/?room=b00m-box"
    said = "GET http://joe:p@ss-word@host.example/t0ken?room=b00m-box failed for p%40ss-word\x1b[2J"
    monkeypatch.setattr(messages, "_run_sender", lambda *_: {0: said})
    (error,) = send_message(told(url), "Summary", "text").values()
    assert error is not None
    assert not [part for part in ("p@ss", "p%40ss", "host.example", "t0ken", "b00m", "\x1b") if part in error]
    assert error.startswith("GET http://joe:[redacted]@[redacted]/[redacted]?[redacted]=[redacted] failed")


def test_nobody_to_tell_is_no_error() -> None:
    assert send_message(told(), "Summary", "text") == {}


def test_a_sending_process_that_breaks_is_a_failure_of_the_channels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:
    monkeypatch.setattr(messages, "SENDER", tmp_path / "missing.py")
    (error,) = send_message(told(f"json://{TOKEN}"), "Summary", "text").values()
    assert error is not None
    assert error.startswith("the sending process failed: ")


def test_the_programs_start_without_apprise() -> None:
    command = "import sys, order_executor, position_monitor, data_fetch.__main__; sys.exit('apprise' in sys.modules)"
    assert run([sys.executable, "-c", command], cwd=messages.SENDER.parent, check=False).returncode == 0


def test_what_is_too_long_for_a_channel_arrives_in_parts(receiver: Receiver) -> None:
    lines = [f"line {number} {'x' * 60}" for number in range(120)]
    url = f"mmost://{receiver.address}/{TOKEN * 2}"  # takes 4000 characters
    assert send_message(told(url), "Daily summary", "\n".join(lines)) == {channel_name(url): None}
    texts = [message["text"] for message in receiver.messages]
    assert max(map(len, texts)) <= 4000
    assert [line for line in lines if not any(line in text for text in texts)] == []
