"""Whatever stands in the column: it is read exactly, or refused in one line."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from decision import Action, DecisionError, NewTrade, Side, parse_decision

SCHEMA = Path(__file__).parents[2] / "docs" / "decision.schema.json"
VALIDATOR = Draft202012Validator(json.loads(SCHEMA.read_text()))
SETTINGS = settings(max_examples=200)

pytestmark = pytest.mark.no_cover

TRADE_KEYS = ["qty", "side", "action", "type", "strategy", "trade_style", "pattern", "time_in_force"]
PRICE_KEYS = ["limit_price", "entry_price", "stop_loss", "take_profit", "stop_price"]
OTHER_KEYS = ["symbol", "primary_action", "analysis_date", "new_trade", "decision"]
ACTIONS = ["NEW_TRADE", "CANCEL", "AMEND", "NO_ACTION"]
KEYS = st.sampled_from([*TRADE_KEYS, *PRICE_KEYS, *OTHER_KEYS])
WORDS = st.sampled_from([*ACTIONS, "NVDA", "SWING", "TREND", "buy", "SELL", "limit", "market", "day", "gtc"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=8,
)
TICKERS = st.none() | st.just("NVDA:NASDAQ") | st.text(max_size=8)
CENTS = st.integers(min_value=101, max_value=90_000_000)


def _refused_or_read(text: str, ticker: str | None) -> bool:
    try:
        parse_decision(text, ticker)
    except DecisionError as error:
        reason = str(error)
    else:
        return True
    assert 0 < len(reason) <= 300
    assert reason.isprintable()
    return False


@SETTINGS
@given(text=st.text(alphabet=st.characters()), ticker=TICKERS)
def test_arbitrary_text_is_read_or_refused(text: str, ticker: str | None) -> None:
    _refused_or_read(text, ticker)


@SETTINGS
@given(text=st.text(alphabet='{}[]",:\\0123456789.eE+-NaInfity \n', max_size=200))
def test_text_that_resembles_json_is_read_or_refused(text: str) -> None:
    _refused_or_read(text, "NVDA")


@SETTINGS
@given(value=VALUES, ticker=TICKERS)
def test_arbitrary_json_is_read_or_refused(value: Any, ticker: str | None) -> None:
    _refused_or_read(json.dumps(value), ticker)
    _refused_or_read(json.dumps(json.dumps(value)), ticker)


@SETTINGS
@given(body=st.dictionaries(KEYS, VALUES, max_size=2), trade=st.dictionaries(KEYS, VALUES, max_size=3))
def test_a_spoilt_trade_is_refused_or_read_as_the_schema_allows(
    body: dict[str, Any], trade: dict[str, Any]
) -> None:
    good = {"strategy": "TREND", "qty": 45, "limit_price": 133.8, "stop_loss": 124}
    decision = {"new_trade": {**good, **trade}, **body, "primary_action": "NEW_TRADE"}
    if _refused_or_read(json.dumps(decision), "NVDA"):
        VALIDATOR.validate(decision)


@SETTINGS
@given(value=st.dictionaries(KEYS | st.text(max_size=5), VALUES, max_size=6))
def test_no_action_is_never_refused_whatever_stands_beside_it(value: dict[str, Any]) -> None:
    value.pop("decision", None)
    text = json.dumps({**value, "primary_action": "NO_ACTION"})
    assert parse_decision(text, "NVDA").action is Action.NO_ACTION


@st.composite
def _numbers(draw: st.DrawFn) -> tuple[str, str, str, str]:
    """Quantity, stop, limit and target in rising order, with trailing zeros here and there."""
    prices = sorted(draw(st.sets(CENTS, min_size=3, max_size=3)))
    zeros = draw(st.lists(st.sampled_from(["", "0", "000"]), min_size=3, max_size=3))
    texts = [f"{cents // 100}.{cents % 100:02d}{more}" for cents, more in zip(prices, zeros, strict=True)]
    return str(draw(st.integers(1, 999_999_999))), texts[0], texts[1], texts[2]


@SETTINGS
@given(numbers=_numbers(), side=st.sampled_from(Side), is_flat=st.booleans())
def test_accepted_numbers_have_the_digits_of_the_text(
    numbers: tuple[str, str, str, str], side: Side, is_flat: bool
) -> None:
    qty, low, limit, high = numbers
    stop, target = (low, high) if side is Side.BUY else (high, low)
    trade = (
        f'"trade_style": "SWING", "side": "{side}", "qty": {qty}, "entry_price": {limit}, '
        f'"stop_loss": {stop}, "take_profit": {{"limit_price": {target}}}'
    )
    body = trade if is_flat else f'"new_trade": {{{trade}}}'
    read = parse_decision(f'{{"primary_action": "NEW_TRADE", {body}}}', "NVDA").trade
    assert isinstance(read, NewTrade)
    assert [str(read.qty), str(read.limit_price), str(read.stop_price), str(read.target_price)] == [
        qty, limit, stop, target,
    ]  # fmt: skip


@SETTINGS
@given(number=st.from_regex(r"-?(0|[1-9][0-9]{0,12})(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,12})?", fullmatch=True))
def test_a_number_is_taken_exactly_or_refused(number: str) -> None:
    trade = f'"trade_style": "TREND", "type": "market", "stop_loss": 1, "qty": {number}'
    text = f'{{"primary_action": "NEW_TRADE", {trade}}}'
    try:
        read = parse_decision(text, "NVDA").trade
    except DecisionError:
        return
    assert read is not None
    assert read.qty == Decimal(number)
    assert 0 < read.qty < 1_000_000_000
