"""What only the database tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from db_layer import TradingDB


@pytest.fixture(scope="module")
def untouched(clones: Any) -> Iterator[TradingDB]:
    """An open TradingDB for the tests of a module that leave nothing behind; a database of its own costs more."""
    database = clones.create()
    with TradingDB(config=database) as db:
        yield db
    clones.drop(database)
