"""The world of a flow test."""

from collections.abc import Iterator
from contextlib import closing, nullcontext
from typing import Any

import pytest

import order_executor
import order_monitor
import position_monitor
from db_layer import TradingDB
from paper_broker import PaperBroker, SimulatedClock, serve
from tests.flow.sources import Desk, serve_sources
from tests.flow.world import START, World


@pytest.fixture
def world(db: Any, database: dict[str, Any]) -> Iterator[World]:
    with (
        TradingDB(config=database | {"user": "trading_app"}) as programs,
        serve(PaperBroker(clock=SimulatedClock(START))) as server,
        closing(World(db, server, programs)) as world,
    ):
        yield world


@pytest.fixture
def without_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the lock that keeps passes apart: what is underneath must keep them from harm all the same."""
    for program in (order_executor, order_monitor, position_monitor):
        monkeypatch.setattr(program, "hold_account", lambda _db: nullcontext())


@pytest.fixture
def desk(db: TradingDB, database: dict[str, Any]) -> Iterator[Desk]:
    with TradingDB(config=database | {"user": "trading_app"}) as programs, serve_sources() as sources:
        yield Desk(db, programs, sources)
