"""Messages to people: one text to every channel of ALERT_URLS, by Apprise, within a time limit and without secrets."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

from config import Settings
from log_setup import printable

SENDER = Path(__file__).resolve().parent / "message_sender.py"
TIME_LIMIT_SECONDS = 30.0
LONGEST_TITLE = 150
LONGEST_LINE = 600
LONGEST_ERROR = 300
SHORTEST_PART = 4
NO_ANSWER = "no answer within {:g} seconds"


def channel_name(url: str) -> str:
    """Return what a channel is called in tables and logs: its kind, and a digest too short to find a password by."""
    return f"{url.partition('://')[0].lower()}-{hashlib.sha256(url.encode()).hexdigest()[:4]}"


def send_message(
    settings: Settings, title: str, body: str, channels: list[str] | None = None,
    seconds: float = TIME_LIMIT_SECONDS,
) -> dict[str, str | None]:
    """Send one text to all channels, or to those named, and return by channel why it did not arrive, or None.

    Secrets, control characters and words that would call everybody of a chat room are taken out. Raises nothing
    because of a channel; one that has not answered after `seconds` counts as failed.
    """
    urls = {channel_name(url): url for url in settings.messages.alert_urls}
    urls = {name: url for name, url in urls.items() if channels is None or name in channels}
    if not urls:
        return {}
    if settings.test_mode:
        title = f"{title} (test mode)"
    order = {
        "title": _harmless(title, settings, LONGEST_TITLE),
        "body": "\n".join(_harmless(line, settings, LONGEST_LINE) for line in body.split("\n")),
        "urls": list(urls.values()),
    }
    errors = _run_sender(json.dumps(order), seconds)
    missing = NO_ANSWER.format(seconds)
    return {
        name: _without_parts(error, url) if (error := errors.get(number, missing)) else None
        for number, (name, url) in enumerate(urls.items())
    }


def _run_sender(order: str, seconds: float) -> dict[int, str | None]:
    try:
        done = subprocess.run(
            [sys.executable, str(SENDER)], input=order, capture_output=True, text=True, timeout=seconds, check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        return _results(said.decode() if isinstance(said, bytes) else said)
    except OSError as error:
        return dict.fromkeys(range(len(json.loads(order)["urls"])), f"the sending process did not start: {error}")
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        failed: dict[int, str | None] = dict.fromkeys(
            range(len(json.loads(order)["urls"])), f"the sending process failed: {last[0]}",
        )
        return failed | _results(done.stdout)
    return _results(done.stdout)


def _results(said: str) -> dict[int, str | None]:
    lines = [line for line in said.splitlines(keepends=True) if line.endswith("]\n")]
    return dict(json.loads(line) for line in lines)


def _harmless(line: str, settings: Settings, limit: int) -> str:
    for secret in sorted(settings.secrets, key=len, reverse=True):
        line = line.replace(secret, "[redacted]")
    return re.sub(r"<(?=[!@#])|(?<!\w)@(?=\w)", r"\g<0> ", printable(line, limit))


def _without_parts(error: str, url: str) -> str:
    """Blot out every part of the channel's URL: any of them may be a password or a token."""
    pieces = re.split(r"[/:?&=#@,+]+", url.partition("://")[2])
    parts = {part for piece in pieces for part in (piece, unquote(piece)) if len(part) >= SHORTEST_PART}
    for part in sorted(parts | {url}, key=len, reverse=True):
        error = error.replace(part, "[redacted]")
    return printable(error, LONGEST_ERROR)
