"""One database and one server for all the cases of a module; each case begins with both empty."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from paper_broker import PaperBroker, serve
from tests.crash.harness import Theatre


@pytest.fixture(scope="module")
def theatre(clones: Any) -> Iterator[Theatre]:
    database = clones.create()
    with serve(PaperBroker()) as server, closing(Theatre(database, server)) as theatre:
        yield theatre
    clones.drop(database)
