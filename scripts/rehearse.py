"""Plays the world around test mode: writes an approved decision, moves a price at the local paper broker."""

import argparse
import json
import re
import sys
from contextlib import closing
from decimal import Decimal, InvalidOperation
from pathlib import Path
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import requirements_check  # noqa: F401 isort: skip

import requests

import local_broker
from clock import SystemClock
from command_line import EXIT_DONE, EXIT_FAILED, run_program, show
from config import Settings
from environment import ConfigError
from order_life import decimal_text
from parts import PROGRAM_ERRORS, build_parts

HIGHEST = 1_000_000_000
ADD_DECISION = """
INSERT INTO analysis_decision ("Analysis_Id", "Date_time", "Ticker", "Decision", "Approve", executed)
VALUES (%(id)s, %(now)s::timestamptz AT TIME ZONE %(zone)s, %(symbol)s, %(decision)s, true, false)
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.set_defaults(test_mode=True)
    commands = parser.add_subparsers(dest="command", required=True)
    decide = commands.add_parser("decide", help="write an approved NEW_TRADE decision into the test database")
    decide.add_argument("--symbol", type=_symbol, default="NVDA")
    decide.add_argument("--qty", type=_number, default=Decimal(45))
    decide.add_argument("--limit", type=_number, default=Decimal("133.80"), help="limit price, dollars")
    decide.add_argument("--stop", type=_number, default=Decimal("124.00"), help="stop price, dollars")
    decide.add_argument("--target", type=_number, default=Decimal("145.50"), help="target price, dollars")
    price = commands.add_parser("price", help="set the price of a symbol at the local paper broker")
    price.add_argument("symbol", type=_symbol)
    price.add_argument("price", type=_number)
    work = {"decide": _decide, "price": _price}
    return run_program(
        parser, argv, lambda options, settings: work[options.command](options, settings), PROGRAM_ERRORS,
    )


def _decide(options: argparse.Namespace, settings: Settings) -> int:
    name = f"REHEARSAL-{uuid4().hex[:8]}"
    # Written by hand because json would turn the decimals into floats.
    levels = f'"stop_loss": {{"stop_price": {options.stop:f}}}, "take_profit": {{"limit_price": {options.target:f}}}'
    decision = (
        f'{{"symbol": {json.dumps(options.symbol)}, "primary_action": "NEW_TRADE", "new_trade": {{"strategy": "SWING", '
        f'"qty": {options.qty:f}, "side": "buy", "limit_price": {options.limit:f}, {levels}}}}}'
    )
    with closing(build_parts(test_mode=True, settings=settings)) as parts:
        parts.db.execute_update(ADD_DECISION, {
            "id": name, "now": SystemClock().now(), "zone": settings.analysis_timezone.key, "symbol": options.symbol,
            "decision": decision,
        })
    show(
        f"{name} is approved: buy {decimal_text(options.qty)} {options.symbol} at {options.limit:f}, "
        f"stop {options.stop:f}, target {options.target:f}.\n"
        "Next: python order_executor.py --test-mode, then python order_monitor.py --test-mode"
        + _how_to_move_the_market(options, settings),
    )
    return EXIT_DONE


def _how_to_move_the_market(options: argparse.Namespace, settings: Settings) -> str:
    if not settings.alpaca.local_broker:
        return f";\nthe broker is {settings.alpaca.base_url}, because ALPACA_BASE_URL is set."
    return f",\nthen move the market: python scripts/rehearse.py price {options.symbol} {options.target:f}"


def _price(options: argparse.Namespace, settings: Settings) -> int:
    if not settings.alpaca.local_broker:
        raise ConfigError("ALPACA_BASE_URL names another broker; only the local paper broker's prices can be set")
    url = local_broker.use(settings.alpaca).base_url
    with requests.Session() as session:
        session.trust_env = False
        prices = {options.symbol: decimal_text(options.price)}
        answer = session.post(f"{url}/control/prices", json=prices, timeout=settings.alpaca.timeout_seconds)
    if answer.status_code != 200:
        print(f"rehearse.py: the paper broker refused: {answer.text.strip()}", file=sys.stderr)
        return EXIT_FAILED
    show(f"{options.symbol} trades at {options.price:f} now.")
    return EXIT_DONE


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or not 0 < number < HIGHEST:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number above zero and below {HIGHEST:,}")
    return number


def _symbol(text: str) -> str:
    symbol = text.strip().upper()
    if not re.fullmatch(r"[A-Z][A-Z0-9]{0,9}([.][A-Z0-9]{1,4})?", symbol):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a symbol such as NVDA")
    return symbol


if __name__ == "__main__":
    sys.exit(main())
