"""The kill switch: halt, reduce, resume or flatten trading, raise a limit for a while, and see what stands."""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import requirements_check  # noqa: F401 isort: skip

from alpaca_client import BrokerError
from clock import SystemClock
from command_line import EXIT_DONE, EXIT_FAILED, add_test_mode, all_settings, operator, run_guarded, show
from config import Limits, Settings, load_database_settings, load_settings
from daily_loss import day_pnl
from db_layer import DatabaseError, Row, TradingDB
from environment import ConfigError
from flattening import Flattening, Left
from kill_switch import TradingState, alert_control, current_control, write_control
from limit_raises import RAISABLE, current_raises, limits_in_force, raise_limit
from log_setup import printable
from order_life import decimal_text
from order_monitor import OrderMonitor
from parts import PROGRAM_ERRORS, build_parts, open_database
from risk_checks import loss_words
from standing import Standing, what_stands
from tables import print_table
from trade import Trade

NAME = "trading_control"
LONGEST_REASON = 500
WIDTH = 79
MOST_DIGITS = 12
LONGEST_MESSAGE = 300
STATES = {
    "halt": TradingState.HALTED, "reduce": TradingState.REDUCING, "resume": TradingState.ACTIVE,
    "flatten": TradingState.HALTED,
}
HELP = {
    "status": "show the switch, and what stands by our books; the broker is not asked",
    "halt": "send no new entries; cancels, stops, targets and exits go on",
    "reduce": "exits only: send no new entries, and cancel those that rest at the broker",
    "resume": "send entries again",
    "flatten": "halt, cancel resting entries, and close every position of ours at market",
    "raise": "raise a limit for some hours",
}
# They load no more settings than they use: a slip in another one must not keep anybody from halting.
DATABASE_ONLY = ("status", "halt", "resume")
FLATTEN_NOTE = "Until resume or halt, every pass of order_monitor.py goes on with it."
UNFINISHED_NOTE = "Orders may be under way: run order_monitor.py until status shows no position and no unknown order."


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    return run_guarded(build_parser(), argv, _work, PROGRAM_ERRORS)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add_test_mode(parser)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in HELP.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        if name == "raise":
            command.add_argument("name", metavar="NAME", help=f"one of {', '.join(sorted(RAISABLE))}")
            command.add_argument("value", metavar="VALUE", type=_number)
            command.add_argument(
                "--for", metavar="HOURS", dest="hours", type=_number, required=True, help="at most 168, a week",
            )
        if name != "status":
            command.add_argument(
                "--reason", metavar="TEXT", type=_reason, required=True,
                help=f"kept with the change; at most {LONGEST_REASON} characters",
            )
        add_test_mode(command, default=argparse.SUPPRESS)
    return parser


def _work(options: argparse.Namespace) -> int:
    if options.command in DATABASE_ONLY:
        with open_database(options.test_mode, load_database_settings(options.test_mode), NAME) as db:
            return _status(db, _limits(options.test_mode)) if options.command == "status" else _switch(db, options)
    settings = all_settings(options.test_mode)
    with open_database(options.test_mode, settings, NAME) as db:
        if options.command == "raise":
            return _raise(db, options, settings)
        _switch(db, options)
        if options.command == "reduce":
            return _reduce(db, options.test_mode, settings)
        show(FLATTEN_NOTE)
        try:
            return _flatten(db, options.test_mode, settings)
        except (KeyboardInterrupt, SystemExit):
            show(UNFINISHED_NOTE)
            raise


def _switch(db: TradingDB, options: argparse.Namespace) -> int:
    """Turn the switch first: whoever is at the alerts holds up the alert about it only."""
    before, flatten = current_control(db), options.command == "flatten"
    change = STATES[options.command], options.reason, operator(), SystemClock().now(), flatten
    with db.transaction():
        write_control(db, *change)
    state = STATES[options.command]
    show(f"Trading stays {state}." if state == before.state else f"Trading is {state} now; it was {before.state}.")
    try:
        with db.transaction():
            alert_control(db, *change)
    except DatabaseError as error:
        show(f"The alert about it could not be written: {error}")
    if before.flatten and not flatten:
        show("Flattening is called off: the next pass of order_monitor.py protects what is left.")
        show(UNFINISHED_NOTE)
    if options.command == "resume":
        _say_what_reduces_again(db, _limits(options.test_mode))
    return EXIT_DONE


def _limits(test_mode: bool) -> Limits | None:
    """Return the limits of the settings, or None where a slip in these makes them unknown, which stops nobody."""
    try:
        return load_settings(test_mode).limits
    except ConfigError:
        return None


def _say_what_reduces_again(db: TradingDB, given: Limits | None) -> None:
    now = SystemClock().now()
    pnl, limits = day_pnl(db, now), limits_in_force(db, given, now) if given else None
    if limits and -pnl > limits.max_daily_loss:
        words = "the next pass sets REDUCING again unless you raise MAX_DAILY_LOSS for the day as well"
        show(textwrap.fill(f"{loss_words(pnl, limits)}; {words}.", WIDTH))


def _reduce(db: TradingDB, test_mode: bool, settings: Settings) -> int:
    """Cancel the resting entries with a pass of the order monitor, which is what each later pass does as well."""
    trouble = None
    with closing(build_parts(test_mode, db=db, settings=settings)) as parts:
        monitor = OrderMonitor(test_mode, db=db, broker=parts.broker, clock=parts.clock, settings=settings)
        try:
            monitor.run()
        except BrokerError as error:
            trouble = str(error)
    standing = what_stands(db)
    left = [*standing.entries, *(order for order in standing.unknown if order["order_type"] == "ENTRY")]
    if trouble is not None:
        show(f"The broker did not answer: {trouble}")
    if not left and trouble is None:
        show("No entry rests at the broker.")
        return EXIT_DONE
    show("Every pass of order_monitor.py cancels the entries that rest at the broker.")
    _print_orders("Entries that are not known to be cancelled", left)
    return EXIT_FAILED


def _flatten(db: TradingDB, test_mode: bool, settings: Settings) -> int:
    with closing(build_parts(test_mode, db=db, settings=settings)) as parts:
        report = Flattening(parts).run()
    if report.trouble is not None:
        show(f"The broker did not answer: {report.trouble}")
    _print_left("Still there, of ours", report.ours)
    _print_left("Still there, not ours: left alone", report.foreign)
    if report.done:
        show("Nothing of ours is left, by the broker's positions and orders.")
    return EXIT_DONE if report.done else EXIT_FAILED


def _raise(db: TradingDB, options: argparse.Namespace, settings: Settings) -> int:
    lasting = timedelta(hours=float(min(options.hours, Decimal(100_000))))
    change = raise_limit(
        db, settings.limits, options.name.upper(), options.value, lasting, options.reason, operator(),
        SystemClock().now(),
    )
    show(f"{change.name} is {decimal_text(change.value)} until {_time(change.expires_at)}.")
    return EXIT_DONE


def _status(db: TradingDB, given: Limits | None) -> int:
    control, standing = current_control(db), what_stands(db)
    now = SystemClock().now()
    in_force = limits_in_force(db, given, now) if given else None
    show(f"Trading is {control.state}" + (", and everything is being closed (flatten)" if control.flatten else ""))
    _show_wrapped(f"  why    {control.reason}")
    show(f"  who    {control.changed_by or '-'}")
    show(f"  since  {_time(control.changed_at) if control.changed_at else '-'}")
    show("\n")
    for what, count in _counts(standing).items():
        show(f"{what:30} {count}")
    _print_orders("Resting entries", standing.entries)
    _print_trades("Open positions", standing.trades)
    _print_trades("Positions without protection", standing.unprotected)
    _print_orders("Orders of unknown outcome", standing.unknown)
    for alert in standing.alerts:
        _show_wrapped(f"CRITICAL {alert['kind']} {alert['subject']}: {printable(alert['message'], LONGEST_MESSAGE)}")
    for change in current_raises(db, now):
        field, value = RAISABLE.get(change.name), change.value
        if field and in_force:
            value = Decimal(getattr(in_force, field))
            if value == getattr(given, field):
                continue
        until = f"until {_time(change.expires_at)}, by {change.changed_by}: {change.reason}"
        _show_wrapped(f"RAISED {change.name} to {decimal_text(value)} {until}")
    return EXIT_DONE


def _show_wrapped(text: str) -> None:
    show(textwrap.fill(printable(text), WIDTH, subsequent_indent=" " * 9))


def _counts(standing: Standing) -> dict[str, int]:
    return {
        "Resting entries": len(standing.entries), "Open positions": len(standing.trades),
        "Positions without protection": len(standing.unprotected), "Orders of unknown outcome": len(standing.unknown),
        "Open critical alerts": len(standing.alerts),
    }


def _print_orders(title: str, orders: Sequence[Row]) -> None:
    if orders:
        print_table(title, ("Order", "Symbol", "Side", ">Shares", ">Filled"), [
            (order["client_order_id"], order["symbol"], order["side"], decimal_text(order["qty"]),
             decimal_text(order["filled_qty"])) for order in orders
        ])


def _print_trades(title: str, trades: Sequence[Trade]) -> None:
    if trades:
        print_table(title, ("Trade", "Symbol", ">Shares", ">Stop"), [
            (trade.name, trade.symbol, decimal_text(trade.position), decimal_text(trade.stop_price)) for trade in trades
        ])


def _print_left(title: str, left: Sequence[Left]) -> None:
    if left:
        print_table(title, ("Trade or order", "Symbol", ">Shares", "Why"), [
            (row.name, row.symbol, None if row.shares is None else decimal_text(row.shares), row.why) for row in left
        ])


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _reason(text: str) -> str:
    reason = printable(text.strip(), 10 * LONGEST_REASON)
    if not reason or len(reason) > LONGEST_REASON:
        raise argparse.ArgumentTypeError(f"a reason of 1 to {LONGEST_REASON} characters is needed")
    return reason


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text) if text.isascii() else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number <= 0 or abs(number.adjusted()) > MOST_DIGITS:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number above 0 that a limit could be")
    return number


if __name__ == "__main__":
    sys.exit(main())
