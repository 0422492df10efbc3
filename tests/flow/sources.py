"""Quiver and the site with the members of Congress, on loopback: paged records, and every trouble they can make."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from clock import ManualClock
from config import load_settings
from data_fetch.source_line import SourceError
from data_fetch.tasks import run_task
from db_layer import TradingDB

NOW = datetime(2025, 3, 14, 11, 0, tzinfo=UTC)
KEY = "k3y-of-quiver"
PATIENCE = 0.3  # seconds that our side waits for an answer here
HTML = "<!DOCTYPE html><html><body><h1>Not Found</h1></body></html>"


class Answer:
    """What the server says once instead of the truth."""

    def __init__(
        self, status: int, body: str, headers: Mapping[str, str] | None = None, cut: bool = False, late: bool = False,
    ) -> None:
        self.status, self.body, self.headers, self.cut, self.late = status, body, dict(headers or {}), cut, late


class Sources:
    """What there is to fetch, what goes wrong, and who asked for what."""

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, Any] = {}  # path -> JSON, paged where it is a list and a page is asked for
        self.trouble: deque[Answer] = deque()
        self.asked: list[tuple[str, dict[str, str], str]] = []
        self.over = Event()

    def answer(self, path: str, params: dict[str, str], key: str) -> Answer:
        self.asked.append((path, params, key))
        if self.trouble:
            return self.trouble.popleft()
        if path not in self.files:
            return Answer(404, HTML, {"Content-Type": "text/html"})
        rows = self.files[path]
        if "uploaded" in params:
            day = params["uploaded"]
            rows = [row for row in rows if (row["uploaded"] or "").replace("-", "") == day]
        if "page" in params:
            size = int(params["page_size"])
            first = (int(params["page"]) - 1) * size
            rows = rows[first:first + size]
        return Answer(200, json.dumps(rows))

    def pages(self) -> list[str]:
        """The pages that were asked for, in order."""
        return [params["page"] for _, params, _ in self.asked if "page" in params]


class _Handler(BaseHTTPRequestHandler):
    sources: Sources

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        key = self.headers.get("Authorization", "")
        answer = self.sources.answer(parts.path, dict(parse_qsl(parts.query)), key)
        if answer.late:
            self.sources.over.wait(20)
        body = answer.body.encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) + 99 * answer.cut))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Somebody did not wait for a late answer."""


@contextmanager
def serve_sources() -> Iterator[Sources]:
    sources = Sources()
    handler = type("Handler", (_Handler,), {"sources": sources})
    with _Server(("127.0.0.1", 0), handler) as server:
        sources.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=lambda: server.serve_forever(poll_interval=0.01))
        thread.start()
        try:
            yield sources
        finally:
            sources.over.set()
            server.shutdown()
            thread.join()


class Desk:
    """The tasks as a program runs them, with the programs' rights and a clock of the test's."""

    def __init__(self, db: TradingDB, programs: TradingDB, sources: Sources) -> None:
        self.db, self.sources, self._programs = db, sources, programs
        self.clock = ManualClock(NOW)
        self.settings = load_settings(True, {
            "QUIVER_API_KEY": KEY, "QUIVER_BASE_URL": sources.url, "LEGISLATORS_BASE_URL": sources.url,
        })

    def run(self, task: str = "congress_daily", days_back: int | None = None) -> dict[str, Any]:
        """Do one run and return its row, whatever came of it."""
        run_task(task, self._programs, self.clock, self.settings, days_back, PATIENCE)
        return self.runs()[-1]

    def counts(self, task: str = "congress_daily", days_back: int | None = None) -> tuple[int, ...]:
        """Do one run and return how many records were fetched, created, updated and skipped."""
        row = self.run(task, days_back)
        counted = [row[f"records_{name}"] for name in ("fetched", "created", "updated", "skipped")]
        assert counted[0] == sum(counted[1:])
        return tuple(counted)

    def runs(self) -> list[dict[str, Any]]:
        return sorted(self.db.query("data_ingestion_runs"), key=lambda row: int(row["id"]))

    def trades(self) -> list[dict[str, Any]]:
        return sorted(self.db.query("quiver_trades"), key=lambda row: int(row["id"]))

    def calls(self) -> list[int | None]:
        rows = sorted(self.db.query("api_call_logs"), key=lambda row: int(row["id"]))
        return [row["http_status_code"] for row in rows]

    def refused(self, task: str = "congress_daily") -> str:
        """Do one run that must fail and return its words, which are on the run's row as well."""
        with pytest.raises(SourceError) as failure:
            self.run(task)
        row = self.runs()[-1]
        assert (row["status"], row["error_message"]) == ("failed", str(failure.value))
        assert row["error_details"]["error_class"] in ("SourceError", "NotFoundError")
        return str(failure.value)


def live_record(**changes: Any) -> dict[str, Any]:
    """A trade of an invented member in the live feed."""
    return {
        "Representative": "Ada Example", "BioGuideID": "E000001", "ReportDate": "2025-03-10",
        "TransactionDate": "2025-02-20", "Ticker": "NVDA", "Transaction": "Purchase", "Range": "$15,001 - $50,000",
        "District": "XX01", "House": "Representatives", "Amount": "15001.0", "Party": "D",
        "last_modified": "2025-03-10", "TickerType": "ST", "Description": None, "ExcessReturn": 1.5,
        "PriceChange": 2.5, "SPYChange": 1.0,
    } | changes


def bulk_record(**changes: Any) -> dict[str, Any]:
    """The same trade in the history."""
    return {
        "Ticker": "NVDA", "TickerType": "ST", "Company": "NVIDIA", "Traded": "2025-02-20", "Transaction": "Purchase",
        "Trade_Size_USD": "15001.0", "Status": "New", "Subholding": None, "Description": None, "Name": "Ada Example",
        "BioGuideID": "E000001", "Filed": "2025-03-10", "Party": "D", "District": " XX01",
        "Chamber": "Representatives", "Comments": None, "Quiver_Upload_Time": None, "excess_return": None,
        "State": None, "last_modified": "2025-03-10",
    } | changes


def insider_record(**changes: Any) -> dict[str, Any]:
    """A purchase of an invented director."""
    return {
        "Ticker": "NVDA", "Date": "2025-03-11", "Name": "EXAMPLE ADA", "AcquiredDisposedCode": "A",
        "TransactionCode": "P", "Shares": 100.0, "PricePerShare": 120.5, "SharesOwnedFollowing": 1100.0,
        "fileDate": "2025-03-13", "officerTitle": None, "isDirector": True, "isOfficer": False,
        "isTenPercentOwner": False, "isOther": False, "directOrIndirectOwnership": "D", "uploaded": "2025-03-13",
    } | changes
