"""Ingestion runs: what is written when, and what is left of a run that fails or is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from audit_trail import IngestionRun, Operation, PayloadPolicy, log_data_ingestion
from clock import ManualClock
from db_layer import DatabaseError, TradingDB
from session_locks import LockTakenError

PROJECT = Path(__file__).resolve().parents[2]
NOW = datetime(2025, 3, 14, 11, 0, tzinfo=UTC)
KEY = "k3y-of-quiver"
TASK = ("congress_daily", "quiverquant_congress")
END = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = %(name)s
"""
KILLED = """
import sys, time
from datetime import UTC, datetime
from audit_trail import Operation, log_data_ingestion
from clock import SystemClock
from db_layer import TradingDB
host, port, dbname = sys.argv[1:]
with TradingDB(config={"host": host, "port": int(port), "dbname": dbname, "user": "trading_app"},
               application_name="killed") as db:
    with log_data_ingestion("congress_daily", "quiverquant_congress", db, SystemClock()) as run:
        run.log_call("/beta/live", {}, 200, {}, "[]", 5)
        run.write_calls()
        run.log_records("quiver_trades", {Operation.CREATED: [1, 2]})
        print("ready", flush=True)
        time.sleep(60)
"""


class WorkError(Exception):
    """A failure of the work."""


@pytest.fixture
def programs(database: dict[str, Any]) -> Iterator[TradingDB]:
    """The connection of the programs, under their role."""
    with TradingDB(config=database | {"user": "trading_app"}, application_name="ingestion") as programs:
        yield programs


def runs(db: TradingDB) -> list[dict[str, Any]]:
    return sorted(db.query("data_ingestion_runs"), key=lambda row: int(row["id"]))


def called(run: IngestionRun, body: str = "[1]", status: int | None = 200, error: str | None = None) -> None:
    run.log_call("/beta/live", {"page": "1"}, status, {"Retry-After": "9"}, body, 12, error, 7)


def test_a_run_is_written_before_its_work_and_keeps_what_it_did(db: TradingDB, programs: TradingDB) -> None:
    clock = ManualClock(NOW)
    with log_data_ingestion(*TASK, programs, clock, PayloadPolicy(True, (KEY,))) as run:
        (row,) = runs(db)
        assert (row["status"], row["started_at"], row["task_name"], row["data_source"]) == ("running", NOW, *TASK)
        called(run, f'["{KEY}"]')
        called(run, f"not JSON {KEY}", None, f"refused {KEY}")
        run.log_records(
            "quiver_trades", {Operation.CREATED: [1, 2], Operation.UPDATED: [3]}, dates=[date(2025, 3, 2)],
        )
        run.log_records(
            "quiver_trades", {Operation.SKIPPED: [1, 4]}, repeats=3, dates=[date(2025, 3, 1), date(2025, 3, 9)],
        )
        clock.sleep(2)
    (row,) = runs(db)
    assert (row["status"], row["completed_at"], row["run_id"]) == ("completed", NOW + timedelta(seconds=2), run.run_id)
    counted = [row[f"records_{name}"] for name in ("fetched", "created", "updated", "skipped")]
    assert counted == [8, 2, 1, 5]
    assert (row["data_date_start"], row["data_date_end"]) == (date(2025, 3, 1), date(2025, 3, 9))
    # A record that one run creates and sees again stays created.
    done = {(record["record_id"], record["operation"]) for record in db.query("data_ingestion_run_records")}
    assert done == {(1, "created"), (2, "created"), (3, "updated"), (4, "skipped")}
    calls = sorted(db.query("api_call_logs"), key=lambda row: int(row["id"]))
    assert [(call["data_ingestion_run_id"], call["endpoint"], call["http_status_code"], call["duration_ms"],
             call["rate_limit_remaining"]) for call in calls] == [
        (run.id, "GET /beta/live", 200, 12, 7), (run.id, "GET /beta/live", None, 12, 7),
    ]
    payloads = {row["id"]: row for row in db.query("api_payloads")}
    heard = [payloads[call["api_response_payload_id"]]["payload"] for call in calls]
    assert [(answer["body"], answer["error"]) for answer in heard] == [
        (["[redacted]"], None), ("not JSON [redacted]", "refused [redacted]"),
    ]
    assert {row["source"] for row in payloads.values()} == {"quiverquant_congress"}


def test_a_failed_run_keeps_its_calls_and_says_where_it_failed(db: TradingDB, programs: TradingDB) -> None:
    def deep(depth: int) -> None:
        if depth == 0:
            raise WorkError(f"the key {KEY} broke\x00")
        deep(depth - 1)

    @log_data_ingestion(*TASK, programs, ManualClock(NOW), PayloadPolicy(True, (KEY,)))
    def work(run: IngestionRun, depth: int) -> None:
        called(run)
        deep(depth)

    for depth in (20, 0):
        with pytest.raises(WorkError, match=KEY):
            work(depth)
    first, second = runs(db)
    assert (first["status"], first["failed_at"], first["completed_at"]) == ("failed", NOW, None)
    assert first["error_message"] == "the key [redacted] broke\\x00"
    assert (first["error_details"]["error_class"], first["error_details"]["message"]) == (
        "WorkError", first["error_message"],
    )
    stack = first["error_details"]["stack"]
    assert len(stack) == 10
    assert "in deep: raise WorkError" in stack[0]
    assert len(second["error_details"]["stack"]) < 10
    assert [call["data_ingestion_run_id"] for call in db.query("api_call_logs")] == [first["id"], second["id"]]


def test_a_killed_run_is_found_by_the_next_one_of_its_task(
    db: TradingDB, database: dict[str, Any], programs: TradingDB,
) -> None:
    where = [str(database[name]) for name in ("host", "port", "dbname")]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *where], cwd=PROJECT, stdout=subprocess.PIPE, text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with (
            pytest.raises(LockTakenError, match="does the same task"),
            log_data_ingestion(*TASK, programs, ManualClock(NOW)),
        ):
            pass
        with log_data_ingestion("insider_daily", "quiverquant_insider", programs, ManualClock(NOW)):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [row["status"] for row in runs(db)] == ["running", "completed"]
    db.execute_query(END, {"name": "killed"})  # waits until the server has noticed that nobody is there
    with log_data_ingestion(*TASK, programs, ManualClock(NOW)):
        pass
    killed = runs(db)[0]
    assert (killed["status"], killed["failed_at"], killed["error_details"]) == (
        "failed", NOW, {"error_class": "ProcessEnded"},
    )
    assert (killed["records_fetched"], killed["records_created"]) == (2, 2)
    assert len([call for call in db.query("api_call_logs") if call["data_ingestion_run_id"] == killed["id"]]) == 1


def test_a_run_whose_database_goes_away_fails_and_says_so(db: TradingDB, programs: TradingDB) -> None:
    @log_data_ingestion(*TASK, programs, ManualClock(NOW))
    def work(run: IngestionRun) -> None:
        called(run)
        db.execute_query(END, {"name": "ingestion"})
        run.write_calls()

    with pytest.raises(DatabaseError, match="keeps other programs off"):
        work()
    (row,) = runs(db)
    assert (row["status"], row["error_details"]["error_class"]) == ("failed", "DatabaseError")
    assert len(db.query("api_call_logs")) == 1
