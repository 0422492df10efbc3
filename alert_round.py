"""Looks after the alerts when the work of a program is over: what should be known is raised, then told to people."""

import argparse
import logging
from collections.abc import Callable, Sequence

from alert_watch import watch
from audit_trail.alert_delivery import tell_alerts
from clock import Clock, SystemClock
from command_line import run_program
from config import Settings, get_postgres_config
from db_layer import DatabaseError, TradingDB
from metrics import write_metrics

log = logging.getLogger("alert_round")


def look_after_alerts(db: TradingDB, settings: Settings, clock: Clock) -> None:
    """Raise and close what the tables show, tell people, write the metrics. Raises DatabaseError.

    Takes up to half a minute where channels do not answer, so never to be called while an account is held.
    """
    watch(db, settings, clock.now())
    tell_alerts(db, settings, clock)
    if settings.metrics_file:
        try:
            write_metrics(db, settings.metrics_file, clock.now())
        except OSError as error:
            log.warning("METRICS_FILE could not be written", extra={"error": error})


def run_worker(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, work: Callable[[argparse.Namespace, Settings], int],
    foreseeable: tuple[type[Exception], ...] = (),
) -> int:
    """Do work as run_program does, and look after the alerts when it is over, well or not; return the exit status."""

    def work_and_tell(options: argparse.Namespace, settings: Settings) -> int:
        try:
            status = work(options, settings)
        except DatabaseError:
            raise
        except foreseeable:
            _look_after(options, settings)
            raise
        _look_after(options, settings)
        return status

    return run_program(parser, argv, work_and_tell, foreseeable)


def _look_after(options: argparse.Namespace, settings: Settings) -> None:
    """Look after the alerts without changing the result of the work."""
    if getattr(options, "dry_run", False):
        return
    config = get_postgres_config(options.test_mode, settings)
    try:
        with TradingDB(options.test_mode, config, settings.postgres.schema, "alerts") as db:
            look_after_alerts(db, settings, SystemClock())
    except DatabaseError as error:
        log.warning("alerts could not be looked after", extra={"error": error})
    except Exception:  # a mistake of ours about alerts must not look like one about trades
        log.exception("alerts could not be looked after")
