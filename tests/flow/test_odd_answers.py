"""Answers of the broker that make no sense: each costs at most its own order, never the protection of the others."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from alpaca_client import Outcome, Reply
from broker_answers import BrokerError, checked_position, holdings_by_symbol, last_trades, rows_with_ids
from db_layer import DatabaseError, TradingDB
from tests.flow.odd_broker import Edit, monitor_oddly
from tests.flow.world import World, swing, trend


def in_listing(order_id: str, **odd: Any) -> Edit:
    def edit(path: str, answer: Any) -> Any:
        if path != "/v2/orders":
            return answer
        return [row | odd if row["id"] == order_id else row for row in answer]

    return edit


def exits(world: World) -> list[Decimal]:
    return [order.qty for order in world.market.state.live.values() if order.closing]


def foreign(world: World) -> str:
    """An order of somebody else."""
    world.price("TSLA", "200")
    order = {"symbol": "TSLA", "qty": "3", "side": "buy", "type": "limit", "limit_price": "150", "time_in_force": "day"}
    return str(world.market.submit(order, source="app").id)


def filled_entry(world: World) -> str:
    """An entry that is filled at the broker and not known to be; returns the broker's id."""
    world.decide(trend())
    world.execute()
    world.price("NVDA", "133.50")
    world.market.step()
    return str(world.one("order_execution")["alpaca_order_id"])


def alerts(world: World, kind: str) -> list[str]:
    return [alert["subject"] for alert in world.db.query("alerts", {"kind": kind})]


@pytest.mark.parametrize("odd", [
    {"legs": [None]}, {"legs": [1]}, {"legs": {}}, {"legs": "x"}, {"legs": 7}, {"legs": [{"id": ["x"]}]},
    {"replaced_by": {"a": 1}}, {"replaces": ["x"]}, {"symbol": {"a": 1}}, {"symbol": "A\0B"}, {"side": ["buy"]},
    {"symbol": "\ud800"}, {"id": None}, {"qty": "0"}, {"qty": "-5"}, {"qty": "0.000000000001"},
    {"filled_qty": "5", "filled_avg_price": "-1"}, {"filled_qty": "999999999.9999999999", "filled_avg_price": "1"},
], ids=str)
def test_an_odd_order_of_somebody_else_does_not_delay_protection(world: World, odd: dict[str, Any]) -> None:
    filled_entry(world)
    monitor_oddly(world, in_listing(foreign(world), **odd))
    assert exits(world) == [45]


def test_an_order_that_cannot_be_stored_is_an_alert_and_the_next_one_is_stored(world: World) -> None:
    filled_entry(world)
    odd, good = foreign(world), foreign(world)
    monitor_oddly(world, in_listing(odd, qty="-5"))
    assert alerts(world, "order_not_recorded") == [odd]
    assert world.one("external_order")["alpaca_order_id"] == good


def test_an_order_listed_as_a_leg_and_by_itself_is_stored_once(world: World) -> None:
    filled_entry(world)
    order_id = foreign(world)

    def twice(path: str, answer: Any) -> Any:
        rows = answer if path == "/v2/orders" else []
        return [row | {"legs": [row]} if row["id"] == order_id else row for row in rows] or answer

    monitor_oddly(world, twice)
    assert world.one("external_order")["alpaca_order_id"] == order_id
    assert not alerts(world, "order_not_recorded")


def test_a_page_without_any_id_is_an_error() -> None:
    assert rows_with_ids([{"id": "1"}, {}, None]) == [{"id": "1"}]
    with pytest.raises(BrokerError):
        rows_with_ids([{}, None])


@pytest.mark.parametrize("odd", [{"symbol": "AMD"}, {"side": "sell"}, {"qty": "-5"}], ids=str)
def test_an_order_that_cannot_have_replaced_ours_is_not_taken_for_its_successor(
    world: World, odd: dict[str, Any],
) -> None:
    world.decide(swing(limit_price=130))
    world.execute()
    ours = world.one("order_execution")["alpaca_order_id"]
    order_id = foreign(world)
    monitor_oddly(world, in_listing(order_id, **{"symbol": "NVDA", "side": "buy", "replaces": ours} | odd))
    assert world.one("order_execution")["order_status"] == "pending"


def test_a_successor_with_the_client_id_of_another_order_leaves_the_old_one_as_it_is(world: World) -> None:
    world.decide(swing(limit_price=130))
    world.execute()
    ours = world.one("order_execution")
    order_id = foreign(world)

    def edit(path: str, answer: Any) -> Any:
        if path != "/v2/orders":
            return answer
        new = {"symbol": "NVDA", "replaces": ours["alpaca_order_id"], "client_order_id": ours["client_order_id"]}
        return [row | new for row in answer if row["id"] == order_id]

    monitor_oddly(world, edit)
    assert world.one("order_execution")["order_status"] == "pending"
    assert alerts(world, "order_not_recorded") == [order_id]


@pytest.mark.parametrize("odd", [{"qty": None}, {"client_order_id": None}], ids=str)
def test_a_successor_that_cannot_be_stored_leaves_the_old_order_as_it_is(world: World, odd: dict[str, Any]) -> None:
    world.decide(swing(limit_price=130))
    world.execute()
    ours = world.one("order_execution")["alpaca_order_id"]
    filled_entry_of_second(world)
    new = world.market.replace(ours, {"limit_price": "131"}, source="app").id
    world.market.step()
    monitor_oddly(world, in_listing(new, **odd))
    assert world.one("order_execution", alpaca_order_id=ours)["order_status"] == "pending"
    assert alerts(world, "order_not_recorded") == [new]
    assert world.one("trade_journal", symbol="NVDA")["status"] == "ORDERED"
    assert world.db.query("external_order") == []
    assert exits(world) == [45]
    world.monitor()
    assert world.one("order_execution", alpaca_order_id=new)["limit_price"] == 131


def test_an_order_whose_successor_nobody_knows_ends(world: World) -> None:
    world.decide(swing(limit_price=130))
    world.execute()
    ours = world.one("order_execution")["alpaca_order_id"]
    odd = {"status": "replaced", "replaced_by": "nobody"}

    def edit(path: str, answer: Any) -> Any:
        if path == f"/v2/orders/{ours}":
            return answer | odd
        return in_listing(ours, **odd)(path, answer)

    monitor_oddly(world, edit)
    assert world.one("order_execution")["order_status"] == "replaced"


def activities(**odd: Any) -> Edit:
    return lambda path, answer: [row | odd for row in answer] if path.endswith("/FILL") else answer


def test_an_execution_on_the_other_side_is_not_one_of_the_order(world: World) -> None:
    filled_entry(world)
    monitor_oddly(world, activities(side="sell_short"))
    assert world.db.query("order_fill") == []
    assert len(alerts(world, "odd_execution")) == 1


def test_executions_never_fill_an_order_beyond_its_quantity(world: World) -> None:
    filled_entry(world)
    monitor_oddly(world, activities(qty="90"))
    assert world.one("order_execution", order_type="ENTRY")["filled_qty"] == 45


def test_an_error_code_is_short_and_printable() -> None:
    reply = Reply(Outcome.REFUSED, 422, {}, json.dumps({"code": "a\0" + "b" * 100}), None, 1)
    assert reply.error_code is not None
    assert reply.error_code.isprintable()
    assert len(reply.error_code) == 60


@pytest.mark.parametrize("qty", [
    "1E+999999", "-1E+999999", "1E-999999", "0E-999999", "1E+12", "1" * 100, "1." + "1" * 100, "Infinity", "NaN",
])
def test_a_number_that_would_fill_the_memory_is_none(qty: str) -> None:
    with pytest.raises(BrokerError):
        holdings_by_symbol([{"symbol": "A", "qty": qty}])
    with pytest.raises(BrokerError):
        checked_position({"qty": "1", "qty_available": qty})
    price = json.loads(qty, parse_float=Decimal) if qty[0] != "-" and "I" not in qty and "N" not in qty else None
    assert last_trades({"trades": {"A": {"p": price}}}, {"A"}) == {"A": None}


def test_a_position_may_be_larger_than_any_order() -> None:
    held = holdings_by_symbol([{"symbol": "A", "qty": "2000000000"}, {"symbol": "B", "qty": "1"}])
    assert {symbol: holding.qty for symbol, holding in held.items()} == {"A": 2_000_000_000, "B": 1}


@pytest.mark.parametrize("loss", [
    "DELETE FROM audit.trade_executions WHERE order_execution_id = 1", "DELETE FROM trade_journal WHERE id = 1",
])
def test_an_unknown_order_that_lost_its_rows_does_not_hold_up_the_others(world: World, loss: str) -> None:
    world.fault("POST", "/v2/orders", "drop", executed=False)
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500)
    world.decide(swing(limit_price=130))
    world.execute()
    lost = world.one("order_execution", order_status="unknown")
    world.db.execute_update("SET session_replication_role = replica")
    world.db.execute_update("ALTER TABLE audit.trade_executions DISABLE TRIGGER recorded_stays")
    world.db.execute_update(loss)
    world.db.execute_update("SET session_replication_role = origin")
    filled_entry_of_second(world)
    world.monitor()
    assert alerts(world, "order_not_settled") == [lost["client_order_id"]]
    assert exits(world) == [45]


def filled_entry_of_second(world: World) -> None:
    world.price("AMD", "101")
    world.decide(trend("AMD", limit_price=100, stop_loss=90), "AMD")
    world.execute()
    world.price("AMD", "99")


def test_an_entry_whose_quantity_the_broker_changed_is_a_critical_alert(world: World) -> None:
    world.decide(swing(limit_price=130, time_in_force="gtc"))
    world.execute()
    entry = world.one("order_execution")
    monitor_oddly(world, in_listing(entry["alpaca_order_id"], qty="90", limit_price="129"))
    assert alerts(world, "order_changed_by_broker") == [entry["client_order_id"]]
    assert world.one("alerts", kind="order_changed_by_broker")["level"] == "critical"


def test_only_a_lost_connection_counts_as_one(db: TradingDB) -> None:
    assert not DatabaseError("the entry order of trade T1 is gone").lost_connection
    with pytest.raises(DatabaseError) as refused:
        db.execute_query("SELECT %(value)s", {"value": object()})
    assert not refused.value.lost_connection
    with pytest.raises(DatabaseError) as gone:
        db.execute_query("SELECT pg_terminate_backend(pg_backend_pid())")
    assert gone.value.lost_connection


@pytest.mark.parametrize("odd", [{"qty": "0.000000000001"}, {"price": "0.0000001"}, {"qty": "999999999.9999999999"}])
def test_an_execution_that_cannot_be_stored_is_an_alert_and_the_others_are_stored(
    world: World, odd: dict[str, str],
) -> None:
    world.market.set_liquidity("NVDA", "20")
    filled_entry(world)
    world.price("NVDA", "133.40")
    world.price("NVDA", "133.30")
    pages: list[set[str]] = []

    def edit(path: str, answer: Any) -> Any:
        if not path.endswith("/FILL"):
            return answer
        pages.append({row["id"] for row in answer})
        return [answer[0] | odd, *answer[1:]]

    for _ in range(2):
        monitor_oddly(world, edit)
    (lost,) = alerts(world, "execution_not_recorded")
    stored = {row["execution_id"] for row in world.db.query("order_fill")}
    assert len(stored) > 1
    assert stored == pages[0] - {lost}
    assert world.one("alerts", kind="execution_not_recorded")["level"] == "critical"
    assert len(pages) == 2
    assert exits(world) == [45]


LOSSES = {
    "its decision": "DELETE FROM audit.trade_decisions WHERE analysis_decision_id = %(name)s",
    "its trade": "DELETE FROM trade_journal WHERE initial_analysis_id = %(name)s",
}


def lose(world: World, what: str, name: str) -> None:
    """Delete rows as somebody might who turns what guards them off."""
    world.db.execute_update("ALTER TABLE audit.trade_decisions DISABLE TRIGGER recorded_stays")
    world.db.execute_update("SET session_replication_role = replica")
    assert world.db.execute_update(LOSSES[what], {"name": name}) == 1
    world.db.execute_update("SET session_replication_role = origin")


@pytest.mark.parametrize("what", LOSSES)
def test_an_intent_whose_rows_somebody_deleted_is_an_alert_and_the_others_are_sent(world: World, what: str) -> None:
    lost, good = world.decide(swing()), world.decide(swing(qty=10))
    world.execute_with_the_line_down()
    lose(world, what, lost)
    for _ in range(2):
        world.execute()
    assert len(world.db.query("alerts", {"resolved_at": None})) == 1
    assert [order["qty"] for order in world.posted()] == ["10"]
    assert world.analysis(good)["existing_order_id"] is not None


def test_an_order_heard_of_after_its_decision_was_deleted_does_not_stop_the_monitor(world: World) -> None:
    world.fault("POST", "/v2/orders", "drop", executed=True)
    world.fault("GET", "/v2/orders:by_client_order_id", "status", code=500, times=None)
    lost = world.decide(trend())
    world.execute()
    lose(world, "its decision", lost)
    world.price("NVDA", "133.50")
    filled_entry_of_second(world)
    world.monitor()
    assert world.one("alerts", kind="order_without_decision")["level"] == "critical"
    assert 45 in exits(world)
