"""Who is told of which alert, when, and how often; what leaves this machine is in tests/flow/test_messages.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from audit_trail import AlertKind, AlertLevel, alert_delivery, raise_alert, resolve_alerts
from audit_trail.alert_delivery import TASK, tell_alerts
from clock import ManualClock
from config import Settings, load_settings
from db_layer import TradingDB
from messages import channel_name
from session_locks import hold_task

NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
URLS = ("json://one", "json://two")
ONE, TWO = map(channel_name, URLS)
INFO, WARNING, CRITICAL = AlertLevel
STATES = "SELECT channel, state, sends, over, told_at FROM audit.alert_deliveries ORDER BY channel"


class CrashError(Exception):
    """The process ends while a message is under way."""


class Desk:
    """The alerts of a database, the clock, and channels that take messages, refuse them, or are in the way."""

    def __init__(self, db: TradingDB, monkeypatch: pytest.MonkeyPatch) -> None:
        self.db = db
        self.clock = ManualClock(NOW)
        self.channels = list(URLS[:1])
        self.more: dict[str, str] = {}
        self.down: set[str] = set()
        self.crashes = False
        self.before: Callable[[], None] = lambda: None
        self.sent: list[tuple[str, str, str]] = []
        monkeypatch.setattr(alert_delivery, "send_message", self._send)

    @property
    def settings(self) -> Settings:
        return load_settings(True, {"ALERT_URLS": ",".join(self.channels)} | self.more)

    def _send(
        self, settings: Settings, title: str, body: str, channels: list[str] | None = None,
    ) -> dict[str, str | None]:
        names = channels or [channel_name(url) for url in settings.messages.alert_urls]
        self.before()
        self.sent += [(name, title, body) for name in names if name not in self.down]
        if self.crashes:
            raise CrashError
        return {name: "refused" if name in self.down else None for name in names}

    def see(
        self, level: AlertLevel = WARNING, subject: str = "fills", message: str = "no answer",
        kind: AlertKind = AlertKind.READ_FAILED,
    ) -> None:
        raise_alert(self.db, level, kind, subject, message, self.clock.now())

    def end(self, subject: str = "fills", kind: AlertKind = AlertKind.READ_FAILED) -> None:
        resolve_alerts(self.db, (kind,), (subject,), self.clock.now())

    def tell(self, minutes: int = 0) -> list[str]:
        """Let time pass, tell, and return the titles of what was sent."""
        self.clock.sleep(60 * minutes)
        before = len(self.sent)
        tell_alerts(self.db, self.settings, self.clock)
        return [title.removeprefix("Trading Monitor: ") for _, title, _ in self.sent[before:]]

    def open(self) -> list[dict[str, Any]]:
        return self.db.query("alerts", {"kind": "channel_failing", "resolved_at": None})


@pytest.fixture
def desk(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with TradingDB(config=database | {"user": "trading_app"}) as programs:
        yield Desk(programs, monkeypatch)


def test_an_alert_is_told_once_to_each_channel_in_one_message(desk: Desk) -> None:
    desk.channels = list(URLS)
    desk.see(CRITICAL, "NVDA-1", "45 shares of NVDA have no stop", AlertKind.UNPROTECTED_POSITION)
    desk.see(WARNING, "fills", "a\nb")
    desk.see(WARNING, "fills", "a\nb")
    assert desk.tell() == ["1 critical, 1 warning"] * 2
    assert {name for name, _, _ in desk.sent} == {ONE, TWO}
    lines = desk.sent[0][2].split("\n")
    assert lines == [
        "CRITICAL unprotected_position NVDA-1: 45 shares of NVDA have no stop (since 2025-01-15 15:00 UTC)",
        "WARNING read_failed fills: a\\nb (since 2025-01-15 15:00 UTC, seen 2 times)",
        "All of them: python -m audit_trail alerts",
    ]
    assert desk.tell(minutes=5) == []


def test_without_channels_nothing_is_sent_and_nothing_remembered(desk: Desk) -> None:
    desk.channels = []
    desk.see()
    assert desk.tell() == []
    assert desk.db.execute_query(STATES) == []


def test_what_becomes_worse_is_told_at_once_and_other_news_after_a_pause(desk: Desk) -> None:
    desk.see(WARNING)
    assert desk.tell() == ["1 warning"]
    desk.see(WARNING, message="still no answer")
    assert desk.tell(minutes=5) == []
    desk.see(CRITICAL, message="still no answer")
    assert desk.tell(minutes=5) == ["1 critical"]
    desk.see(CRITICAL, message="no answer at all")
    assert desk.tell(minutes=239) == []
    assert desk.tell(minutes=1) == ["1 critical"]


def test_a_critical_alert_that_is_still_seen_is_repeated_and_a_warning_is_not(desk: Desk) -> None:
    desk.see(CRITICAL, "orders")
    desk.see(WARNING, "fills")
    assert desk.tell() == ["1 critical, 1 warning"]
    assert desk.tell(minutes=300) == []  # nobody has seen it again
    desk.see(CRITICAL, "orders")
    desk.see(WARNING, "fills")
    assert desk.tell() == ["1 critical"]


def test_who_has_acknowledged_an_alert_hears_of_it_when_it_says_something_else(desk: Desk) -> None:
    desk.see(CRITICAL)
    desk.db.execute_update("UPDATE audit.alerts SET acknowledged_at = now()")
    assert desk.tell() == []
    desk.see(CRITICAL)
    assert desk.tell(minutes=300) == []
    desk.see(CRITICAL, message="worse")
    assert desk.tell() == ["1 critical"]


def test_the_end_of_what_was_told_is_told_once(desk: Desk) -> None:
    desk.see()
    desk.tell()
    desk.end()
    assert desk.tell(minutes=5) == ["1 over"]
    assert desk.sent[-1][2].startswith("OVER read_failed fills: no answer")
    assert desk.tell(minutes=5) == []


@pytest.mark.parametrize(("level", "told"), [(INFO, ["1 over"]), (WARNING, []), (CRITICAL, ["1 over"])])
def test_what_is_over_before_anybody_heard_is_told_unless_it_was_a_mere_warning(
    desk: Desk, level: AlertLevel, told: list[str],
) -> None:
    desk.see(level)
    desk.end()
    assert desk.tell() == told
    assert desk.tell(minutes=5) == []


def test_what_was_over_a_day_ago_is_no_news(desk: Desk) -> None:
    desk.see(CRITICAL)
    desk.end()
    assert desk.tell(minutes=24 * 60) == []


def test_a_matter_that_comes_and_goes_is_told_after_the_pause(desk: Desk) -> None:
    desk.see()
    assert desk.tell() == ["1 warning"]
    desk.end()
    assert desk.tell(minutes=5) == ["1 over"]
    desk.see()
    assert desk.tell(minutes=5) == []
    assert desk.tell(minutes=240) == ["1 warning"]


def test_a_matter_that_comes_back_worse_does_not_wait(desk: Desk) -> None:
    desk.see()
    desk.tell()
    desk.end()
    desk.tell()
    desk.see(CRITICAL)
    assert desk.tell(minutes=5) == ["1 critical"]


def test_a_channel_that_fails_is_an_alert_that_the_others_hear_and_is_tried_again_less_and_less_often(
    desk: Desk,
) -> None:
    desk.channels = list(URLS)
    desk.down = {TWO}
    desk.see()
    assert desk.tell() == ["1 warning"]
    (alert,) = desk.open()
    assert (alert["level"], alert["subject"]) == ("warning", TWO)
    assert alert["message"] == f"messages do not reach the channel {TWO} of ALERT_URLS: refused"
    assert desk.tell() == ["1 warning"]  # of the failing channel, to the other one
    tried = []
    for _ in range(16):
        desk.tell(minutes=1)
        tried.append(desk.open()[0]["occurrences"])
    assert tried == [2] * 2 + [3] * 4 + [4] * 8 + [5] * 2
    desk.down = set()
    assert desk.tell(minutes=60) == ["1 warning"]
    assert desk.open() == []
    assert {row["state"] for row in desk.db.execute_query(STATES)} == {"told"}


def test_a_channel_that_is_taken_out_of_the_settings_fails_no_more(desk: Desk) -> None:
    desk.down = {ONE}
    desk.see()
    desk.tell()
    assert desk.open() != []
    desk.channels = []
    desk.tell()
    assert desk.open() == []


def test_a_flood_is_one_message_that_says_how_much_it_leaves_out(desk: Desk) -> None:
    for number in range(100):
        desk.see(WARNING, f"trade {number}", "x" * 100)
    desk.see(CRITICAL, "orders")
    assert desk.tell() == ["1 critical, 100 warning"]
    body = desk.sent[0][2]
    lines = body.split("\n")
    assert len(body) < 2000
    assert lines[0].startswith("CRITICAL")
    assert lines[-2] == f"... and {101 - (len(lines) - 2)} more"
    assert desk.tell(minutes=5) == []


def test_a_channel_gets_so_many_messages_an_hour_and_half_of_them_are_kept_for_critical_ones(desk: Desk) -> None:
    desk.more = {"ALERT_MAX_PER_HOUR": "4"}
    sent = []
    for number in range(12):
        desk.see(CRITICAL if number % 2 else WARNING, f"trade {number}")
        sent += desk.tell(minutes=1)
    assert len(sent) == 4
    assert [words for words in sent if "critical" not in words] == ["1 warning"]
    assert desk.tell(minutes=60) == ["3 critical, 3 warning"]


def test_a_message_that_was_interrupted_is_repeated_once_and_never_again(desk: Desk) -> None:
    desk.see()
    desk.crashes = True
    for _ in range(2):
        with pytest.raises(CrashError):
            desk.tell(minutes=1)
    desk.crashes = False
    assert len(desk.sent) == 2
    assert desk.tell(minutes=1) == []


def test_what_is_being_told_is_committed_before_it_leaves(desk: Desk, db: TradingDB) -> None:
    desk.see()
    seen: list[str] = []
    desk.before = lambda: seen.extend(row["state"] for row in db.execute_query(STATES))
    desk.tell()
    assert seen == ["sending"]


def test_two_programs_do_not_tell_the_same(desk: Desk, db: TradingDB) -> None:
    desk.see()
    with hold_task(db, TASK):
        assert desk.tell() == []
    assert desk.tell() == ["1 warning"]


def test_a_pause_is_longer_than_any_bound_of_an_hour(desk: Desk) -> None:
    assert timedelta(minutes=desk.settings.messages.repeat_minutes) >= alert_delivery.HOUR
