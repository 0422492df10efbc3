"""What the executor does with decisions."""

import json
from datetime import timedelta
from decimal import Decimal

import pytest

from tests.flow.world import START, World, swing, trend
from tests.unit.malformed_decisions import MALFORMED

FLAT = {
    "symbol": "NVDA", "primary_action": "NEW_TRADE", "qty": 45, "entry_price": 133.80, "stop_loss": 124,
    "take_profit": 145.5, "trade_style": "SWING", "pattern": "PATTERN_1", "time_in_force": "day", "action": "BUY",
}
SHAPES = {
    "nested": swing(),
    "flat": FLAT,
    "nested in decision": {"decision": swing()},
    "flat in decision": {"decision": FLAT},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_decision_shape_becomes_the_same_order(world: World, shape: str) -> None:
    name = world.decide(SHAPES[shape])
    assert world.execute() == {"placed": 1}
    (order,) = world.posted()
    assert {key: order[key] for key in ("symbol", "qty", "side", "type", "time_in_force", "limit_price")} == {
        "symbol": "NVDA", "qty": "45", "side": "buy", "type": "limit", "time_in_force": "day", "limit_price": "133.8",
    }
    journal = world.one("trade_journal")
    assert (journal["status"], journal["planned_stop_loss"]) == ("ORDERED", 124)
    assert journal["planned_take_profit"] == Decimal("145.5")
    assert world.analysis(name)["executed"] is True


def test_an_accepted_order_marks_its_row_with_order_journal_and_time(world: World) -> None:
    name = world.decide(swing())
    world.execute()
    row, order = world.analysis(name), world.one("order_execution")
    assert row["existing_order_id"] == order["alpaca_order_id"]
    assert row["existing_trade_journal_id"] == order["trade_journal_id"]
    assert row["execution_time"] == START.replace(tzinfo=None)
    assert row["Remarks"] is None
    assert (order["order_status"], order["order_type"], order["client_order_id"]) == (
        "pending", "ENTRY", world.posted()[0]["client_order_id"],
    )


def test_an_accepted_order_leaves_its_decision_pending(world: World) -> None:
    world.decide(swing())
    world.execute()
    assert world.one("trade_decisions")["status"] == "pending"
    assert world.one("trade_executions")["status"] == "accepted"


def test_an_execution_time_is_written_in_the_analysis_timezone(world: World) -> None:
    world.configure(ANALYSIS_TIMEZONE="America/New_York")
    name = world.decide(swing(), at=START - timedelta(hours=6))
    assert world.execute() == {"placed": 1}
    assert world.analysis(name)["execution_time"] == (START - timedelta(hours=5)).replace(tzinfo=None)


def test_decisions_go_in_the_order_of_their_time(world: World) -> None:
    for symbol in ("AAA", "BBB", "CCC"):
        world.price(symbol, "135")
    world.decide(swing("BBB"), "BBB", at=START - timedelta(hours=2))
    world.decide(swing("CCC"), "CCC", at=START - timedelta(hours=1))
    world.decide(swing("AAA"), "AAA", at=START - timedelta(hours=3))
    world.execute()
    assert [order["symbol"] for order in world.posted()] == ["AAA", "BBB", "CCC"]


def test_rows_that_are_not_approved_or_ask_for_nothing_are_never_touched(world: World) -> None:
    world.decide(swing(), approve=False)
    world.decide(swing(), approve=None)
    world.decide(swing(), executed=True)
    world.decide({"symbol": "NVDA", "primary_action": "NO_ACTION"})
    before = world.db.query("analysis_decision")
    world.execute()
    assert world.db.query("analysis_decision") == before
    assert world.db.query("trade_decisions") == []
    assert world.posted() == []


def test_a_decision_encoded_twice_is_read(world: World) -> None:
    world.decide(json.dumps(json.dumps(swing())))
    assert world.execute() == {"placed": 1}


def test_running_again_sends_and_writes_nothing(world: World) -> None:
    world.decide(swing())
    world.decide(swing(qty="many"))
    world.execute()
    tables = (
        "analysis_decision", "trade_journal", "order_execution", "trade_decisions", "trade_executions", "risk_checks",
    )
    before = {table: world.db.query(table) for table in tables}
    assert world.execute() == {}
    assert {table: world.db.query(table) for table in tables} == before
    assert len(world.posted()) == 1


def test_every_malformed_decision_is_refused_and_the_good_ones_around_them_go_through(world: World) -> None:
    assert len(MALFORMED) >= 30
    first = world.decide(swing("NVDA"))
    bad = {kind: world.decide(text, ticker) for kind, (text, ticker) in MALFORMED.items()}
    world.price("MSFT", "400")
    last = world.decide(trend("MSFT", limit_price=390, stop_loss=380, qty=10), "MSFT")
    assert world.execute() == {"placed": 2, "refused": len(bad)}
    assert [order["symbol"] for order in world.posted()] == ["NVDA", "MSFT"]
    assert [world.analysis(name)["executed"] for name in (first, last)] == [True, True]
    for kind, name in bad.items():
        row, decision = world.analysis(name), world.one("trade_decisions", analysis_decision_id=name)
        assert row["executed"] is True, kind
        assert row["execution_time"] is not None, kind
        assert row["Remarks"].startswith("REJECTED: "), kind
        assert row["existing_order_id"] is None, kind
        assert (decision["status"], f"REJECTED: {decision['status_reason']}") == ("failed", row["Remarks"]), kind
        assert decision["source_bytes"] == (MALFORMED[kind][0] or "")[:65537], kind


REFUSED_BY_LIMITS = {
    "over the notional": (swing(qty=150), {}, "20070 dollars is over MAX_ORDER_NOTIONAL=20000"),
    "over the quantity": (swing(qty=45), {"MAX_ORDER_QTY": "44"}, "45 shares is over MAX_ORDER_QTY=44"),
    "on the deny list": (swing(), {"SYMBOL_DENYLIST": "gme, nvda"}, "NVDA is on SYMBOL_DENYLIST"),
    "a short that is not allowed": (
        swing(side="sell", stop_loss=140, take_profit=120), {}, "a sell would open a short position",
    ),
}


@pytest.mark.parametrize("kind", REFUSED_BY_LIMITS)
def test_a_decision_over_a_limit_is_refused_with_limit_and_value(world: World, kind: str) -> None:
    decision, environ, reason = REFUSED_BY_LIMITS[kind]
    world.configure(**environ)
    name = world.decide(decision)
    assert world.execute() == {"refused": 1}
    assert reason in world.analysis(name)["Remarks"]
    assert [check["passed"] for check in world.db.query("risk_checks")][-1] is False
    assert world.posted() == []


@pytest.mark.parametrize(("hours", "result"), [(95, "placed"), (96, "placed"), (96.01, "refused"), (-30, "refused")])
def test_a_decision_that_is_too_old_or_from_the_future_is_refused(world: World, hours: float, result: str) -> None:
    world.decide(swing(), at=START - timedelta(hours=hours))
    assert world.execute() == {result: 1}


def test_a_decision_without_any_date_is_refused(world: World) -> None:
    name = world.decide(swing() | {"analysis_date": None})
    world.db.execute_update('UPDATE analysis_decision SET "Date_time" = NULL')
    world.execute()
    assert "has no date" in world.analysis(name)["Remarks"]


def test_the_date_inside_the_decision_counts_when_the_row_has_none(world: World) -> None:
    world.decide(swing())
    world.db.execute_update('UPDATE analysis_decision SET "Date_time" = NULL')
    assert world.execute() == {"placed": 1}


def test_a_market_order_is_held_against_the_last_price(world: World) -> None:
    world.price("NVDA", "150")
    world.decide(trend(type="market", qty=100, stop_loss=140))
    name = world.decide(trend(type="market", qty=200, stop_loss=140))
    late = world.decide(trend(type="market", qty=1, stop_loss=151))
    assert world.execute() == {"placed": 1, "refused": 2}
    assert "30000 dollars is over MAX_ORDER_NOTIONAL" in world.analysis(name)["Remarks"]
    assert "wrong side of the price 150" in world.analysis(late)["Remarks"]
    assert world.posted()[0]["type"] == "market"
    assert "limit_price" not in world.posted()[0]


def test_a_market_order_without_a_price_is_refused_and_one_without_an_answer_waits(world: World) -> None:
    world.market.define_asset("NOPX")
    world.decide(trend("NOPX", type="market"), "NOPX")
    assert world.execute() == {"refused": 1}
    name = world.decide(trend(type="market", stop_loss=120))
    world.fault("GET", "/v2/stocks/trades/latest", "status", code=500)
    assert world.execute() == {"waiting for a price": 1}
    assert world.analysis(name)["executed"] is None
    assert world.execute() == {"placed": 1}


def test_a_second_row_with_the_same_analysis_id_is_a_duplicate(world: World) -> None:
    nocodb = """
    ALTER TABLE analysis_decision DROP CONSTRAINT analysis_decision_pkey;
    ALTER TABLE analysis_decision ALTER "Analysis_Id" DROP NOT NULL, ADD id serial PRIMARY KEY, ADD title text;
    """
    world.db.execute_update(nocodb)
    world.decide(swing(), name="SAME")
    assert world.execute() == {"placed": 1}
    world.decide(swing(), name="SAME")
    assert world.execute() == {"refused": 1}
    first, second = sorted(world.db.query("analysis_decision"), key=lambda row: row["id"])
    assert first["Remarks"] is None
    assert second["Remarks"].startswith("REJECTED: duplicate")
    assert len(world.posted()) == 1


def test_two_rows_with_the_same_analysis_id_in_one_pass_give_one_order(world: World) -> None:
    world.db.execute_update("ALTER TABLE analysis_decision DROP CONSTRAINT analysis_decision_pkey")
    world.db.execute_update("ALTER TABLE analysis_decision ADD id serial PRIMARY KEY")
    world.decide(swing(), name="SAME")
    world.decide(swing(), name="SAME")
    assert world.execute() == {"placed": 1, "refused": 1}
    assert len(world.posted()) == 1


def test_a_row_set_back_to_unexecuted_is_not_carried_out_twice(world: World) -> None:
    name = world.decide(swing())
    world.execute()
    world.db.execute_update("UPDATE analysis_decision SET executed = false")
    assert world.execute() == {"refused": 1}
    assert "duplicate" in world.analysis(name)["Remarks"]
    assert len([order for order in world.posted() if order["side"] == "buy"]) == 1


def test_the_kill_switch_holds_entries_back_until_it_is_released(world: World) -> None:
    name = world.decide(swing())
    switch = {"reason": "test", "changed_by": "test", "changed_at": START}
    world.db.insert("trading_control", switch | {"state": "HALTED"})
    assert world.execute() == {"held back": 1}
    assert world.analysis(name)["executed"] is None
    world.db.insert("trading_control", switch | {"state": "ACTIVE"})
    assert world.execute() == {"placed": 1}


def test_a_dry_run_says_what_would_happen_and_changes_nothing(world: World) -> None:
    world.decide(swing(), name="GOOD")
    world.decide(swing(qty=-1), name="BAD")
    world.decide(swing(qty=151), name="BIG")
    assert [line.split(": ", 1) for line in world.preview()] == [
        ["GOOD", "buy 45 NVDA at 133.8: would be sent"],
        ["BAD", "would be refused: qty must be above 0, at most 999999999, in plain digits, not -1"],
        ["BIG", "would be refused: 20203.8 dollars is over MAX_ORDER_NOTIONAL=20000; order less, or raise the limit"],
    ]
    assert world.db.query("trade_decisions") == []
    assert world.requests("POST") == []


def test_a_dry_run_says_that_an_unsettled_order_is_taken_up_again(world: World) -> None:
    world.decide(swing(), name="UNSENT")
    assert world.execute_with_the_line_down() == {"not sent": 1}
    assert world.preview() == ["UNSENT: would be taken up again (its order is not settled yet)"]


def test_what_is_left_for_later_is_logged_with_its_reason(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "order_executor")
    world.decide(trend(type="market", stop_loss=120))
    world.fault("GET", "/v2/stocks/trades/latest", "status", code=500)
    world.execute()
    world.db.insert("trading_control", {"state": "HALTED", "reason": "t", "changed_by": "t", "changed_at": START})
    world.execute()
    lines = [(line.getMessage(), vars(line)["reason"]) for line in caplog.records if "reason" in vars(line)]
    assert lines == [
        ("decision waiting for a price", "the broker gave no price for NVDA"),
        ("decision held back", "trading is HALTED: t"),
    ]


def test_hostile_text_in_a_row_reaches_the_books_as_text(world: World) -> None:
    evil = "'; DROP TABLE trade_journal; --"
    name = world.decide(swing(pattern=evil))
    other = world.decide(swing(), ticker=evil)
    world.execute()
    assert world.one("trade_journal", initial_analysis_id=name)["pattern"] == evil
    assert world.analysis(other)["Remarks"].startswith("REJECTED: ")
