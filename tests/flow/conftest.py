"""The world of a flow test."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from paper_broker import PaperBroker, SimulatedClock, serve
from tests.flow.world import START, World


@pytest.fixture
def world(db: Any) -> Iterator[World]:
    with serve(PaperBroker(clock=SimulatedClock(START))) as server, closing(World(db, server)) as world:
        yield world
