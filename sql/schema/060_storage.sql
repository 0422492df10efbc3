-- Rows that are written once and then changed several times get room on their page: an update that touches no indexed
-- column then writes no index. Source: PostgreSQL's documentation, heap-only tuples.

ALTER TABLE order_execution SET (fillfactor = 70);
ALTER TABLE trade_journal SET (fillfactor = 70);
ALTER TABLE audit.trade_decisions SET (fillfactor = 70);
ALTER TABLE audit.trade_executions SET (fillfactor = 70);
