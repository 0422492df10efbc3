"""Log lines: where they go, how they look, and what never stands in them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from log_setup import configure_logging, printable

log = logging.getLogger("tests.log_setup")


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_a_line_goes_to_standard_error_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "text")
    log.info("order sent", extra={"symbol": "NVDA", "qty": 45})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("info    tests.log_setup: order sent symbol=NVDA qty=45\n")


def test_a_json_line_is_one_object_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    log.warning("order %s sent\nnow", 7, extra={"symbol": "NVDA\u202e"})
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.isascii()
    entry = json.loads(line)
    assert (entry["level"], entry["message"], entry["symbol"]) == ("WARNING", "order 7 sent\nnow", "NVDA\u202e")
    assert entry["at"].endswith("+00:00")


def test_lines_under_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("WARNING", "text")
    log.info("nothing to see")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("secret", ["s3cret-example", 'with "quotes" and \\', "geh\u00e4im-\u00fcber"])
def test_no_secret_stands_in_message_field_or_trace(
    style: str, secret: str, capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("INFO", style, ("", secret))
    try:
        raise RuntimeError(f"the key is {secret}")
    except RuntimeError:
        log.exception("failed with %s", secret, extra={"key": secret})
    err = capsys.readouterr().err
    assert err.count("[redacted]") == 3
    assert secret not in err
    assert json.dumps(secret)[1:-1] not in err


def test_a_hostile_message_cannot_fake_a_line_or_a_colour(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "text")
    hostile = "refused\n2025-01-15 info: all is well\x1b[2J\u202e\ud800"
    try:
        raise RuntimeError(hostile)
    except RuntimeError:
        log.exception(hostile, extra={"answer": hostile})
    err = capsys.readouterr().err
    assert not set(err) & set("\x1b\u202e\ud800")
    assert "refused\\n2025-01-15" in err.splitlines()[0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain \u00e9\u4e2d", "plain \u00e9\u4e2d"), ("a\tb\r\n", "a\\tb\\r\\n"), ("\x00\x7f\x9f", "\\x00\\x7f\\x9f"),
     ("\u061c\u200f\u2029\u2066", "\\u061c\\u200f\\u2029\\u2066")],
)
def test_only_control_and_direction_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(("length", "shown"), [(9, "x" * 9), (10, "x" * 10), (11, "xxxxxxx...")])
def test_a_long_text_is_cut_at_the_cap(length: int, shown: str) -> None:
    assert printable("x" * length, 10) == shown
