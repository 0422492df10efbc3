"""Settings: what is read, what stands where nothing is said, and what is refused."""

from __future__ import annotations

import dataclasses
import logging
import re
from datetime import time
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import config
from config import Settings, get_postgres_config, load_database_settings, load_settings
from environment import ConfigError

PROJECT = Path(__file__).resolve().parents[2]
ENOUGH = {
    "POSTGRES_HOST": "db.example", "POSTGRES_DB": "nocodb", "POSTGRES_USER": "trader", "POSTGRES_PASSWORD": "pa55-word",
    "ALPACA_API_KEY": "PKEXAMPLE", "ALPACA_SECRET_KEY": "s3cret-example",
}
LIVE = {"ALPACA_PAPER": "false", "CONFIRM_LIVE_TRADING": "yes"}
DEFAULTS = [
    ("postgres.port", 5432),
    ("postgres.schema", "public"),
    ("alpaca.paper", True),
    ("alpaca.base_url", "https://paper-api.alpaca.markets"),
    ("alpaca.data_url", "https://data.alpaca.markets"),
    ("alpaca.data_feed", "iex"),
    ("alpaca.account_number", ""),
    ("alpaca.timeout_seconds", 10.0),
    ("schedule.order_executor_time", time(9, 45)),
    ("schedule.order_monitor_minutes", 5),
    ("schedule.order_monitor_eod_time", time(18, 0)),
    ("schedule.position_monitor_minutes", 10),
    ("schedule.position_monitor_eod_time", time(18, 15)),
    ("schedule.congress_fetch_time", time(7, 0)),
    ("schedule.insider_fetch_time", time(7, 15)),
    ("schedule.maintenance_time", time(5, 30)),
    ("schedule.congressional_strategy_time", None),
    ("schedule.daily_summary_time", time(18, 30)),
    ("schedule.retention_day", 1),
    ("schedule.retention_time", time(4, 0)),
    ("limits.max_order_notional", Decimal(20000)),
    ("limits.max_order_qty", Decimal(10000)),
    ("limits.decision_max_age_hours", Decimal(96)),
    ("limits.allow_short", False),
    ("limits.symbol_denylist", frozenset()),
    ("analysis_timezone", ZoneInfo("UTC")),
    ("messages.alert_urls", ()),
    ("messages.heartbeat_url", ""),
    ("messages.repeat_minutes", 240),
    ("metrics_file", ""),
    ("messages.most_per_hour", 12),
    ("use_audit_trail", True),
    ("log_format", "text"),
]
MALFORMED = [
    ("POSTGRES_PORT", "0"),
    ("POSTGRES_PORT", "65536"),
    ("POSTGRES_PORT", "54.5"),
    ("POSTGRES_PORT", "five"),
    ("POSTGRES_SCHEMA", "audit"),
    ("POSTGRES_SCHEMA", "AUDIT"),
    ("POSTGRES_SCHEMA", 'x"; DROP SCHEMA public; --'),
    ("POSTGRES_SCHEMA", "a" * 64),
    ("ALPACA_PAPER", "maybe"),
    ("ALPACA_TIMEOUT_SECONDS", "0"),
    ("ALPACA_TIMEOUT_SECONDS", "NaN"),
    ("ALPACA_TIMEOUT_SECONDS", "Infinity"),
    ("ALPACA_TIMEOUT_SECONDS", "10s"),
    ("ORDER_EXECUTOR_TIME", "9:45"),
    ("ORDER_EXECUTOR_TIME", "24:00"),
    ("ORDER_EXECUTOR_TIME", "02:59"),
    ("ORDER_EXECUTOR_LATE_MINUTES", "0"),
    ("ORDER_EXECUTOR_TIME", "09:45:00"),
    ("ORDER_MONITOR_MINUTES", "0"),
    ("ORDER_MONITOR_MINUTES", "1e9"),
    ("ORDER_MONITOR_EOD_TIME", "evening"),
    ("POSITION_MONITOR_MINUTES", "61"),
    ("POSITION_MONITOR_EOD_TIME", "18:60"),
    ("CONGRESS_FETCH_TIME", "x"),
    ("INSIDER_FETCH_TIME", "x"),
    ("MAINTENANCE_TIME", "x"),
    ("CONGRESSIONAL_STRATEGY_TIME", "x"),
    ("DAILY_SUMMARY_TIME", "x"),
    ("RETENTION_DAY", "29"),
    ("RETENTION_TIME", "x"),
    ("ANALYSIS_TIMEZONE", "Mars/Olympus"),
    ("ANALYSIS_TIMEZONE", "../../etc/passwd"),
    ("MAX_ORDER_NOTIONAL", "-1"),
    ("MAX_ORDER_NOTIONAL", "1e10"),
    ("MAX_ORDER_QTY", "0"),
    ("MAX_ORDER_QTY", "\u0661\u0660"),
    ("DECISION_MAX_AGE_HOURS", "0"),
    ("ALLOW_SHORT", "2"),
    ("SYMBOL_DENYLIST", "nvda;amd"),
    ("USE_AUDIT_TRAIL", "perhaps"),
    ("ALERT_URLS", "somebody@example.com"),
    ("ALERT_URLS", "slack://a/b/c somebody"),
    ("HEARTBEAT_URL", "hc-ping.com/uuid"),
    ("HEARTBEAT_URL", "https://user@hc-ping.com/uuid"),
    ("ALERT_REPEAT_MINUTES", "59"),
    ("ALERT_MAX_PER_HOUR", "1"),
    ("LOG_LEVEL", "LOUD"),
    ("LOG_FORMAT", "xml"),
]
REFUSED_URLS = [
    "paper-api.alpaca.markets",
    "ftp://paper-api.alpaca.markets",
    "https://",
    "https://:8080",
    "https://host/v2",
    "https://host?",
    "https://host#x",
    "https://host:port",
    "https://host:0",
    "https://host:65536",
    "https://ho st",
    "https://[::1",
    "https://host.",
    "https://api\uff0ealpaca\uff0emarkets",
    "https://%61pi.alpaca.markets",
    "https://api.alpaca\n.markets",
]
LIVE_SPELLINGS = [
    "https://api.alpaca.markets",
    "https://api.alpaca.markets/",
    "http://api.alpaca.markets",
    "HTTPS://API.Alpaca.Markets:443",
    "https://api.alpaca.markets.:443",
]


def look_up(settings: Settings, path: str) -> Any:
    found: Any = settings
    for name in path.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.parametrize(("path", "value"), DEFAULTS, ids=[path for path, _ in DEFAULTS])
def test_what_is_not_set_has_the_documented_default(path: str, value: Any) -> None:
    assert look_up(load_settings(environ=ENOUGH), path) == value


@pytest.mark.parametrize("name", [name for name in ENOUGH if name != "POSTGRES_PASSWORD"])
@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_setting_is_named(name: str, value: str | None) -> None:
    environ = {key: text for key, text in ENOUGH.items() if key != name} | ({} if value is None else {name: value})
    with pytest.raises(ConfigError, match=rf"^{name} is not set"):
        load_settings(environ=environ)


@pytest.mark.parametrize(("name", "value"), MALFORMED)
def test_a_malformed_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is "):
        load_settings(environ=ENOUGH | {name: value})


@pytest.mark.parametrize("name", ["ALPACA_BASE_URL", "ALPACA_DATA_URL"])
@pytest.mark.parametrize("url", REFUSED_URLS)
def test_a_url_that_is_more_or_less_than_scheme_and_host_is_refused(name: str, url: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} "):
        load_settings(environ=ENOUGH | {name: url})


@pytest.mark.parametrize("url", ["https://user:hidden-word@host", "https://user:hidden-word@host/path"])
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^ALPACA_BASE_URL holds") as refused:
        load_settings(environ=ENOUGH | {"ALPACA_BASE_URL": url})
    assert "hidden-word" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://[::1]:8080", "http://paper_broker:80", "https://a.b/"])
def test_a_url_of_scheme_host_and_port_is_taken(url: str) -> None:
    assert load_settings(environ=ENOUGH | {"ALPACA_BASE_URL": url}).alpaca.base_url == url.rstrip("/")


@pytest.mark.parametrize("confirmation", [None, "", "no", "YES!", "true", "Yes"])
def test_live_trading_needs_its_confirmation_word(confirmation: str | None) -> None:
    environ = ENOUGH | {"ALPACA_PAPER": "false"}
    if confirmation is not None:
        environ["CONFIRM_LIVE_TRADING"] = confirmation
    with pytest.raises(ConfigError, match="CONFIRM_LIVE_TRADING=yes"):
        load_settings(environ=environ)


def test_confirmed_live_trading_goes_to_the_live_broker() -> None:
    alpaca = load_settings(environ=ENOUGH | LIVE).alpaca
    assert (alpaca.base_url, alpaca.paper) == ("https://api.alpaca.markets", False)


@pytest.mark.parametrize("url", LIVE_SPELLINGS)
def test_the_live_broker_is_refused_while_alpaca_paper_is_true(url: str) -> None:
    with pytest.raises(ConfigError, match="ALPACA_BASE_URL is the live broker but ALPACA_PAPER is true"):
        load_settings(environ=ENOUGH | {"ALPACA_BASE_URL": url})


@pytest.mark.parametrize("url", LIVE_SPELLINGS)
@pytest.mark.parametrize("more", [{}, LIVE])
def test_test_mode_never_talks_to_the_live_broker(url: str, more: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="never talks to a live account"):
        load_settings(True, ENOUGH | more | {"ALPACA_BASE_URL": url})


def test_test_mode_ignores_that_live_trading_was_confirmed() -> None:
    alpaca = load_settings(True, ENOUGH | LIVE).alpaca
    assert (alpaca.paper, alpaca.local_broker) == (True, True)


def test_test_mode_needs_no_settings_at_all() -> None:
    settings = load_settings(True, {})
    assert settings.postgres.embedded
    assert settings.alpaca.local_broker


def test_test_mode_keeps_the_real_keys_and_database_at_home() -> None:
    settings = load_settings(True, ENOUGH)
    assert settings.postgres.embedded
    assert not set(settings.secrets) & set(ENOUGH.values())


def test_test_mode_takes_the_test_database_where_there_is_one() -> None:
    environ = ENOUGH | {
        "TEST_POSTGRES_HOST": "localhost", "TEST_POSTGRES_DB": "t", "TEST_POSTGRES_USER": "u",
        "TEST_POSTGRES_PORT": "6000", "TEST_POSTGRES_SCHEMA": "pa9idbNom3cubse",
    }
    settings = load_settings(True, environ)
    assert get_postgres_config(True, settings) == {"host": "localhost", "port": 6000, "dbname": "t", "user": "u"}
    assert settings.postgres.schema == "pa9idbNom3cubse"


@pytest.mark.parametrize("name", ["TEST_POSTGRES_DB", "TEST_POSTGRES_USER"])
def test_half_a_test_database_is_refused(name: str) -> None:
    environ = {"TEST_POSTGRES_HOST": "h", "TEST_POSTGRES_DB": "d", "TEST_POSTGRES_USER": "u"}
    del environ[name]
    with pytest.raises(ConfigError, match=rf"^{name} is not set"):
        load_settings(True, environ)


def test_the_database_is_reached_with_the_given_settings() -> None:
    assert get_postgres_config(settings=load_settings(environ=ENOUGH)) == {
        "host": "db.example", "port": 5432, "dbname": "nocodb", "user": "trader", "password": "pa55-word",
    }


def test_without_settings_the_database_configuration_names_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"^POSTGRES_HOST is not set"):
        get_postgres_config()


@pytest.mark.parametrize(("text", "truth"), [("TRUE", True), ("yes", True), ("On", True), ("1", True), ("OFF", False)])
def test_yes_and_no_have_several_words(text: str, truth: bool) -> None:
    assert load_settings(environ=ENOUGH | {"ALLOW_SHORT": text}).limits.allow_short is truth


def test_the_denylist_is_read_in_any_case_and_spacing() -> None:
    settings = load_settings(environ=ENOUGH | {"SYMBOL_DENYLIST": "gme, AMC,,brk.b "})
    assert settings.limits.symbol_denylist == {"GME", "AMC", "BRK.B"}


def test_the_strategy_runs_at_the_time_given() -> None:
    settings = load_settings(environ=ENOUGH | {"CONGRESSIONAL_STRATEGY_TIME": "09:40"})
    assert settings.schedule.congressional_strategy_time == time(9, 40)


def test_no_secret_shows_in_the_settings_as_text() -> None:
    settings = load_settings(environ=ENOUGH)
    assert set(settings.secrets) == {ENOUGH["POSTGRES_PASSWORD"], ENOUGH["ALPACA_API_KEY"], ENOUGH["ALPACA_SECRET_KEY"]}
    assert not [secret for secret in settings.secrets if secret in repr(settings) or secret in str(settings)]


@pytest.mark.parametrize("part", ["", "postgres", "alpaca", "schedule", "limits"])
def test_settings_cannot_be_changed(part: str) -> None:
    settings = load_settings(environ=ENOUGH)
    target: Any = getattr(settings, part) if part else settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(target, dataclasses.fields(target)[0].name, "changed")


@pytest.fixture
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `.env` with all that is needed, in a project directory of the test's own."""
    monkeypatch.setattr(config, "PROJECT_ROOT", tmp_path)
    path = tmp_path / ".env"
    path.write_text("".join(f"{name}={value}\n" for name, value in ENOUGH.items()), encoding="utf-8")
    path.chmod(0o600)
    return path


def test_the_dotenv_file_is_read(dotenv: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_settings().postgres.host == ENOUGH["POSTGRES_HOST"]
    assert caplog.records == []


@pytest.mark.parametrize("name", ["nowhere.env", "."])
def test_a_named_settings_file_that_is_no_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str,
) -> None:
    monkeypatch.setenv("ENV_FILE", str(tmp_path / name))
    with pytest.raises(ConfigError, match=r"^ENV_FILE is '.*', and there is no such file"):
        load_settings(True)


def test_the_environment_wins_over_the_dotenv_file(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_HOST", "elsewhere")
    assert load_settings().postgres.host == "elsewhere"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_dotenv_file_that_others_can_read_is_warned_about(
    dotenv: Path, mode: int, caplog: pytest.LogCaptureFixture,
) -> None:
    dotenv.chmod(mode)
    load_settings()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"chmod 600 {dotenv}" in caplog.text


def test_a_dotenv_file_that_is_not_text_is_refused(dotenv: Path) -> None:
    dotenv.write_bytes(b"POSTGRES_HOST=\xff\xfe\n")
    with pytest.raises(ConfigError, match=r"^\.env cannot be read"):
        load_settings()


@pytest.mark.parametrize("line", ["MAX_DAILY_LOSS: 500", "MAX_DAILY_LOSS 500", "MAX_DAILY_LOSS", "= 500"])
def test_a_line_that_sets_nothing_is_refused_and_not_repeated(dotenv: Path, line: str) -> None:
    before = dotenv.read_text(encoding="utf-8")
    dotenv.write_text(f"{before}# limits\n\n{line}\nALLOW_SHORT=false\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_settings()
    assert str(refused.value) == f"line {len(ENOUGH) + 3} of .env is no setting; write NAME=value, without blanks"
    assert load_database_settings().postgres.host == ENOUGH["POSTGRES_HOST"]


@pytest.mark.parametrize(("name", "hint"), [
    ("MAX_ORDER_NOTINAL", "; is MAX_ORDER_NOTIONAL meant?"), ("max_daily_loss", "; is MAX_DAILY_LOSS meant?"),
    ("MAX_LOSSES", ""),
    ("TEST_POSTGRES_HOTS", "; is TEST_POSTGRES_HOST meant?"), ("SYMBOL_DENYLST", "; is SYMBOL_DENYLIST meant?"),
])
def test_a_name_that_is_nearly_a_setting_is_warned_about(
    dotenv: Path, caplog: pytest.LogCaptureFixture, name: str, hint: str,
) -> None:
    with dotenv.open("a", encoding="utf-8") as file:
        file.write(f"{name}=1\n")
    load_settings()
    assert f"{name} in .env is no setting and changes nothing{hint}" in caplog.text


def test_the_example_and_names_of_other_programs_are_taken_without_a_word(
    dotenv: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    with dotenv.open("a", encoding="utf-8") as file:
        file.write((PROJECT / ".env.example").read_text(encoding="utf-8") + "export HTTPS_PROXY=http://x\nTZ=UTC\n")
        file.writelines(f"{name}={value}\n" for name, value in ENOUGH.items())
    load_settings()
    assert caplog.records == []


class Asked(dict[str, str]):
    """An environment that keeps the names it was asked for."""

    def __init__(self, values: dict[str, str]) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


def test_every_setting_that_is_read_is_in_the_example_with_its_default() -> None:
    example = (PROJECT / ".env.example").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^(?:# )?([A-Z0-9_]+)=(.*)$", example, re.MULTILINE))
    test_database = {f"TEST_{name}": value for name, value in ENOUGH.items()}
    asked = Asked(ENOUGH | LIVE | test_database)
    load_settings(False, asked)
    load_settings(True, asked)
    assert {"POSTGRES_HOST", "TEST_POSTGRES_SCHEMA", "CONFIRM_LIVE_TRADING", "MAX_ORDER_QTY"} <= asked.names
    assert asked.names - listed.keys() == set()
    assert load_settings(environ=listed | ENOUGH) == load_settings(environ=ENOUGH)


def test_several_channels_are_told_apart_also_with_commas_in_them() -> None:
    urls = "json://host/?to=a,b, slack://t0ken-of-a-room-of-ours/b/c  mailto://joe:pa%2Bss@mail.example,"
    messages = load_settings(environ=ENOUGH | {"ALERT_URLS": urls, "HEARTBEAT_URL": "https://ping.example/0123456789abcdef"})
    assert messages.messages.alert_urls == (
        "json://host/?to=a,b", "slack://t0ken-of-a-room-of-ours/b/c", "mailto://joe:pa%2Bss@mail.example",
    )
    assert {"t0ken-of-a-room-of-ours", "pa%2Bss", "pa+ss", "0123456789abcdef"} <= set(messages.secrets)
    assert not [secret for secret in messages.secrets if secret in repr(messages)]


@pytest.mark.parametrize("name", ["ALERT_URLS", "HEARTBEAT_URL"])
def test_a_malformed_address_of_a_channel_is_not_repeated(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ=ENOUGH | {name: "hidden-word"})
    assert "hidden-word" not in str(caught.value)


def test_test_mode_gives_no_sign_of_life_in_the_place_of_a_real_daemon() -> None:
    given = {"HEARTBEAT_URL": "https://ping.example/0123456789abcdef", "METRICS_FILE": "/var/lib/trading.prom"}
    real, test = load_settings(environ=ENOUGH | given), load_settings(True, given)
    assert (real.messages.heartbeat_url, real.metrics_file) == tuple(given.values())
    assert (test.messages.heartbeat_url, test.metrics_file) == ("", "")


def test_the_pinned_account_is_that_of_the_real_broker() -> None:
    pinned = {"ALPACA_ACCOUNT_NUMBER": "PA3REAL00001"}
    assert load_settings(environ=ENOUGH | pinned).alpaca.account_number == "PA3REAL00001"
    assert load_settings(True, pinned).alpaca.account_number == ""
    elsewhere = load_settings(True, pinned | {"ALPACA_BASE_URL": "http://127.0.0.1:9"})
    assert elsewhere.alpaca.account_number == "PA3REAL00001"


def test_anchors_of_test_mode_never_go_into_the_real_file() -> None:
    given = {"AUDIT_ANCHOR_FILE": "/srv/kept/anchors.txt"}
    assert load_settings(environ=ENOUGH | given).audit.anchor_file == Path("/srv/kept/anchors.txt")
    assert load_settings(True, given).audit.anchor_file == config.LOCAL_STATE / "anchors.txt"
