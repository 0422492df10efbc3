"""Retention: bodies whose time is over are removed; rows, digests and lengths stay, and the chain says what went."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from audit_trail.alerts import AlertKind, AlertLevel, raise_alert
from config import Settings, get_postgres_config
from db_layer import DatabaseError, Row, TradingDB

# Everything said to and heard from the broker is order traffic, and kept six years at least.
ORDER_TRAFFIC = timedelta(days=6 * 366)
BROKER = "alpaca"
BATCH = 1_000
BODIES = "api_payloads"  # the subject of alerts about a purge

# In the order of ids, so that a batch goes on where the one before ended.
DUE = """
SELECT payload.id, payload.byte_length, pg_column_size(payload.payload) AS stored, payload.captured_at
FROM audit.api_payloads payload
WHERE payload.id > %(after)s AND payload.payload IS NOT NULL
  AND payload.captured_at < CASE WHEN payload.source = %(broker)s THEN %(order_limit)s::timestamptz
                                 ELSE %(limit)s::timestamptz END
  AND NOT EXISTS (SELECT 1 FROM audit.legal_holds hold
                  WHERE hold.released_at IS NULL AND payload.captured_at >= hold.captured_from
                    AND (hold.captured_until IS NULL OR payload.captured_at < hold.captured_until)
                    AND (hold.source IS NULL OR hold.source = payload.source))
ORDER BY payload.id LIMIT %(batch)s
"""
EMPTY = """
UPDATE audit.api_payloads SET payload = NULL, purged_at = %(now)s WHERE id = ANY(%(ids)s)
"""
TABLE_SIZES = """
SELECT nspname || '.' || relname AS name, GREATEST(reltuples, pg_stat_get_live_tuples(pg_class.oid), 0)::bigint AS rows,
       pg_table_size(pg_class.oid) AS table_bytes, pg_indexes_size(pg_class.oid) AS index_bytes
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'r' AND (nspname = 'audit' OR nspname = %(schema)s AND relname = ANY(%(tables)s))
ORDER BY pg_total_relation_size(pg_class.oid) DESC, name
"""
BODY_SIZES = """
SELECT source, count(*) AS payloads, count(payload) AS bodies, count(purged_at) AS purged,
       COALESCE(sum(byte_length) FILTER (WHERE payload IS NOT NULL), 0)::bigint AS bytes,
       COALESCE(sum(pg_column_size(payload)), 0)::bigint AS stored_bytes, min(captured_at) AS oldest
FROM audit.api_payloads GROUP BY source ORDER BY source
"""


@dataclass
class Purge:
    """What a purge removed, or would remove: bodies, their bytes as written and as stored, and the last one's time."""

    bodies: int = 0
    bytes: int = 0
    stored_bytes: int = 0
    latest: datetime | None = None


def purge(
    db: TradingDB, retention: timedelta, now: datetime, dry_run: bool = False,
    advance: Callable[..., None] = lambda count=1: None,
) -> Purge:
    """Remove the bodies that are older than `retention`, a thousand at a time; a dry run only counts them.

    Order traffic is kept six years at least, and what a legal hold covers as long as it holds. Raises DatabaseError,
    also where the role may not purge.
    """
    done = Purge()
    limits = {
        "limit": now - retention, "order_limit": now - max(retention, ORDER_TRAFFIC), "broker": BROKER, "batch": BATCH,
    }
    after = 0
    while True:
        with db.transaction():
            rows = db.execute_query(DUE, limits | {"after": after})
            if rows and not dry_run:
                db.execute_update(EMPTY, {"ids": [row["id"] for row in rows], "now": now})
        _count(done, rows)
        advance(len(rows))
        if len(rows) < BATCH:
            return done
        after = rows[-1]["id"]


@contextmanager
def purging_connection(db: TradingDB, settings: Settings) -> Iterator[TradingDB]:
    """Give a connection as the role that may purge, where one is set (PURGE_POSTGRES_USER); else the one there is.

    Raises DatabaseError.
    """
    audit = settings.audit
    if not audit.purge_user:
        yield db
        return
    config = get_postgres_config(settings.test_mode, settings) | {
        "user": audit.purge_user, "password": audit.purge_password,
    }
    with closing(TradingDB(settings.test_mode, config, settings.postgres.schema, "audit_trail purge")) as purger:
        try:
            purger.connect()
        except DatabaseError as error:
            # Not as a lost connection: that of whoever asks is there, and trying again would not help.
            words = f"no texts were removed, because PURGE_POSTGRES_USER ({audit.purge_user}) cannot connect: {error}"
            raise DatabaseError(words, error.sqlstate) from error
        yield purger


def run_purge(
    db: TradingDB, days: int, now: datetime, dry_run: bool = False, advance: Callable[..., None] = lambda count=1: None,
) -> Purge:
    """Remove texts older than so many days, with an alert about it or about the failure; return the Purge.

    Raises DatabaseError.
    """
    try:
        done = purge(db, timedelta(days=days), now, dry_run, advance)
    except DatabaseError as error:
        if not error.lost_connection:
            raise_alert(db, AlertLevel.WARNING, AlertKind.PURGE, BODIES, f"texts were not removed: {error}", now)
        raise
    if done.bodies and not dry_run:
        message = f"{done.bodies} texts of {done.bytes} bytes were removed, the latest of {done.latest:%Y-%m-%d}"
        raise_alert(db, AlertLevel.INFO, AlertKind.PURGE, BODIES, message, now)
    return done


def table_sizes(db: TradingDB, tables: list[str]) -> list[Row]:
    """Return name, estimated rows and bytes of each audit table and of these trading tables, the largest first."""
    return db.execute_query(TABLE_SIZES, {"schema": db.schema, "tables": tables})


def body_sizes(db: TradingDB) -> list[Row]:
    """Return what the payloads of each source take: as they were written, and as they are stored."""
    return db.execute_query(BODY_SIZES)


def _count(done: Purge, rows: list[Row]) -> None:
    done.bodies += len(rows)
    done.bytes += sum(row["byte_length"] for row in rows)
    done.stored_bytes += sum(row["stored"] for row in rows)
    if rows:
        done.latest = max(filter(None, (done.latest, *(row["captured_at"] for row in rows))))
