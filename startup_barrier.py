"""What must be settled before the first new entry of a pass: unknown orders, orders, fills, positions, in this order.

Where our books and the broker differ and nothing explains it, or a part of them cannot be compared, nobody knows what
the account holds. Entries wait then, whatever their symbol, until the difference is gone or a person has acknowledged
the alert, and until everything can be compared.
Source: docs/architecture.md, before an entry.
"""

from collections.abc import Mapping

from account_sync import AccountSync
from alpaca_client import Broker, BrokerError, Holding
from clock import Clock
from db_layer import TradingDB
from order_desk import OrderDesk
from pass_log import PassLog
from reconciliation import Reconciliation

# A position that vanished and was closed as an estimate is in doubt no more; that it is an estimate is said elsewhere.
UNEXPLAINED_DIFFERENCE = """
SELECT alert.message FROM audit.alerts alert
WHERE alert.resolved_at IS NULL AND alert.acknowledged_at IS NULL
  AND (alert.kind IN ('position_mismatch', 'order_mismatch')
       OR alert.kind = 'position_vanished'
          AND EXISTS (SELECT 1 FROM trade_journal WHERE trade_id = alert.subject AND status = 'POSITION'))
ORDER BY alert.id LIMIT 1
"""


class StartupBarrier:
    """Brings the books up to what the broker says, once for a pass."""

    def __init__(self, db: TradingDB, broker: Broker, clock: Clock, desk: OrderDesk, found: PassLog) -> None:
        self._db = db
        self._found = found
        self._sync = AccountSync(db, broker, clock, desk)
        self._desk = desk
        self._reconciliation = Reconciliation(db, broker, clock, desk, self._sync, found)

    @property
    def holdings(self) -> Mapping[str, Holding] | None:
        """What the account holds by the broker's last answer, or None before there was one."""
        return self._reconciliation.holdings

    def settle(self) -> str | None:
        """Settle what can be settled, and return what is left that nothing explains, or None.

        Raises DatabaseError, and BrokerError where the account could not be compared.
        """
        self._desk.settle_unfinished(self._found)
        with self._found.reading("orders"):
            self._sync.orders(self._found)
        with self._found.reading("fills"):
            self._sync.fills()
        with self._found.reading("positions"):
            self._reconciliation.run()
        return self._not_compared() or unexplained_difference(self._db) or self._reconciliation.settling

    def _not_compared(self) -> str | None:
        """Say what could not be compared though the rest could, or None. Raises BrokerError where it did not answer."""
        failures = self._found.failures
        if not failures:
            return None
        reasons = "; ".join(f"{subject}: {error}" for subject, error in failures.items())
        words = f"not everything on the account could be compared with the books ({reasons}); the next pass tries again"
        if any(isinstance(error, BrokerError) for error in failures.values()):
            raise BrokerError(words)
        return words


def unexplained_difference(db: TradingDB) -> str | None:
    """Return what differs between our books and the broker, as last compared, or None. Raises DatabaseError."""
    differences = db.execute_query(UNEXPLAINED_DIFFERENCE)
    return differences[0]["message"] if differences else None
