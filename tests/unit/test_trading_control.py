"""The command line of the kill switch: what it takes, and what it refuses before anything is opened."""

from __future__ import annotations

import os
import pwd

import pytest

from command_line import LONGEST_OPERATOR, operator
from scripts.trading_control import LONGEST_REASON, build_parser

RAISE = ("raise", "MAX_ORDER_QTY", "11000", "--for", "1", "--reason", "x")


@pytest.mark.parametrize("arguments", [
    (), ("stop",), ("halt",), ("halt", "--reason"), ("halt", "--reason", ""), ("halt", "--reason", "  \t"),
    ("reduce", "--reason", "x" * (LONGEST_REASON + 1)), ("resume", "--rea", "x"), ("flatten",), ("status", "now"),
    ("raise",), ("raise", "MAX_ORDER_QTY", "NaN", *RAISE[3:]), ("raise", "MAX_ORDER_QTY", "0", *RAISE[3:]), RAISE[:5],
    (*RAISE[:3], *RAISE[5:]), (*RAISE[:4], "-1", *RAISE[5:]), (*RAISE[:4], "Infinity", *RAISE[5:]),
])
def test_a_wrong_command_is_a_usage_error(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("said", "kept"), [
    (" fire ", "fire"), ("red\x1b[31m\nnext", "red\\x1b[31m\\nnext"), ("\udcff", "\\udcff"), ("x" * 500, "x" * 500),
])
def test_a_reason_is_kept_without_control_characters(said: str, kept: str) -> None:
    assert build_parser().parse_args(["halt", "--reason", said]).reason == kept


@pytest.mark.parametrize("command", [("--test-mode", "status"), ("status", "--test-mode")])
def test_test_mode_may_stand_before_or_after_the_command(command: tuple[str, ...]) -> None:
    assert build_parser().parse_args(command).test_mode is True
    assert build_parser().parse_args(["status"]).test_mode is False


def test_who_is_the_account_of_the_process_and_not_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "SUDO_USER", "HOSTNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert operator().partition("@")[0] == pwd.getpwuid(os.getuid()).pw_name


def test_an_account_without_a_name_is_its_number_and_a_long_host_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    monkeypatch.setattr("socket.gethostname", lambda: "host\x07" * 100)
    assert operator().startswith("user id 4000000@host\\x07host")
    assert len(operator()) == LONGEST_OPERATOR
