"""The tasks by name: where each reads, what it does, and one run of it."""

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from audit_trail import IngestionRun, PayloadPolicy, log_data_ingestion
from clock import MARKET_ZONE, Clock
from config import Settings
from data_fetch import legislators, quiver_congress, quiver_insider
from data_fetch.job import QUIVER_GROUPS, Job
from data_fetch.records import Records
from data_fetch.samples import serve_samples
from data_fetch.source_line import TIMEOUT_SECONDS, Source, SourceLine
from db_layer import TradingDB
from environment import ConfigError

log = logging.getLogger("data_fetch")


@dataclass(frozen=True)
class Task:
    """What a run is recorded under, where it reads, and what it does."""

    data_source: str
    source: Callable[[Settings], Source]
    fetch: Callable[[Job], None]


@dataclass(frozen=True)
class Done:
    """A run that completed; `unusable` of its skipped records are in quarantine."""

    run: IngestionRun
    unusable: int


def run_task(
    name: str, db: TradingDB, clock: Clock, settings: Settings, days_back: int | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Done:
    """Do one run of a task; what it recorded is committed also when it fails.

    Raises SourceError, ConfigError, LockTakenError and DatabaseError.
    """
    task = TASKS[name]
    source = task.source(settings)
    policy = PayloadPolicy(settings.use_audit_trail, settings.secrets)
    with ExitStack() as opened:
        if not source.base_url:
            today = clock.now().astimezone(MARKET_ZONE).date()
            source = replace(source, base_url=opened.enter_context(serve_samples(today)))
        with log_data_ingestion(name, task.data_source, db, clock, policy) as run:
            records = Records(db, run, clock)
            line = opened.enter_context(closing(SourceLine(source, run, clock, timeout_seconds)))
            task.fetch(Job(run, line, records, clock, days_back))
    if records.unusable:
        words = "some records cannot be used; audit.quarantined_records has them with the reasons"
        log.warning(words, extra={"records": records.unusable, "run_id": run.run_id})
    return Done(run, records.unusable)


def maintain(job: Job) -> None:
    """Read members, committees and seats, and lift the blocks of symbols whose time is over."""
    legislators.fetch(job)
    lifted = job.records.lift_expired_blocks()
    log.info("blocks of symbols whose time is over were lifted", extra={"symbols": lifted})


def _quiver(settings: Settings) -> Source:
    data = settings.data
    if data.quiver_base_url and not data.quiver_api_key:
        raise ConfigError("QUIVER_API_KEY is not set; put the key of your Quiver account into .env (see .env.example)")
    return Source("Quiver", data.quiver_base_url, QUIVER_GROUPS, data.quiver_api_key, "QUIVER_API_KEY")


def _legislators(settings: Settings) -> Source:
    return Source("the site with the members of Congress", settings.data.legislators_base_url)


TASKS = {
    "congress_daily": Task("quiverquant_congress", _quiver, quiver_congress.fetch),
    "insider_daily": Task("quiverquant_insider", _quiver, quiver_insider.fetch),
    "maintenance_daily": Task("propublica_committees", _legislators, maintain),
}
