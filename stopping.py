"""A graceful stop: what is being said to the broker is said to its end and written down, and nothing new begins.

Between two messages a pass may end anywhere, as in a crash, because the next one goes on from what is committed. So a
stop is an exception, raised where the next message or read would begin, or in a wait.
"""

from datetime import datetime

from alpaca_client import Broker, Exchange, Request
from broker_line import Line, Reply
from clock import Clock
from config import AlpacaSettings

SLICE_SECONDS = 0.5


class Stopped(BaseException):
    """The daemon is to end; no handler of errors may outlive it."""


class Stop:
    """Whether to end; also when the outer stop was asked for."""

    def __init__(self, outer: "Stop | None" = None) -> None:
        self._outer = outer
        self._asked = False

    @property
    def asked(self) -> bool:
        return self._asked or (self._outer is not None and self._outer.asked)

    def ask(self) -> None:
        """Ask for the end; does nothing else, so that a signal's handler may call it."""
        self._asked = True

    def check(self) -> None:
        """Raise Stopped when the end was asked for."""
        if self.asked:
            raise Stopped


class StoppableClock:
    """A clock whose waiting ends soon after a stop was asked for, with Stopped."""

    def __init__(self, clock: Clock, stop: Stop) -> None:
        self._clock = clock
        self._stop = stop

    def now(self) -> datetime:
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        while seconds > 0:
            self._stop.check()
            self._clock.sleep(min(seconds, SLICE_SECONDS))
            seconds -= SLICE_SECONDS


class StoppableBroker(Broker):
    """A broker of whom nothing new is asked once a stop was asked for; what has been written down is still sent."""

    def __init__(self, settings: AlpacaSettings, clock: Clock, stop: Stop) -> None:
        super().__init__(settings, clock=clock)
        self._stop = stop

    def wait_for_room(self) -> None:
        """Wait for room like any broker; before a message is written down it may still be left unsaid."""
        self._stop.check()
        super().wait_for_room()

    def _ask(self, line: Line, request: Request, heard: list[Exchange]) -> Reply:
        self._stop.check()
        return super()._ask(line, request, heard)
