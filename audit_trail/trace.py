"""The whole chain of a trade or a run: what was known, decided, checked, said, heard and filled, as time went."""

import re
from typing import Any

from db_layer import Row, TradingDB

UUID = r"(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# Any name a person may hold: trade id, client order id, the broker's order id, decision id, or the analysis row's id.
FIND_DECISIONS = """
SELECT id FROM audit.trade_decisions WHERE decision_id = %(uuid)s::uuid OR analysis_decision_id = %(name)s
UNION SELECT trade_decision_id FROM audit.trade_executions
      WHERE client_order_id = %(name)s OR alpaca_order_id = %(name)s OR execution_id = %(uuid)s::uuid
UNION SELECT trade_decision_id FROM order_execution WHERE client_order_id = %(name)s OR alpaca_order_id = %(name)s
UNION SELECT trade_decision_id FROM trade_journal WHERE trade_id = %(name)s OR id = %(number)s::bigint
ORDER BY id
"""
FIND_RUNS = "SELECT id FROM audit.data_ingestion_runs WHERE run_id = %(uuid)s::uuid"
# Orders to be cancelled: the decision's own ones, later; those of the trade it is about, before its own order is sent.
# There can be several: one that a person replaced in the broker's app has a successor in the same trade.
CHAIN = """
WITH cancelled AS (
    SELECT id, 5 AS place, created_at AS since FROM order_execution WHERE trade_decision_id = %(id)s
    UNION ALL
    SELECT entry.id, 3, decision.created_at
    FROM audit.trade_decisions decision JOIN order_execution target ON target.id = decision.target_order_id
    JOIN order_execution entry ON entry.trade_journal_id = target.trade_journal_id AND entry.order_type = 'ENTRY'
    WHERE decision.id = %(id)s
)
SELECT created_at AS at, 0 AS place, id AS seq, 'decided' AS event,
       concat_ws(' ', action, side, trim_scale(quantity), symbol, order_type, trim_scale(limit_price)) AS what,
       concat('by ', strategy_name, ' ', strategy_version, ', decision ', decision_id, ', bytes sha256 ',
              left(source_bytes_sha256, 12)) AS detail, ARRAY[]::bigint[] AS payloads
FROM audit.trade_decisions WHERE id = %(id)s
UNION ALL
SELECT (lineage ->> 'completed_at')::timestamptz, -2, 0, 'known',
       concat(lineage ->> 'task_name', ': ', lineage ->> 'records_fetched', ' records fetched'),
       concat('run ', lineage ->> 'run_id', ' of ', lineage ->> 'data_source'), '{}'
FROM audit.trade_decisions decision
CROSS JOIN jsonb_array_elements(decision_rationale #> '{data_lineage,ingestion_runs}') AS lineage
WHERE decision.id = %(id)s
UNION ALL
SELECT disclosed.available_at, -1, disclosed.id, 'known',
       concat_ws(' ', person_name, disclosed.side, disclosed.symbol, 'on', transaction_date),
       concat('disclosed trade ', disclosed.id, ', run ', COALESCE(run.run_id::text, 'not on record')), '{}'
FROM audit.trade_decisions decision JOIN quiver_trades disclosed ON disclosed.id = decision.primary_quiver_trade_id
LEFT JOIN audit.data_ingestion_runs run ON run.id = disclosed.data_ingestion_run_id
WHERE decision.id = %(id)s
UNION ALL
SELECT decision.created_at, 1, target.id, 'about',
       concat('the ', target.order_type, ' of ', journal.trade_id),
       concat('order ', COALESCE(target.alpaca_order_id, 'not sent'), ', journal id ', target.trade_journal_id), '{}'
FROM audit.trade_decisions decision JOIN order_execution target ON target.id = decision.target_order_id
LEFT JOIN trade_journal journal ON journal.id = target.trade_journal_id
WHERE decision.id = %(id)s
UNION ALL
SELECT checked_at, 2, id, 'checked', concat(check_name, CASE WHEN passed THEN ' passed' ELSE ' FAILED' END),
       concat('observed ', observed_value, ', limit ', NULLIF(limit_value, '')), '{}'
FROM audit.risk_checks WHERE trade_decision_id = %(id)s
UNION ALL
SELECT said.captured_at, 4, said.id, 'said',
       concat('POST ', string_agg(orders.order_type, ' + ' ORDER BY orders.id)),
       concat('payload ', said.id, ': ', COALESCE(said.payload ->> 'body', 'body not kept')), ARRAY[said.id]
FROM audit.trade_executions execution
JOIN audit.api_payloads said ON said.id = execution.api_request_payload_id
LEFT JOIN order_execution orders ON orders.id = execution.order_execution_id
WHERE execution.trade_decision_id = %(id)s
GROUP BY said.id
UNION ALL
SELECT heard.captured_at, 5, heard.id, 'heard',
       concat('HTTP ', COALESCE(min(execution.http_status_code)::text, 'no answer')),
       concat_ws(', ', concat('payload ', heard.id), min(execution.error_message),
                 'order ' || string_agg(execution.alpaca_order_id, ' + ' ORDER BY execution.order_execution_id)),
       ARRAY[heard.id]
FROM audit.trade_executions execution JOIN audit.api_payloads heard ON heard.id = execution.api_response_payload_id
WHERE execution.trade_decision_id = %(id)s
GROUP BY heard.id
UNION ALL
SELECT call.created_at, cancelled.place, call.id, 'cancel asked for', orders.order_type,
       concat('HTTP ', COALESCE(call.http_status_code::text, 'no answer'), ', payloads ', call.api_request_payload_id,
              ' and ', call.api_response_payload_id, ', order ', orders.alpaca_order_id),
       ARRAY[call.api_request_payload_id, call.api_response_payload_id]
FROM cancelled JOIN order_execution orders ON orders.id = cancelled.id JOIN audit.api_call_logs call
     ON call.endpoint LIKE 'DELETE %%' AND call.endpoint = 'DELETE /v2/orders/' || orders.alpaca_order_id
WHERE call.created_at >= cancelled.since
UNION ALL
SELECT fill.filled_at, 6, fill.id, 'filled',
       concat_ws(' ', orders.order_type, fill.side, trim_scale(fill.qty), 'at', trim_scale(fill.price)),
       concat('execution ', fill.execution_id), '{}'
FROM order_fill fill JOIN order_execution orders ON orders.id = fill.order_execution_id
WHERE orders.trade_decision_id = %(id)s
UNION ALL
SELECT change.happened_at, 6, change.id, 'adjusted',
       concat_ws(' ', change.kind, change.side, trim_scale(change.qty), 'at', trim_scale(change.price)),
       COALESCE('evidence ' || change.evidence_id, 'an estimate, without evidence'), '{}'
FROM position_adjustment change JOIN trade_journal journal ON journal.id = change.trade_journal_id
WHERE journal.trade_decision_id = %(id)s
UNION ALL
SELECT COALESCE(executed_at, failed_at, cancelled_at), 7, id, concat('decision ', status), status_reason, '', '{}'
FROM audit.trade_decisions WHERE id = %(id)s AND status <> 'pending'
UNION ALL
SELECT exit_date, 8, id, concat('trade ', lower(status)),
       concat_ws(' ', exit_reason, 'P&L ' || trim_scale(actual_pnl), CASE WHEN pnl_is_estimate THEN '(estimate)' END),
       trade_id, '{}'
FROM trade_journal WHERE trade_decision_id = %(id)s AND exit_date IS NOT NULL
ORDER BY at, place, seq
"""

RUN_CHAIN = """
SELECT started_at AS at, 0 AS place, id AS seq, 'run began' AS event, concat(task_name, ' from ', data_source) AS what,
       concat('run ', run_id) AS detail, ARRAY[]::bigint[] AS payloads
FROM audit.data_ingestion_runs WHERE id = %(id)s
UNION ALL
SELECT created_at, 1, id, 'called', endpoint,
       concat('HTTP ', COALESCE(http_status_code::text, 'no answer'), ' after ', duration_ms, ' ms, payloads ',
              api_request_payload_id, ' and ', api_response_payload_id),
       ARRAY[api_request_payload_id, api_response_payload_id]
FROM audit.api_call_logs WHERE data_ingestion_run_id = %(id)s
UNION ALL
SELECT max(created_at), 2, 0, operation, concat(count(*), ' ', record_type), '', '{}'
FROM audit.data_ingestion_run_records WHERE data_ingestion_run_id = %(id)s GROUP BY record_type, operation
UNION ALL
SELECT max(created_at), 3, 0, 'put aside', concat(count(*), ' records'), reason, '{}'
FROM audit.quarantined_records WHERE data_ingestion_run_id = %(id)s GROUP BY reason
UNION ALL
SELECT COALESCE(completed_at, failed_at), 4, id, concat('run ', status),
       concat(records_fetched, ' fetched, ', records_created, ' new, ', records_updated, ' changed, ', records_skipped,
              ' known'), COALESCE(error_message, ''), '{}'
FROM audit.data_ingestion_runs WHERE id = %(id)s AND status <> 'running'
UNION ALL
SELECT created_at, 5, id, 'decided upon it', concat_ws(' ', action, side, trim_scale(quantity), symbol),
       concat('decision ', decision_id), '{}'
FROM audit.trade_decisions WHERE primary_ingestion_run_id = %(id)s
ORDER BY at, place, seq
"""
PAYLOADS = """
SELECT id, COALESCE(payload::text, 'removed on ' || (purged_at AT TIME ZONE 'UTC')::date, 'not kept') AS text
FROM audit.api_payloads WHERE id = ANY(%(ids)s::bigint[])
"""


def find_decisions(db: TradingDB, name: str) -> list[int]:
    """Return the ids of the decisions that a name belongs to: of a trade, an order, a decision or an analysis row."""
    number = int(name) if re.fullmatch(r"[0-9]{1,18}", name) else None
    values = {"name": name, "uuid": _uuid(name), "number": number}
    return [row["id"] for row in db.execute_query(FIND_DECISIONS, values)]


def find_runs(db: TradingDB, name: str) -> list[int]:
    """Return the ids of the ingestion runs with this public id: one or none."""
    return [row["id"] for row in db.execute_query(FIND_RUNS, {"uuid": _uuid(name)})]


def chains(db: TradingDB, name: str, payloads: bool = False) -> list[list[Row]]:
    """Return the chain of each decision and run that a name belongs to; with `payloads` each row has its texts by id.

    Raises DatabaseError.
    """
    found = [chain(db, decision_id) for decision_id in find_decisions(db, name)]
    found += [_rows(db, RUN_CHAIN, run_id) for run_id in find_runs(db, name)]
    if payloads:
        ids = [number for rows in found for row in rows for number in row["payloads"] if number is not None]
        texts = {row["id"]: row["text"] for row in db.execute_query(PAYLOADS, {"ids": ids})}
        for row in (row for rows in found for row in rows):
            row["texts"] = {number: texts[number] for number in row["payloads"] if number in texts}
    return found


def chain(db: TradingDB, decision_id: int) -> list[Row]:
    """Return what is recorded about a decision: rows of at, event, what, detail and payloads, oldest first."""
    return _rows(db, CHAIN, decision_id)


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    """Return a chain with its times as text, for programs."""
    return [row | {"at": row["at"].isoformat()} for row in rows]


def _rows(db: TradingDB, statement: str, subject_id: int) -> list[Row]:
    rows = db.execute_query(statement, {"id": subject_id})
    return [{key: row[key] for key in ("at", "event", "what", "detail", "payloads")} for row in rows]


def _uuid(name: str) -> str | None:
    return name if re.fullmatch(UUID, name) else None
