"""Reads what a decider wrote into the "Decision" column; the rules are in docs/decisions-in.md."""

from decision.meaning import (
    Action,
    Decision,
    NewTrade,
    OrderType,
    Side,
    TimeInForce,
    TradeStyle,
    check_fraction,
    parse_decision,
)
from decision.strict_json import MAX_BYTES, DecisionError

__all__ = [
    "MAX_BYTES",
    "Action",
    "Decision",
    "DecisionError",
    "NewTrade",
    "OrderType",
    "Side",
    "TimeInForce",
    "TradeStyle",
    "check_fraction",
    "parse_decision",
]
