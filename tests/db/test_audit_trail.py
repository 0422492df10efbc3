"""The audit trail: decisions with their lineage, what was said and heard, what came of it, and alerts."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from audit_trail import (
    AlertLevel,
    NewDecision,
    OrderState,
    Payload,
    PayloadPolicy,
    Read,
    create_decision,
    finish_decision,
    raise_alert,
    record_answer,
    record_attempt,
    record_order_states,
    record_reads,
    record_request,
    record_response,
    request_text,
    resolve_alerts,
    response_text,
)
from code_version import CODE_VERSION, digest_of
from db_layer import DatabaseError, TradingDB
from kill_switch import entries_allowed
from order_life import DecisionStatus, ExecutionStatus
from risk_gate import RiskCheck, record_checks

NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=5)
ORDER = '{"qty": "45",  "limit_price" : "133.80"}'
ANSWER = '{ "id": "o1", "filled_avg_price": 133.80000000000000001, "note": "\\u00e9 \u00e9 \\u0000 \\ud800 %s" }'
PAYLOAD_TEXT = "SELECT id, payload::text AS text, sha256, byte_length FROM audit.api_payloads ORDER BY id"
NOT_JSON = [
    "", "<html>504</html>", "x\x00y", '{"a": "\ud800"}', '{"a": NaN}', "9" * 5000, "[" * 100_000 + "]" * 100_000,
    "[1e1000000000000000000]",
]
STRANGE_JSON = ["[" * 500 + "]" * 500, '"\\ud800 \\u0000"', "9" * 4000, "[1e400]", '{"a": 1, "a": 2}', "null"]


def decide(db: TradingDB, at: datetime = NOW, **values: Any) -> dict[str, Any]:
    decision = NewDecision(**({
        "strategy_name": "n8n_analysis", "strategy_version": "1", "action": "new_trade", "symbol": "NVDA",
        "source_bytes_sha256": "a" * 64,
    } | values))
    row = db.get_by_id("trade_decisions", create_decision(db, decision, at))
    assert row is not None
    return row


def ingest(db: TradingDB, completed_at: datetime | None, status: str = "completed", **values: Any) -> int:
    started = (completed_at or NOW) - timedelta(minutes=1)
    return int(db.insert("data_ingestion_runs", {
        "task_name": "congress_daily", "data_source": "quiverquant_congress", "status": status, "started_at": started,
        "completed_at": completed_at if status == "completed" else None,
        "failed_at": completed_at if status == "failed" else None, "records_fetched": 12, "created_at": started,
        "updated_at": started,
    } | values))


def attempt(db: TradingDB, orders: dict[int, str], policy: PayloadPolicy | None = None) -> list[int]:
    decisions = db.query("trade_decisions")
    decision_id = decisions[0]["id"] if decisions else decide(db)["id"]
    said = (policy or PayloadPolicy()).payload(request_text("POST", "/v2/orders", {}, ORDER))
    return record_attempt(db, decision_id, orders, said, NOW)


def heard(body: str = ANSWER, policy: PayloadPolicy | None = None) -> Payload:
    return (policy or PayloadPolicy()).payload(response_text(200, {"X-Request-ID": "r1"}, body))


def executions(db: TradingDB) -> list[dict[str, Any]]:
    return sorted(db.query("trade_executions"), key=lambda row: int(row["id"]))


def state(order_id: int, status: ExecutionStatus, **values: Any) -> OrderState:
    return OrderState(**({
        "order_id": order_id, "status": status, "alpaca_order_id": f"o{order_id}", "client_order_id": f"c{order_id}",
        "filled_qty": Decimal(0), "filled_avg_price": None, "filled_at": None,
    } | values))


def read(db: TradingDB, body: str = "[]", source: str = "alpaca", policy: PayloadPolicy | None = None) -> None:
    policy = policy or PayloadPolicy()
    said = policy.payload(request_text("GET", "/v2/orders", {"status": "all"}, None))
    heard = policy.payload(response_text(200, {}, body))
    record_reads(db, source, [Read("GET /v2/orders", said, heard, 200, 31, 199)], NOW)


def test_a_decision_is_pending_and_keeps_what_it_was_made_from(db: TradingDB) -> None:
    row = decide(
        db, source_bytes=ANSWER, side="buy", quantity=Decimal("45.000000001"), order_type="limit",
        limit_price=Decimal("133.80"), analysis_decision_id="a1", analysis_row_key="7",
        rationale={"signal_strength": Decimal("0.1"), "trigger_event": {"at": NOW}, "source_data": {"b": [1]}},
    )
    assert (row["status"], row["source_bytes"], row["quantity"]) == ("pending", ANSWER, Decimal("45.000000001"))
    assert (row["created_at"], row["analysis_decision_id"]) == (NOW, "a1")
    assert row["decision_rationale"] == {
        "signal_strength": "0.1", "confidence_score": None, "trigger_event": {"at": "2025-01-15 15:00:00+00:00"},
        "source_data": {"b": [1]}, "market_context": {}, "portfolio_context": {},
        "data_lineage": {"ingestion_runs": []},
    }
    assert row["primary_ingestion_run_id"] is None


def test_lineage_is_the_last_five_completed_runs_of_a_day(db: TradingDB) -> None:
    ages = [timedelta(hours=hours) for hours in (3, 1, 23, 2, 7, 5)]
    ids = {age: ingest(db, NOW - age, records_fetched=age.seconds // 3600) for age in ages}
    row = decide(db)
    lineage = row["decision_rationale"]["data_lineage"]["ingestion_runs"]
    assert [run["records_fetched"] for run in lineage] == [1, 2, 3, 5, 7]
    assert row["primary_ingestion_run_id"] == ids[timedelta(hours=1)]
    latest = db.get_by_id("data_ingestion_runs", ids[timedelta(hours=1)])
    assert latest is not None
    assert lineage[0] == {
        "run_id": str(latest["run_id"]), "task_name": "congress_daily", "data_source": "quiverquant_congress",
        "completed_at": "2025-01-15T14:00:00+00:00", "records_fetched": 1,
    }


@pytest.mark.parametrize(
    ("status", "age", "known"),
    [
        ("completed", timedelta(0), True),
        ("completed", timedelta(hours=24) - timedelta(microseconds=1), True),
        ("completed", timedelta(hours=24), False),
        ("completed", timedelta(microseconds=-1), False),
        ("failed", timedelta(hours=1), False),
        ("running", timedelta(hours=1), False),
    ],
)
def test_only_a_run_completed_within_the_day_before_counts(
    db: TradingDB, status: str, age: timedelta, known: bool,
) -> None:
    run = ingest(db, NOW - age, status)
    row = decide(db)
    assert len(row["decision_rationale"]["data_lineage"]["ingestion_runs"]) == known
    assert row["primary_ingestion_run_id"] == (run if known else None)


@pytest.mark.parametrize(("minutes", "known"), [(30, []), (5, ["early"]), (-60, ["late", "early"])])
def test_what_became_known_between_a_decision_and_its_claim_is_not_in_its_lineage(
    db: TradingDB, minutes: int, known: list[str],
) -> None:
    ingest(db, NOW - timedelta(minutes=20), task_name="early")
    ingest(db, NOW - timedelta(minutes=2), task_name="late")
    ingest(db, NOW + timedelta(minutes=2), task_name="later than the claim")
    row = decide(db, decided_at=NOW - timedelta(minutes=minutes))
    assert [run["task_name"] for run in row["decision_rationale"]["data_lineage"]["ingestion_runs"]] == known


def test_a_primary_run_that_was_given_is_kept(db: TradingDB) -> None:
    old = ingest(db, NOW - timedelta(days=9))
    ingest(db, NOW - timedelta(hours=1))
    row = decide(db, primary_ingestion_run_id=old)
    assert row["primary_ingestion_run_id"] == old
    assert len(row["decision_rationale"]["data_lineage"]["ingestion_runs"]) == 1


@pytest.mark.parametrize("first", ["executed", "failed", "cancelled"])
def test_a_decision_moves_once_and_only_a_late_fill_moves_it_again(db: TradingDB, first: str) -> None:
    decision_id = decide(db)["id"]
    assert finish_decision(db, decision_id, DecisionStatus(first), "why", NOW)
    for second in set(DecisionStatus) - {DecisionStatus.EXECUTED}:
        assert not finish_decision(db, decision_id, second, "other", LATER)
    row = db.get_by_id("trade_decisions", decision_id)
    assert row is not None
    assert (row["status"], row["status_reason"], row["updated_at"]) == (first, "why", NOW)
    times = {word: row[f"{word}_at"] for word in ("executed", "failed", "cancelled")}
    assert {word: at for word, at in times.items() if at} == {first: NOW}
    late = finish_decision(db, decision_id, DecisionStatus.EXECUTED, "filled after all", LATER)
    assert late == (first != "executed")


def test_a_note_of_a_pending_decision_stays_when_its_outcome_has_no_reason(db: TradingDB) -> None:
    decision_id = decide(db)["id"]
    db.execute_update("UPDATE audit.trade_decisions SET status_reason = 'replaces another'")
    finish_decision(db, decision_id, DecisionStatus.EXECUTED, None, NOW)
    assert db.query("trade_decisions")[0]["status_reason"] == "replaces another"


def test_why_a_decision_failed_does_not_stay_when_a_late_fill_carries_it_out(db: TradingDB) -> None:
    decision_id = decide(db)["id"]
    finish_decision(db, decision_id, DecisionStatus.FAILED, "not placed", NOW)
    finish_decision(db, decision_id, DecisionStatus.EXECUTED, None, LATER)
    assert db.query("trade_decisions")[0]["status_reason"] is None


def test_a_decision_does_not_fail_without_a_reason(db: TradingDB) -> None:
    decision_id = decide(db)["id"]
    with pytest.raises(DatabaseError):
        finish_decision(db, decision_id, DecisionStatus.FAILED, None, NOW)


def test_finishing_a_decision_that_is_not_there_is_no_move(db: TradingDB) -> None:
    assert not finish_decision(db, 4711, DecisionStatus.EXECUTED, None, NOW)


def test_an_attempt_is_submitted_with_its_request(db: TradingDB) -> None:
    ids = attempt(db, {11: "c11"})
    [row] = executions(db)
    assert [row["id"]] == ids
    assert (row["status"], row["attempt_number"], row["client_order_id"], row["order_execution_id"]) == (
        "submitted", 1, "c11", 11,
    )
    assert (row["submitted_at"], row["api_response_payload_id"]) == (NOW, None)
    [said] = db.query("api_payloads")
    assert (said["id"], said["type"], said["source"]) == (row["api_request_payload_id"], "ApiRequest", "alpaca")
    assert said["payload"]["body"] == json.loads(ORDER)


def test_two_orders_may_go_out_with_one_request(db: TradingDB) -> None:
    ids = attempt(db, {11: "c11", 12: "c12"})
    rows = executions(db)
    assert [row["id"] for row in rows] == ids
    assert [(row["order_execution_id"], row["client_order_id"]) for row in rows] == [(11, "c11"), (12, "c12")]
    assert len({row["api_request_payload_id"] for row in rows}) == len(db.query("api_payloads")) == 1
    record_answer(db, ids, ExecutionStatus.ACCEPTED, heard(), LATER, http_status=200)
    assert [(row["status"], row["http_status_code"]) for row in executions(db)] == [("accepted", 200)] * 2
    assert len({row["api_response_payload_id"] for row in executions(db)}) == 1


def test_nothing_is_written_while_an_attempt_at_one_of_the_orders_is_under_way(db: TradingDB) -> None:
    attempt(db, {11: "c11"})
    assert attempt(db, {11: "c11", 12: "c12"}) == []
    assert len(executions(db)) == len(db.query("api_payloads")) == 1


def test_attempts_are_numbered_by_client_order_id(db: TradingDB) -> None:
    for orders in ({11: "c11", 12: "c12"}, {11: "c11"}, {11: "c11", 12: "c12"}):
        ids = attempt(db, orders)
        record_answer(db, ids, ExecutionStatus.NOT_PLACED, heard(), LATER)
    numbers = [(row["client_order_id"], row["attempt_number"]) for row in executions(db)]
    assert numbers == [("c11", 1), ("c12", 1), ("c11", 2), ("c11", 3), ("c12", 2)]


def test_an_answer_that_refuses_keeps_the_reason(db: TradingDB) -> None:
    ids = attempt(db, {11: "c11"})
    details = {"code": 40310000, "buying_power": Decimal("0.10"), "text": "nul \x00 half \ud800"}
    record_answer(
        db, ids, ExecutionStatus.REJECTED, heard(), LATER, http_status=403, error_code="40310000",
        error_message="insufficient buying power", error_details=details,
    )
    [row] = executions(db)
    assert (row["status"], row["http_status_code"], row["error_code"]) == ("rejected", 403, "40310000")
    assert (row["error_message"], row["rejected_at"]) == ("insufficient buying power", LATER)
    assert row["error_details"] == details | {"buying_power": "0.10"}


def test_a_transport_error_is_unknown_and_rejects_nothing(db: TradingDB) -> None:
    ids = attempt(db, {11: "c11"})
    said = PayloadPolicy().payload(response_text(None, {}, None, "read timed out"))
    record_answer(db, ids, ExecutionStatus.UNKNOWN, said, LATER, error_message="read timed out")
    [row] = executions(db)
    assert (row["status"], row["http_status_code"], row["rejected_at"]) == ("unknown", None, None)


def test_an_order_state_goes_to_the_newest_attempt_only(db: TradingDB) -> None:
    attempt(db, {11: "c11", 12: "c12"})
    record_answer(db, [executions(db)[0]["id"]], ExecutionStatus.NOT_PLACED, heard(), NOW)
    attempt(db, {11: "c11"})
    record_order_states(db, [
        state(11, ExecutionStatus.PARTIAL_FILL, filled_qty=Decimal("1.5"), filled_avg_price=Decimal("133.7")),
        state(12, ExecutionStatus.REJECTED, client_order_id="brokers-own"),
        state(99, ExecutionStatus.FILLED),
    ], LATER)
    first, leg, second = executions(db)
    assert first["status"] == "not_placed"
    assert (second["status"], second["filled_quantity"], second["alpaca_order_id"]) == (
        "partial_fill", Decimal("1.5"), "o11",
    )
    assert (leg["status"], leg["rejected_at"], leg["client_order_id"]) == ("rejected", LATER, "brokers-own")
    record_order_states(db, [
        state(11, ExecutionStatus.FILLED, filled_qty=Decimal(2), filled_avg_price=Decimal(134), filled_at=LATER),
        state(12, ExecutionStatus.REJECTED, client_order_id="brokers-own"),
    ], LATER + timedelta(hours=1))
    _, leg, second = executions(db)
    assert (second["status"], second["filled_at"], second["rejected_at"]) == ("filled", LATER, None)
    assert leg["rejected_at"] == LATER


def check_digests(db: TradingDB) -> list[str]:
    rows = db.execute_query(PAYLOAD_TEXT)
    for row in rows:
        data = row["text"].encode()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (row["sha256"], row["byte_length"])
    return [row["text"] for row in rows]


def test_what_was_said_and_heard_is_kept_letter_for_letter(db: TradingDB) -> None:
    ids = attempt(db, {11: "c11"})
    record_answer(db, ids, ExecutionStatus.ACCEPTED, heard(), LATER)
    said, answer = check_digests(db)
    assert said.endswith(f'"body": {ORDER}}}')
    assert answer.endswith(f'"body": {ANSWER}}}')


def test_any_body_is_stored_and_can_be_read_again(db: TradingDB) -> None:
    for body in NOT_JSON + STRANGE_JSON:
        read(db, body)
    assert len(check_digests(db)) == 1 + len(NOT_JSON + STRANGE_JSON)
    answers = [row["payload"]["body"] for row in sorted(
        db.query("api_payloads", {"type": "ApiResponse"}), key=lambda row: int(row["id"]),
    )]
    assert answers == NOT_JSON + [json.loads(body, parse_float=Decimal) for body in STRANGE_JSON]


def test_without_the_audit_trail_digests_are_kept_and_bodies_are_not(db: TradingDB) -> None:
    policy = PayloadPolicy(keep_bodies=False)
    ids = attempt(db, {11: "c11"}, policy)
    record_answer(db, ids, ExecutionStatus.ACCEPTED, heard(policy=policy), LATER)
    read(db, policy=policy)
    rows = db.query("api_payloads")
    assert [row["payload"] for row in rows] == [None] * 4
    assert all(len(row["sha256"]) == 64 and row["byte_length"] > 0 for row in rows)
    [row] = executions(db)
    assert (row["status"], len(db.query("api_call_logs"))) == ("accepted", 1)


def test_no_secret_reaches_the_database(db: TradingDB) -> None:
    secret = 's3cret "example"'
    policy = PayloadPolicy(secrets=(secret,))
    read(db, json.dumps({"echo": secret}), policy=policy)
    read(db, f"<p>{secret}</p>", policy=policy)
    text = "".join(check_digests(db))
    assert "s3cret" not in text
    assert text.count("[redacted]") == 2


def test_the_same_answer_is_stored_once_and_logged_each_time(db: TradingDB) -> None:
    read(db)
    read(db)
    read(db, '[{"id": "o1"}]')
    read(db)
    payloads = {row["id"]: row for row in db.query("api_payloads")}
    calls = sorted(db.query("api_call_logs"), key=lambda row: int(row["id"]))
    assert len(payloads) == 3
    assert len({call["api_request_payload_id"] for call in calls}) == 1
    answers = [payloads[call["api_response_payload_id"]]["payload"]["body"] for call in calls]
    assert answers == [[], [], [{"id": "o1"}], []]
    assert {(call["endpoint"], call["http_status_code"], call["duration_ms"], call["rate_limit_remaining"])
            for call in calls} == {("GET /v2/orders", 200, 31, 199)}


def test_an_answer_of_another_source_or_a_purged_one_is_stored_again(db: TradingDB) -> None:
    read(db)
    read(db, source="quiverquant_congress")
    assert len(db.query("api_payloads")) == 4
    db.execute_update("UPDATE audit.api_payloads SET payload = NULL, purged_at = %(now)s", {"now": NOW})
    read(db)
    assert len(db.query("api_payloads", {"purged_at": None})) == 2


def test_a_body_is_stored_although_its_digest_was_kept_before(db: TradingDB) -> None:
    read(db, policy=PayloadPolicy(keep_bodies=False))
    read(db)
    read(db, policy=PayloadPolicy(keep_bodies=False))
    latest = max(db.query("api_call_logs"), key=lambda row: int(row["id"]))
    kept = [row for row in db.query("api_payloads") if row["payload"] is not None]
    assert len(kept) == 2
    assert len(db.query("api_payloads")) == 4
    assert latest["http_status_code"] == 200


def test_a_message_that_places_nothing_is_written_before_it_is_said(db: TradingDB) -> None:
    said = PayloadPolicy().payload(request_text("DELETE", "/v2/orders/o1", {}, None))
    request_id = record_request(db, "alpaca", said, NOW)
    assert db.query("api_call_logs") == []
    assert db.get_by_id("api_payloads", request_id)["code_version"] == CODE_VERSION
    record_response(db, "alpaca", request_id, "DELETE /v2/orders/o1", heard(""), LATER, 204, 12)
    [call] = db.query("api_call_logs")
    assert (call["api_request_payload_id"], call["http_status_code"], call["created_at"]) == (request_id, 204, LATER)
    assert len(check_digests(db)) == 2


def alerts(db: TradingDB) -> list[tuple[Any, ...]]:
    rows = sorted(db.query("alerts"), key=lambda row: int(row["id"]))
    return [(row["level"], row["message"], row["occurrences"], row["resolved_at"]) for row in rows]


def test_an_alert_of_the_same_matter_is_counted_not_repeated(db: TradingDB) -> None:
    raise_alert(db, AlertLevel.WARNING, "no_stop", "NVDA", "no stop yet", NOW)
    raise_alert(db, AlertLevel.CRITICAL, "no_stop", "NVDA", "still no stop", LATER)
    raise_alert(db, AlertLevel.INFO, "no_stop", "AAPL", "other", NOW)
    assert alerts(db) == [("critical", "still no stop", 2, None), ("info", "other", 1, None)]
    row = db.query("alerts", {"subject": "NVDA"})[0]
    assert (row["first_seen_at"], row["last_seen_at"]) == (NOW, LATER)


@pytest.mark.parametrize(("level", "logged"), [("info", "INFO"), ("warning", "WARNING"), ("critical", "ERROR")])
def test_each_sighting_of_an_alert_is_logged_with_its_level(
    db: TradingDB, caplog: pytest.LogCaptureFixture, level: str, logged: str,
) -> None:
    caplog.set_level("INFO", "alerts")
    for _ in range(2):
        raise_alert(db, AlertLevel(level), "no_stop", "NVDA", "100% naked", NOW)
    lines = [(line.levelname, line.getMessage(), vars(line)["kind"], vars(line)["subject"]) for line in caplog.records]
    assert lines == [(logged, "100% naked", "no_stop", "NVDA")] * 2


def test_a_resolved_alert_stays_and_the_next_sighting_opens_a_new_one(db: TradingDB) -> None:
    raise_alert(db, AlertLevel.WARNING, "no_stop", "NVDA", "first", NOW)
    resolve_alerts(db, ("no_stop",), ("AAPL",), NOW)
    resolve_alerts(db, ("no_stop",), ("NVDA",), LATER)
    resolve_alerts(db, ("no_stop",), ("NVDA",), LATER + timedelta(hours=1))
    raise_alert(db, AlertLevel.WARNING, "no_stop", "NVDA", "second", LATER)
    assert alerts(db) == [("warning", "first", 1, LATER), ("warning", "second", 1, None)]


def test_every_check_is_a_row(db: TradingDB) -> None:
    decision_id = decide(db)["id"]
    record_checks(db, decision_id, [
        RiskCheck("side", "ALLOW_SHORT=false", "buy"), RiskCheck("max_order_qty", "10000", "10001", "too many"),
    ], NOW)
    record_checks(db, decision_id, [], NOW)
    rows = db.query("risk_checks", {"trade_decision_id": decision_id})
    assert [(row["check_name"], row["limit_value"], row["observed_value"], row["passed"]) for row in rows] == [
        ("side", "ALLOW_SHORT=false", "buy", True), ("max_order_qty", "10000", "10001", False),
    ]


@pytest.mark.parametrize(
    ("states", "allowed"),
    [([], True), (["ACTIVE"], True), (["HALTED"], False), (["REDUCING"], False), (["HALTED", "ACTIVE"], True),
     (["ACTIVE", "HALTED"], False)],
)
def test_the_latest_word_of_the_kill_switch_is_in_force(db: TradingDB, states: list[str], allowed: bool) -> None:
    for word in states:
        db.insert("trading_control", {"state": word, "reason": "drill", "changed_by": "test", "changed_at": NOW})
    assert entries_allowed(db) is allowed


def test_a_request_to_place_an_order_says_which_code_sent_it(db: TradingDB) -> None:
    attempt(db, {1: "c1"})
    read(db)
    requests = db.query("api_payloads", {"type": "ApiRequest"})
    assert {row["payload"]["method"]: row["code_version"] for row in requests} == {"POST": CODE_VERSION, "GET": None}


def test_another_name_or_content_of_a_file_is_another_version_of_the_code(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    versions = []
    for name, content in (("a.py", "1"), ("a.py", "2"), ("b.py", "2"), ("tests/c.py", "3")):
        (tmp_path / name).write_text(content)
        versions.append(digest_of(tmp_path))
    assert len(set(versions)) == 3
    assert versions[2] == versions[3]  # tests do not trade
