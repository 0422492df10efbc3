"""Past days at simulated time: every job at its minute, on a database and a paper broker of their own.

At the end of each day what the books say is held against what the broker says.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from alpaca_client import Broker
from clock import MARKET_ZONE, at_exchange
from command_line import EXIT_DONE, EXIT_FAILED, show
from config import LOCAL_STATE, PROJECT_ROOT, DataSettings, Settings
from db_layer import TradingDB
from environment import ConfigError
from job_runner import JobRunner, NotYetError
from job_table import A_DAY, Lane, Work, due_between, jobs
from market_calendar import MarketCalendar
from paper_market import MarketClock, PaperMarket, own_market
from parts import build_parts
from replay_checks import breaches
from tables import print_table

BUNDLED = PROJECT_ROOT / "demo" / "week"
STATE = LOCAL_STATE / "replay"
LAST_MINUTE = time(23, 59)
FIELDS = ("Analysis_Id", "Date_time", "Ticker", "Approve", "Decision")

ADD_DECISION = """
INSERT INTO analysis_decision ("Analysis_Id", "Date_time", "Ticker", "Approve", "Decision")
VALUES (%(Analysis_Id)s, %(Date_time)s, %(Ticker)s, %(Approve)s, %(Decision)s)
ON CONFLICT DO NOTHING
"""
DAY = """
SELECT
    (SELECT count(*) FROM audit.job_runs WHERE due_at BETWEEN %(since)s AND %(until)s AND status = 'done') AS done,
    (SELECT count(*) FROM audit.job_runs WHERE due_at BETWEEN %(since)s AND %(until)s AND status <> 'done') AS not_done,
    (SELECT count(*) FROM order_execution
     WHERE created_at BETWEEN %(since)s AND %(until)s AND order_type = 'ENTRY') AS entries,
    (SELECT count(*) FROM order_fill WHERE filled_at BETWEEN %(since)s AND %(until)s) AS fills,
    (SELECT count(*) FROM position_tracking) AS positions,
    (SELECT count(*) FROM trade_journal
     WHERE status = 'CLOSED' AND exit_date BETWEEN %(since)s AND %(until)s) AS closed,
    (SELECT COALESCE(sum(actual_pnl), 0) FROM trade_journal
     WHERE status = 'CLOSED' AND exit_date BETWEEN %(since)s AND %(until)s) AS pnl,
    (SELECT count(*) FROM audit.alerts WHERE resolved_at IS NULL) AS alerts
"""
HEADINGS = (
    "Day", "Market", ">Runs", ">Not done", ">Entries", ">Fills", ">Closed", ">P&L in $", ">Positions", ">Open alerts",
)


@dataclass(frozen=True)
class Day:
    """What a replayed day came to; `breaches` say where books and broker disagree."""

    day: date
    market: str
    runs: int
    not_done: int
    entries: int
    fills: int
    closed: int
    pnl: Decimal
    positions: int
    alerts: int
    breaches: tuple[str, ...]


class Replay:
    """Lives through past days. `decisions` are rows of analysis_decision; each is written when its Date_time comes."""

    def __init__(
        self, settings: Settings, db: TradingDB, market: PaperMarket, start: datetime,
        decisions: Sequence[dict[str, Any]] = (),
    ) -> None:
        # Whatever is configured: nothing outside this machine is asked or told, and the bundled disclosures are read.
        alpaca = replace(settings.alpaca, base_url=market.url, data_url=market.url, account_number="")
        settings = replace(
            settings, alpaca=alpaca, data=DataSettings("", "", ""),
            messages=replace(settings.messages, alert_urls=(), heartbeat_url=""), metrics_file="",
            audit=replace(settings.audit, anchor_file=STATE / "audit_anchors.txt"),
        )
        self._db = db
        self._calendar = MarketCalendar()
        self._clock = MarketClock(market, start)
        self._zone = settings.analysis_timezone
        self._decisions = sorted(decisions, key=lambda row: str(row["Date_time"]))
        self._broker = Broker(alpaca, clock=self._clock)
        self._checker = Broker(alpaca, clock=self._clock)  # one that records nothing
        work = Work(build_parts(True, db, self._broker, self._clock, settings), self._calendar)
        self.runner = JobRunner(jobs(settings.schedule), self._clock, self._calendar, dict.fromkeys(Lane, work))

    def close(self) -> None:
        """Close the connections to the broker."""
        self._broker.close()
        self._checker.close()

    def run(self, first: date, last: date) -> Iterator[Day]:
        """Live through the days between these two, both included, from the present on; yield each at its end.

        Raises DatabaseError.
        """
        self.runner.begin(self._db)
        day = first
        while day <= last:
            for moment in self._moments(day):
                self._live_until(moment)
            yield self._told(day)
            day += A_DAY

    def _moments(self, day: date) -> list[datetime]:
        """Return when something is due on a day, and the end of it."""
        start, end = at_exchange(day, time()), at_exchange(day, LAST_MINUTE)
        due = {moment for job in self.runner.jobs for moment in due_between(job, self._calendar, start, end)}
        return [*sorted(due), end]

    def _live_until(self, moment: datetime) -> None:
        if moment > self._clock.now():
            self._clock.set(moment)
        while self._decisions and self._decided_at(self._decisions[0]) <= moment:
            row = self._decisions.pop(0)
            self._db.execute_update(ADD_DECISION, {name: row[name] for name in FIELDS})
        for job in self.runner.jobs:
            with suppress(NotYetError):  # looked at again at the next moment
                self.runner.handle(job)

    def _decided_at(self, row: dict[str, Any]) -> datetime:
        return datetime.fromisoformat(row["Date_time"]).replace(tzinfo=self._zone).astimezone(UTC)

    def _told(self, day: date) -> Day:
        since, until = at_exchange(day, time()), at_exchange(day, LAST_MINUTE)
        counts = self._db.execute_query(DAY, {"since": since, "until": until})[0]
        due = [
            (job.name, moment) for job in self.runner.jobs
            for moment in due_between(job, self._calendar, since, until)
        ]
        found = breaches(self._db, self._checker, due)
        return Day(day, self._market(day), runs=counts.pop("done"), breaches=tuple(found), **counts)

    def _market(self, day: date) -> str:
        session = self._calendar.session(day)
        if session is None:
            return "closed"
        return f"{session.opens.astimezone(MARKET_ZONE):%H:%M}-{session.closes.astimezone(MARKET_ZONE):%H:%M}"


def main(settings: Settings, first: date, last: date, folder: Path | None = None) -> int:
    """Replay days from the command line and return the exit status: 1 where books and broker disagree.

    Raises ConfigError and DatabaseError.
    """
    logging.getLogger().setLevel(logging.ERROR)
    folder = folder or BUNDLED
    bars, decisions = _read(folder)
    days = []
    with (
        own_market(STATE, "replay") as (db, market),
        closing(Replay(settings, db, market, at_exchange(first, time()), decisions)) as replay,
    ):
        for content in bars:
            market.add_bars(content)
        for day in replay.run(first, last):
            days.append(day)
            show(f"{day.day:%a %d %b %Y}  market {day.market:11}  {day.runs} runs, {day.fills} fills")
            show("\n".join(f"  WRONG: {breach}" for breach in day.breaches))
    print_table(f"Replay of {first} to {last} with the prices of {folder.name}", HEADINGS, map(_row, days))
    return EXIT_FAILED if any(day.breaches for day in days) else EXIT_DONE


def _row(day: Day) -> tuple[object, ...]:
    return (
        f"{day.day:%a %Y-%m-%d}", day.market, day.runs, day.not_done, day.entries, day.fills, day.closed,
        f"{day.pnl:.2f}", day.positions, day.alerts,
    )


def _read(folder: Path) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Return the contents of the CSV files and the decisions of a folder. Raises ConfigError."""
    try:
        bars = [path.read_bytes() for path in sorted(folder.glob("*.csv"))]
        path = folder / "decisions.json"
        decisions = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        for row in decisions:
            row["Decision"] = json.dumps(row["Decision"])
            datetime.fromisoformat(row["Date_time"])
            row["Ticker"], row["Approve"], row["Analysis_Id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the prices and decisions in {folder} cannot be read: {error!r}") from error
    if not bars:
        raise ConfigError(f"there are no prices (*.csv) in {folder}")
    return bars, decisions
