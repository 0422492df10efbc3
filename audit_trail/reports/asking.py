"""How reports ask: all statements of a report see the same moment, change nothing, and are planned for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from db_layer import TradingDB

# Compiling costs more than it saves here, and on the disks of today a page of an index is no dearer than any other.
ONE_MOMENT = """
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL jit = off; SET LOCAL random_page_cost = 1.1
"""


@contextmanager
def one_moment(db: TradingDB) -> Iterator[None]:
    """Let the statements of the block see the books as they are at one moment. Raises DatabaseError."""
    with db.transaction():
        db.execute_update(ONE_MOMENT)
        yield
