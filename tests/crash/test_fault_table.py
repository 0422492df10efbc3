"""The fault table: what the broker, the line or the database does to a decision, and what it ends as."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

import session_locks
from alpaca_client import Broker, Reply, Request
from db_layer import DatabaseError, TradingDB
from order_changes import order_name
from order_executor import OrderExecutor
from tests.crash.harness import FragileWorld, MortalDB, Theatre, come_to_rest
from tests.flow.changes import amend, partly_filled, placed, point
from tests.flow.exits import cancel_by_hand, exits, part
from tests.flow.world import START, executor, swing, trend

ORDERS = "/v2/orders"
RATE_LIMITED = {"code": 42910000, "message": "rate limit exceeded"}
BROKEN = {"code": 50010000, "message": "internal server error occurred"}
FORBIDDEN = {"code": 40310000, "message": "insufficient buying power"}
END_OF_PROCESS = "SELECT pg_terminate_backend(%(pid)s, 10000)"
PID = "SELECT pg_backend_pid() AS pid"
NO_ROOM = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no room'; END $$;
CREATE TRIGGER no_room BEFORE INSERT ON audit.trade_executions FOR EACH ROW EXECUTE FUNCTION no_room()
"""
ROOM_AGAIN = "DROP TRIGGER no_room ON audit.trade_executions; DROP FUNCTION no_room"


@dataclass(frozen=True)
class Row:
    """What happens, and how it ends: in words, and as what the books and the broker show of it at rest.

    Of `ends` only the keys given are compared. Where `rests` is false the programs try again at every pass.
    """

    what: str
    end: str
    happens: Callable[[FragileWorld], object]
    ends: dict[str, Any] = field(default_factory=dict)
    rests: bool = True
    begins: datetime = START


def shown(world: FragileWorld) -> dict[str, Any]:
    """What the books and the broker show of the first decision, and of everything else in sum."""
    entries = [row for row in world.db.query("order_execution") if row["order_type"] == "ENTRY"]
    first = min(entries, key=lambda row: row["id"])
    attempts = world.db.query("trade_executions", {"order_execution_id": first["id"]})
    trade = world.one("trade_journal", id=first["trade_journal_id"])
    decision = world.one("trade_decisions", id=first["trade_decision_id"])
    posted = [order["client_order_id"] for order in world.posted()]
    return {
        "order": first["order_status"],
        "attempts": [row["status"] for row in sorted(attempts, key=lambda row: row["attempt_number"])],
        "decision": (decision["status"], (decision["status_reason"] or "").partition(":")[0]),
        "trade": (trade["status"], trade["exit_reason"]),
        "posts": posted.count(first["client_order_id"]),
        "entries": len([name for name in posted if name.endswith("-e")]),
        "orders": len([order for order in world.market.state.orders.values() if order.client_order_id.endswith("-e")]),
        "shares": world.market.state.shares("NVDA"),
        "exits": exits(world),
        "alerts": sorted({row["kind"] for row in world.db.query("alerts") if row["level"] == "critical"}),
    }


PLACED = {
    "order": "pending", "attempts": ["accepted"], "decision": ("pending", ""), "trade": ("ORDERED", None), "posts": 1,
    "orders": 1, "shares": 0, "alerts": [],
}
NOT_PLACED = {
    "order": "cancelled", "attempts": ["not_placed"], "decision": ("failed", "not_placed"),
    "trade": ("CANCELLED", "CANCELLED"), "posts": 1, "orders": 0, "shares": 0, "alerts": [],
}
HELD = {
    "order": "filled", "decision": ("executed", ""), "trade": ("POSITION", None), "posts": 1, "shares": 45,
    "exits": [45], "alerts": [],
}


def faulty(kind: str, price: str = "135", **details: Any) -> Callable[[FragileWorld], object]:
    """The POST of a decided entry suffers a fault of the paper broker."""
    def happens(world: FragileWorld) -> None:
        world.price("NVDA", price)
        world.decide(swing())
        world.fault("POST", ORDERS, kind, **details)
        world.execute()

    return happens


def nothing(world: FragileWorld) -> None:
    world.decide(swing())
    world.execute()


def filled_at_once(world: FragileWorld) -> None:
    world.price("NVDA", "133.50")
    nothing(world)


def edited_after_its_claim(world: FragileWorld) -> None:
    nothing(world)
    world.db.execute_update('UPDATE analysis_decision SET "Decision" = replace("Decision", %s, %s)', ["45", "99"])
    world.execute()
    assert [alert["kind"] for alert in world.db.query("alerts")] == ["decision_edited"]


def two_at_once(world: FragileWorld) -> None:
    world.decide(swing())
    with pytest.MonkeyPatch.context() as patch, TradingDB(config=world.process_db.database) as other:
        patch.setattr(session_locks, "PASS_WAIT_SECONDS", 0.01)
        with session_locks.hold_account(other), pytest.raises(session_locks.LockTakenError):
            world.execute()
    assert world.posted() == []
    world.execute()


def no_connection(world: FragileWorld) -> None:
    world.decide(swing())
    world.execute_with_the_line_down()
    assert shown(world)["attempts"] == ["not_placed"]
    assert world.posted() == []


def rate_limited(world: FragileWorld) -> None:
    reset = int((START + timedelta(seconds=30)).timestamp())
    headers = {"X-RateLimit-Limit": "200", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(reset)}
    faulty("status", code=429, body=RATE_LIMITED, headers=headers)(world)
    assert world.clock.now() > START + timedelta(seconds=30)  # nothing is asked before the minute is over
    assert world.one("trade_executions")["http_status_code"] == 429


def forbidden(world: FragileWorld) -> None:
    world.price("AMD", "99")
    world.fault("POST", ORDERS, "status", code=403, body=FORBIDDEN)
    world.decide(swing())
    world.decide(trend("AMD", limit_price=95, stop_loss=90, qty=10), "AMD")
    world.execute()
    assert world.one("trade_executions", status="rejected")["error_code"] == "40310000"


def taken(qty: str) -> Callable[[FragileWorld], object]:
    """The broker has an order under our id already."""
    def happens(world: FragileWorld) -> None:
        text = json.dumps(swing())
        name = order_name(hashlib.sha256(text.encode()).hexdigest(), "A1")
        world.market.submit({
            "symbol": "NVDA", "side": "buy", "type": "limit", "time_in_force": "day", "limit_price": "133.8",
            "qty": qty, "client_order_id": f"{name}-e",
        })
        nothing(world)

    return happens


def garbled(world: FragileWorld) -> None:
    faulty("garbled", body="<!doctype html>")(world)
    answer = world.one("trade_executions")["api_response_payload_id"]
    assert world.one("api_payloads", id=answer)["payload"]["body"] == "<!doctype html>"


def late(price: str) -> Callable[[FragileWorld], object]:
    """The order arrives when it has been given up."""
    def happens(world: FragileWorld) -> None:
        faulty("late", seconds=1200)(world)
        for _ in range(3):
            world.pass_time(minutes=5)
            world.monitor()
        assert shown(world)["decision"] == ("failed", "not_placed")
        world.price("NVDA", price)
        world.pass_time(minutes=10)
        world.monitor()

    return happens


def rejected_later(world: FragileWorld) -> None:
    world.market.behave(reject_next=1)
    nothing(world)


def filled_in_part(world: FragileWorld) -> None:
    world.decide(swing())
    world.execute()
    part(world, "20")
    world.monitor()


def filled_in_part_then_cancelled(world: FragileWorld) -> None:
    filled_in_part(world)
    cancel_by_hand(world, world.market.order_by_client_id(world.posted()[0]["client_order_id"]))


def filled_in_part_then_expired(world: FragileWorld) -> None:
    filled_in_part(world)
    world.pass_time(hours=7)
    world.monitor()
    world.pass_time(hours=17)


def unreadable(**answer: Any) -> Callable[[FragileWorld], object]:
    """The positions cannot be had, or are said to be none."""
    def happens(world: FragileWorld) -> None:
        world.open_position()
        world.fault("GET", "/v2/positions", times=None, **answer)
        for _ in range(3):
            world.pass_time(minutes=10)
            world.value()
        assert shown(world)["trade"] == ("POSITION", None)

    return happens


def foreign(world: FragileWorld) -> None:
    nothing(world)
    world.price("KO", "60")
    world.market.foreign_fill("KO", "buy", "3")
    world.monitor()
    assert world.one("external_order")["symbol"] == "KO"
    assert world.one("alerts", kind="external_order")["occurrences"] == 1


def executions_told_twice_and_backwards(world: FragileWorld) -> None:
    world.decide(swing())
    world.execute()
    for shares in ("20", "25"):
        part(world, shares)
    path, keys = "/v2/account/activities/FILL", {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}
    rows = requests.get(world.server.url + path, headers=keys, timeout=10).json()
    assert len(rows) == 2
    world.fault("GET", path, "status", code=200, body=[*rows[::-1], *rows], times=None)
    world.monitor()
    assert sorted(row["qty"] for row in world.db.query("order_fill")) == [20, 25]


def both_exits_fill(world: FragileWorld) -> None:
    world.market.behave(both_legs_fill=True)
    world.open_position()
    world.price("NVDA", "146")


def amended_too_late(world: FragileWorld) -> None:
    old = placed(world)
    world.market.behave(cancel_loses_to_fill=True)
    point(world, amend(qty=50), old["alpaca_order_id"])
    world.execute()


def amended_in_part(world: FragileWorld) -> None:
    point(world, amend(qty=50), partly_filled(world)["alpaca_order_id"])
    world.execute()
    assert [order["qty"] for order in world.posted() if order.get("limit_price") == "130"] == ["30"]


class LosesItsConnection(MortalDB):
    """Is cut off from the server once, before the answer to a message is committed."""

    world: FragileWorld
    lost = False

    def _commit(self) -> None:
        if self.world.posted() and not self.lost:
            self.lost = True
            (row,) = self.execute_query(PID)
            self.world.db.execute_query(END_OF_PROCESS, row)
        super()._commit()


def database_lost(world: FragileWorld) -> None:
    world.decide(swing())
    world.decide(swing(limit_price=133.70))
    broker = Broker(world.settings.alpaca, clock=world.clock)
    with LosesItsConnection(world.process_db.database) as db:
        db.world = world
        executor = OrderExecutor(db=db, broker=broker, clock=world.clock, settings=world.settings)
        with pytest.raises(DatabaseError) as lost:
            executor.run()
    assert lost.value.lost_connection
    assert len(world.posted()) == 1  # nothing is sent that could not be written down


def no_room_for_the_request(world: FragileWorld) -> None:
    world.db.execute_update(NO_ROOM)
    try:
        nothing(world)
        world.execute()
        assert world.posted() == []
    finally:
        world.db.execute_update(ROOM_AGAIN)


def clock_steps(by: timedelta, **fault: Any) -> Callable[[FragileWorld], object]:
    """Our clock is set while the answer to an entry, of which a fault may become, is on its way."""
    def happens(world: FragileWorld) -> None:
        class Stepped(Broker):
            def send(self, request: Request) -> Reply:
                reply = super().send(request)
                world.clock.set(world.clock.now() + by)
                return reply

        world.decide(swing())
        if fault:
            world.fault("POST", ORDERS, **fault)
        executor(world, Stepped(world.settings.alpaca, clock=world.clock)).run()
        for run in (world.monitor, world.value, world.execute):
            run()

    return happens


def day_trade_until(close: datetime) -> Callable[[FragileWorld], object]:
    """A day trade is to be closed ten minutes before this close."""
    def happens(world: FragileWorld) -> None:
        world.configure(DAYTRADE_FLATTEN_MINUTES_BEFORE_CLOSE="10")
        world.open_position(trend(strategy="DAYTRADE"))
        for minutes, status in ((11, "POSITION"), (10, "CLOSED")):
            world.pass_time(seconds=(close - timedelta(minutes=minutes) - world.clock.now()).total_seconds())
            for _ in range(2):
                world.monitor()
                world.price("NVDA", "136")
            world.monitor()
            assert world.one("trade_journal")["status"] == status

    return happens


def market_order_on_a_holiday(world: FragileWorld) -> None:
    world.pass_time(days=3, hours=2)  # from Friday to the third Monday of January
    world.decide(trend(type="market", limit_price=None))
    for _ in range(3):
        world.pass_time(hours=1)
        assert world.execute() == {"waiting": 1}
    assert world.posted() == []
    world.pass_time(hours=19)
    world.price("NVDA", "133.50")
    world.execute()


CLOSED_IN_TIME = {"trade": ("CLOSED", "EOD_EXIT"), "entries": 1, "shares": 0, "exits": [], "alerts": []}
HOUR = timedelta(hours=1)
TABLE = {
    "B1": Row("accepted", "the order is followed", nothing, PLACED),
    "B2": Row("filled at once", "a position with its exit, the decision executed", filled_at_once, HELD),
    "B3": Row("no connection", "provably not placed, sent under the same id by the next pass", no_connection,
              PLACED | {"attempts": ["not_placed", "accepted"]}),
    "B4": Row("the request is lost, a timeout", "not placed, never sent again",
              faulty("hang", seconds=2, executed=False), NOT_PLACED),
    "B5": Row("executed, the answer is lost, a timeout", "adopted", faulty("hang", seconds=2), PLACED),
    "B6": Row("503, not executed", "not placed", faulty("status", code=503, body=BROKEN), NOT_PLACED),
    "B7": Row("504, executed", "adopted", faulty("status", code=504, body=BROKEN, executed=True),
              PLACED),
    "B7 and filled": Row("500, executed and filled", "adopted and protected",
                         faulty("status", "133.50", code=500, body=BROKEN, executed=True), HELD),
    "B8": Row("429 with headers", "not placed, and the pace follows the headers", rate_limited, NOT_PLACED),
    "B9": Row("403", "refused with the broker's code; the next decision goes on", forbidden, {
        "order": "rejected", "attempts": ["rejected"], "trade": ("CANCELLED", "REJECTED"), "posts": 1,
        "entries": 2, "orders": 1, "decision": ("failed", "the broker refused the order (40310000)"),
    }),
    "B10 equal": Row("422 duplicate id, the order is the one meant", "adopted", taken("45"), PLACED),
    "B10 different": Row("422 duplicate id, another order", "a critical alert, nothing done, never refused",
                         taken("44"), {"order": "unknown", "posts": 1, "alerts": ["order_mismatch"]}, rests=False),
    "B11": Row("a garbled 200", "the raw bytes are kept, the order is looked up and adopted", garbled, PLACED),
    "B12 unfilled": Row("the order arrives after it was given up", "cancelled at the broker", late("135"),
                        {"order": "cancelled", "posts": 1, "orders": 1, "shares": 0, "exits": [],
                         "trade": ("CANCELLED", "CANCELLED")}),
    "B12 filled": Row("the order arrives after it was given up, and fills", "adopted, protected, a critical alert",
                      late("133.50"), HELD | {"alerts": ["late_fill"]}),
    "B13": Row("accepted, rejected later", "rejected, no position", rejected_later, {
        "order": "rejected", "attempts": ["rejected"], "trade": ("CANCELLED", "REJECTED"), "shares": 0, "posts": 1,
        "decision": ("failed", "the order ended as rejected with nothing filled"),
    }),
    "B14 cancelled": Row("filled in part, then cancelled", "position and exit are what was filled",
                         filled_in_part_then_cancelled, HELD | {"order": "cancelled", "shares": 20, "exits": [20]}),
    "B14 expired": Row("filled in part, then expired", "position and exit are what was filled",
                       filled_in_part_then_expired, HELD | {"order": "expired", "shares": 20, "exits": [20]}),
    "B15 failed": Row("the positions cannot be read", "no change, in the end a critical alert",
                      unreadable(kind="status", code=500), HELD | {"alerts": ["read_failed"]}),
    "B15 empty": Row("the positions are said to be none", "no change, a critical alert",
                     unreadable(kind="status", code=200, body=[]), HELD | {"alerts": ["position_mismatch"]}),
    "B16": Row("somebody else's order fills", "a row of its own and an alert; ours is as it was", foreign, PLACED),
    "B17": Row("executions told twice and backwards", "each counts once", executions_told_twice_and_backwards, HELD),
    "B18": Row("stop and target both fill", "never short at rest", both_exits_fill,
               {"trade": ("CLOSED", "TARGET_HIT"), "shares": 0, "exits": []}),
    "B19 filled": Row("a fill is faster than the amend", "no new order", amended_too_late,
                      HELD | {"entries": 1, "orders": 1}),
    "B19 part": Row("a part is filled before the amend", "the new order is for the rest", amended_in_part,
                    HELD | {"order": "cancelled", "entries": 2, "shares": 20, "exits": [20]}),
    "B20": Row("the decision is edited after its claim", "carried out as it was taken, an alert",
               edited_after_its_claim, PLACED),
    "B21": Row("another process works on the account", "it says so and sends nothing", two_at_once, PLACED),
    "B22": Row("the database is lost before the answer is written", "nothing more is sent; then adopted",
               database_lost, PLACED | {"entries": 2, "orders": 2}),
    "B23": Row("the request cannot be stored", "nothing is sent until it can", no_room_for_the_request,
               {key: value for key, value in PLACED.items() if key != "alerts"}),
    "B24 forward": Row("the clock is set forward before the answer is there", "the order is followed",
                       clock_steps(HOUR), PLACED),
    "B24 back": Row("the clock is set back before the answer is there", "the order is followed",
                    clock_steps(-HOUR), PLACED),
    "B24 forward, lost": Row("the clock is set forward and the answer lost", "adopted",
                             clock_steps(HOUR, kind="drop", executed=True), PLACED),
    "B24 back, lost": Row("the clock is set back and the request lost", "not placed, once its time has gone by",
                          clock_steps(-HOUR, kind="drop"), NOT_PLACED),
    "B24 holiday": Row("a market order on a holiday", "nothing is sent before the next session",
                       market_order_on_a_holiday, HELD, begins=datetime(2025, 1, 17, 15, tzinfo=UTC)),
    "B24 early close": Row("the market closes at one", "day trades are closed before that",
                           day_trade_until(datetime(2025, 7, 3, 17, tzinfo=UTC)), CLOSED_IN_TIME,
                           begins=datetime(2025, 7, 3, 15, tzinfo=UTC)),
    "B24 summer time": Row("clocks went forward yesterday", "day trades are closed before today's close",
                           day_trade_until(datetime(2025, 3, 10, 20, tzinfo=UTC)), CLOSED_IN_TIME,
                           begins=datetime(2025, 3, 10, 15, tzinfo=UTC)),
    "B24 winter time": Row("clocks went back yesterday", "day trades are closed before today's close",
                           day_trade_until(datetime(2025, 11, 3, 21, tzinfo=UTC)), CLOSED_IN_TIME,
                           begins=datetime(2025, 11, 3, 15, tzinfo=UTC)),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", TABLE)
def test_each_fault_has_one_end(theatre: Theatre, name: str) -> None:
    row = TABLE[name]
    with theatre.curtain(now=row.begins) as (world, books):
        row.happens(world)
        if row.rests:
            world.clock.set(max(world.clock.now(), world.market.clock.now()))
            come_to_rest(world, books)
        seen = shown(world)
        assert {key: seen[key] for key in row.ends} == row.ends, f"{row.what}: {row.end}"
