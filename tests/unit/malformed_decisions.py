"""Decisions that must be refused: what to put into a row, and words its reason must hold."""

import json
from typing import Any, NamedTuple

TRADE: dict[str, Any] = {
    "strategy": "SWING",
    "pattern": "PATTERN_1",
    "qty": 45,
    "side": "buy",
    "type": "limit",
    "time_in_force": "day",
    "limit_price": 133.8,
    "stop_loss": {"stop_price": 124.0},
    "take_profit": {"limit_price": 145.5},
}
FLAT: dict[str, Any] = {
    "symbol": "NVDA",
    "primary_action": "NEW_TRADE",
    "qty": 45,
    "entry_price": 133.8,
    "stop_loss": 124.0,
    "take_profit": 145.5,
    "trade_style": "SWING",
}


class Malformed(NamedTuple):
    """A "Decision" text beside its "Ticker", and a fragment of the reason for refusing it."""

    text: str
    ticker: str | None
    reason: str


def nested(outside: dict[str, Any] | None = None, /, **trade: Any) -> str:
    """The contract's example as text, with values of the trade and beside it replaced."""
    body = {"symbol": "NVDA", "analysis_date": "2025-01-15", "primary_action": "NEW_TRADE"}
    return json.dumps({**body, **(outside or {}), "new_trade": {**TRADE, **trade}})


def without(*keys: str) -> str:
    """The contract's example as text, lacking keys of the trade."""
    trade = {key: value for key, value in TRADE.items() if key not in keys}
    return json.dumps({"symbol": "NVDA", "primary_action": "NEW_TRADE", "new_trade": trade})


def flat(**values: Any) -> str:
    """A flat decision as text, with values replaced."""
    return json.dumps({**FLAT, **values})


def written(key: str, number: str) -> str:
    """The contract's example as text, with one number of the trade written in exactly these characters."""
    return nested(**{key: "@"}).replace('"@"', number)


def _bad(text: str, reason: str, ticker: str | None = "NVDA") -> Malformed:
    return Malformed(text, ticker, reason)


_NOT_READABLE = {
    "empty text": _bad("", "is empty"),
    "only blanks": _bad(" \n\t", "is empty"),
    "prose": _bad("buy NVDA at 133.80", "not JSON"),
    "cut off": _bad(nested()[:-3], "not JSON"),
    "text after the object": _bad(nested() + " thanks", "not JSON"),
    "fenced in backticks": _bad(f"```json\n{nested()}\n```", "not JSON"),
    "single quotes": _bad("{'primary_action': 'CANCEL'}", "not JSON"),
    "trailing comma": _bad('{"primary_action": "CANCEL",}', "not JSON"),
    "byte order mark": _bad("\ufeff" + nested(), "not JSON"),
    "raw control character in a string": _bad('{"primary_action": "CAN\x01CEL"}', "not JSON"),
    "exotic digits": _bad(written("qty", "\u0664\u0665"), "not JSON"),
    "a list": _bad(f"[{nested()}]", "must be a JSON object, not a list"),
    "null": _bad("null", "must be a JSON object, not null"),
    "a number": _bad("45", "must be a JSON object, not 45"),
    "text in a string": _bad('"NEW_TRADE"', "not JSON"),
    "encoded three times": _bad(json.dumps(json.dumps(nested())), "must be a JSON object"),
    "too large": _bad(nested(remarks="x" * 70_000), "larger than 65536 bytes"),
    "too large in bytes": _bad(nested().replace("PATTERN_1", "\u20ac" * 30_000), "larger than 65536 bytes"),
    "too deep": _bad('{"a":' * 10_000, "nested deeper than 20"),
    "too deep in lists": _bad(nested(extra="@").replace('"@"', "[" * 21 + "]" * 21), "nested deeper than 20"),
    "too deep inside a string": _bad(json.dumps("[" * 20_000), "nested deeper than 20"),
    "unterminated string of escapes": _bad('"' + '\\"' * 32_000, "not JSON"),
}

_AMBIGUOUS = {
    "duplicate key": _bad(
        nested().replace('"qty": 45', '"qty": 45, "qty": 4500'), 'key "qty" is given 2 times'
    ),
    "duplicate key with an escape": _bad(
        nested().replace('"qty": 45', '"qty": 45, "\\u0071ty": 45'), "given 2 times"
    ),
    "duplicate action": _bad(
        '{"primary_action": "NO_ACTION", "primary_action": "NEW_TRADE"}', "given 2 times"
    ),
    "duplicate long key": _bad(
        f'{{"{"k" * 9000}": 1, "{"k" * 9000}": 2, "primary_action": "CANCEL"}}', "given 2 times"
    ),
    "duplicate extra key": _bad(
        nested({"levels": [{}]}).replace("[{}]", '[{"a": 1, "a": 1}]'), "given 2 times"
    ),
    "NUL in an extra key": _bad(nested({"remark": "a\0b"}), "cannot be stored"),
    "lone surrogate in an extra key": _bad(nested({"remark": "\ud800"}), "cannot be stored"),
    "two prices": _bad(
        nested(entry_price=134.8), "limit_price or entry_price is given twice with different values"
    ),
    "two styles": _bad(nested(trade_style="TREND"), "strategy or trade_style is given twice"),
    "two sides": _bad(nested(action="SELL"), "side or action is given twice"),
    "two quantities": _bad(nested({"qty": 46}), "qty is given twice with different values: 45 and 46"),
    "two stops": _bad(nested({"stop_loss": 120}), "stop_loss is given twice"),
    "two actions": _bad(
        json.dumps({"primary_action": "CANCEL", "decision": json.loads(nested())}),
        "primary_action is given twice",
    ),
    "a side outside the trade": _bad(nested({"action": "SELL"}, side=None), "side or action is given twice"),
    "another symbol in the trade": _bad(nested(symbol="TSLA"), "symbol is given twice"),
    "another symbol around the decision": _bad(
        json.dumps({"symbol": "TSLA", "decision": FLAT}), "symbol is given twice"
    ),
}

_WRONG_SUBJECT = {
    "no action": _bad(json.dumps({"symbol": "NVDA", "new_trade": TRADE}), "primary_action is missing"),
    "null action": _bad(nested({"primary_action": None}), "primary_action is missing"),
    "unknown action": _bad(nested({"primary_action": "SHORT"}), "must be one of NEW_TRADE, CANCEL, AMEND"),
    "action in exotic letters": _bad(nested({"primary_action": "NEW_\uff34RADE"}), "NEW_\\uff34RADE"),
    "action with a hidden character": _bad(nested({"primary_action": "CANCEL\u202e"}), "\\u202e"),
    "action of the wrong type": _bad(nested({"primary_action": 1}), "not 1"),
    "wrapper without an action": _bad('{"decision": {}}', "primary_action is missing"),
    "wrapper of the wrong type": _bad('{"decision": "buy"}', "primary_action is missing"),
    "symbol of another stock": _bad(nested(), "symbol NVDA differs from the Ticker AAPL", "AAPL:NASDAQ"),
    "no symbol at all": _bad('{"primary_action": "CANCEL"}', "no symbol", None),
    "blank symbol and ticker": _bad('{"primary_action": "CANCEL", "symbol": " "}', "no symbol", ":NYSE"),
    "symbol of the wrong type": _bad(nested({"symbol": 5}), "symbol must be text, not 5"),
    "symbol with SQL": _bad(nested({"symbol": "NVDA'; --"}), "must be a stock symbol"),
    "symbol in exotic letters": _bad(nested({"symbol": "N\u017fDA"}), "must be a stock symbol"),
    "symbol of a coin": _bad(nested({"symbol": "BTC/USD"}), "must be a stock symbol"),
    "ticker with a blank inside": _bad(nested(), "Ticker must be a stock symbol", "NV DA"),
    "ticker too long": _bad(nested(), "Ticker must be a stock symbol", "N" * 200),
    "date with a time": _bad(
        nested({"analysis_date": "2025-01-15T10:00:00Z"}), "analysis_date must be a date"
    ),
    "date that does not exist": _bad(nested({"analysis_date": "2025-02-30"}), "analysis_date must be a date"),
    "date the American way": _bad(nested({"analysis_date": "01/15/2025"}), "analysis_date must be a date"),
    "date as a number": _bad(nested({"analysis_date": 20250115}), "analysis_date must be a date"),
}

_WRONG_NUMBERS = {
    "qty as text": _bad(nested(qty="45"), 'qty must be a number, not text: "45"'),
    "qty as boolean": _bad(nested(qty=True), "qty must be a number, not true"),
    "qty as list": _bad(nested(qty=[45]), "qty must be a number, not a list"),
    "qty zero": _bad(nested(qty=0), "qty must be above 0"),
    "qty negative": _bad(nested(qty=-45), "qty must be above 0"),
    "qty negative zero": _bad(written("qty", "-0.0"), "qty must be above 0"),
    "qty too large": _bad(nested(qty=1_000_000_000), "at most 999999999"),
    "qty too fine": _bad(nested(strategy="TREND", qty=0.1234567891), "at most 9 decimals"),
    "qty NaN": _bad(written("qty", "NaN"), "NaN is not a number in JSON"),
    "qty with a huge exponent": _bad(written("qty", "1e999999999"), "not 1e999999999"),
    "qty with a tiny exponent": _bad(written("qty", "1e-999999999"), "not 1e-999999999"),
    "qty with thousands of digits": _bad(written("qty", "9" * 5000), "qty must be above 0"),
    "price infinite": _bad(written("limit_price", "Infinity"), "Infinity is not a number"),
    "price minus infinite": _bad(written("limit_price", "-Infinity"), "-Infinity is not a number"),
    "price as text": _bad(nested(limit_price="133.80"), 'limit_price must be a number, not text: "133.80"'),
    "price too large": _bad(nested(limit_price=1_000_001), "at most 1000000"),
    "price with three decimals": _bad(
        nested(limit_price=133.805), "limit_price 133.805 has too many decimals"
    ),
    "flat price with three decimals": _bad(flat(entry_price=133.805), "entry_price 133.805 has too many"),
    "stop with three decimals": _bad(
        nested(stop_loss={"stop_price": 124.001}), "stop_loss.stop_price 124.001 has too many decimals"
    ),
    "target with three decimals": _bad(
        nested(take_profit=145.501), "take_profit 145.501 has too many decimals"
    ),
    "penny price with five decimals": _bad(
        nested(strategy="TREND", limit_price=0.12345, stop_loss=0.1), "limit_price 0.12345 has too many"
    ),
    "stop as text": _bad(nested(stop_loss="124"), "stop_loss must be a number, not text"),
    "stop negative": _bad(nested(stop_loss=-1), "stop_loss must be above 0"),
    "NaN in an extra key": _bad(nested({"support": float("nan")}), "NaN is not a number in JSON"),
}

_WRONG_TRADES = {
    "new_trade as text": _bad(
        json.dumps({"primary_action": "NEW_TRADE", "new_trade": "buy 45"}), "new_trade must be an object"
    ),
    "new_trade as list": _bad(
        json.dumps({"primary_action": "AMEND", "new_trade": [TRADE]}),
        "new_trade must be an object, not a list",
    ),
    "no trade": _bad('{"primary_action": "NEW_TRADE"}', "strategy or trade_style is missing"),
    "amend without a trade": _bad('{"primary_action": "AMEND"}', "strategy or trade_style is missing"),
    "no strategy": _bad(without("strategy"), "strategy or trade_style is missing"),
    "unknown strategy": _bad(nested(strategy="SCALP"), "must be one of SWING, TREND, DAYTRADE"),
    "no qty": _bad(without("qty"), "qty is missing"),
    "null qty": _bad(nested(qty=None), "qty is missing"),
    "no limit price": _bad(without("limit_price"), "a limit order needs its price"),
    "no stop": _bad(without("stop_loss"), "stop_loss is missing"),
    "empty stop": _bad(nested(stop_loss={}), "stop_loss.stop_price is missing"),
    "swing without a target": _bad(without("take_profit"), "take_profit is missing: SWING needs a target"),
    "target under the stop's name": _bad(
        nested(take_profit={"stop_price": 145.5}), "take_profit.limit_price is missing"
    ),
    "unknown side": _bad(nested(side="long"), "side must be one of buy, sell"),
    "flat action HOLD": _bad(flat(action="HOLD"), "action must be one of buy, sell"),
    "unknown type": _bad(nested(type="stop_limit"), "type must be one of limit, market"),
    "unknown time in force": _bad(
        nested(time_in_force="gtd"), "time_in_force must be one of day, gtc, opg, cls, ioc, fok"
    ),
    "time in force of the wrong type": _bad(nested(time_in_force=["day"]), "not a list"),
    "pattern with a control character": _bad(nested(pattern="a\x1b[31m"), "pattern must be printable"),
    "pattern as a number": _bad(nested(pattern=1), "pattern must be printable text"),
    "pattern too long": _bad(nested(pattern="p" * 101), "at most 100 characters"),
    "stop above a buy": _bad(
        nested(stop_loss=140), "the stop 140 must be at least 0.01 below the limit price"
    ),
    "stop at the limit": _bad(nested(stop_loss=133.8), "at least 0.01 below"),
    "stop within a cent": _bad(
        nested(strategy="TREND", limit_price=0.5, stop_loss=0.495), "at least 0.01 below the limit price 0.5"
    ),
    "target below a buy": _bad(nested(take_profit=130), "the target 130 must be above the limit price"),
    "target at the limit": _bad(nested(take_profit=133.8), "must be above the limit price"),
    "stop below a sell": _bad(
        nested(side="sell", take_profit=120), "at least 0.01 above the limit price 133.8 of a sell"
    ),
    "target above a sell": _bad(
        nested(side="sell", stop_loss=140), "the target 145.5 must be below the limit"
    ),
    "market stop above its target": _bad(
        nested(type="market", stop_loss=150), "the stop 150 must be at least 0.01 below the target 145.5"
    ),
    "fractional swing": _bad(nested(qty=1.5), "qty 1.5 is fractional: SWING"),
    "fractional short": _bad(
        nested(strategy="TREND", qty=1.5, side="sell", stop_loss=140), "cannot be sold short"
    ),
    "fractional gtc": _bad(
        nested(strategy="TREND", qty=1.5, time_in_force="gtc"), "time_in_force must be day, not gtc"
    ),
}

CASES: dict[str, Malformed] = {
    **_NOT_READABLE,
    **_AMBIGUOUS,
    **_WRONG_SUBJECT,
    **_WRONG_NUMBERS,
    **_WRONG_TRADES,
}

# For tests that put every one of them into a row; all of it fits a text column (a json column takes less).
MALFORMED: dict[str, tuple[str, str | None]] = {
    name: (case.text, case.ticker) for name, case in CASES.items()
}
