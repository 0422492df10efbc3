"""Daemons as processes of their own that may be killed: forked from one that has imported everything already.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime, timedelta
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import apscheduler.schedulers.base

import scheduler
from config import Settings, load_settings
from db_layer import TradingDB
from market_calendar import bundled_session
from paper_market import PaperMarket
from replay import Replay

bundled_session(date(2025, 7, 1))  # read once, for all that are forked

SHORTEST_SLEEP = 0.01


class FastClock:
    """The machine's clock, `speed` times as fast from the moment on that all processes read in a file; still before."""

    def __init__(self, start: datetime, began: Path, speed: float) -> None:
        self._start, self._began, self._speed = start, began, speed
        self._epoch: float | None = None

    def begin(self) -> None:
        """Let time pass for everybody from now on."""
        self._epoch = time.time()
        part = self._began.with_suffix(".part")
        part.write_text(str(self._epoch))
        part.rename(self._began)

    def now(self) -> datetime:
        if self._epoch is None and self._began.exists():
            self._epoch = float(self._began.read_text())
        passed = 0.0 if self._epoch is None else time.time() - self._epoch
        return self._start + timedelta(seconds=passed * self._speed)

    def sleep(self, seconds: float) -> None:
        time.sleep(max(seconds / self._speed, SHORTEST_SLEEP))


def nursery() -> ForkServerContext:
    """What processes are started with: each is forked from one that has imported this module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def settings_for(database: dict[str, Any], url: str, environ: dict[str, str]) -> Settings:
    """Production settings for a test's database and broker."""
    given = {
        "POSTGRES_HOST": str(database["host"]), "POSTGRES_PORT": str(database["port"]),
        "POSTGRES_DB": str(database["dbname"]), "POSTGRES_USER": "trading_app",
        "ALPACA_API_KEY": "key", "ALPACA_SECRET_KEY": "secret", "ALPACA_BASE_URL": url, "ALPACA_DATA_URL": url,
    }
    return load_settings(False, given | environ)


def live_a_day(
    database: dict[str, Any], url: str, environ: dict[str, str], now: datetime, day: date,
    decisions: list[dict[str, Any]],
) -> None:
    """Live through the rest of a day from now on; ends with 1 when books and broker disagree."""
    logging.disable()
    settings = load_settings(True, environ)
    with TradingDB(config=database) as db, closing(Replay(settings, db, PaperMarket(url), now, decisions)) as replay:
        breaches = [breach for told in replay.run(day, day) for breach in told.breaches]
    if breaches:
        sys.exit("; ".join(breaches))


def be_the_daemon(
    database: dict[str, Any], url: str, environ: dict[str, str], clock: FastClock, standby: bool,
) -> None:
    """Be scheduler.py by that clock, which APScheduler is given too."""
    logging.disable()
    fast = type("FastDatetime", (datetime,), {"now": classmethod(lambda _, zone: clock.now().astimezone(zone))})
    apscheduler.schedulers.base.datetime = fast
    table, patient = scheduler.jobs, timedelta(days=1)
    scheduler.jobs = lambda schedule: tuple(replace(job, deadline=patient) for job in table(schedule))
    scheduler.SystemClock = lambda: clock
    os._exit(scheduler._serve(settings_for(database, url, environ), standby))


def ended(process: BaseProcess) -> int | None:
    """Wait a while for the end of a process and return its status, negative for a signal."""
    process.join(20)
    return process.exitcode
