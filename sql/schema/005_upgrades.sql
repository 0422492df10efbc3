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
