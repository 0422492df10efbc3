"""Puts together what a worker works with: settings, database, broker, clock and the desk between them."""

from contextlib import ExitStack
from dataclasses import dataclass, field

import local_broker
from alpaca_client import Broker, BrokerError
from analysis_rows import AnalysisRows
from audit_trail import PayloadPolicy
from clock import Clock, SystemClock
from config import DatabaseSettings, Settings, get_postgres_config, load_settings
from db_layer import TradingDB
from local_broker import LocalBrokerError
from order_desk import OrderDesk

# What may keep a worker from its work, beside the settings and the database.
PROGRAM_ERRORS: tuple[type[Exception], ...] = (BrokerError, LocalBrokerError)


@dataclass(frozen=True)
class Parts:
    """What a worker works with; made once for a program, or by a test."""

    settings: Settings
    db: TradingDB
    broker: Broker
    clock: Clock
    analysis: AnalysisRows
    desk: OrderDesk
    built: ExitStack = field(default_factory=ExitStack, repr=False)

    def close(self) -> None:
        """Close the connections that were opened for it; what was given stays open."""
        self.built.close()


def open_database(test_mode: bool, settings: DatabaseSettings, application_name: str) -> TradingDB:
    """Connect to the database; in test mode the schema is created. Raises ConfigError and DatabaseError."""
    db = TradingDB(test_mode, get_postgres_config(test_mode, settings), settings.postgres.schema, application_name)
    db.connect()
    if test_mode:
        db.create_schema(test_mode=True)
    return db


def build_parts(
    test_mode: bool = False, db: TradingDB | None = None, broker: Broker | None = None, clock: Clock | None = None,
    settings: Settings | None = None, application_name: str = "trading-monitor",
) -> Parts:
    """Build whatever was not given; in test mode the schema is created and the local paper broker started.

    To be closed when the work is over. Raises ConfigError, DatabaseError, BrokerError and LocalBrokerError.
    """
    settings = settings or load_settings(test_mode)
    clock = clock or SystemClock()
    with ExitStack() as built:
        if db is None:
            db = built.enter_context(open_database(test_mode, settings, application_name))
        if broker is None:
            alpaca = local_broker.use(settings.alpaca) if settings.alpaca.local_broker else settings.alpaca
            broker = built.enter_context(Broker(alpaca, clock=clock))
        analysis = AnalysisRows(db, settings.analysis_timezone)
        desk = OrderDesk(db, broker, clock, PayloadPolicy(settings.use_audit_trail, settings.alpaca.secrets), analysis)
        return Parts(settings, db, broker, clock, analysis, desk, built.pop_all())
