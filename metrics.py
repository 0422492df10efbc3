"""Metrics for Prometheus, as text: what the tables say of orders, protection, runs, calls and alerts."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from daily_loss import day_pnl
from db_layer import TradingDB

ORDERS = "SELECT order_status, count(*) AS orders FROM order_execution GROUP BY order_status"
POSITIONS = """
SELECT (SELECT count(*) FROM order_fill) AS fills,
       (SELECT count(*) FROM trade_journal WHERE status = 'POSITION') AS positions,
       (SELECT COALESCE((SELECT state FROM audit.trading_control ORDER BY id DESC LIMIT 1), 'ACTIVE')) AS state
"""
JOBS = """
SELECT DISTINCT ON (job_name) job_name, extract(epoch FROM ended_at) AS ended,
       extract(epoch FROM ended_at - started_at) AS seconds, (status = 'done')::integer AS done
FROM audit.job_runs WHERE ended_at IS NOT NULL AND due_at > %(since)s AND due_at <= %(now)s
ORDER BY job_name, due_at DESC
"""
# The log is long and in the order of time, so its end is enough.
CALLS = """
SELECT CASE WHEN data_ingestion_run_id IS NULL THEN 'broker' ELSE 'sources' END AS other,
       count(*) AS calls, count(*) FILTER (WHERE http_status_code IS NULL OR http_status_code IN (408, 429)
                                           OR http_status_code >= 500) AS failed,
       (array_agg(rate_limit_remaining ORDER BY id DESC)
           FILTER (WHERE rate_limit_remaining IS NOT NULL))[1] AS remaining
FROM (SELECT * FROM audit.api_call_logs ORDER BY id DESC LIMIT 20000) call
WHERE created_at > %(since)s GROUP BY 1
"""
ALERTS = """
SELECT level, count(*) FILTER (WHERE resolved_at IS NULL) AS open,
       COALESCE(sum(extract(epoch FROM %(now)s - first_seen_at))
           FILTER (WHERE resolved_at IS NULL AND kind = 'unprotected_position'), 0) AS unprotected
FROM audit.alerts WHERE resolved_at IS NULL GROUP BY level
"""
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
STATUSES = (
    "intended", "unknown", "pending", "partially_filled", "filled", "cancelled", "expired", "rejected", "replaced",
)
LEVELS = ("info", "warning", "critical")
STATES = ("ACTIVE", "REDUCING", "HALTED")


@dataclass(frozen=True)
class Metric:
    """A metric with its samples, each a value under labels."""

    name: str
    help: str
    samples: Sequence[tuple[dict[str, str], object]]

    def lines(self) -> Iterator[str]:
        """Yield the lines of the text format."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {'counter' if self.name.endswith('_total') else 'gauge'}"
        for labels, value in self.samples:
            inside = ",".join(f'{name}="{_escaped(word)}"' for name, word in labels.items())
            yield f"{self.name}{{{inside}}} {value}" if inside else f"{self.name} {value}"


def collect(db: TradingDB, now: datetime) -> list[Metric]:
    """Return all metrics as the tables are now. Raises DatabaseError."""
    orders = {row["order_status"]: row["orders"] for row in db.execute_query(ORDERS)}
    books = db.execute_query(POSITIONS)[0]
    jobs = db.execute_query(JOBS, {"since": now - 40 * DAY, "now": now})
    calls = db.execute_query(CALLS, {"since": now - HOUR})
    alerts = {row["level"]: row for row in db.execute_query(ALERTS, {"now": now})}
    unprotected = sum(row["unprotected"] for row in alerts.values())
    return [
        Metric("trading_orders", "Orders by status.", [({"status": word}, orders.get(word, 0)) for word in STATUSES]),
        Metric("trading_unknown_orders", "Orders whose outcome is unknown.", [({}, orders.get("unknown", 0))]),
        Metric("trading_fills_total", "Executions recorded.", [({}, books["fills"])]),
        Metric("trading_open_positions", "Trades that hold shares.", [({}, books["positions"])]),
        Metric("trading_unprotected_seconds", "For how long positions have had no stop, summed.", [({}, unprotected)]),
        Metric("trading_day_pnl_dollars", "Profit of the US Eastern day.", [({}, day_pnl(db, now))]),
        Metric("trading_state", "1 for the state of the kill switch in force.", [
            ({"state": word}, int(word == books["state"])) for word in STATES
        ]),
        Metric("trading_job_duration_seconds", "How long the last run of a job took.", [
            ({"job": row["job_name"]}, row["seconds"]) for row in jobs if row["seconds"] is not None
        ]),
        Metric("trading_job_ended_timestamp_seconds", "When the last run of a job ended.", [
            ({"job": row["job_name"]}, row["ended"]) for row in jobs
        ]),
        Metric("trading_job_done", "1 when the last run of a job that ended was done, 0 when it was not.", [
            ({"job": row["job_name"]}, row["done"]) for row in jobs
        ]),
        Metric("trading_api_calls_last_hour", "Calls of the last hour that place no order.", [
            ({"other": row["other"]}, row["calls"]) for row in calls
        ]),
        Metric("trading_api_errors_last_hour", "Of these calls, those without a usable answer.", [
            ({"other": row["other"]}, row["failed"]) for row in calls
        ]),
        Metric("trading_api_calls_left", "Calls left in the present minute or hour, as the last answer said.", [
            ({"other": row["other"]}, row["remaining"]) for row in calls if row["remaining"] is not None
        ]),
        Metric("trading_alerts_open", "Open alerts by level.", [
            ({"level": word}, alerts[word]["open"] if word in alerts else 0) for word in LEVELS
        ]),
        Metric("trading_metrics_timestamp_seconds", "When these metrics were written.", [({}, now.timestamp())]),
    ]


def write_metrics(db: TradingDB, path: str, now: datetime) -> None:
    """Put the metrics into a file in one step: no reader sees half of them. Raises DatabaseError and OSError."""
    text = "".join(f"{line}\n" for metric in collect(db, now) for line in metric.lines())
    target = Path(path)
    # Two threads of a daemon write it.
    fresh = target.with_name(f".{target.name}.{threading.get_native_id()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.chmod(0o644)
    fresh.replace(target)


def _escaped(word: str) -> str:
    return word.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
