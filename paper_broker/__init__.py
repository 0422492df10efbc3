"""A local broker that speaks Alpaca's trading and market-data API, to rehearse with.

`serve(PaperBroker(...))` is the broker in a test; `python -m paper_broker` is the broker as a program.
"""

from __future__ import annotations

from paper_broker.clock import SimulatedClock, SystemClock
from paper_broker.drafts import RefusalError
from paper_broker.engine import PaperBroker
from paper_broker.server import Server

__all__ = ["PaperBroker", "RefusalError", "Server", "SimulatedClock", "SystemClock", "serve"]


def serve(broker: PaperBroker, port: int = 0) -> Server:
    """A server for a broker, to be used in a with statement; port 0 takes any free one."""
    return Server(broker, port)
