"""Measures the daemon: its start, its memory while nothing happens, and a pass that finds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

from alpaca_client import Broker, Reply, Request
from config import PROJECT_ROOT, load_settings
from db_layer import TradingDB
from order_monitor import OrderMonitor
from paper_broker import PaperBroker, serve
from tests.bench.monitor_pass import BenchError, Measure

PASSES = 30
REST_SECONDS = 5
READY = "scheduler: ready"
MEBIBYTE = 1024


def measure(parameters: Mapping[str, Any]) -> list[Measure]:
    """Return the measures with their limits. Raises BenchError and DatabaseError."""
    with serve(PaperBroker(hours="always")) as server:
        server.broker.set_price("NVDA", Decimal(135))
        ready, resident = _daemon(parameters, server.url)
        settings = load_settings(True, {"ALPACA_BASE_URL": server.url})
        with TradingDB(config=parameters) as db, _TimedBroker(settings.alpaca) as broker:
            own, whole = _idle_passes(OrderMonitor(db=db, broker=broker, settings=settings), broker)
    return [
        Measure("start to first job ready, s", ready, 3, 2),
        Measure("resident memory of the idle daemon, MiB", resident, 160),
        Measure("idle pass of the order monitor besides the broker's time, ms", own, 150, 1),
        Measure("the same with the broker's time, ms", whole, None, 1),
    ]


class _TimedBroker(Broker):
    """Adds up how long its calls take."""

    spent = 0.0

    def _read(self, line: Any, request: Request, *more: Any, **options: Any) -> Any:
        began = perf_counter()
        try:
            return super()._read(line, request, *more, **options)
        finally:
            self.spent += perf_counter() - began

    def send(self, request: Request) -> Reply:
        raise BenchError(f"an idle pass says nothing, and here it said {request}")


def _idle_passes(monitor: OrderMonitor, broker: _TimedBroker) -> tuple[float, float]:
    """Return the median of a pass, ms: our own part, and all of it."""
    own, whole = [], []
    for _ in range(PASSES):
        broker.spent, began = 0.0, perf_counter()
        monitor.run()
        whole.append(1000 * (perf_counter() - began))
        own.append(whole[-1] - 1000 * broker.spent)
    return median(own), median(whole)


def _daemon(parameters: Mapping[str, Any], url: str) -> tuple[float, float]:
    """Start the daemon as a process; return the seconds until its jobs are due and its memory at rest, MiB."""
    environment = {
        "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "ENV_FILE": os.devnull,
        "POSTGRES_HOST": str(parameters["host"]), "POSTGRES_PORT": str(parameters.get("port", 5432)),
        "POSTGRES_DB": str(parameters["dbname"]), "POSTGRES_USER": str(parameters["user"]),
        "ALPACA_API_KEY": "key", "ALPACA_SECRET_KEY": "secret", "ALPACA_BASE_URL": url, "ALPACA_DATA_URL": url,
    }
    command, began = [sys.executable, "scheduler.py"], perf_counter()
    with subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            said = []
            for line in daemon.stderr or ():
                said.append(line)
                if READY in line:
                    break
            else:
                raise BenchError("the daemon ended: " + "".join(said))
            ready = perf_counter() - began
            sleep(REST_SECONDS)
            status = Path(f"/proc/{daemon.pid}/status").read_text()
        finally:
            daemon.terminate()
    (resident,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return ready, resident / MEBIBYTE
