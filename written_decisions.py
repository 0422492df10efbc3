"""The decisions of our own strategies: written down before anything is done about them, then read by the executor.

One that has no order yet waits here, strongest first, until a pass takes it or it has grown too old. There is no row of
n8n's behind it, so nothing is approved and nothing is marked.
"""

from analysis_rows import AnalysisRow
from db_layer import TradingDB

WAITING = """
SELECT decision.id AS decision_id, concat_ws(' ', decision.strategy_name, trade.natural_key) AS row_key,
       NULL AS analysis_id, decision.symbol AS ticker, decision.source_bytes AS text, decision.created_at AS decided_at
FROM audit.trade_decisions decision JOIN quiver_trades trade ON trade.id = decision.primary_quiver_trade_id
WHERE decision.status = 'pending' AND decision.strategy_name = %(strategy)s AND decision.action = 'new_trade'
  AND decision.analysis_row_key IS NULL
  AND NOT EXISTS (SELECT 1 FROM order_execution placed WHERE placed.trade_decision_id = decision.id)
"""
CANDIDATES = WAITING + "ORDER BY (decision_rationale ->> 'signal_strength')::numeric DESC NULLS LAST, decision.id"
LOCK = """
SELECT decision.id FROM quiver_trades trade
JOIN audit.trade_decision_disclosures noted ON noted.quiver_trade_id = trade.id AND noted.strategy_name = %(strategy)s
JOIN audit.trade_decisions decision ON decision.id = noted.trade_decision_id
WHERE trade.natural_key = %(natural_key)s AND decision.primary_quiver_trade_id = trade.id
FOR UPDATE OF decision SKIP LOCKED
"""
# Asked after the lock, in a statement of its own: only then does it see what the former holder wrote.
FIND = WAITING + "AND decision.id = %(id)s"


class WrittenDecisions:
    """The decisions of one strategy that wait for an order, for the executor to read like approved rows.

    A decision's key is the strategy and the natural key of the disclosure that triggered it, so that its order has the
    same id even in books that were lost and filled anew.
    """

    def __init__(self, db: TradingDB, strategy_name: str) -> None:
        self._db = db
        self.strategy_name = strategy_name

    def candidates(self) -> list[AnalysisRow]:
        """Return what waits, strongest first. Raises DatabaseError."""
        return self._rows(CANDIDATES)

    def lock(self, row_key: str) -> AnalysisRow | None:
        """Lock one of them in the open transaction; None when it is taken or has an order by now."""
        natural_key = row_key.removeprefix(f"{self.strategy_name} ")
        locked = self._db.execute_query(LOCK, {"strategy": self.strategy_name, "natural_key": natural_key})
        rows = self._rows(FIND, locked[0]["id"]) if locked else []
        return rows[0] if rows else None

    def _rows(self, statement: str, decision_id: int | None = None) -> list[AnalysisRow]:
        found = self._db.execute_query(statement, {"strategy": self.strategy_name, "id": decision_id})
        return [AnalysisRow(**row) for row in found]
