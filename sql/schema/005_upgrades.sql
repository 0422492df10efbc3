-- What tables made by an earlier version lack; on a new database this does nothing.

DO $$
BEGIN
    IF to_regclass('trade_journal') IS NOT NULL AND to_regclass('position_adjustment') IS NULL THEN
        ALTER TABLE trade_journal ADD COLUMN IF NOT EXISTS
            split_ratio numeric(18,9) NOT NULL DEFAULT 1 CHECK (split_ratio > 0);
        ALTER TABLE order_execution ADD COLUMN IF NOT EXISTS
            exit_reason text CHECK (exit_reason IN ('MANUAL_EXIT', 'EOD_EXIT', 'EMERGENCY_EXIT'));
        ALTER TABLE order_fill ALTER COLUMN order_execution_id DROP NOT NULL;
        ALTER TABLE order_fill ADD COLUMN IF NOT EXISTS external_order_id bigint;
        ALTER TABLE order_fill ADD CONSTRAINT order_fill_of_one_order
            CHECK ((order_execution_id IS NULL) <> (external_order_id IS NULL));
        ALTER TABLE audit.trade_decisions ADD COLUMN IF NOT EXISTS target_order_id bigint;
    END IF;
    IF to_regclass('audit.trading_control') IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('audit.trading_control') AND attname = 'flatten'
    ) THEN
        ALTER TABLE audit.trading_control
            ADD COLUMN flatten boolean NOT NULL DEFAULT false,
            ADD CONSTRAINT trading_control_flatten CHECK (state = 'HALTED' OR NOT flatten);
        ALTER TABLE order_execution
            DROP CONSTRAINT order_execution_exit_reason_check,
            ADD CONSTRAINT order_execution_exit_reason_check
                CHECK (exit_reason IN ('MANUAL_EXIT', 'EOD_EXIT', 'EMERGENCY_EXIT'));
    END IF;
END $$;

DO $$
BEGIN
    IF to_regclass('position_tracking') IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('position_tracking') AND attname = 'valued_on'
    ) THEN
        ALTER TABLE position_tracking ADD COLUMN pnl_before_today numeric(18,6), ADD COLUMN valued_on date;
    END IF;
    IF to_regclass('audit.api_payloads') IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('audit.api_payloads') AND attname = 'code_version'
    ) THEN
        ALTER TABLE audit.api_payloads ADD COLUMN code_version text;
    END IF;
END $$;

-- Nothing could fill these tables before, so no row has to be given what its source said.
DO $$
BEGIN
    IF to_regclass('quiver_trades') IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('quiver_trades') AND attname = 'trade_key'
    ) THEN
        ALTER TABLE quiver_trades
            ADD COLUMN trade_key text NOT NULL, ADD COLUMN lot integer NOT NULL, ADD COLUMN asset_type text NOT NULL,
            ADD COLUMN tradable boolean NOT NULL, ADD COLUMN party text, ADD COLUMN owner text,
            ADD COLUMN is_officer boolean, ADD COLUMN is_director boolean, ADD COLUMN is_ten_percent_owner boolean,
            ADD COLUMN officer_title text, ADD COLUMN side text CHECK (side IN ('buy', 'sell')),
            ADD COLUMN portion text CHECK (portion IN ('full', 'partial')), ADD COLUMN description text,
            ADD COLUMN vendor_modified text,
            ALTER COLUMN symbol DROP NOT NULL, ALTER COLUMN disclosure_date DROP NOT NULL,
            ALTER COLUMN transaction_date SET NOT NULL;
        ALTER TABLE committees ADD COLUMN jurisdiction text;
    END IF;
END $$;

DO $$
BEGIN
    IF to_regclass('position_tracking') IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('position_tracking') AND attname = 'realized_pnl'
    ) THEN
        ALTER TABLE position_tracking ADD COLUMN realized_pnl numeric(18,6) NOT NULL DEFAULT 0;
        ALTER TABLE trade_journal ADD COLUMN pnl_before_exit_day numeric(18,6);
    END IF;
END $$;

-- Nothing could fill the log of entries before there was a chain.
DO $$
BEGIN
    IF EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('audit.audit_log') AND attname = 'previous_hash') THEN
        DROP TABLE audit.audit_log;
    END IF;
END $$;
