"""A broker whose answers are changed on their way here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from alpaca_client import Broker
from order_monitor import OrderMonitor
from tests.flow.world import World

Edit = Callable[[str, Any], Any]


class OddBroker(Broker):
    """Changes what the broker answers to a path; `edit` gets the path and the JSON, and returns other JSON."""

    def __init__(self, world: World, edit: Edit) -> None:
        super().__init__(world.settings.alpaca, clock=world.clock)
        self._edit = edit

    def _ask(self, line: Any, request: Any, heard: Any) -> Any:
        reply = super()._ask(line, request, heard)
        if reply.http_status != 200:
            return reply
        odd = replace(reply, text=json.dumps(self._edit(request.path, reply.parsed), default=str))
        heard[-1] = request, odd
        return odd


def monitor_oddly(world: World, edit: Edit) -> Any:
    """Run a pass of the order monitor with such a broker, and return its events."""
    worker = OrderMonitor(
        db=world.programs, broker=OddBroker(world, edit), clock=world.clock, settings=world.settings,
    )
    return worker.run()


def each_order(change: Callable[[dict[str, Any]], None]) -> Edit:
    """Change every order, wherever it is told of: alone or in a list."""
    def edit(path: str, answer: Any) -> Any:
        for order in answer if isinstance(answer, list) else [answer]:
            if order and path.startswith("/v2/orders"):
                change(order)
        return answer

    return edit
