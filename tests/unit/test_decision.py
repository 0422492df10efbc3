"""What a decision says, and why a bad one is refused (docs/decisions-in.md, docs/decision.schema.json)."""

import json
import re
from contextlib import suppress
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from decision import (
    Action,
    Decision,
    DecisionError,
    NewTrade,
    OrderType,
    Side,
    TimeInForce,
    TradeStyle,
    parse_decision,
)
from tests.unit.malformed_decisions import CASES, FLAT, TRADE, Malformed, flat, nested, written

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = json.loads((DOCS / "decision.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)

EXAMPLE = """{"symbol": "NVDA", "analysis_date": "2025-01-15", "support": 100.1, "resistance": 150.1,
 "primary_action": "NEW_TRADE",
 "new_trade": {"strategy": "SWING", "pattern": "PATTERN_1", "qty": 45, "side": "buy", "type": "limit",
  "time_in_force": "day", "limit_price": 133.80, "stop_loss": {"stop_price": 124.00},
  "take_profit": {"limit_price": 145.50}, "reward_risk_ratio": 2.15, "risk_amount": 100.00,
  "risk_percentage": 1.0}}"""
SWING = NewTrade(
    style=TradeStyle.SWING,
    pattern="PATTERN_1",
    qty=Decimal("45"),
    side=Side.BUY,
    order_type=OrderType.LIMIT,
    time_in_force=TimeInForce.DAY,
    limit_price=Decimal("133.80"),
    stop_price=Decimal("124.00"),
    target_price=Decimal("145.50"),
)
PLAIN = replace(SWING, pattern=None)
SHORT = {"side": "sell", "stop_loss": 140, "take_profit": 120}
OUTSIDE = {"symbol": "NVDA", "primary_action": "NEW_TRADE"}

GOOD: dict[str, tuple[str, NewTrade]] = {
    "the example": (EXAMPLE, SWING),
    "nested with plain numbers": (nested(stop_loss=124.0, take_profit=145.5), SWING),
    "nested with defaults": (nested(side=None, type=None, time_in_force=None, pattern=None), PLAIN),
    "nested with an empty pattern": (nested(pattern=""), PLAIN),
    "flat": (flat(), PLAIN),
    "flat with objects": (
        flat(stop_loss={"stop_price": 124}, take_profit={"limit_price": 145.5}, pattern="PATTERN_1"),
        SWING,
    ),
    "flat with null new_trade": (flat(new_trade=None), PLAIN),
    "flat buy by action": (flat(action="BUY"), PLAIN),
    "flat good till cancelled": (
        flat(time_in_force="gtc"),
        replace(PLAIN, time_in_force=TimeInForce.GTC),
    ),
    "flat sell by action": (
        flat(action="SELL", stop_loss=140, take_profit=120),
        replace(PLAIN, side=Side.SELL, stop_price=Decimal(140), target_price=Decimal(120)),
    ),
    "flat sell by side": (
        flat(**SHORT),
        replace(PLAIN, side=Side.SELL, stop_price=Decimal(140), target_price=Decimal(120)),
    ),
    "flat at market": (
        flat(type="market", entry_price=None),
        replace(PLAIN, order_type=OrderType.MARKET, limit_price=None),
    ),
    "wrapped nested": (json.dumps({"decision": json.loads(EXAMPLE)}), SWING),
    "wrapped flat": (json.dumps({"decision": FLAT, "model": "x"}), PLAIN),
    "both names with the same value": (nested(entry_price=133.8, trade_style="SWING", action="buy"), SWING),
    "the same value beside the trade": (nested({"qty": 45.0, "action": "BUY"}), SWING),
    "trend ignores the target": (
        nested(strategy="TREND", take_profit="none"),
        replace(SWING, style=TradeStyle.TREND, target_price=None),
    ),
    "day trade without a target": (
        nested(strategy="DAYTRADE", take_profit=None),
        replace(SWING, style=TradeStyle.DAYTRADE, target_price=None),
    ),
    "market ignores the limit price": (
        nested(type="market"),
        replace(SWING, order_type=OrderType.MARKET, limit_price=None),
    ),
    "fraction of a share for the day": (
        nested(strategy="TREND", qty=0.123456789),
        replace(SWING, style=TradeStyle.TREND, qty=Decimal("0.123456789"), target_price=None),
    ),
    "whole shares with a decimal point": (written("qty", "45.000"), SWING),
    "penny stock": (
        nested(limit_price=0.1234, stop_loss=0.1, take_profit=0.2001),
        replace(
            SWING, limit_price=Decimal("0.1234"), stop_price=Decimal("0.1"), target_price=Decimal("0.2001")
        ),
    ),
    "stop a cent away": (
        nested(stop_loss=133.79, take_profit=133.81),
        replace(SWING, stop_price=Decimal("133.79"), target_price=Decimal("133.81")),
    ),
    "the largest order that fits the columns": (
        nested(qty=999_999_999, limit_price=999_999.99, take_profit=1_000_000),
        replace(
            SWING, qty=Decimal(999_999_999), limit_price=Decimal("999999.99"), target_price=Decimal(1_000_000)
        ),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_decision_is_read_whatever_its_shape(name: str) -> None:
    text, trade = GOOD[name]
    assert parse_decision(text, "NVDA:NASDAQ").trade == trade


def test_the_example_of_the_contract_is_read_whole() -> None:
    assert parse_decision(EXAMPLE, "NVDA") == Decision(Action.NEW_TRADE, "NVDA", date(2025, 1, 15), SWING)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_malformed_decision_is_refused_with_its_reason(case: Malformed) -> None:
    reason = _reason(case)
    assert case.reason in reason
    assert len(reason) <= 300
    assert reason.isascii()
    assert reason.isprintable()


@pytest.mark.parametrize("text", [None, "{\0}", '{"symbol": "\ud800"}'], ids=["null", "NUL", "surrogate"])
def test_text_that_no_column_could_hold_is_refused_too(text: str | None) -> None:
    with pytest.raises(DecisionError):
        parse_decision(text, "NVDA")


def test_a_malformed_ticker_that_no_column_could_hold_is_refused_too() -> None:
    with pytest.raises(DecisionError, match="Ticker must be"):
        parse_decision(EXAMPLE, "NV\0DA")


def test_json_text_within_a_json_string_is_decoded_once_more() -> None:
    assert parse_decision(json.dumps(EXAMPLE), "NVDA").trade == SWING


def test_digits_are_kept_as_decided() -> None:
    trade = parse_decision(EXAMPLE, None).trade
    assert trade is not None
    assert [str(trade.qty), str(trade.limit_price), str(trade.stop_price)] == ["45", "133.80", "124.00"]


def test_an_exponent_is_written_out() -> None:
    trade = parse_decision(written("qty", "1E+2"), "NVDA").trade
    assert trade is not None
    assert str(trade.qty) == "100"


def test_an_extra_key_may_hold_any_number() -> None:
    text = nested({"support": "@"}).replace('"@"', "1e999999999")
    assert parse_decision(text, "NVDA").trade == SWING


@pytest.mark.parametrize(
    ("symbol", "ticker", "expected"),
    [
        ("NVDA", "NVDA", "NVDA"),
        ("NVDA", "NVDA:NASDAQ", "NVDA"),
        ("nvda", " Nvda :NASDAQ:x", "NVDA"),
        ("NVDA:NASDAQ", None, "NVDA"),
        ("NVDA", "", "NVDA"),
        (None, "NVDA:NASDAQ", "NVDA"),
        ("", "NVDA\n", "NVDA"),
        ("BRK.B", "brk.b:NYSE", "BRK.B"),
    ],
)
@pytest.mark.parametrize("action", ["NEW_TRADE", "CANCEL", "AMEND"])
def test_the_symbol_comes_from_the_ticker_or_the_json(
    action: str, symbol: str | None, ticker: str | None, expected: str
) -> None:
    text = nested({"symbol": symbol, "primary_action": action})
    assert parse_decision(text, ticker).symbol == expected


def test_the_symbol_may_stand_beside_the_wrapper() -> None:
    inner = {key: value for key, value in FLAT.items() if key != "symbol"}
    text = json.dumps({"symbol": "NVDA", "analysis_date": "2025-01-15", "decision": inner})
    assert parse_decision(text, None) == Decision(Action.NEW_TRADE, "NVDA", date(2025, 1, 15), PLAIN)


@pytest.mark.parametrize("new_trade", [TRADE, {"qty": "many"}, "nothing", None])
def test_a_cancel_needs_no_trade_and_ignores_one(new_trade: Any) -> None:
    text = json.dumps({"primary_action": "CANCEL", "symbol": "NVDA", "new_trade": new_trade})
    assert parse_decision(text, "NVDA") == Decision(Action.CANCEL, "NVDA", None, None)


def test_an_amend_carries_the_same_trade() -> None:
    assert parse_decision(nested({"primary_action": "AMEND"}), "NVDA").trade == SWING


@pytest.mark.parametrize(
    "text",
    [
        '{"primary_action": "NO_ACTION"}',
        '{"primary_action": "no_action", "symbol": 5, "analysis_date": "soon"}',
        '{"primary_action": "NO_ACTION", "support": NaN, "a": 1, "a": 2, "remark": "\\u0000"}',
        '{"decision": {"primary_action": "NO_ACTION", "new_trade": []}}',
        json.dumps('{"primary_action": "NO_ACTION", "symbol": "TSLA"}'),
    ],
)
def test_no_action_is_never_refused(text: str) -> None:
    assert parse_decision(text, "NVDA").action is Action.NO_ACTION


def test_no_action_around_another_action_is_refused() -> None:
    text = json.dumps({"primary_action": "NO_ACTION", "decision": FLAT})
    with pytest.raises(DecisionError, match="primary_action is given twice"):
        parse_decision(text, "NVDA")


def test_words_are_read_in_any_case_of_letters() -> None:
    text = nested(
        {"primary_action": "new_trade"}, strategy="Swing", side="BUY", type="Limit", time_in_force="DAY"
    )
    assert parse_decision(text, "NVDA").trade == SWING


@pytest.mark.parametrize("word", list(TimeInForce))
@pytest.mark.parametrize("order_type", list(OrderType))
def test_every_time_in_force_fits_a_limit_and_a_market_order(word: str, order_type: str) -> None:
    trade = parse_decision(nested(time_in_force=word, type=order_type), "NVDA").trade
    assert trade is not None
    assert trade.time_in_force == word


def test_the_deepest_allowed_nesting_is_read_and_brackets_in_text_do_not_count() -> None:
    text = nested({"extra": "@", "remark": '\\"' + "[" * 100}).replace('"@"', "[" * 19 + "]" * 19)
    assert parse_decision(text, "NVDA").trade == SWING


def test_the_page_for_deciders_quotes_refusals_as_they_are_worded() -> None:
    page = (DOCS / "decisions-in.md").read_text().partition("The limits say")[0]
    quoted = re.findall(r"^\| `([^`]+)` \|$", page, re.MULTILINE)
    assert len(quoted) > 20
    assert set(quoted) <= {_reason(case) for case in CASES.values()}


def _reason(case: Malformed) -> str:
    with pytest.raises(DecisionError) as refusal:
        parse_decision(case.text, case.ticker)
    return str(refusal.value)


def test_the_published_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", GOOD)
def test_the_published_schema_accepts_what_is_read(name: str) -> None:
    for parse in (float, Decimal):
        VALIDATOR.validate(json.loads(GOOD[name][0], parse_float=parse))


@pytest.mark.parametrize(
    "text", ['{"primary_action": "CANCEL"}', '{"primary_action": "NO_ACTION", "symbol": 5}']
)
def test_the_published_schema_accepts_actions_without_a_trade(text: str) -> None:
    VALIDATOR.validate(json.loads(text))


# What a schema cannot say: values compared, decimals or bytes counted, the row's Ticker, hidden characters.
BEYOND_A_SCHEMA = {
    "too large", "too deep in lists", "NUL in an extra key", "lone surrogate in an extra key",
    "two prices", "two styles", "two sides", "two quantities", "two stops", "two actions",
    "a side outside the trade", "another symbol in the trade", "another symbol around the decision",
    "symbol of another stock", "no symbol at all", "blank symbol and ticker",
    "ticker with a blank inside", "ticker too long", "date that does not exist", "qty too fine",
    "price with three decimals", "flat price with three decimals", "stop with three decimals",
    "target with three decimals", "penny price with five decimals", "pattern with a control character",
    "stop above a buy", "stop at the limit", "stop within a cent", "target below a buy",
    "target at the limit", "stop below a sell", "target above a sell", "market stop above its target",
}  # fmt: skip


def _not_json(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def _decodable() -> dict[str, object]:
    values: dict[str, object] = {}
    for name, case in CASES.items():
        with suppress(ValueError, RecursionError):
            values[name] = json.loads(case.text, object_pairs_hook=_object, parse_constant=_not_json)
    return values


DECODABLE = _decodable()


@pytest.mark.parametrize("name", DECODABLE)
def test_the_published_schema_refuses_what_a_schema_can_refuse(name: str) -> None:
    assert VALIDATOR.is_valid(DECODABLE[name]) is (name in BEYOND_A_SCHEMA)
