-- How the hash chain grows: each statement that writes an audited row digests it at once, and the entries are appended
-- when the transaction commits. The head of the chain is the last thing a transaction locks, so that waiting for it can
-- end in no deadlock, and it is held for the commit only. Functions run as the tables' owner: nobody else can append.
-- What is hashed, byte for byte: docs/operations/audit_trail.md. The verifier has its own copy of it.

CREATE OR REPLACE FUNCTION audit.append_entries() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    head     audit.audit_head;
    earlier  bigint;
    moment   timestamptz;
    who      text := session_user || '/' || current_setting('application_name');
    hashes   bytea[] := '{}';
    entry    record;
BEGIN
    SELECT * INTO head FROM audit.audit_head FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the hash chain has lost its head: audit.audit_head is empty; see docs/operations/audit_trail.md';
    END IF;
    earlier := head.seq;
    moment := clock_timestamp();
    IF NEW.event = 'restored' THEN
        head.chain := head.chain + 1;
    END IF;
    FOR entry IN SELECT * FROM unnest(NEW.ids, NEW.details, NEW.digests, NEW.lengths) AS one (id, detail, digest, length) LOOP
        head.seq := head.seq + 1;
        head.entry_hash := sha256(
            '\x01'::bytea || head.entry_hash || int4send(head.chain) || int8send(head.seq) || timestamptz_send(moment)
            || int8send(entry.id)
            || array_send(ARRAY[convert_to(NEW.event, 'UTF8'), convert_to(NEW.subject_table, 'UTF8'),
                                convert_to(who, 'UTF8'), convert_to(entry.detail, 'UTF8')])
            || entry.digest || int4send(entry.length));
        hashes := array_append(hashes, head.entry_hash);
    END LOOP;
    INSERT INTO audit.audit_log (
        seq, chain, version, recorded_at, event, subject_table, subject_id, actor, detail, body_sha256, body_length, entry_hash)
    SELECT earlier + place, head.chain, 1, moment, NEW.event, NEW.subject_table, one.id, who, one.detail, one.digest,
           one.length, one.hash
    FROM unnest(NEW.ids, NEW.details, NEW.digests, NEW.lengths, hashes) WITH ORDINALITY
         AS one (id, detail, digest, length, hash, place);
    UPDATE audit.audit_head SET chain = head.chain, seq = head.seq, entry_hash = head.entry_hash;
    DELETE FROM audit.audit_pending WHERE id = NEW.id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION audit.append_entries() IS 'Appends what a statement wrote to the hash chain, when its transaction commits.';
REVOKE ALL ON FUNCTION audit.append_entries() FROM PUBLIC;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'audit.audit_pending'::regclass AND tgname = 'append') THEN
        CREATE CONSTRAINT TRIGGER append AFTER INSERT ON audit.audit_pending DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION audit.append_entries();
        ALTER TABLE audit.audit_pending ENABLE ALWAYS TRIGGER append;
    END IF;
    IF NOT EXISTS (SELECT FROM audit.audit_head) THEN
        INSERT INTO audit.audit_head (chain, seq, entry_hash) VALUES (1, 0, decode(repeat('00', 32), 'hex'));
        INSERT INTO audit.audit_pending (event, subject_table, ids, details, digests, lengths)
        SELECT 'genesis', 'audit_log', '{0}', ARRAY[name], ARRAY[sha256(convert_to(name, 'UTF8'))], '{36}'
        FROM CAST(gen_random_uuid() AS text) AS name;
    END IF;
END
$$;

-- A function and its triggers for each audited table. A row is digested as array_send of its columns: times as
-- timestamptz_send, all others as their text in UTF-8, so that no setting and no later column changes a digest.
DO $$
DECLARE
    audited  record;
    written  text;
    pending  text;
    moment   record;
BEGIN
    FOR audited IN SELECT * FROM (VALUES
        ('audit.trade_decisions', 'status', 'changed', ARRAY[
            'id', 'decision_id', 'strategy_name', 'strategy_version', 'action', 'symbol', 'side', 'quantity', 'order_type',
            'limit_price', 'analysis_decision_id', 'analysis_row_key', 'target_order_id', 'primary_quiver_trade_id',
            'primary_ingestion_run_id', 'decision_rationale', 'source_bytes', 'source_bytes_sha256', 'status',
            'status_reason', 'executed_at', 'failed_at', 'cancelled_at', 'created_at']),
        ('audit.trade_executions', 'status', 'changed', ARRAY[
            'id', 'trade_decision_id', 'order_execution_id', 'execution_id', 'attempt_number', 'status',
            'api_request_payload_id', 'api_response_payload_id', 'client_order_id', 'alpaca_order_id', 'http_status_code',
            'error_code', 'error_message', 'error_details', 'filled_quantity', 'filled_avg_price', 'commission',
            'submitted_at', 'filled_at', 'rejected_at', 'created_at']),
        ('audit.api_payloads', 'CASE WHEN payload IS NULL AND purged_at IS NULL THEN ''digest only'' END', 'purged', ARRAY[
            'id', 'type', 'source', 'captured_at', 'sha256', 'byte_length', 'code_version']),
        ('order_fill', 'NULL::text', NULL, ARRAY[
            'id', 'order_execution_id', 'external_order_id', 'execution_id', 'side', 'qty', 'price', 'filled_at']),
        ('audit.trading_control', 'state', NULL, ARRAY['id', 'state', 'flatten', 'reason', 'changed_by', 'changed_at']),
        ('audit.limit_raises', 'limit_name', NULL, ARRAY[
            'id', 'limit_name', 'limit_value', 'reason', 'changed_by', 'changed_at', 'expires_at']),
        ('audit.legal_holds', 'CASE WHEN released_at IS NULL THEN ''held'' ELSE ''released'' END', 'changed', ARRAY[
            'id', 'reason', 'source', 'captured_from', 'captured_until', 'placed_by', 'placed_at', 'released_by',
            'released_at'])
    ) AS listed (name, detail, event_of_update, columns),
    LATERAL (SELECT name::regclass AS relation, regexp_replace(name, '^.*[.]', '') AS bare) AS known
    LOOP
        SELECT format('SELECT id, %s AS detail, array_send(ARRAY[%s]) AS body FROM %%s ORDER BY id', audited.detail,
                      string_agg(format(CASE WHEN atttypid = 'timestamptz'::regtype THEN 'timestamptz_send(%I)'
                                             ELSE 'convert_to(%I::text, ''UTF8'')' END, attname), ', ' ORDER BY place))
        INTO STRICT written
        FROM unnest(audited.columns) WITH ORDINALITY AS one (attname, place) JOIN pg_attribute USING (attname)
        WHERE attrelid = audited.relation;
        pending := format(
            'INSERT INTO audit.audit_pending (event, subject_table, ids, details, digests, lengths) '
            'SELECT %%s, %L, array_agg(id), array_agg(detail), array_agg(sha256(body)), array_agg(octet_length(body)) '
            'FROM (%s) AS written HAVING count(*) > 0', audited.bare, written);
        EXECUTE format(
            'CREATE OR REPLACE FUNCTION audit.chain_%s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
            'SET search_path = pg_catalog AS $f$ BEGIN %s; RETURN NULL; END $f$',
            audited.bare, format(pending, 'TG_ARGV[0]', 'new_rows'));
        EXECUTE format('COMMENT ON FUNCTION audit.chain_%s() IS ''Digests the rows a statement wrote, for the hash chain.''',
                       audited.bare);
        EXECUTE format('REVOKE ALL ON FUNCTION audit.chain_%s() FROM PUBLIC', audited.bare);
        CONTINUE WHEN EXISTS (SELECT FROM pg_trigger WHERE tgrelid = audited.relation AND tgname = 'chain_insert');

        FOR moment IN SELECT * FROM (VALUES ('insert', 'recorded'), ('update', audited.event_of_update)) AS two (verb, event)
                      WHERE event IS NOT NULL LOOP
            EXECUTE format('CREATE TRIGGER chain_%s AFTER %s ON %s REFERENCING NEW TABLE AS new_rows '
                           'FOR EACH STATEMENT EXECUTE FUNCTION audit.chain_%s(%L)',
                           moment.verb, moment.verb, audited.relation, audited.bare, moment.event);
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER chain_%s', audited.relation, moment.verb);
        END LOOP;
        EXECUTE format(pending, quote_literal('adopted'), format(
            '%s WHERE NOT EXISTS (SELECT FROM audit.audit_log WHERE subject_table = %L AND subject_id = %s.id)',
            audited.relation, audited.bare, audited.relation));
    END LOOP;
END
$$;
