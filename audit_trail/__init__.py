"""The audit trail: what was known, decided, said and heard, written before anything is concluded from it."""

import requirements_check  # noqa: F401
from audit_trail.alerts import AlertKind, AlertLevel, raise_alert, resolve_alerts
from audit_trail.calls import Read, close_interrupted, record_reads, record_request, record_response
from audit_trail.decisions import NewDecision, create_decision, finish_decision, finish_decisions
from audit_trail.executions import OrderState, record_answer, record_attempt, record_order_states
from audit_trail.ingestion import IngestionRun, Operation, log_data_ingestion
from audit_trail.payloads import Payload, PayloadPolicy, extract_text, request_text, response_text

__all__ = [
    "AlertKind",
    "AlertLevel",
    "IngestionRun",
    "NewDecision",
    "Operation",
    "OrderState",
    "Payload",
    "PayloadPolicy",
    "Read",
    "close_interrupted",
    "create_decision",
    "extract_text",
    "finish_decision",
    "finish_decisions",
    "log_data_ingestion",
    "raise_alert",
    "record_answer",
    "record_attempt",
    "record_order_states",
    "record_reads",
    "record_request",
    "record_response",
    "request_text",
    "resolve_alerts",
    "response_text",
]
