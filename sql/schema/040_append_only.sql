-- What was recorded stays: rows of the audit trail, and executions, are never deleted, and most are never changed.
-- The triggers fire for everybody, also for the owner, and also where session_replication_role is replica.

CREATE OR REPLACE FUNCTION audit.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused: what was recorded stays as it is', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;
COMMENT ON FUNCTION audit.refuse_change() IS 'Keeps recorded rows from being changed, deleted or truncated.';

-- Retention removes a body and says when; digest and length stay. Where the roles exist it takes the one for it.
CREATE OR REPLACE FUNCTION audit.allow_purge_only() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    emptied audit.api_payloads := OLD;
BEGIN
    emptied.payload := NULL;
    emptied.purged_at := NEW.purged_at;
    IF NEW.payload IS NOT NULL OR NEW.purged_at IS NULL OR OLD.purged_at IS NOT NULL
       OR to_jsonb(NEW) <> to_jsonb(emptied) THEN
        RAISE EXCEPTION 'UPDATE of % is refused: retention may remove a body once, and change nothing else', TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF to_regrole('trading_purge') IS NOT NULL AND NOT pg_has_role(current_user, 'trading_purge', 'USAGE') THEN
        RAISE EXCEPTION 'UPDATE of % is refused: only the role trading_purge removes bodies', TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION audit.allow_purge_only() IS 'Lets retention empty a stored body, and nobody change anything else.';

DO $$
DECLARE
    guarded record;
BEGIN
    FOR guarded IN
        SELECT name, 'UPDATE OR DELETE OR TRUNCATE' AS changes
        FROM unnest(ARRAY['order_fill', 'audit.api_call_logs', 'audit.data_ingestion_run_records', 'audit.quarantined_records',
                          'audit.risk_checks', 'audit.trading_control', 'audit.limit_raises', 'audit.audit_log',
                          'audit.trade_decision_disclosures']) AS name
        UNION ALL
        SELECT name, 'DELETE OR TRUNCATE'
        FROM unnest(ARRAY['audit.api_payloads', 'audit.trade_decisions', 'audit.trade_executions',
                          'audit.data_ingestion_runs', 'audit.job_runs', 'audit.alerts', 'audit.audit_head',
                          'audit.legal_holds']) AS name
    LOOP
        -- Asked first, because a trigger is made under a lock that waits for every program to end.
        IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = guarded.name::regclass AND tgname = 'recorded_stays') THEN
            EXECUTE format('CREATE TRIGGER recorded_stays BEFORE %s ON %s EXECUTE FUNCTION audit.refuse_change()',
                           guarded.changes, guarded.name::regclass);
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER recorded_stays', guarded.name::regclass);
        END IF;
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'audit.api_payloads'::regclass AND tgname = 'purge_only') THEN
        CREATE TRIGGER purge_only BEFORE UPDATE ON audit.api_payloads
            FOR EACH ROW EXECUTE FUNCTION audit.allow_purge_only();
        ALTER TABLE audit.api_payloads ENABLE ALWAYS TRIGGER purge_only;
    END IF;
END
$$;
