-- The table that belongs to n8n and NocoDB, for test mode only: in production it exists already and is never created here.
-- "Decision" is text, the widest of the three types met in the field, so that broken JSON can be rehearsed too.

CREATE TABLE IF NOT EXISTS analysis_decision (
    "Analysis_Id"              varchar(255) PRIMARY KEY,
    "Date_time"                timestamp,
    "Ticker"                   varchar,
    "Chart"                    text,
    "Analysis_Prompt"          text,
    "3_Month_Chart"            text,
    "Analysis"                 text,
    "Trade_Type"               varchar,
    "Decision"                 text,
    "Approve"                  boolean,
    "Date"                     date,
    "Remarks"                  text,
    existing_order_id          varchar,
    existing_trade_journal_id  integer,
    executed                   boolean,
    execution_time             timestamp
);
COMMENT ON TABLE analysis_decision IS 'Decisions of the analysis workflow, as NocoDB lays them out.';
