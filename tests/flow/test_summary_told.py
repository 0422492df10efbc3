"""The daily summary on its way to people: by command, and by the daemon's job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from alpaca_client import Broker
from config import load_settings
from job_table import JobError, Work, tell_day
from market_calendar import MarketCalendar
from parts import build_parts
from tests.flow.world import START, World
from tests.receiver import Receiver, receive


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receive() as receiver:
        yield receiver


def tell(world: World, *urls: str) -> None:
    settings = load_settings(True, {"ALERT_URLS": ", ".join(urls), "ALPACA_BASE_URL": world.settings.alpaca.base_url})
    broker = Broker(settings.alpaca, clock=world.clock)
    with closing(build_parts(db=world.programs, broker=broker, clock=world.clock, settings=settings)) as parts:
        tell_day(Work(parts, MarketCalendar()), START)


def test_the_summary_of_the_day_reaches_people(world: World, receiver: Receiver) -> None:
    tell(world, f"json://{receiver.address}/desk")
    (message,) = receiver.messages
    assert message["title"].startswith("Daily summary for Wednesday 2025-01-15")
    assert "Trading state" in message["message"] or "ACTIVE" in message["message"]


def test_a_summary_that_did_not_arrive_is_a_job_not_done(world: World, receiver: Receiver) -> None:
    receiver.status = 503
    with pytest.raises(JobError, match="503"):
        tell(world, f"json://{receiver.address}/desk")


def test_without_channels_the_summary_is_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "jobs")
    tell(world)
    (record,) = [record for record in caplog.records if record.message == "daily summary"]
    assert "2025-01-15" in record.__dict__["summary"]
