"""Requests and replies, and the table that finds a handler for a path."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from urllib.parse import parse_qsl, unquote, urlsplit

from paper_broker import values
from paper_broker.drafts import NOT_FOUND, RefusalError, malformed
from paper_broker.engine import PaperBroker

_TRUE, _FALSE = ("true", "1", "t"), ("false", "0", "f", "")


@dataclass(frozen=True)
class Request:
    """One HTTP request, its query already decoded."""

    method: str
    path: str
    raw_query: str = ""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.raw_query, keep_blank_values=True))

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> object:
        """The body as JSON with exact decimals; raises RefusalError (400) when it is none."""
        try:
            parsed: object = json.loads(self.body, parse_float=Decimal, parse_constant=_no_constant)
        except ValueError as error:
            raise RefusalError(400, 40010000, "request body format is invalid") from error
        return parsed


@dataclass(frozen=True)
class Reply:
    """One HTTP answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"


Handler = Callable[..., Reply]


class Routes:
    """Handlers by method and path; `{name}` in a path stands for one part of it."""

    def __init__(self) -> None:
        self._table: list[tuple[str, re.Pattern[str], Handler]] = []

    def add(self, method: str, path: str) -> Callable[[Handler], Handler]:
        """Register a function that is called with the broker, the request and the named parts."""

        def register(handler: Handler) -> Handler:
            pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path))
            self._table.append((method, re.compile(pattern), handler))
            return handler

        return register

    def call(self, broker: PaperBroker, request: Request) -> Reply:
        """Let the matching handler answer; raises RefusalError (404, 405) when there is none."""
        known = False
        for method, pattern, handler in self._table:
            found = pattern.fullmatch(request.path)
            if found and method == request.method:
                return handler(broker, request, **{k: unquote(v) for k, v in found.groupdict().items()})
            known = known or found is not None
        if known:
            raise RefusalError(405, 40510000, "method not allowed")
        raise RefusalError(404, NOT_FOUND, "endpoint not found")


def ok(content: object, status: int = 200) -> Reply:
    """An answer with a JSON body."""
    return Reply(status, json.dumps(content).encode())


def refuse(refusal: RefusalError) -> Reply:
    return ok(refusal.body, refusal.status)


def parse_target(target: str) -> tuple[str, str]:
    """Split a request target into its path, still quoted, and its query."""
    parts = urlsplit(target)
    return parts.path, parts.query


def flag(query: Mapping[str, str], name: str) -> bool:
    """Read a boolean query parameter, which clients write as true, True or 1."""
    value = query.get(name, "").lower()
    if value not in _TRUE + _FALSE:
        raise malformed(f"invalid {name}")
    return value in _TRUE


def integer(query: Mapping[str, str], name: str, default: int, largest: int) -> int:
    """Read a whole number from 1 to `largest`."""
    raw = query.get(name) or str(default)
    if not raw.isascii() or not raw.isdigit() or not 1 <= int(raw[:9]) <= largest:
        raise malformed(f"invalid {name}: it must be between 1 and {largest}")
    return int(raw)


def choice(query: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = query.get(name) or default
    if value not in allowed:
        raise malformed(f"invalid {name}")
    return value


def instant(query: Mapping[str, str], name: str) -> datetime | None:
    """Read a time or a date."""
    raw = query.get(name)
    if not raw:
        return None
    try:
        return values.moment(raw)
    except ValueError as error:
        raise malformed(f"invalid {name}") from error


def decimal(query: Mapping[str, str], name: str) -> Decimal | None:
    raw = query.get(name)
    if not raw:
        return None
    try:
        return values.number(raw)
    except ValueError as error:
        raise malformed(f"invalid {name}") from error


def names(query: Mapping[str, str], name: str) -> list[str]:
    """Read a comma-separated list."""
    return [part.strip() for part in query.get(name, "").split(",") if part.strip()]


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
