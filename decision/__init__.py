"""Reads what a decider wrote into the "Decision" column; the rules are in docs/decisions-in.md."""

from decision.meaning import (
    Action,
    Decision,
    NewTrade,
    OrderType,
    Side,
    TimeInForce,
    TradeStyle,
    parse_decision,
)
from decision.strict_json import DecisionError

__all__ = [
    "Action",
    "Decision",
    "DecisionError",
    "NewTrade",
    "OrderType",
    "Side",
    "TimeInForce",
    "TradeStyle",
    "parse_decision",
]
