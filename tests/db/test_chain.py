"""The hash chain: nothing recorded is changed, deleted, inserted, reordered or cut off without `verify` saying so."""

from __future__ import annotations

import subprocess
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from psycopg2 import sql

import embedded_postgres
from audit_trail import (
    AlertKind,
    NewDecision,
    PayloadPolicy,
    create_decision,
    finish_decision,
    record_answer,
    record_attempt,
    request_text,
    response_text,
)
from audit_trail.anchors import AnchorError, anchor_head, begin_chain, current_anchor, read_anchors
from audit_trail.chain_format import canonical_json
from audit_trail.retention import run_purge
from audit_trail.verify import verify
from db_layer import DatabaseError, TradingDB
from kill_switch import TradingState, change_control
from order_life import DecisionStatus, ExecutionStatus

NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
DIGEST = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"  # of the text "1"
NAME = f"tm-{DIGEST[:12]}-0123456789-e"
SUPERUSER = """
SET session_replication_role = replica;
ALTER TABLE audit.audit_log DISABLE TRIGGER ALL; ALTER TABLE audit.audit_head DISABLE TRIGGER ALL;
ALTER TABLE audit.api_payloads DISABLE TRIGGER ALL; ALTER TABLE audit.trade_decisions DISABLE TRIGGER ALL;
ALTER TABLE audit.trade_executions DISABLE TRIGGER ALL; ALTER TABLE order_fill DISABLE TRIGGER ALL;
ALTER TABLE audit.trading_control DISABLE TRIGGER ALL;
"""
REWIND = """
UPDATE audit.audit_head
SET (seq, entry_hash) = (SELECT seq, entry_hash FROM audit.audit_log ORDER BY seq DESC LIMIT 1)
"""
FUNCTIONS = """
SELECT prosecdef AS definer, proconfig::text AS path, has_function_privilege('trading_app', oid, 'EXECUTE') AS anyone
FROM pg_proc WHERE pronamespace = 'audit'::regnamespace AND (proname LIKE 'chain%%' OR proname = 'append_entries')
"""
FORGED = """
INSERT INTO audit.audit_log
SELECT seq + 1, chain, version, recorded_at, event, subject_table, subject_id, actor, detail, body_sha256,
       body_length, entry_hash FROM audit.audit_log WHERE seq = 12
"""
SWAP = """
UPDATE audit.audit_log SET seq = -seq WHERE seq IN (3, 4);
UPDATE audit.audit_log SET seq = seq + 7 WHERE seq IN (-3, -4)
"""
TAMPERED = {
    "changed row": (
        "UPDATE audit.trade_decisions SET quantity = 46",
        "trade_decisions 1 is not as entry 9 has it: it was changed; it is part of decision 1 (NVDA, A1)",
    ),
    "changed rationale": ("UPDATE audit.trade_decisions SET decision_rationale = '{}'", "trade_decisions 1 is not as"),
    "changed digest of a message": (
        "UPDATE audit.api_payloads SET sha256 = repeat('0', 64) WHERE id = 2",
        "api_payloads 2 is not as entry 5 has it",
    ),
    "changed entry": (
        "UPDATE audit.audit_log SET actor = 'somebody' WHERE seq = 5",
        "entry 5 (recorded api_payloads 2) is not what was written, or does not follow the one before",
    ),
    "changed time of an entry": (
        "UPDATE audit.audit_log SET recorded_at = recorded_at + interval '1 microsecond' WHERE seq = 2", "entry 2 (",
    ),
    "deleted entry": (
        "DELETE FROM audit.audit_log WHERE seq = 4", "entry 4 is missing from the chain, before entry 5 (",
    ),
    "deleted row": ("DELETE FROM order_fill", "order_fill 1 is missing, and entry 8 says that it was there"),
    "inserted row": (
        "INSERT INTO audit.trading_control (id, state, reason, changed_by, changed_at) "
        "VALUES (7, 'ACTIVE', 'r', 'x', now())",
        "trading_control 7 has no entry in the chain",
    ),
    "inserted entry": (FORGED, "entry 13 (recorded trading_control 2) is not what was written"),
    "reordered entries": (SWAP, "entry 3 ("),
    "cut off entries": (
        "DELETE FROM audit.audit_log WHERE seq > 10", "the chain ends with entry 10, and its head is entry 12",
    ),
    "cut off entries, head rewound": (
        f"DELETE FROM audit.audit_log WHERE seq > 10; {REWIND}", "trading_control 1 has no entry",
    ),
    "cut off with its rows": (
        f"DELETE FROM audit.audit_log WHERE seq > 10; DELETE FROM audit.trading_control; {REWIND}",
        "chain 1 ends with entry 10, and the anchor of 2025-01-15T15:00:00+00:00 is entry 12: the tail is missing",
    ),
    "changed body": (
        "UPDATE audit.api_payloads SET payload = '{\"body\": 1}' WHERE id = 1",
        "the body of api_payloads 1 does not fit its digest: it was changed; it is part of decision 1 (NVDA, A1)",
    ),
    "removed body": (
        "UPDATE audit.api_payloads SET payload = NULL, purged_at = now() WHERE id = 1",
        "the body of api_payloads 1 was removed, not by a purge",
    ),
    "emptied log": ("DELETE FROM audit.audit_log", "the chain ends with entry 0"),
}


@pytest.fixture
def app(database: dict[str, Any]) -> Any:
    with TradingDB(config=database | {"user": "trading_app"}, application_name="order_executor") as app:
        yield app


def fill(app: TradingDB, number: int = 1) -> None:
    app.insert("order_fill", {
        "order_execution_id": 1, "execution_id": f"e{number}", "side": "buy", "qty": Decimal("1.5"),
        "price": Decimal("133.8"), "filled_at": NOW,
    })


def history(app: TradingDB, policy: PayloadPolicy = PayloadPolicy()) -> None:  # noqa: B008
    """Write what a trade leaves behind: entries 2 to 12."""
    decision_id = create_decision(app, NewDecision(
        strategy_name="n8n", strategy_version="1", action="new_trade", symbol="NVDA", side="buy", quantity=Decimal(45),
        analysis_decision_id="A1", source_bytes="1", source_bytes_sha256=DIGEST,
        rationale={"source_data": {"long": "\u00e9\n\"\\\x7f\u2028", "b": [1, Decimal("1.50"), None, True], "": {}}},
    ), NOW)
    with app.transaction():
        said = policy.payload(request_text("POST", "/v2/orders", {}, '{"qty": "45"}'))
        ids = record_attempt(app, decision_id, {1: NAME}, said, NOW)
    heard = policy.payload(response_text(200, {}, '"é"'))
    record_answer(app, ids, ExecutionStatus.ACCEPTED, heard, NOW, http_status=200)
    app.execute_update("UPDATE audit.trade_executions SET error_details = '{ \"b\": 1,  \"a\": 2}'")
    fill(app)
    finish_decision(app, decision_id, DecisionStatus.EXECUTED, None, NOW)
    fill(app, 2)
    change_control(app, TradingState.HALTED, "é", "me", NOW)
    change_control(app, TradingState.ACTIVE, "r", "me", NOW)


@pytest.mark.parametrize("kind", TAMPERED)
def test_whoever_changes_the_books_past_every_guard_is_found_out(db: TradingDB, app: TradingDB, kind: str) -> None:
    history(app)
    # Without an anchor where the database itself gives it away.
    anchors = [current_anchor(db, NOW)] if kind == "cut off with its rows" else []
    assert verify(db, anchors).fault is None
    db.execute_update(SUPERUSER)
    change, words = TAMPERED[kind]
    db.execute_update(change)
    assert words in str(verify(db, anchors).fault)


def test_what_was_written_verifies_and_each_row_has_its_entries(db: TradingDB, app: TradingDB) -> None:
    history(app)
    report = verify(db)
    assert (report.fault, report.entries, report.rows, report.bodies) == (None, 12, 8, 2)
    entries = sorted(db.query("audit_log"), key=lambda row: int(row["seq"]))
    assert [row["seq"] for row in entries] == list(range(1, 13))
    assert {row["actor"] for row in entries[1:]} == {"trading_app/order_executor"}
    assert [(row["event"], row["detail"]) for row in entries if row["subject_table"] == "trade_decisions"] == [
        ("recorded", "pending"), ("changed", "executed"),
    ]
    assert db.query("audit_pending") == []


def test_an_entry_is_committed_with_its_row_or_not_at_all(db: TradingDB, app: TradingDB) -> None:
    with suppress(RuntimeError), app.transaction():
        fill(app)
        raise RuntimeError
    assert [row["seq"] for row in db.query("audit_log")] == [1]
    fill(app)
    assert verify(db).fault is None


def test_eight_writers_at_once_make_one_chain_without_a_fork_or_a_gap(db: TradingDB, database: dict[str, Any]) -> None:
    troubles: list[Exception] = []

    def write(number: int) -> None:
        try:
            with TradingDB(config=database | {"user": "trading_app"}) as writer:
                for place in range(12):
                    with writer.transaction():
                        fill(writer, number * 1000 + place * 2)
                        fill(writer, number * 1000 + place * 2 + 1)
        except Exception as error:  # noqa: BLE001
            troubles.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
    report = verify(db)
    assert (report.fault, report.entries) == (None, 1 + 8 * 24)


@pytest.mark.parametrize("change", [
    "INSERT INTO audit.audit_log SELECT * FROM audit.audit_log", "UPDATE audit.audit_log SET detail = ''",
    "DELETE FROM audit.audit_log", "TRUNCATE audit.audit_log", "UPDATE audit.audit_head SET seq = 0",
    "INSERT INTO audit.audit_pending (event) VALUES ('restored')", "DELETE FROM audit.audit_head",
    "ALTER TABLE audit.audit_log DISABLE TRIGGER ALL", "ALTER TABLE order_fill DISABLE TRIGGER chain_insert",
])
def test_the_programs_write_to_the_chain_by_writing_rows_only(app: TradingDB, change: str) -> None:
    with pytest.raises(DatabaseError) as refused:
        app.execute_update(change)
    assert refused.value.sqlstate == "42501"


def test_nobody_calls_the_functions_of_the_chain_but_its_triggers(db: TradingDB) -> None:
    functions = db.execute_query(FUNCTIONS)
    assert len(functions) == 8
    found = {(row["definer"], row["path"], row["anyone"]) for row in functions}
    assert found == {(True, "{search_path=pg_catalog}", False)}


def test_texts_that_are_not_kept_have_their_digests_in_the_chain(db: TradingDB, app: TradingDB) -> None:
    history(app, PayloadPolicy(keep_bodies=False))
    report = verify(db)
    assert (report.fault, report.bodies) == (None, 0)
    db.execute_update(SUPERUSER)
    db.execute_update("UPDATE audit.api_payloads SET payload = '1'")
    assert "the body of api_payloads 1 is there, although the chain says that it is not kept" in str(verify(db).fault)


def test_a_purge_leaves_a_chain_that_verifies(db: TradingDB, app: TradingDB, database: dict[str, Any]) -> None:
    history(app)
    for number, (source, year) in enumerate([("quiver", 2022), ("quiver", 2024), ("alpaca", 2022), ("alpaca", 2018),
                                             ("quiver", 2021), ("other", 2021)]):
        app.insert("api_payloads", {
            "type": "ApiResponse", "payload": "1", "source": source, "captured_at": datetime(year, 3, 1, tzinfo=UTC),
            "sha256": DIGEST, "byte_length": 1, "code_version": str(number),
        })
    db.insert("legal_holds", {
        "reason": "a letter", "source": "quiver", "captured_from": datetime(2021, 1, 1, tzinfo=UTC),
        "captured_until": datetime(2022, 1, 1, tzinfo=UTC),
    })
    with pytest.raises(DatabaseError, match="permission denied"):
        run_purge(app, 730, NOW)
    with TradingDB(config=database | {"user": "trading_purge"}) as purger:
        assert run_purge(purger, 730, NOW, dry_run=True).bodies == 3
        assert {row["purged_at"] for row in db.query("api_payloads")} == {None}
        done = run_purge(purger, 730, NOW)
        assert (done.bodies, done.bytes, run_purge(purger, 730, NOW).bodies) == (3, 3, 0)
        assert sorted(row["code_version"] for row in db.query("api_payloads") if row["purged_at"]) == ["0", "3", "5"]
        assert verify(db).fault is None
        db.execute_update("UPDATE audit.legal_holds SET released_at = now(), released_by = 'me'")
        assert run_purge(purger, 730, NOW).bodies == 1
    report = verify(db)
    assert (report.fault, report.bodies) == (None, 4)
    assert [row["occurrences"] for row in db.query("alerts", {"kind": str(AlertKind.PURGE)})] == [3]


def test_an_anchor_is_read_back_as_it_was_written(db: TradingDB, app: TradingDB, tmp_path: Path) -> None:
    file = tmp_path / "kept" / "anchors.txt"
    assert read_anchors(file) == []
    anchors = [anchor_head(db, file, NOW)]
    history(app)
    anchors.append(anchor_head(db, file, NOW))
    assert read_anchors(file) == anchors
    assert [anchor.seq for anchor in anchors] == [1, 12]
    assert verify(db, anchors).anchors == 2
    file.write_text(f"{anchors[0]}\nnonsense")  # as a full disk leaves it
    last = anchor_head(db, file, NOW)
    assert file.read_text() == f"{anchors[0]}\nnonsense\n{last}\n"
    with pytest.raises(AnchorError, match=r"line 2 of .* is no anchor"):
        read_anchors(file)


def test_a_chain_that_was_begun_anew_is_not_taken_for_the_old_one(db: TradingDB, app: TradingDB) -> None:
    history(app)
    other = replace(current_anchor(db, NOW), chain_id="00000000-0000-0000-0000-000000000000")
    assert "is of another chain" in str(verify(db, [other]).fault)


def test_after_a_restore_a_new_chain_names_what_was_lost(db: TradingDB, app: TradingDB) -> None:
    history(app)
    lost = current_anchor(db, NOW)
    db.execute_update(SUPERUSER)
    db.execute_update(f"DELETE FROM audit.audit_log WHERE seq > 10; DELETE FROM audit.trading_control; {REWIND}")
    db.execute_update("ALTER TABLE order_fill ENABLE ALWAYS TRIGGER chain_insert")
    with pytest.raises(DatabaseError, match="permission denied"):
        begin_chain(app, lost)
    begin_chain(db, lost)
    fill(app, 3)
    fill(app, 4)
    report = verify(db, [lost, current_anchor(db, NOW)])
    assert report.fault is None
    assert "at least 2 entries of chain 1 were lost" in report.notes[0]
    later = replace(lost, seq=15)
    assert "chain 1 ends with entry 10, and the anchor" in str(verify(db, [later]).fault)


def test_rows_from_before_the_chain_are_taken_into_it(db: TradingDB, app: TradingDB) -> None:
    db.execute_update("DROP TRIGGER chain_insert ON order_fill")
    fill(app)
    assert "order_fill 1 has no entry" in str(verify(db).fault)
    db.create_schema(test_mode=True)
    assert verify(db).fault is None
    assert [row["event"] for row in db.query("audit_log", {"subject_table": "order_fill"})] == ["adopted"]
    fill(app, 2)
    db.create_schema(test_mode=True)
    assert verify(db).entries == 3


def test_an_order_whose_id_does_not_carry_its_decisions_digest_is_a_fault(db: TradingDB, app: TradingDB) -> None:
    history(app)
    app.execute_update("UPDATE audit.trade_executions SET client_order_id = 'tm-000000000000-0123456789-e'")
    words = "of trade_executions 1 does not carry its decision's digest 6b86b273ff34; it is part of decision 1"
    assert words in str(verify(db).fault)


def test_json_is_digested_in_one_form(db: TradingDB) -> None:
    texts = [
        '{"bb": 1, "ab": "\\"\\\\"}',
        '{"a": [1.50, -0, 1e3, "\\u00e9\\u0001\\n/", true, null, {}], "\\ud83d\\ude00": {"x": []}}',
        "[]", '"a"', "1.0",
    ]
    for text in texts:
        stored = db.execute_query("SELECT %(text)s::jsonb::text AS text", {"text": text})[0]["text"]
        assert canonical_json(stored) == stored
    assert canonical_json('{"b":1,"a":2,"aa":[1,2.0]}') == '{"a": 2, "b": 1, "aa": [1, 2.0]}'


def test_a_restored_dump_verifies_and_the_chain_goes_on_there(
    db: TradingDB, app: TradingDB, database: dict[str, Any], clones: Any, postgres: Any, tmp_path: Path,
) -> None:
    history(app)
    file = tmp_path / "dump.sql"
    where = ["-h", str(database["host"]), "-p", str(database["port"]), "-U", str(database["user"])]
    dump = [str(embedded_postgres.binary("pg_dump")), *where, "-f", str(file), str(database["dbname"])]
    subprocess.run(dump, check=True, capture_output=True)
    clones.execute(sql.SQL("CREATE DATABASE restored TEMPLATE template0 STRATEGY file_copy"))
    restored = postgres.connect_params("restored")
    try:
        load = [str(embedded_postgres.binary("psql")), *where, "-Xqv", "ON_ERROR_STOP=1", "-f", str(file), "restored"]
        subprocess.run(load, check=True, capture_output=True)
        with TradingDB(config=restored) as copy, TradingDB(config=restored | {"user": "trading_app"}) as programs:
            assert verify(copy, [current_anchor(db, NOW)]).fault is None
            fill(programs, 3)
            report = verify(copy, [current_anchor(db, NOW)])
            assert (report.fault, report.entries) == (None, 13)
    finally:
        clones.drop(restored)
