"""The demo: four invented trading days on an embedded PostgreSQL and the local paper broker, from decisions to P&L."""

import argparse
import fcntl
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import requirements_check  # noqa: F401 isort: skip

import requests

import embedded_postgres
from alpaca_client import Broker
from audit_trail.commands.tracing import print_chain
from audit_trail.trace import chain, find_decisions
from clock import MARKET_ZONE, ManualClock
from command_line import EXIT_DONE, run_program, show
from config import LOCAL_STATE, PROJECT_ROOT, ConfigError, Settings, load_settings
from db_layer import DatabaseError, TradingDB
from order_executor import OrderExecutor
from order_monitor import OrderMonitor
from parts import PROGRAM_ERRORS
from position_monitor import PositionMonitor
from tables import print_table

INPUT = PROJECT_ROOT / "demo"
STATE = LOCAL_STATE / "demo"
DAYS = (date(2025, 6, 2), date(2025, 6, 3), date(2025, 6, 4), date(2025, 6, 5))
PASS_TIMES = [time(9, 45)] + [time(hour, 5) for hour in range(10, 17)] + [time(18)]
TRACED = "DEMO-1"

ADD_DECISION = """
INSERT INTO analysis_decision ("Analysis_Id", "Date_time", "Ticker", "Decision", "Approve")
VALUES (%(id)s, %(at)s, %(ticker)s, %(decision)s, %(approve)s)
"""
DECISIONS = """
SELECT analysis."Analysis_Id" AS id, analysis."Ticker" AS ticker, analysis."Approve" AS approved,
       COALESCE(decision.status, 'not touched') AS status,
       COALESCE(decision.status_reason, analysis."Remarks", '') AS reason
FROM analysis_decision analysis
LEFT JOIN audit.trade_decisions decision ON decision.analysis_decision_id = analysis."Analysis_Id"
ORDER BY analysis."Analysis_Id"
"""
TRADES = """
SELECT symbol, trade_style, status, trim_scale(actual_qty) AS qty, trim_scale(actual_entry) AS entry,
       trim_scale(exit_price) AS exit, exit_reason, round(actual_pnl, 2) AS pnl
FROM trade_journal ORDER BY id
"""
POSITIONS = """
SELECT position.symbol, position.side, trim_scale(position.qty) AS qty, trim_scale(position.avg_entry_price) AS entry,
       trim_scale(position.current_price) AS price, round(position.unrealized_pnl, 2) AS pnl,
       trim_scale(orders.stop_price) AS stop, orders.broker_status
FROM position_tracking position
LEFT JOIN order_execution orders ON orders.alpaca_order_id = position.stop_loss_order_id
ORDER BY position.symbol
"""


def main(argv: list[str] | None = None) -> int:
    """Run the demo and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.set_defaults(test_mode=True)
    return run_program(parser, argv, _work, PROGRAM_ERRORS)


def _work(_options: argparse.Namespace, _settings: Settings) -> int:
    logging.getLogger().setLevel(logging.WARNING)
    try:
        STATE.mkdir(parents=True, exist_ok=True)
        lock = (STATE / "users.lock").open("a")
    except OSError as error:
        raise ConfigError(f"the demo keeps its state in {STATE}, which cannot be written: {error.strerror}") from error
    with lock as alone:
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatabaseError("another demo is running; wait for its end") from None
        _run()
    return EXIT_DONE


def _run() -> None:
    shutil.rmtree(STATE / "postgres", ignore_errors=True)
    show("Starting an embedded PostgreSQL and the local paper broker with invented prices ...")
    database = embedded_postgres.connection_parameters(STATE / "postgres")
    with TradingDB(config=database, application_name="demo") as db, _paper_broker() as url:
        db.create_schema(test_mode=True)
        _add_decisions(db)
        _control(url, "clock", json={"now": datetime.combine(DAYS[0], time(9), MARKET_ZONE).isoformat()})
        _control(url, "bars", data=(INPUT / "prices.csv").read_bytes())
        settings = load_settings(True, {"ALPACA_BASE_URL": url})
        with Broker(settings.alpaca) as broker:
            _trade(db, broker, settings, url)
        _tell(db)
    show(
        "\nThe database stays for a look of your own:\n"
        f"  .venv/bin/python -m embedded_postgres {STATE.relative_to(PROJECT_ROOT)}/postgres\n"
        "  trading=> TABLE trade_journal;\n"
        "Everything said to and heard from the broker is in audit.api_payloads, the tables are described by \\d+.",
    )


@contextmanager
def _paper_broker() -> Iterator[str]:
    # The lock is the demo's as long as it lives; without it the broker ends by itself.
    command = [sys.executable, "-m", "paper_broker", "--users-lock", str(STATE / "users.lock")]
    with subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            yield line[line.index("http://"):].strip()
        finally:
            process.terminate()


def _add_decisions(db: TradingDB) -> None:
    for number, row in enumerate(json.loads((INPUT / "decisions.json").read_text(encoding="utf-8"))):
        db.execute_update(ADD_DECISION, {
            "id": row["Analysis_Id"], "ticker": row["Ticker"], "decision": json.dumps(row["Decision"]),
            "approve": row["Approve"], "at": datetime.combine(DAYS[0], time(12)) + timedelta(minutes=number),
        })


def _trade(db: TradingDB, broker: Broker, settings: Settings, url: str) -> None:
    """Live through the days: the executor once in the morning, the monitors through the day and after the close."""
    clock = ManualClock(datetime.combine(DAYS[0], time(9), MARKET_ZONE))
    executor = OrderExecutor(db=db, broker=broker, clock=clock, settings=settings)
    orders = OrderMonitor(db=db, broker=broker, clock=clock, settings=settings)
    positions = PositionMonitor(db=db, broker=broker, clock=clock, settings=settings)
    show("")
    for moment in (datetime.combine(day, at, MARKET_ZONE) for day in DAYS for at in PASS_TIMES):
        _control(url, "clock", json={"now": moment.isoformat()})
        clock.set(moment)
        if moment.time() == PASS_TIMES[0]:
            _report(moment, "executor", executor.run())
        _report(moment, "order monitor", orders.run())
        positions.run()


def _control(url: str, what: str, **content: Any) -> None:
    """Tell the paper broker the time or the prices of the days to come."""
    with requests.Session() as session:
        session.trust_env = False
        session.post(f"{url}/control/{what}", timeout=10, **content).raise_for_status()


def _report(moment: datetime, who: str, counts: dict[object, int] | object) -> None:
    if isinstance(counts, dict) and any(counts.values()):
        what = ", ".join(f"{name}: {count}" for name, count in counts.items() if count)
        show(f"{moment:%a %d %b %H:%M} ET  {who:14} {what}")


def _tell(db: TradingDB) -> None:
    show("")
    _print(db, "What became of each decision", DECISIONS, ("Decision", "Ticker", "Approved", "Status", "Why"))
    _print(db, "Trades", TRADES, (
        "Symbol", "Style", "Status", ">Shares", ">Entry", ">Exit", "Exit reason", ">P&L in $",
    ))
    _print(db, "Positions still open, each with its stop at the broker", POSITIONS, (
        "Symbol", "Side", ">Shares", ">Entry", ">Price", ">Unrealised P&L in $", ">Stop", "Stop order is",
    ))
    print_chain(TRACED, chain(db, find_decisions(db, TRACED)[0]))


def _print(db: TradingDB, title: str, statement: str, headings: tuple[str, ...]) -> None:
    print_table(title, headings, [tuple(row.values()) for row in db.execute_query(statement)])


if __name__ == "__main__":
    sys.exit(main())
