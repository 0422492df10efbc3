"""Ends a program at any of its side effects, starts it anew, and holds both books against each other at rest.

A side effect is what outlives the process: a commit (the end of a transaction, or a write that commits by itself), a
message that goes out, an answer that comes in. A program that ends just after one has left the world as it is just
before the next, so ending it before each of them, and at the end, is ending it everywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from psycopg2 import sql

from alpaca_client import Broker
from audit_trail.calls import RECORD_READS
from config import AlpacaSettings
from db_layer import TABLES, DatabaseError, TradingDB
from order_life import decimal_text
from paper_broker import PaperBroker, Server, SimulatedClock
from tests.flow.world import START, Killed, SharedClock, World
from tests.property.books import Books, differences

ROUNDS = 8
WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE)\b")
MESSAGES = ("POST", "PATCH", "DELETE")
REFUSALS = (400, 401, 403, 404, 409, 422)
# Between two cases all tables are emptied, whatever guards them against it.
UNGUARDED = """
DO $$
DECLARE guard record;
BEGIN
    FOR guard IN SELECT tgrelid::regclass AS name FROM pg_trigger WHERE tgname = 'recorded_stays' LOOP
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER recorded_stays', guard.name);
    END LOOP;
END $$
"""
AS_REPLICA = "SET LOCAL session_replication_role = replica"
# I5 and I17: what keeps entries back, each with a name that stays while it is the same matter.
OBSTACLES = """
SELECT 'I17: trading is ' || state || ' by row ' || id AS name, NULL AS symbol
FROM (SELECT id, state FROM audit.trading_control ORDER BY id DESC LIMIT 1) AS control WHERE state <> 'ACTIVE'
UNION ALL
SELECT 'I5: nobody knows what became of order ' || orders.id, journal.symbol
FROM order_execution orders JOIN trade_journal journal ON journal.id = orders.trade_journal_id
WHERE orders.order_status = 'unknown'
"""
# I16: what was sent without the code's version, and entries sent without a risk check, or against one.
UNGUARDED_REQUESTS = """
SELECT 'request ' || id || ' without a version' AS mistake FROM audit.api_payloads
WHERE type = 'ApiRequest' AND payload ->> 'method' <> 'GET' AND code_version IS NULL
UNION ALL
SELECT 'entry ' || attempt.client_order_id || ' without its risk checks' FROM audit.trade_executions attempt
WHERE attempt.client_order_id LIKE '%-e'
  AND (SELECT bool_and(passed) FROM audit.risk_checks checks
       WHERE checks.trade_decision_id = attempt.trade_decision_id) IS NOT TRUE
"""
HELD_LOCKS = "SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()"
UNFINISHED_REQUESTS = """
SELECT payload.id, payload.payload::text AS text FROM audit.api_payloads payload
WHERE payload.type = 'ApiRequest'
  AND NOT EXISTS (SELECT 1 FROM audit.api_call_logs call WHERE call.api_request_payload_id = payload.id)
  AND NOT EXISTS (SELECT 1 FROM audit.trade_executions execution
                  WHERE execution.api_request_payload_id = payload.id AND execution.status <> 'submitted')
"""


class Effects:
    """Names the side effects of the programs in their order, and ends each life just before the chosen one.

    `ends` are numbers from 1, one for each life; a life without a number is not ended. Nothing is counted before `arm`.
    `idle` are the numbers of the first life's effects that were none after all: writes that touched no row, and
    records of reads, which nothing is concluded from.
    """

    def __init__(self, ends: tuple[int, ...] = (), reads: bool = False) -> None:
        self.lives: list[list[str]] = []
        self.killed_before: list[str] = []
        self.mistakes: list[str] = []
        self.idle: set[int] = set()
        self.reads = reads
        self.dead = False
        self._ends = ends
        self._counts = False

    def arm(self) -> None:
        """Begin to count, and to end."""
        self.lives.append([])
        self._counts = True

    def disarm(self) -> None:
        """Count no more in this life."""
        self._counts = False

    def note_idle(self) -> None:
        """Take the effect just counted for none."""
        if self._counts and len(self.lives) == 1:
            self.idle.add(len(self.lives[0]))

    def about_to(self, effect: str) -> None:
        """Let one more happen, or end the process here; nothing leaves a process that has ended."""
        if self.dead:
            raise Killed
        if not self._counts:
            return
        life = self.lives[-1]
        life.append(effect)
        if len(self.lives) <= len(self._ends) and len(life) == self._ends[len(self.lives) - 1]:
            self.dead = True
            self.killed_before.append(effect)
            raise Killed(effect)

    def begin_again(self) -> None:
        """Be the effects of the process that follows one that ended."""
        self.dead = False
        self.lives.append([])


class MortalDB(TradingDB):
    """May end before each commit; what a dead process did not commit is lost with its connection."""

    def __init__(self, database: dict[str, Any]) -> None:
        super().__init__(config=database)
        self.database = database
        self.effects = Effects()

    @property
    def in_transaction(self) -> bool:
        return self._in_transaction

    def _run(self, statement: Any, parameters: Any) -> Any:
        prepared = {call: text for text, call in self._prepared.items()}
        text = prepared.get(str(statement), str(statement))
        if self._in_transaction or not WRITES.search(text) or text.startswith("PREPARE"):
            return super()._run(statement, parameters)
        read = text == RECORD_READS
        self.effects.about_to("COMMIT of a read" if read else f"COMMIT of {' '.join(text.split())[:60]}")
        rows, count = super()._run(statement, parameters)
        if read or not count:
            self.effects.note_idle()
        return rows, count

    def _commit(self) -> None:
        self.effects.about_to("COMMIT")
        super()._commit()

    def _roll_back(self) -> None:
        if self.effects.dead:
            self.close()
        else:
            super()._roll_back()


class MortalBroker(Broker):
    """May end before a message goes out, and before its answer is read; with `reads`, around reads too."""

    def __init__(self, settings: AlpacaSettings, clock: Any, db: MortalDB) -> None:
        super().__init__(settings, clock=clock)
        self._db = db
        for line in (self._trading, self._data):
            self._make_mortal(line._wire)

    def _make_mortal(self, wire: Any) -> None:
        send, effects = wire.send, self._db.effects

        def mortal(request: Any, *arguments: Any, **options: Any) -> Any:
            name = message_name(request.method, request.path_url, request.body)
            if self._db.in_transaction:
                effects.mistakes.append(f"I3: {name} inside a transaction")
            if request.method not in MESSAGES and not effects.reads:
                return send(request, *arguments, **options)
            if request.method in MESSAGES:
                with suppress(DatabaseError):  # what was lost with its connection shows where the process uses it next
                    if not self._db.execute_query(HELD_LOCKS)[0]["locks"]:
                        effects.mistakes.append(f"I18: {name} from a process that does not hold the account")
            effects.about_to(f"{name} goes out")
            try:
                return send(request, *arguments, **options)
            finally:
                effects.about_to(f"the answer to {name} is read")

        wire.send = mortal


class FragileWorld(World):
    """Every pass is made by new objects; where one is ended, the next begins with a new connection and a new line."""

    def __init__(self, db: TradingDB, server: Server, process_db: MortalDB) -> None:
        super().__init__(db, server, process_db)
        self.clock = SharedClock(self)
        self.process_db = process_db
        self.obstacles: set[tuple[str, str | None]] = set()  # as of the last check
        self.entered = 0
        self._broker = MortalBroker(self.settings.alpaca, self.clock, process_db)

    @property
    def effects(self) -> Effects:
        return self.process_db.effects

    @property
    def broker(self) -> Broker:
        """The line of the process that lives now."""
        return self._broker

    def fault(self, method: str, path: str, kind: str, **details: Any) -> None:
        """Ask for a misfortune; the line has the patience that the settings have after it."""
        super().fault(method, path, kind, **details)
        self._broker = MortalBroker(self.settings.alpaca, self.clock, self.process_db)

    def survive(self, step: Callable[[], object]) -> None:
        """Take a step; a process that ends in it is followed by another."""
        try:
            step()
        except Killed:
            self.process_db.close()
            self._broker = MortalBroker(self.settings.alpaca, self.clock, self.process_db)
            self.effects.begin_again()

    def _worker(self, kind: type[Any], door: type[Broker] = Broker) -> Any:
        broker = self._broker if door is Broker else self._opened.enter_context(door(self.settings.alpaca, self.clock))
        return kind(db=self.process_db, broker=broker, clock=self.clock, settings=self.settings)


Step = Callable[[World], object]


@dataclass(frozen=True)
class Scenario:
    """What happens before, without any crash; then the steps, each a pass or something in the market."""

    before: Step
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Run:
    """One play of a scenario: the effects of each life, where lives ended, what was sent and what it came to."""

    lives: list[list[str]]
    idle: set[int]
    killed_before: list[str]
    end: dict[str, Any]
    posted: list[str]
    orders: set[str]


class Theatre:
    """Plays scenarios on one database and one server, each from the beginning."""

    def __init__(self, database: dict[str, Any], server: Server) -> None:
        self.database = database
        self.server = server
        self._db = TradingDB(config=database)
        self._process_db = MortalDB(database | {"user": "trading_app"})
        self._db.execute_update(UNGUARDED)

    def close(self) -> None:
        self._db.close()
        self._process_db.close()

    def play(
        self, scenario: Scenario, *ends: int, fault: dict[str, Any] | None = None, reads: bool = False,
    ) -> Run:
        """Play a scenario, ending each life at its number of `ends`, then rest; raises AssertionError.

        `fault` is a misfortune of the paper broker during the steps.
        """
        with self.curtain(ends, reads) as (world, books):
            effects = world.effects
            scenario.before(world)
            check_obstacles(world)
            effects.arm()
            if fault:
                world.fault(**fault)
            for step in scenario.steps:
                world.survive(partial(step, world))
                check_always(world, books)
            if not effects.killed_before:
                effects.disarm()
            come_to_rest(world, books)
            posted = [order["client_order_id"] for order in world.posted()]
            orders = set(world.market.state.by_client_id)
            return Run(effects.lives, effects.idle, effects.killed_before, end_of(world), posted, orders)

    @contextmanager
    def curtain(
        self, ends: tuple[int, ...] = (), reads: bool = False, now: datetime = START, hours: str = "nyse",
    ) -> Iterator[tuple[FragileWorld, Books]]:
        """An account and books with nothing in them; the broker's time stands still until somebody moves it."""
        self._empty()
        market = self.server.broker = PaperBroker(clock=SimulatedClock(now), hours=hours)
        self._process_db.effects = Effects(ends, reads)
        with closing(Books(self.database, market)) as books:
            world = FragileWorld(self._db, self.server, self._process_db)
            world.clock.set(now)
            yield world, books

    def _empty(self) -> None:
        # The chain goes on.
        emptied = sorted(TABLES - {"audit_log", "audit_head", "audit_pending"})
        deletes = [sql.SQL("DELETE FROM {}").format(sql.Identifier(table)) for table in emptied]
        with self._db.transaction():
            self._db.execute_update(sql.SQL("; ").join([sql.SQL(AS_REPLICA), *deletes]))


def message_name(method: str, path: str, body: Any) -> str:
    """Name a message so that two of a run differ: its order's id, else its path."""
    text = body.decode() if isinstance(body, bytes) else body
    name = json.loads(text).get("client_order_id") if text else None
    return f"{method} {name or path}"


def check_always(world: FragileWorld, books: Books) -> None:
    """Check what holds after every step, also where a process has just ended."""
    world.market.step()
    books.check_always()
    assert not world.effects.mistakes, world.effects.mistakes
    # I2: what arrived at the broker had been committed before.
    attempted = {row["client_order_id"] for row in world.db.query("trade_executions")}
    arrived = {order["client_order_id"] for order in world.posted()}
    assert arrived <= attempted, f"I2: sent without a request in the books: {arrived - attempted}"
    written = [row["payload"] for row in world.db.query("api_payloads", {"type": "ApiRequest"})]
    said = [(request["method"], request["endpoint"]) for request in written]
    for seen in world.market.requests:
        if seen["method"] in MESSAGES:
            assert (seen["method"], seen["path"]) in said, f"I2: sent without a request in the books: {seen}"
    unguarded = [row["mistake"] for row in world.db.execute_query(UNGUARDED_REQUESTS)]
    assert not unguarded, f"I16: {unguarded}"
    check_obstacles(world)


def check_obstacles(world: FragileWorld) -> None:
    """Check that no entry arrived past what stood in its way at the last check and still does."""
    entries = [order for order in world.posted() if order["client_order_id"].endswith("-e")]
    now = {(row["name"], row["symbol"]) for row in world.db.execute_query(OBSTACLES)}
    for order in entries[world.entered:]:
        passed = [name for name, symbol in now & world.obstacles if symbol in (None, order["symbol"])]
        assert not passed, f"{passed[0]}, and yet {order['client_order_id']} was sent"
    world.obstacles, world.entered = now, len(entries)


def come_to_rest(world: FragileWorld, books: Books) -> None:
    """Run the three programs without faults until nothing changes, and check that then nothing is done."""
    world.market.faults.clear()
    changed = ["nothing was done"]
    for _ in range(ROUNDS):
        before, said, lives = books.contents(), len(messages(world)), len(world.effects.lives)
        world.pass_time(minutes=2)
        for run in (world.execute, world.monitor, world.value):
            world.survive(run)
            check_always(world, books)
        changed = [*differences(before, books.contents()), *map(str, messages(world)[said:])]
        changed += world.effects.killed_before[lives - 1:]
        if not changed:
            break
    assert not changed, f"I9: no rest after {ROUNDS} rounds: {changed}"
    books.check_at_rest()
    check_nothing_is_open(world)


def check_nothing_is_open(world: World) -> None:
    """I4, I6 and I8: no refusal without a word, no decision lost, no request without an end."""
    for row in world.db.query("analysis_decision"):
        told = row["existing_order_id"] or (row["Remarks"] or "").startswith("REJECTED: ")
        assert row["executed"], f"I6: a decision was lost: {row}"
        assert told, f"I6: a decision ended without a word: {row}"
    for table, states in (("trade_decisions", ["pending"]), ("order_execution", ["intended", "unknown"])):
        column = "status" if table == "trade_decisions" else "order_status"
        left = [row for row in world.db.query(table) if row[column] in states and not rests(world, row)]
        assert not left, f"I6: without an end: {left}"
    refused = [row for row in world.db.query("trade_executions") if row["status"] == "rejected"]
    for row in refused:
        order = world.market.state.by_client_id.get(row["client_order_id"])
        proof = row["http_status_code"] in REFUSALS or (order is not None and order.status == "rejected")
        assert proof, f"I4: rejected without the broker's word: {row}"
    unfinished = [row["text"] for row in world.db.execute_query(UNFINISHED_REQUESTS)]
    assert not unfinished, f"I8: requests without an end: {unfinished}"


def rests(world: World, decision: dict[str, Any]) -> bool:
    """Tell whether a pending decision is about an entry that works at the broker."""
    orders = world.db.query("order_execution", {"trade_decision_id": decision["id"], "order_type": "ENTRY"})
    return any(order["order_status"] in ("pending", "partially_filled") for order in orders)


def messages(world: World) -> list[tuple[object, ...]]:
    """Everything said to the broker that changes something."""
    return [
        (seen["method"], seen["path"], seen["body"]) for seen in world.market.requests if seen["method"] in MESSAGES
    ]


def end_of(world: World) -> dict[str, Any]:
    """What a scenario came to, in the words of both books, without ids and times."""
    state = world.market.state
    return {
        "trades": sorted(
            (row["status"], row["exit_reason"] or "", str(row["actual_pnl"])) for row in world.db.query("trade_journal")
        ),
        "decisions": sorted((row["action"], row["status"]) for row in world.db.query("trade_decisions")),
        "at work": sorted((order.type, order.side, decimal_text(order.remaining)) for order in state.live.values()),
        "shares": {symbol: decimal_text(position.qty) for symbol, position in state.positions.items()},
    }
