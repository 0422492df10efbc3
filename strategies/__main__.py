"""Runs a strategy: `python -m strategies congressional`."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from alert_round import run_worker
from command_line import EXIT_DONE, EXIT_FAILED, add_test_mode, show
from config import Settings
from decision_review import FAILURES
from order_life import decimal_text
from parts import PROGRAM_ERRORS
from strategies import STRATEGIES
from strategies.plan import Plan
from strategies.run import StrategyRun
from strategies.signals import Signal
from tables import print_table

HEADINGS = ("Symbol", ">Strength", ">Sure", "Who bought", ">Shares", ">Limit", ">Stop", ">Target", "What")


def main(argv: list[str] | None = None) -> int:
    """Do one run and return the exit status: 1 when it could not do its work, 2 for settings or arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m strategies", allow_abbrev=False,
        description="Decide on disclosures and carry the decisions out, strongest first.",
    )
    parser.add_argument("strategy", choices=sorted(STRATEGIES), help="who decides")
    words = "say what would be done; write and send nothing"
    parser.add_argument("--plan-only", action="store_true", dest="dry_run", help=words)
    add_test_mode(parser)
    return run_worker(parser, argv, _work, PROGRAM_ERRORS)


def _work(options: argparse.Namespace, settings: Settings) -> int:
    with closing(StrategyRun(STRATEGIES[options.strategy], options.test_mode, settings=settings)) as strategy:
        if options.dry_run:
            plan, waiting = strategy.preview()
            print_plan(plan, "would be bought")
            show("\n".join(waiting))
            return EXIT_DONE
        plan, results = strategy.run()
        refusals = strategy.refusals()
    print_plan(plan, "decided")
    show(", ".join(f"{result}: {count}" for result, count in sorted(results.items())))
    show("\n".join(refusals))
    return EXIT_FAILED if any(results[result] for result in FAILURES) else EXIT_DONE


def print_plan(plan: Plan, done: str) -> None:
    """Print a plan as a table; `done` says what becomes of the planned signals."""
    name = f"{plan.strategy.name} {plan.strategy.version}"
    if not plan.planned and not plan.skipped:
        show(f"{name}: no signals in what was disclosed in the last {plan.strategy.look_back_days} days.")
        return
    print_table(f"{name}, as of {plan.as_of:%Y-%m-%d %H:%M} UTC", HEADINGS, _rows(plan, done))


def _rows(plan: Plan, done: str) -> Iterator[tuple[Any, ...]]:
    for planned in plan.planned:
        signal, levels = planned.signal, planned.levels
        prices = (decimal_text(price) for price in (levels.limit, levels.stop, levels.target))
        yield (*_who(signal), planned.trade.qty, *prices, done)
    for skipped in plan.skipped:
        yield (*_who(skipped.signal), None, None, None, None, f"left alone: {skipped.reason}")


def _who(signal: Signal) -> tuple[Any, ...]:
    return signal.symbol, signal.strength, signal.confidence, ", ".join(signal.people)


if __name__ == "__main__":
    sys.exit(main())
