"""The line to the broker: a request goes out once and in time, and its answer is classed by what it proves.

How fast requests may follow one another is read from the broker's own headers. Source: Alpaca's API reference (rate
limits); what an answer proves is explained in docs/architecture.md.
"""

import json
import logging
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import cast

import requests
import urllib3.exceptions
from alpaca.common.exceptions import APIError
from alpaca.common.rest import RESTClient

from broker_answers import BrokerError, Json, JsonObject, checked_order, read_json, same_order
from clock import Clock
from config import AlpacaSettings
from http_wire import Wire
from log_setup import printable

LONGEST_ERROR = 500
LONGEST_CODE = 60
DUPLICATE_ID_WORDS = "client_order_id must be unique"
TOO_MANY_REQUESTS = 429
KEPT_HEADERS = ("X-Request-ID", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After")
# One for each of the two other workers that share the key: each may call between an answer here and the next call.
RESERVED_REQUESTS = 2
RESET_MARGIN_SECONDS = 1
LONGEST_WAIT_SECONDS = 61
WAIT_WITHOUT_ADVICE_SECONDS = 5

log = logging.getLogger("broker_line")


class Outcome(StrEnum):
    """What an answer, or its absence, proves about a message."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Request:
    """A call to the broker; `body` is the exact JSON text that is sent, `path` begins with /v2."""

    method: str
    path: str
    params: Mapping[str, str]
    body: str | None = None


@dataclass(frozen=True)
class Extract:
    """What a page of a listing comes to: how many rows it had, and those that were news as a JSON array."""

    rows: int
    news: str


@dataclass(frozen=True)
class Reply:
    """What came back: status and text of the answer, or the transport error in words.

    Of a page of a listing that was gone through, the extract takes the text's place.
    """

    outcome: Outcome
    http_status: int | None
    headers: Mapping[str, str]
    text: str
    error: str | None
    duration_ms: int
    extract: Extract | None = None

    @cached_property
    def parsed(self) -> Json:
        """The text as JSON with numbers as Decimal, or None."""
        return read_json(self.text)

    def order(self) -> JsonObject:
        """Return the order of an accepted answer, its numbers as Decimal. Raises BrokerError when it is none."""
        return checked_order(self.parsed)

    @property
    def error_code(self) -> str | None:
        """The broker's code, the HTTP status where it gave none, or the kind of transport error."""
        if self.http_status is None:
            return "transport"
        if self.http_status < 300:
            return None
        code = self.parsed.get("code") if isinstance(self.parsed, dict) else None
        return printable(str(code), LONGEST_CODE) if code is not None else f"http_{self.http_status}"

    @property
    def error_message(self) -> str | None:
        """The broker's words, or what happened on the line, in one line."""
        if self.error is not None:
            return self.error
        if self.http_status is not None and self.http_status < 300:
            return None
        words = self.parsed.get("message") if isinstance(self.parsed, dict) else None
        said = printable(" ".join(str(words or self.text).split()), LONGEST_ERROR)
        return said or f"HTTP {self.http_status} without a word"


class Line:
    """The calls of one client, one at a time; `address` is what an error names when nobody can be reached."""

    def __init__(self, client: RESTClient, address: str, settings: AlpacaSettings, clock: Clock) -> None:
        self._client = client
        self._wire = cast(Wire, client._session.get_adapter("https://"))
        self._wire.hides_bodies = True
        self._address = address
        self._pace = _Pace(clock)
        secrets = (settings.secret_key, settings.api_key)
        # Inside JSON a slash may come back escaped.
        self._secrets = dict.fromkeys(word for secret in secrets for word in (secret, secret.replace("/", "\\/")))

    def close(self) -> None:
        """Close the connections that are kept open between calls; a later call opens one again."""
        self._client._session.close()

    def wait_for_room(self) -> None:
        """Wait until the broker takes another request; returns at once unless its last answer said otherwise."""
        self._pace.wait()

    def call(self, request: Request) -> Reply:
        """Send a request once, when there is room for it, and return what came of it; a failing line raises nothing."""
        self._pace.wait()
        wire = self._wire
        wire.response = None
        started = time.monotonic()
        error: Exception | None = None
        data: Json = json.loads(request.body) if request.body is not None else dict(request.params)
        try:
            getattr(self._client, request.method.lower())(request.path.removeprefix("/v2"), data)
        except APIError:
            pass  # an HTTP error status; the answer itself is judged below
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as failure:
            error = failure
        except (TypeError, ValueError):
            if wire.response is None:
                raise
        duration = int((time.monotonic() - started) * 1000)
        if wire.response is None:
            return self._silence(error, duration)
        reply = self._reply(request, wire.response, wire.body, duration)
        self._pace.note(reply)
        return reply

    def _silence(self, error: Exception | None, duration_ms: int) -> Reply:
        never_left = _never_left(error)
        outcome = Outcome.NOT_SENT if never_left else Outcome.UNKNOWN
        where = f"no connection to {self._address}, " if never_left else ""
        words = printable(self._redacted(f"{where}{type(error).__name__}: {error}"), LONGEST_ERROR)
        return Reply(outcome, None, {}, "", words, duration_ms)

    def _reply(self, request: Request, response: requests.Response, body: bytes, duration_ms: int) -> Reply:
        text = self._redacted(body.decode("utf-8", "backslashreplace"))
        headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
        status = response.status_code
        return Reply(_judged(request, status, text), status, headers, text, None, duration_ms)

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return text


class _Pace:
    """Holds the next call back while the last answer says that the minute's requests are used up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._free_at = 0.0  # Unix seconds, as the broker counts

    def wait(self) -> None:
        """Wait for room, a minute at most, and once for each answer: a senseless time must not hold up the rest."""
        seconds = min(self._free_at - self._clock.now().timestamp(), LONGEST_WAIT_SECONDS)
        self._free_at = 0.0
        if seconds > 0:
            log.info("the broker takes no more requests for now; waiting", extra={"seconds": f"{seconds:.1f}"})
            self._clock.sleep(seconds)

    def note(self, reply: Reply) -> None:
        """Remember when the next request may leave. Source: Alpaca's API reference, X-RateLimit headers."""
        remaining, reset = (_count(reply.headers, f"X-RateLimit-{name}") for name in ("Remaining", "Reset"))
        refused = reply.http_status == TOO_MANY_REQUESTS
        used_up = refused or (remaining is not None and remaining <= RESERVED_REQUESTS)
        self._free_at = reset + RESET_MARGIN_SECONDS if used_up and reset is not None else 0.0
        now = self._clock.now().timestamp()
        if refused and self._free_at <= now:
            advice = _count(reply.headers, "Retry-After")
            self._free_at = now + (WAIT_WITHOUT_ADVICE_SECONDS if advice is None else advice)


def tame(client: RESTClient, timeout_seconds: float) -> RESTClient:
    """Take alpaca-py's repetitions and the environment's proxy from a client, and give it a total timeout."""
    # alpaca-py repeats calls, POST included, on 429 and 504, and has no timeout; neither is reachable from outside.
    client._retry = 0
    client._session.trust_env = False
    wire = Wire(timeout_seconds)
    client._session.mount("https://", wire)
    client._session.mount("http://", wire)
    return client


def _count(headers: Mapping[str, str], name: str) -> int | None:
    value = headers.get(name, "")
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 16 else None


def _never_left(error: Exception | None) -> bool:
    """True when the connection was never made, so that not one byte of the request can have arrived."""
    seen: set[int] = set()
    cause: object = error
    while isinstance(cause, BaseException) and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, requests.ConnectTimeout | ssl.SSLCertVerificationError | socket.gaierror):
            return True
        if isinstance(cause, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
            return True
        reason = getattr(cause, "reason", None)
        first = cause.args[0] if cause.args else None
        cause = next(
            (link for link in (reason, first, cause.__cause__, cause.__context__) if isinstance(link, BaseException)),
            None,
        )
    return False


def _judged(request: Request, status: int, text: str) -> Outcome:
    if status in (200, 201) and request.method == "GET":
        return Outcome.ACCEPTED
    body = read_json(text)
    # 408, 429 and 5xx may come from a gateway after the order went through; a duplicate id means that it did.
    if status in (400, 401, 403, 404, 409, 422) and isinstance(body, dict) and "message" in body:
        duplicate = status in (409, 422) and DUPLICATE_ID_WORDS in str(body["message"])
        return Outcome.UNKNOWN if duplicate else Outcome.REFUSED
    if status == 204 and request.method == "DELETE":
        return Outcome.ACCEPTED
    if status in (200, 201) and _confirms(request, body):
        return Outcome.ACCEPTED
    return Outcome.UNKNOWN


def _confirms(request: Request, body: Json) -> bool:
    """True when the answer is the order that was sent: same client id, symbol, side and quantity."""
    try:
        return same_order(json.loads(request.body or "{}"), checked_order(body))
    except BrokerError:
        return False
