-- What exactly was said to the broker about an order, and what did it answer?
-- psql -v order=tm-1a2b3c4d5e6f-1a2b3c4d5e-e1 -f sql/investigations/messages_of_order.sql
-- order is a client order id or the broker's order id. The digest of a text that was removed or not kept is still there.

SELECT execution.attempt_number, said.captured_at AS said_at, said.payload AS said, said.sha256 AS said_sha256,
       said.code_version, heard.captured_at AS heard_at, execution.http_status_code, heard.payload AS heard,
       heard.sha256 AS heard_sha256, execution.status, COALESCE(said.purged_at, heard.purged_at) AS removed_at
FROM audit.trade_executions execution
LEFT JOIN audit.api_payloads said ON said.id = execution.api_request_payload_id
LEFT JOIN audit.api_payloads heard ON heard.id = execution.api_response_payload_id
WHERE execution.client_order_id = :'order' OR execution.alpaca_order_id = :'order'
ORDER BY execution.id;
