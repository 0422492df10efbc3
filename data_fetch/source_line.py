"""The only door to data sources: each call waits for its rate group, is recorded, and gives JSON or a plain error.

What a source's answers mean for us is the same for all of them: 401, 403 and 404 are final, 429 is waited for, and
an answer that is late, cut off, unreadable or a server's error is asked for once more.
"""

import logging
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions

from audit_trail import IngestionRun
from broker_answers import read_json
from clock import Clock
from http_wire import Wire
from log_setup import printable

TIMEOUT_SECONDS = 60.0
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 3
MOST_WAITS = 4  # for room, on 429
MOST_REPEATS = 1  # of a call that brought nothing usable
REPEAT_SECONDS = 5
WAIT_WITHOUT_ADVICE_SECONDS = 60
LONGEST_WAIT_SECONDS = 3700  # an hour's quota, and a little
LONGEST_WORDS = 300
KEPT_HEADERS = ("Content-Type", "Location", "Retry-After")

log = logging.getLogger("data_fetch")


class SourceError(Exception):
    """A source could not give what was asked for; the message says which, why, and what to do."""


class NotFoundError(SourceError):
    """The source has nothing at that address."""


@dataclass(frozen=True)
class RateGroup:
    """So many calls in so many seconds, for all paths that begin with one of these."""

    calls: int
    seconds: int
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A data source: its name for people, its address, and, where it wants one, the key and the key's setting."""

    name: str
    base_url: str
    groups: tuple[RateGroup, ...] = ()
    key: str = field(default="", repr=False)
    key_setting: str = ""


@dataclass(frozen=True)
class _Answer:
    status: int | None
    headers: Mapping[str, str]
    text: str
    error: str | None
    parsed: Any

    @property
    def words(self) -> str:
        """What the source said about an error, in one line."""
        said = self.parsed.get("detail") if isinstance(self.parsed, dict) else self.parsed
        if not isinstance(said, str):
            said = "an HTML page" if self.text.lstrip()[:1] == "<" else self.text
        return printable(" ".join(said.split()), LONGEST_WORDS) or "without a word"


class SourceLine:
    """The calls of one run to one source."""

    def __init__(
        self, source: Source, run: IngestionRun, clock: Clock, timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._source = source
        self._run = run
        self._clock = clock
        self._timeout = timeout_seconds
        self._pace = _Pace(source, run, clock)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update({"Accept": "application/json", "User-Agent": "trading-monitor"})
        if source.key:
            self._session.headers["Authorization"] = f"Bearer {source.key}"
        self._wire = Wire(timeout_seconds)
        self._session.mount("https://", self._wire)
        self._session.mount("http://", self._wire)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        """Return the JSON at a path, its numbers as int and Decimal.

        Raises SourceError; NotFoundError for a 404; DatabaseError when a call cannot be recorded before a wait.
        """
        waits = repeats = 0
        while True:
            answer = self._ask(path, params or {})
            if answer.status == 200 and answer.parsed is not None:
                return answer.parsed
            if answer.status == 429 and waits < MOST_WAITS:
                waits += 1
                self._wait(_advice(answer), f"{self._source.name} asks to wait")
            elif _may_pass(answer) and repeats < MOST_REPEATS:
                repeats += 1
                self._wait(REPEAT_SECONDS, f"{self._source.name} did not answer usably; trying once more")
            else:
                raise self._failure(path, answer)

    def rows(self, path: str, params: Mapping[str, str] | None = None) -> list[Any]:
        """Return the JSON array at a path. Raises like `get`."""
        rows = self.get(path, params)
        if not isinstance(rows, list):
            raise SourceError(f"{self._source.name} answered {path} with {_shown(rows)} where a list belongs")
        return rows

    def _wait(self, seconds: float, why: str) -> None:
        if seconds > LONGEST_WAIT_SECONDS:
            raise SourceError(f"{why} {seconds:.0f} seconds; run this again after that")
        log.info(why, extra={"seconds": f"{seconds:.0f}"})
        self._run.write_calls()
        self._clock.sleep(seconds)

    def _ask(self, path: str, params: Mapping[str, str]) -> _Answer:
        self._pace.wait(path)
        url = self._source.base_url + path
        answer = self._call(url, path, params)
        for _ in range(MOST_REDIRECTS):
            if answer.status not in REDIRECTS:
                break
            url = urljoin(url, answer.headers.get("Location", ""))
            # A client that follows by itself drops the key; to another host it must not be sent.
            if urlsplit(url).hostname != urlsplit(self._source.base_url).hostname:
                raise SourceError(f"{self._source.name} sends {path} on to {printable(url)}, which is another host")
            answer = self._call(url, path, {} if urlsplit(url).query else params)
        return answer

    def _call(self, url: str, path: str, params: Mapping[str, str]) -> _Answer:
        self._wire.response = None
        error: str | None = None
        started = time.monotonic()
        try:
            self._session.get(url, params=dict(params), allow_redirects=False)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as failure:
            error = printable(self._run.without_secrets(f"{type(failure).__name__}: {failure}"), LONGEST_WORDS)
        duration = int((time.monotonic() - started) * 1000)
        response = self._wire.response if error is None else None
        body = self._wire.body.decode("utf-8", "backslashreplace") if response is not None else ""
        # A source that repeats the key must not bring it into an error or a row.
        text = self._run.without_secrets(body)
        status = None if response is None else response.status_code
        headers: Mapping[str, str] = {} if response is None else response.headers
        kept = {name: headers[name] for name in KEPT_HEADERS if name in headers}
        left = headers.get("X-RateLimit-Remaining", "")
        self._run.log_call(
            path, params, status, kept, None if response is None else text, duration, error,
            int(left) if left.isascii() and left.isdecimal() and len(left) < 9 else None,
        )
        return _Answer(status, kept, text, error, read_json(text))

    def _failure(self, path: str, answer: _Answer) -> SourceError:
        name, setting, status = self._source.name, self._source.key_setting, answer.status
        said = f"(HTTP {status}: {answer.words})"
        if status is None:
            return SourceError(f"{name} could not be asked for {path}: {answer.error}")
        if status == 401 and setting:
            return SourceError(f"{name} does not accept the key {said}; check {setting}")
        if status == 403 and setting:
            return SourceError(
                f"the plan of this key does not include {path} {said}; upgrade your plan at {name}, or do without"
            )
        if status == 404:
            return NotFoundError(f"{name} has nothing at {path} {said}")
        if status == 429:
            return SourceError(f"{name} still takes no more calls after {MOST_WAITS} waits {said}; run this later")
        if status == 200:
            return SourceError(f"{name} answered {path} with something that is not JSON: {answer.words}")
        return SourceError(f"{name} did not answer {path} {said}")


class _Pace:
    """Holds a call back until its rate group has room, earlier runs' calls included."""

    def __init__(self, source: Source, run: IngestionRun, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._run = run
        self._calls: dict[RateGroup, deque[datetime]] = {group: deque() for group in source.groups}
        longest = max((group.seconds for group in source.groups), default=0)
        if longest:
            for endpoint, at in run.recent_calls(clock.now() - timedelta(seconds=longest)):
                self._note(endpoint.partition(" ")[2], at)

    def wait(self, path: str) -> None:
        """Wait for room in every group of the path, and take it."""
        for group in self._groups(path):
            calls, window = self._calls[group], timedelta(seconds=group.seconds)
            while len(calls) >= group.calls:
                seconds = (calls.popleft() + window - self._clock.now()).total_seconds()
                if seconds > 0:
                    words = "waiting, as this source takes only so many calls"
                    log.info(words, extra={"source": self._source.name, "seconds": f"{seconds:.0f}"})
                    self._run.write_calls()
                    self._clock.sleep(seconds)
        self._note(path, self._clock.now())

    def _note(self, path: str, at: datetime) -> None:
        for group in self._groups(path):
            self._calls[group].append(at)

    def _groups(self, path: str) -> list[RateGroup]:
        return [group for group in self._source.groups if path.startswith(group.paths)]


def _may_pass(answer: _Answer) -> bool:
    """Tell whether asking again may help: nothing came, not JSON came, or the server had trouble of its own."""
    return answer.status is None or answer.status >= 500 or answer.status == 200


def _advice(answer: _Answer) -> float:
    """Return how long a 429 asks to wait, by its header or its words; seconds."""
    header = answer.headers.get("Retry-After", "")
    found = re.search(r"in (\d+) second", answer.words)
    advice = header if header.isascii() and header.isdecimal() else found[1] if found else ""
    return float(advice[:9]) if advice else WAIT_WITHOUT_ADVICE_SECONDS


def _shown(value: Any) -> str:
    return printable(repr(value), 100)
