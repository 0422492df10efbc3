"""The planted bugs, each as a piece of the product, what takes its place, and the tests that must fail then."""

from __future__ import annotations

from dataclasses import dataclass

FAULTS = "tests/crash/test_fault_table.py::test_each_fault_has_one_end[{}]"
CRASHES = "tests/crash/test_crash_points.py::test_a_program_may_end_before_any_of_its_effects[{}]"


@dataclass(frozen=True)
class Mutant:
    """One planted bug; `old` occurs exactly once in `file`."""

    name: str
    file: str
    old: str
    new: str
    killers: tuple[str, ...]


def fault(row: str) -> tuple[str, ...]:
    """The row of the fault table that must notice a bug."""
    return (FAULTS.format(row),)


MUTANTS = (
    Mutant(
        "a timeout is a rejection", "broker_line.py",
        "outcome = Outcome.NOT_SENT if never_left else Outcome.UNKNOWN",
        "outcome = Outcome.NOT_SENT if never_left else Outcome.REFUSED", fault("B5"),
    ),
    Mutant(
        "a 5xx is a rejection", "broker_line.py",
        "if status in (400, 401, 403, 404, 409, 422) and", "if status >= 400 and status not in (408, 429) and",
        fault("B7"),
    ),
    Mutant(
        "a 429 is a rejection", "broker_line.py",
        "if status in (400, 401, 403, 404, 409, 422) and", "if 400 <= status < 500 and", fault("B8"),
    ),
    Mutant(
        "the refusal of a duplicate id is a rejection", "broker_line.py",
        "duplicate = status in (409, 422) and DUPLICATE_ID_WORDS in", "duplicate = False and DUPLICATE_ID_WORDS in",
        fault("B10 equal"),
    ),
    Mutant(
        "a 2xx is an acceptance whatever it says", "broker_line.py",
        "_confirms(request, body)", "True", fault("B11"),
    ),
    Mutant(
        "a POST is repeated by itself", "broker_line.py", "client._retry = 0",
        "client._retry, client._retry_wait = 1, 0", fault("B7"),
    ),
    Mutant(
        "the client order id is random", "order_changes.py",
        'return f"tm-{source_sha256[:12]}-{hashlib.sha256(row_key.encode(\'utf-8\')).hexdigest()[:10]}"',
        "return __import__(\"uuid\").uuid4().hex[:26]", fault("B10 equal"),
    ),
    Mutant(
        "a transaction is open while the broker is called", "order_desk.py",
        "        reply = self._send_unless_late(request, submitted_at)\n        with",
        "            reply = self._send_unless_late(request, submitted_at)\n        with", (CRASHES.format("entry"),),
    ),
    Mutant(
        "the request is committed after it was sent", "order_desk.py",
        "            execution_ids = record_attempt(self._db, order[\"trade_decision_id\"], ids, said, submitted_at)\n"
        "            if not execution_ids:\n"
        "                return None\n"
        "        reply = self._send_unless_late(request, submitted_at)\n"
        "        with self._db.transaction():\n",
        "        reply = self._send_unless_late(request, submitted_at)\n"
        "        with self._db.transaction():\n"
        "            execution_ids = record_attempt(self._db, order[\"trade_decision_id\"], ids, said, submitted_at)\n",
        (CRASHES.format("entry"),),
    ),
    Mutant(
        "the request of a cancel is not committed", "order_desk.py",
        "request_id = record_request(self._db, SOURCE, self._payload_of(request), self._clock.now())\n"
        "        reply = self._broker.send(request)\n",
        "reply = self._broker.send(request)\n"
        "        request_id = record_request(self._db, SOURCE, self._payload_of(request), self._clock.now())\n",
        (CRASHES.format("cancel"),),
    ),
    Mutant(
        "a request that a crash interrupted is forgotten", "order_records.py",
        "    WHERE order_status = 'intended'\n      AND EXISTS (SELECT 1",
        "    WHERE order_status = 'intended' AND false\n      AND EXISTS (SELECT 1", (CRASHES.format("entry"),),
    ),
    Mutant(
        "an entry that was not found is sent again", "order_desk.py",
        'if order["order_type"] != OrderRole.ENTRY:\n            set_status(self._db, order["id"], '
        "OrderStatus.INTENDED, now)",
        'if order["order_type"]:\n            set_status(self._db, order["id"], OrderStatus.INTENDED, now)',
        fault("B4"),
    ),
    Mutant(
        "a cancel's 204 is the end of its order", "order_desk.py",
        "            if not self.refresh(order[\"id\"]):\n                return False\n            current",
        "            return True\n            current",
        ("tests/flow/test_amend_interrupted.py::"
         "test_an_amend_whose_cancel_hangs_sends_nothing_and_writes_nothing_until_it_ends",),
    ),
    Mutant(
        "an amend asks for the whole quantity again", "order_changes.py",
        "rest = decision.trade.qty - trade.entered", "rest = decision.trade.qty", fault("B19 part"),
    ),
    Mutant(
        "a position that is missing is flat", "reconciliation.py",
        "if reserved or not self._is_our_account(ours) or self._broker.position(symbol).qty != 0:",
        "if not self._is_our_account(ours):", fault("B15 empty"),
    ),
    Mutant(
        "a stop covers half of the shares", "protection.py",
        'time_in_force="gtc" if gtc else "day", qty=qty,',
        'time_in_force="gtc" if gtc else "day", qty=qty // 2,', fault("B2"),
    ),
    Mutant(
        "an exit is placed without a look at the shares", "shares_at_broker.py",
        "            there = sign * position.qty\n", "            there = trade.held\n",
        ("tests/flow/test_protection.py::test_a_close_is_for_no_more_shares_than_the_broker_shows",),
    ),
    Mutant(
        "an exit is placed over shares that are not free", "shares_at_broker.py",
        "min(trade.held, there, sign * position.available + reserved)", "min(trade.held, there)",
        ("tests/flow/test_protection.py::"
         "test_shares_that_a_foreign_order_reserves_are_an_alert_and_the_others_get_their_exit",),
    ),
    Mutant(
        "an exit written earlier is sent whatever has happened since", "protection.py",
        'if only and right and only["order_status"] != OrderStatus.INTENDED:', "if only and right:",
        ("tests/flow/test_protection.py::test_an_exit_that_never_left_is_not_sent_once_its_shares_are_gone",),
    ),
    Mutant(
        "an exit that the broker does not know is replaced at once", "account_sync.py",
        "if exits and found.is_open(AlertKind.ORDER_LOST, name) and", "if exits and",
        ("tests/flow/test_misfortunes.py::test_an_exit_that_the_broker_does_not_know_twice_is_replaced",),
    ),
    Mutant(
        "the kill switch is read once for each process", "kill_switch.py",
        "    return current_control(db).state is TradingState.ACTIVE",
        '    known = vars(entries_allowed)\n    return bool(known.setdefault(db, current_control(db).state is '
        "TradingState.ACTIVE))",
        ("tests/flow/test_amend_interrupted.py::"
         "test_a_halt_between_cancel_and_replacement_keeps_the_new_order_until_it_is_released",),
    ),
    Mutant(
        "an execution counts each time it is told", "fill_records.py",
        "    SELECT order_execution_id, external_order_id, execution_id, order_side,",
        "    SELECT order_execution_id, external_order_id, concat(execution_id, clock_timestamp()), order_side,",
        fault("B17"),
    ),
    Mutant(
        "a halt holds nothing back", "kill_switch.py",
        'return Control(**rows[0] | {"state": TradingState(rows[0]["state"])}) if rows else Control()',
        "return Control()", (CRASHES.format("halted"),),
    ),
    Mutant(
        "an entry goes out beside an order that nobody knows of", "risk_checks.py",
        "words if unknown else None, Hold.LATER if unknown else None,", "None,",
        (CRASHES.format("beside an unknown order"),),
    ),
    Mutant(
        "a pass does not hold the account", "session_locks.py",
        'if not db.execute_query(TAKE_IF_FREE, key)[0]["taken"]:\n            _wait(db, place, key, wait_seconds)\n',
        "pass\n", (CRASHES.format("entry"),),
    ),
    Mutant(
        "nothing says which code sent a message", "audit_trail/executions.py",
        '"code_version": CODE_VERSION,', '"code_version": None,', fault("B1"),
    ),
    Mutant(
        "a strategy uses what it cannot know yet", "strategies/snapshot.py",
        "BETWEEN %(since)s AND %(now)s", ">= %(since)s",
        ("tests/property/test_no_look_ahead.py::test_no_decision_used_a_later_record",),
    ),
    Mutant(
        "a strategy decides on the same disclosures again", "strategies/snapshot.py",
        "WHERE decided.quiver_trade_id = trade.id AND", "WHERE false AND",
        ("tests/flow/test_strategies.py::test_a_second_run_on_the_same_data_decides_and_orders_nothing",),
    ),
    Mutant(
        "an entry goes out although a comparison failed", "startup_barrier.py",
        "return self._not_compared() or", "return",
        ("tests/flow/test_startup_barrier.py::"
         "test_no_entry_is_sent_while_a_part_of_the_account_cannot_be_compared",),
    ),
)
