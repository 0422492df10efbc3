"""What the tests of whole programs share."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from paper_broker import PaperBroker, Server, serve


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
