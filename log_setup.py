"""Log lines: one sentence plus fields, on standard error, as text or JSON, free of secrets and control characters."""

import json
import logging
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN_RECORD = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def printable(text: str, limit: int = 2000) -> str:
    """Return text with control and bidirectional characters escaped and its length capped."""
    safe = _UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."


class _Formatter(logging.Formatter):
    def __init__(self, as_json: bool, secrets: Iterable[str]) -> None:
        super().__init__()
        self._as_json = as_json
        spellings = {spelling for secret in secrets if secret for spelling in (secret, json.dumps(secret)[1:-1])}
        self._secrets = sorted(spellings, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {key: str(value) for key, value in record.__dict__.items() if key not in _PLAIN_RECORD}
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        trace = "\n".join(map(printable, trace.split("\n")))
        if self._as_json:
            entry = {"at": at, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
            return self._without_secrets(json.dumps(entry | fields | ({"trace": trace} if trace else {})))
        tail = "".join(f" {key}={printable(value)}" for key, value in fields.items())
        line = f"{at} {record.levelname.lower():7} {record.name}: {printable(record.getMessage())}{tail}"
        return self._without_secrets(f"{line}\n{trace}" if trace else line)

    def _without_secrets(self, line: str) -> str:
        for secret in self._secrets:
            line = line.replace(secret, "[redacted]")
        return line


def configure_logging(level: str, style: str, secrets: Iterable[str] = ()) -> None:
    """Send every log line to standard error; style is `text` or `json`, secrets are never written."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(style == "json", secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("urllib3").setLevel(logging.WARNING)
