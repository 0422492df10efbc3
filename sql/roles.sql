-- The roles of the trading database, and what they may do. Run by a superuser with psql, at any time again:
--     psql -v schema=public -f sql/roles.sql DATABASE
-- The schema is POSTGRES_SCHEMA. No passwords are set here: docs/database-setup.md.
\set ON_ERROR_STOP on
\if :{?schema} \else \set schema public \endif
BEGIN;
SET LOCAL client_min_messages = warning;

SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY['trading_owner', 'trading_migrate', 'trading_app', 'trading_reader', 'trading_purge',
                  'trading_external']) AS name
WHERE to_regrole(name) IS NULL \gexec
ALTER ROLE trading_owner NOLOGIN;
ALTER ROLE trading_migrate LOGIN;
ALTER ROLE trading_app LOGIN;
ALTER ROLE trading_reader LOGIN;
ALTER ROLE trading_purge LOGIN;
ALTER ROLE trading_external LOGIN;
COMMENT ON ROLE trading_owner IS 'Owns the tables; nobody logs in as it.';
COMMENT ON ROLE trading_migrate IS 'Creates and upgrades the tables, as their owner.';
COMMENT ON ROLE trading_app IS 'The programs: they write, and cannot change what was recorded.';
COMMENT ON ROLE trading_reader IS 'Reads everything.';
COMMENT ON ROLE trading_purge IS 'Empties stored bodies whose time is over.';
COMMENT ON ROLE trading_external IS 'n8n and NocoDB: writes decisions, reads everything.';

GRANT trading_owner TO trading_migrate;
ALTER ROLE trading_migrate SET role = 'trading_owner';
ALTER ROLE trading_reader SET default_transaction_read_only = on;

-- For sessions that set nothing themselves.
ALTER ROLE trading_migrate SET lock_timeout = '10s';
ALTER ROLE trading_app SET statement_timeout = '60s';
ALTER ROLE trading_app SET lock_timeout = '10s';
ALTER ROLE trading_app SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE trading_reader SET statement_timeout = '5min';
ALTER ROLE trading_reader SET lock_timeout = '10s';
ALTER ROLE trading_reader SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE trading_purge SET statement_timeout = '15min';
ALTER ROLE trading_purge SET lock_timeout = '10s';
ALTER ROLE trading_purge SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE trading_external SET statement_timeout = '60s';
ALTER ROLE trading_external SET lock_timeout = '10s';
ALTER ROLE trading_external SET idle_in_transaction_session_timeout = '60s';

GRANT CONNECT ON DATABASE :"DBNAME"
    TO trading_migrate, trading_app, trading_reader, trading_purge, trading_external;
SELECT format('CREATE SCHEMA %I', name) FROM unnest(ARRAY[:'schema', 'audit']) AS name
WHERE NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = name) \gexec
ALTER SCHEMA audit OWNER TO trading_owner;
REVOKE CREATE ON SCHEMA :"schema" FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA :"schema" TO trading_owner;
GRANT USAGE ON SCHEMA :"schema", audit TO trading_app, trading_reader, trading_purge, trading_external;

-- Tables that an earlier version made under another role.
SELECT format('ALTER TABLE %s OWNER TO trading_owner', pg_class.oid::regclass)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'v') AND relowner <> 'trading_owner'::regrole
  AND (nspname = 'audit' OR nspname = :'schema' AND relname IN (
       'trade_journal', 'order_execution', 'external_order', 'order_fill', 'position_adjustment', 'position_tracking',
       'quiver_trades', 'politician_profiles', 'committees', 'committee_memberships', 'blocked_assets')) \gexec
SELECT format('ALTER FUNCTION %s OWNER TO trading_owner', oid::regprocedure) FROM pg_proc
WHERE pronamespace = 'audit'::regnamespace AND proowner <> 'trading_owner'::regrole \gexec

SELECT set_config('search_path', quote_ident(:'schema') || ', audit', true) \g /dev/null
\ir schema/050_rights.sql
GRANT trading_reader TO trading_external;

-- The decisions belong to NocoDB: whoever wrote them, the programs mark what became of them.
SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO trading_external', decisions),
       format('GRANT SELECT ON %s TO trading_app, trading_reader', decisions),
       format('GRANT UPDATE (%s) ON %s TO trading_app', columns, decisions)
FROM (SELECT attrelid::regclass AS decisions, string_agg(quote_ident(attname), ', ') AS columns FROM pg_attribute
      WHERE attrelid = to_regclass('analysis_decision') AND attname IN (
            'Remarks', 'existing_order_id', 'existing_trade_journal_id', 'executed', 'execution_time')
      GROUP BY attrelid) AS found \gexec
COMMIT;
