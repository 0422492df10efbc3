"""Payloads: the exact text of what was said and heard, its digest, and whether the text itself is kept."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(frozen=True)
class Payload:
    """A JSON text with its digest; `kept` is None when bodies are not kept."""

    kept: str | None
    sha256: str
    byte_length: int


@dataclass(frozen=True)
class PayloadPolicy:
    """What may be stored: bodies or digests only (USE_AUDIT_TRAIL), and never one of the secrets."""

    keep_bodies: bool = True
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def payload(self, text: str) -> Payload:
        """Return the payload of a JSON text, secrets removed before it is digested."""
        text = self._redacted(text)
        data = text.encode("utf-8")
        return Payload(text if self.keep_bodies else None, hashlib.sha256(data).hexdigest(), len(data))

    def without_secrets(self, text: str) -> str:
        """Return text with each secret in it blotted out."""
        for secret in filter(None, self.secrets):
            for spelling in (secret, json.dumps(secret)[1:-1]):
                text = text.replace(spelling, "[redacted]")
        return text

    def _redacted(self, text: str) -> str:
        clean = self.without_secrets(text)
        # A secret that looks like a number or a key leaves a hole in the JSON.
        return text if clean == text else _verbatim(clean)


def request_text(method: str, endpoint: str, params: Mapping[str, str], body: str | None) -> str:
    """Return the JSON text of a request; a JSON body stands in it letter for letter."""
    head = json.dumps({"method": method, "endpoint": endpoint, "params": dict(params)})
    return f'{head[:-1]}, "body": {_verbatim(body)}}}'


def response_text(
    status: int | None, headers: Mapping[str, str], body: str | None, error: str | None = None,
) -> str:
    """Return the JSON text of an answer, or of the transport error that came instead."""
    head = json.dumps({"status": status, "headers": dict(headers), "error": error})
    return f'{head[:-1]}, "body": {_verbatim(body)}}}'


def extract_text(status: int, rows: int, news: str) -> str:
    """Return the JSON text that stands for a page of a listing: how many rows it had, and the JSON array of
    those that were news.

    The others said what the books say already; a year of whole pages would be many gigabytes.
    """
    return f'{{"status": {status}, "rows": {rows}, "body": {news}}}'


def _verbatim(body: str | None) -> str:
    """Return the body as JSON text: itself when it is JSON that can be stored and read again, else as a JSON string."""
    if body is None:
        return "null"
    try:
        json.loads(body, parse_constant=_refuse, parse_float=Decimal)
        body.encode("utf-8")
    except (ValueError, ArithmeticError, RecursionError):
        return json.dumps(body)
    return body


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
