"""The metrics of Prometheus: what the tables hold, in one file, under names that the dashboard uses."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from alert_round import look_after_alerts
from audit_trail import AlertKind, AlertLevel, raise_alert
from clock import ManualClock
from config import load_settings
from db_layer import TradingDB
from metrics import Metric, collect, write_metrics

NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
DASHBOARD = Path(__file__).resolve().parents[2] / "deployment" / "grafana-dashboard.json"
LINE = re.compile(r'[a-z_]+(\{[a-z]+="[^"\n]*"(,[a-z]+="[^"\n]*")*\})? -?[0-9.eE+-]+')
ADD_JOB = """
INSERT INTO audit.job_runs (job_name, due_at, started_at, ended_at, status)
VALUES ('order_monitor', %(at)s, %(at)s, %(at)s::timestamptz + interval '2.5 seconds', %(status)s)
"""
ADD_CALLS = """
INSERT INTO audit.api_call_logs (endpoint, http_status_code, rate_limit_remaining, created_at)
VALUES ('GET /v2/orders', 200, 190, %(at)s), ('GET /v2/orders', 503, NULL, %(at)s)
"""


@pytest.fixture
def books(db: TradingDB) -> TradingDB:
    db.execute_update(ADD_JOB, {"at": NOW - timedelta(minutes=10), "status": "failed"})
    db.execute_update(ADD_JOB, {"at": NOW - timedelta(minutes=5), "status": "done"})
    db.execute_update(ADD_CALLS, {"at": NOW - timedelta(minutes=5)})
    raised = NOW - timedelta(seconds=90)
    raise_alert(db, AlertLevel.CRITICAL, AlertKind.UNPROTECTED_POSITION, "NVDA-1", "no stop", raised)
    return db


def samples(metrics: list[Metric]) -> dict[str, object]:
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for metric in metrics for line in metric.lines()
            if not line.startswith("#")}


def test_the_metrics_say_what_the_tables_hold(books: TradingDB) -> None:
    found = samples(collect(books, NOW))
    assert {name: found[name] for name in found if "job" in name or "api" in name or "unprotected" in name} == {
        "trading_unprotected_seconds": 90,
        'trading_job_duration_seconds{job="order_monitor"}': 2.5,
        'trading_job_ended_timestamp_seconds{job="order_monitor"}': (NOW - timedelta(seconds=297.5)).timestamp(),
        'trading_job_done{job="order_monitor"}': 1,
        'trading_api_calls_last_hour{other="broker"}': 2,
        'trading_api_errors_last_hour{other="broker"}': 1,
        'trading_api_calls_left{other="broker"}': 190,
    }
    assert (found['trading_alerts_open{level="critical"}'], found['trading_state{state="ACTIVE"}']) == (1, 1)
    assert (found['trading_orders{status="unknown"}'], found["trading_fills_total"]) == (0, 0)


def test_a_run_that_is_due_in_the_future_hides_none(books: TradingDB) -> None:
    row = {"job_name": "order_monitor", "status": "done", "due_at": NOW + timedelta(days=400), "ended_at": NOW}
    books.insert("job_runs", row | {"started_at": NOW})
    assert samples(collect(books, NOW))['trading_job_duration_seconds{job="order_monitor"}'] == 2.5


def test_the_file_is_replaced_at_once_and_is_in_the_text_format(books: TradingDB, tmp_path: Path) -> None:
    path = tmp_path / "trading.prom"
    path.write_text("what was there before")
    before = path.stat().st_ino
    write_metrics(books, str(path), NOW)
    assert path.stat().st_ino != before
    assert [entry.name for entry in tmp_path.iterdir()] == ["trading.prom"]
    lines = path.read_text().splitlines()
    assert [line for line in lines if not line.startswith(("# HELP ", "# TYPE ")) and not LINE.fullmatch(line)] == []


def test_hostile_names_stay_inside_their_quotes() -> None:
    (*_, line) = Metric("m", "help", [({"job": 'a"} 1\n\\'}, 1)]).lines()
    assert line == 'm{job="a\\"} 1\\n\\\\"} 1'


def test_the_dashboard_asks_for_every_metric_and_for_no_other(untouched: TradingDB) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {name for panel in panels for target in panel["targets"]
             for name in re.findall(r"trading_[a-z_]+", target["expr"])}
    assert asked == {metric.name for metric in collect(untouched, NOW)}


def test_they_are_written_when_a_programs_work_is_over_and_nowhere_else(
    books: TradingDB, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    settings = dataclasses.replace(load_settings(True, {}), metrics_file=str(tmp_path / "trading.prom"))
    look_after_alerts(books, settings, ManualClock(NOW))
    assert "trading_fills_total 0\n" in (tmp_path / "trading.prom").read_text()
    nowhere = dataclasses.replace(settings, metrics_file=str(tmp_path / "missing" / "trading.prom"))
    look_after_alerts(books, nowhere, ManualClock(NOW))
    assert caplog.messages[-1] == "METRICS_FILE could not be written"


def test_two_threads_that_write_them_do_not_meet(
    books: TradingDB, database: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, chmod, others = tmp_path / "trading.prom", Path.chmod, list[threading.Thread]()

    def write_another() -> None:
        with TradingDB(config=database) as db:
            write_metrics(db, str(path), NOW)

    def meanwhile(fresh: Path, mode: int) -> None:
        chmod(fresh, mode)
        if not others:
            others.append(threading.Thread(target=write_another))
            others[0].start()
            others[0].join(20)

    monkeypatch.setattr(Path, "chmod", meanwhile)
    write_metrics(books, str(path), NOW)
    assert [entry.name for entry in tmp_path.iterdir()] == ["trading.prom"]
