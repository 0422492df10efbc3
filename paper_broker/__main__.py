"""`python -m paper_broker`: the local broker as a program."""

from __future__ import annotations

import argparse
import fcntl
import signal
import sys
import threading
import time
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import IO

from paper_broker.bars import BarError, read_csv
from paper_broker.engine import PaperBroker
from paper_broker.market import Bar
from paper_broker.server import Server
from paper_broker.store import Store, StoreError
from paper_broker.values import number

_POLL_SECONDS = 0.5
_FIRST_USER_SECONDS = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Run the broker until it is told to end; returns 0, 1 for a port in use, 2 for unusable input."""
    options = _parser().parse_args(arguments)
    try:
        server = _build(options)
    except (BarError, StoreError) as error:
        print(f"paper_broker: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"paper_broker: cannot listen on port {options.port}: {error.strerror}", file=sys.stderr)
        return 1
    ended = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: ended.set())
    with ExitStack() as stack:
        # Opened first and closed last: who waits for the lock finds no broker that is about to end.
        lock = stack.enter_context(options.users_lock.open("a")) if options.users_lock else None
        stack.enter_context(server)
        print(f"paper broker listening on {server.url}", flush=True)
        _wait(ended, lock)
    return 0


def _build(options: argparse.Namespace) -> Server:
    store = None if options.state is None else Store(options.state)
    state = store.load() if store else None
    broker = PaperBroker(hours=options.hours, cash=options.cash, state=state)
    if options.rate_limit is not None:
        broker.behave(rate_limit=options.rate_limit)
    if options.invent_prices:
        broker.behave(invent_prices=True)
    if options.prices is not None:
        for path in _price_files(options.prices):
            broker.add_bars(_bars(path, broker))
    return Server(broker, options.port, store)


def _price_files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise BarError(f"there are no CSV files in {path}")
    return files


def _bars(path: Path, broker: PaperBroker) -> list[Bar]:
    # A file that names no symbol inside is named after it, as in NVDA.csv or NVDA_1h.csv.
    symbol, content = path.stem.partition("_")[0].upper(), _read(path)
    try:
        return read_csv(content, broker.calendar, symbol)
    except BarError as error:
        raise BarError(f"{path}: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BarError(f"cannot read the price file {path}: {error}") from error


def _wait(ended: threading.Event, lock: IO[str] | None) -> None:
    """Wait for a signal, or until nobody else holds the users' lock any more; then it is held here."""
    if lock is None:
        ended.wait()
        return
    patience = time.monotonic() + _FIRST_USER_SECONDS
    seen = False
    while True:
        if not _lock(lock):
            seen = True
        elif seen or time.monotonic() > patience:
            return
        else:
            fcntl.flock(lock, fcntl.LOCK_UN)
        if ended.wait(_POLL_SECONDS):
            return


def _lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _cash(raw: str) -> Decimal:
    try:
        return number(raw)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _port(raw: str) -> int:
    if not raw.isascii() or not raw.isdecimal() or int(raw) > 65535:
        raise argparse.ArgumentTypeError(f"{raw!r} is not a port from 0 to 65535")
    return int(raw)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m paper_broker",
        description="A local broker that speaks Alpaca's API, for tests and rehearsals. Loopback only.",
    )
    parser.add_argument("--port", type=_port, default=0, help="port to listen on (default: any free one)")
    parser.add_argument(
        "--prices", type=Path, help="CSV of bars, or a folder of them: timestamp,symbol,open,high,low,close,volume"
    )
    parser.add_argument(
        "--invent-prices", action="store_true", help="a symbol without price trades at the first order's limit, or 100"
    )
    parser.add_argument("--state", type=Path, help="file that keeps the broker's state between runs")
    parser.add_argument("--hours", choices=("nyse", "always"), default="nyse", help="when the market is open")
    parser.add_argument("--cash", type=_cash, default=Decimal(100000), help="opening balance in dollars")
    parser.add_argument("--users-lock", type=Path, help="end when nobody holds a shared lock on this file")
    parser.add_argument("--rate-limit", type=int, help="requests a minute for each key (default: unlimited)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
