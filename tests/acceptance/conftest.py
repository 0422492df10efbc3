"""What the tests of the programs run in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from paper_broker import PaperBroker, Server, serve
from tests.conftest import in_memory

PROJECT = Path(__file__).resolve().parents[2]
PRODUCT = shutil.ignore_patterns(
    ".git", ".venv", ".local", "tests", "__pycache__", ".*_cache", ".hypothesis", ".coverage*", ".env",
)


@pytest.fixture
def bare() -> Iterator[Path]:
    """The project alone in an empty place: nothing configured, nothing started yet."""
    with tempfile.TemporaryDirectory(prefix="bare-", dir=in_memory()) as place:
        folder = Path(place) / "trading monitor"
        shutil.copytree(PROJECT, folder, ignore=PRODUCT)
        yield folder


@pytest.fixture
def paper() -> Iterator[Server]:
    with serve(PaperBroker(hours="always")) as server:
        server.broker.set_price("NVDA", Decimal("133.50"))
        yield server


@pytest.fixture
def configured(database: dict[str, Any], paper: Server) -> dict[str, str]:
    """Production settings: somebody's PostgreSQL under the programs' role, and an Alpaca-speaking server."""
    return {
        "POSTGRES_HOST": str(database["host"]), "POSTGRES_PORT": str(database["port"]),
        "POSTGRES_DB": str(database["dbname"]), "POSTGRES_USER": "trading_app",
        "ALPACA_API_KEY": "key", "ALPACA_SECRET_KEY": "secret",
        "ALPACA_BASE_URL": paper.url, "ALPACA_DATA_URL": paper.url,
    }
