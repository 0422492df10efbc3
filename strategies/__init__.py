"""Strategies of our own: they turn disclosures into decisions, which the executor carries out like n8n's."""

import requirements_check  # noqa: F401
from strategies.congressional import CongressionalTradingStrategy
from strategies.insider import InsiderTradingStrategy
from strategies.signals import Disclosure, Signal, Snapshot, Strategy

STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy for strategy in (CongressionalTradingStrategy(), InsiderTradingStrategy())
}

__all__ = [
    "STRATEGIES", "CongressionalTradingStrategy", "Disclosure", "InsiderTradingStrategy", "Signal", "Snapshot",
    "Strategy",
]
