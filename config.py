"""Settings: the environment (and `.env`) turned into one frozen object, or a ConfigError that names the variable."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time
from decimal import Decimal
from pathlib import Path
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

import embedded_postgres
from environment import ConfigError, Environment, read_environment

PROJECT_ROOT = Path(__file__).resolve().parent
LOCAL_STATE = PROJECT_ROOT / ".local"
LIVE_HOST = "api.alpaca.markets"
PAPER_URL = "https://paper-api.alpaca.markets"
LIVE_URL = f"https://{LIVE_HOST}"
NO_KEY = "test-mode"  # what the local paper broker is given
DATA_URL = "https://data.alpaca.markets"
QUIVER_URL = "https://api.quiverquant.com"
LEGISLATORS_URL = "https://unitedstates.github.io/congress-legislators"
SHORTEST_TOKEN = 16  # characters of a piece of an address; shorter ones are names
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True)
class PostgresSettings:
    """Where the database is; `embedded` means the PostgreSQL that test mode starts by itself."""

    schema: str
    host: str = ""
    port: int = 5432
    database: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    embedded: bool = False


@dataclass(frozen=True)
class AlpacaSettings:
    """Where and how the broker is spoken to; empty URLs in test mode mean the local paper broker."""

    base_url: str
    data_url: str
    paper: bool
    data_feed: str
    account_number: str
    timeout_seconds: float
    api_key: str = field(repr=False)
    secret_key: str = field(repr=False)

    @property
    def local_broker(self) -> bool:
        return self.base_url == ""

    @property
    def secrets(self) -> tuple[str, ...]:
        """The keys that may appear in no log line and in no table; the stand-ins of test mode are none."""
        return tuple(key for key in (self.api_key, self.secret_key) if key != NO_KEY)


@dataclass(frozen=True)
class ScheduleSettings:
    """When the daemon runs its jobs: US Eastern wall time; None means the job is off."""

    order_executor_time: time
    order_executor_late_minutes: int  # how late a run may begin that the daemon could not begin in time
    order_monitor_minutes: int
    order_monitor_eod_time: time
    position_monitor_minutes: int
    position_monitor_eod_time: time
    congress_fetch_time: time
    insider_fetch_time: time
    maintenance_time: time
    congressional_strategy_time: time | None
    daily_summary_time: time
    retention_day: int
    retention_time: time


@dataclass(frozen=True)
class DataSettings:
    """Where outside data comes from; empty URLs in test mode mean the bundled samples."""

    quiver_base_url: str
    legislators_base_url: str
    quiver_api_key: str = field(repr=False)


@dataclass(frozen=True)
class MessageSettings:
    """Where people are told, and how often: Apprise URLs, minutes between repeats, messages an hour and channel."""

    alert_urls: tuple[str, ...] = field(repr=False)
    heartbeat_url: str = field(repr=False)
    repeat_minutes: int
    most_per_hour: int

    @property
    def secrets(self) -> tuple[str, ...]:
        """The URLs, and the parts of them that only their owner knows."""
        return tuple(part for url in (*self.alert_urls, self.heartbeat_url) for part in _secret_parts(url))


@dataclass(frozen=True)
class AuditSettings:
    """How long texts are kept, where its head is anchored, and as whom bodies are purged (empty: as POSTGRES_USER)."""

    payload_retention_days: int
    anchor_file: Path
    purge_user: str
    purge_password: str = field(repr=False)


@dataclass(frozen=True)
class Limits:
    """What a decision may ask for and how its trade may go on: dollars, shares, hours."""

    max_order_notional: Decimal
    max_order_qty: Decimal
    max_symbol_exposure: Decimal
    max_gross_exposure: Decimal
    max_open_positions: int
    max_orders_per_day: int
    max_symbol_orders_per_day: int
    max_orders_per_minute: int
    duplicate_window_minutes: int  # 0: the same order may be repeated at once
    max_daily_loss: Decimal
    price_collar_pct: Decimal
    decision_max_age_hours: Decimal
    allow_short: bool
    symbol_denylist: frozenset[str]
    daytrade_flatten_minutes: int  # before the close; 0: day trades are left to their stops


@dataclass(frozen=True)
class DatabaseSettings:
    """What a program is told that speaks to the database only."""

    test_mode: bool
    postgres: PostgresSettings

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that may appear in no log line and in no table."""
        return (self.postgres.password,)


@dataclass(frozen=True)
class Settings(DatabaseSettings):
    """Everything a program is told from outside."""

    alpaca: AlpacaSettings
    schedule: ScheduleSettings
    limits: Limits
    data: DataSettings
    messages: MessageSettings
    metrics_file: str  # empty: metrics are not written, as in test mode
    analysis_timezone: ZoneInfo
    audit: AuditSettings
    use_audit_trail: bool
    log_level: str
    log_format: str

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that may appear in no log line and in no table."""
        given = self.data.quiver_api_key, self.postgres.password, self.audit.purge_password, *self.messages.secrets
        return tuple(filter(None, (*self.alpaca.secrets, *given)))


def load_settings(test_mode: bool = False, environ: Mapping[str, str] | None = None) -> Settings:
    """Read all settings; environ defaults to the process environment over `.env`.

    Raises ConfigError. The names, defaults and meanings are listed in `.env.example`.
    """
    env = Environment(read_environment(PROJECT_ROOT) if environ is None else environ)
    return Settings(
        test_mode=test_mode,
        postgres=_postgres(env, test_mode),
        alpaca=_alpaca(env, test_mode),
        schedule=_schedule(env),
        limits=_limits(env),
        data=_data(env, test_mode),
        messages=_messages(env, test_mode),
        metrics_file="" if test_mode else env.text("METRICS_FILE"),
        analysis_timezone=env.zone("ANALYSIS_TIMEZONE", "UTC"),
        audit=_audit(env, test_mode),
        use_audit_trail=env.boolean("USE_AUDIT_TRAIL", True),
        log_level=env.choice("LOG_LEVEL", "INFO", LOG_LEVELS),
        log_format=env.choice("LOG_FORMAT", "text", ("text", "json")),
    )


def load_database_settings(test_mode: bool = False, environ: Mapping[str, str] | None = None) -> DatabaseSettings:
    """Read where the database is and nothing else, so that a slip in another setting stops no halt.

    Raises ConfigError.
    """
    env = Environment(read_environment(PROJECT_ROOT, complete=False) if environ is None else environ)
    return DatabaseSettings(test_mode, _postgres(env, test_mode))


def get_postgres_config(
    test_mode: bool = False, settings: DatabaseSettings | None = None,
) -> dict[str, str | int]:
    """Return psycopg2 connection keywords; in test mode without `TEST_POSTGRES_*` the embedded server is started.

    Raises ConfigError.
    """
    if settings is None:
        settings = load_settings(test_mode)
    postgres = settings.postgres
    if not postgres.embedded:
        keywords: dict[str, str | int] = {
            "host": postgres.host, "port": postgres.port, "dbname": postgres.database, "user": postgres.user,
        }
        return keywords | ({"password": postgres.password} if postgres.password else {})
    try:
        return embedded_postgres.connection_parameters(LOCAL_STATE / "postgres")
    except embedded_postgres.EmbeddedPostgresError as error:
        raise ConfigError(
            f"the embedded PostgreSQL did not start: {error}; or set TEST_POSTGRES_HOST to a server of yours"
        ) from error


def _postgres(env: Environment, test_mode: bool) -> PostgresSettings:
    prefix = "TEST_" if test_mode else ""
    schema = env.text(f"{prefix}POSTGRES_SCHEMA", "public")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]{0,62}", schema) or schema.lower() == "audit":
        raise ConfigError(f"{prefix}POSTGRES_SCHEMA is {schema!r}; expected a plain schema name other than audit")
    if test_mode and not env.text("TEST_POSTGRES_HOST"):
        return PostgresSettings(schema=schema, embedded=True)
    return PostgresSettings(
        schema=schema,
        host=env.required(f"{prefix}POSTGRES_HOST"),
        port=env.whole(f"{prefix}POSTGRES_PORT", 5432, 1, 65535),
        database=env.required(f"{prefix}POSTGRES_DB"),
        user=env.required(f"{prefix}POSTGRES_USER"),
        password=env.text(f"{prefix}POSTGRES_PASSWORD"),
    )


def _alpaca(env: Environment, test_mode: bool) -> AlpacaSettings:
    base_url = env.url("ALPACA_BASE_URL", "")
    data_url = env.url("ALPACA_DATA_URL", "")
    paper = True if test_mode else env.boolean("ALPACA_PAPER", True)
    _refuse_unconfirmed_live(env, base_url, paper, test_mode)
    if not test_mode:
        base_url = base_url or (PAPER_URL if paper else LIVE_URL)
        data_url = data_url or DATA_URL
    elif base_url and not data_url:
        data_url = DATA_URL if base_url == PAPER_URL else base_url
    # The local paper broker takes any key, so the real ones stay at home.
    local = test_mode and not base_url
    return AlpacaSettings(
        base_url=base_url,
        data_url=data_url,
        paper=paper,
        data_feed=env.text("ALPACA_DATA_FEED", "iex"),
        account_number="" if local else env.text("ALPACA_ACCOUNT_NUMBER"),
        timeout_seconds=float(env.number("ALPACA_TIMEOUT_SECONDS", "10", "0.1", "120")),
        api_key=NO_KEY if local else _key(env, "ALPACA_API_KEY", test_mode),
        secret_key=NO_KEY if local else _key(env, "ALPACA_SECRET_KEY", test_mode),
    )


def _key(env: Environment, name: str, test_mode: bool) -> str:
    return env.text(name, NO_KEY) if test_mode else env.required(name)


def _refuse_unconfirmed_live(env: Environment, base_url: str, paper: bool, test_mode: bool) -> None:
    live_url = (urlsplit(base_url).hostname or "").rstrip(".") == LIVE_HOST
    if test_mode and live_url:
        raise ConfigError("ALPACA_BASE_URL is the live broker; --test-mode never talks to a live account")
    if live_url and paper:
        raise ConfigError("ALPACA_BASE_URL is the live broker but ALPACA_PAPER is true; set one of them right")
    if not paper and env.text("CONFIRM_LIVE_TRADING") != "yes":
        raise ConfigError("ALPACA_PAPER is false; trading with real money needs CONFIRM_LIVE_TRADING=yes")


def _schedule(env: Environment) -> ScheduleSettings:
    strategy_time = env.text("CONGRESSIONAL_STRATEGY_TIME")
    return ScheduleSettings(
        order_executor_time=env.job_time("ORDER_EXECUTOR_TIME", "09:45"),
        order_executor_late_minutes=env.whole("ORDER_EXECUTOR_LATE_MINUTES", 120, 1, 390),
        order_monitor_minutes=env.whole("ORDER_MONITOR_MINUTES", 5, 1, 60),
        order_monitor_eod_time=env.job_time("ORDER_MONITOR_EOD_TIME", "18:00"),
        position_monitor_minutes=env.whole("POSITION_MONITOR_MINUTES", 10, 1, 60),
        position_monitor_eod_time=env.job_time("POSITION_MONITOR_EOD_TIME", "18:15"),
        congress_fetch_time=env.job_time("CONGRESS_FETCH_TIME", "07:00"),
        insider_fetch_time=env.job_time("INSIDER_FETCH_TIME", "07:15"),
        maintenance_time=env.job_time("MAINTENANCE_TIME", "05:30"),
        congressional_strategy_time=(
            env.job_time("CONGRESSIONAL_STRATEGY_TIME", "") if strategy_time else None
        ),
        daily_summary_time=env.job_time("DAILY_SUMMARY_TIME", "18:30"),
        retention_day=env.whole("RETENTION_DAY", 1, 1, 28),
        retention_time=env.job_time("RETENTION_TIME", "04:00"),
    )


def _data(env: Environment, test_mode: bool) -> DataSettings:
    quiver, legislators = ("", "") if test_mode else (QUIVER_URL, LEGISLATORS_URL)
    path = r"(/[a-z0-9_.~-]+)*"
    return DataSettings(
        quiver_base_url=env.url("QUIVER_BASE_URL", quiver, QUIVER_URL, path),
        legislators_base_url=env.url("LEGISLATORS_BASE_URL", legislators, LEGISLATORS_URL, path),
        quiver_api_key=env.text("QUIVER_API_KEY"),
    )


def _messages(env: Environment, test_mode: bool) -> MessageSettings:
    given = env.text("ALERT_URLS").rstrip(",")
    # A comma may stand in a URL too; between two of them something follows that begins like a URL.
    urls = tuple(re.split(r"[,\s]+(?=[a-z][a-z0-9+.-]*://)", given, flags=re.IGNORECASE)) if given else ()
    # The values are secrets and are not repeated.
    if not all(re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s]+", url, re.ASCII | re.IGNORECASE) for url in urls):
        raise ConfigError("ALERT_URLS is malformed; expected Apprise URLs with commas between them, such as slack://...")
    heartbeat = env.text("HEARTBEAT_URL")
    if heartbeat and not re.fullmatch(r"https?://[^\s/?#@]+([/?#][^\s]*)?", heartbeat, re.ASCII | re.IGNORECASE):
        raise ConfigError("HEARTBEAT_URL is malformed; expected an address such as https://hc-ping.com/...")
    return MessageSettings(
        alert_urls=urls,
        heartbeat_url="" if test_mode else heartbeat,  # else a rehearsal would hide that the real daemon is down
        repeat_minutes=env.whole("ALERT_REPEAT_MINUTES", 240, 60, 10_080),
        most_per_hour=env.whole("ALERT_MAX_PER_HOUR", 12, 2, 1000),
    )


def _secret_parts(url: str) -> list[str]:
    """Return an address and what in it may be a password or a token."""
    if not url:
        return []
    login = url.partition("://")[2].partition("@")[0] if "@" in url else ""
    password = login.partition(":")[2]
    pieces = [piece for piece in re.split(r"[/:?&=#@,]+", url) if len(piece) >= SHORTEST_TOKEN]
    return [url, *filter(None, {password, unquote(password), *pieces, *map(unquote, pieces)})]


def _audit(env: Environment, test_mode: bool) -> AuditSettings:
    anchors = PROJECT_ROOT / env.text("AUDIT_ANCHOR_FILE", "audit_anchors.txt")
    return AuditSettings(
        payload_retention_days=env.whole("PAYLOAD_RETENTION_DAYS", 730, 1, 36_500),
        # Those of another chain would make the real one look forged.
        anchor_file=LOCAL_STATE / anchors.name if test_mode else anchors,
        purge_user="" if test_mode else env.text("PURGE_POSTGRES_USER"),
        purge_password="" if test_mode else env.text("PURGE_POSTGRES_PASSWORD"),
    )


def _limits(env: Environment) -> Limits:
    return Limits(
        max_order_notional=env.number("MAX_ORDER_NOTIONAL", "20000", "1", "1e9"),
        max_order_qty=env.number("MAX_ORDER_QTY", "10000", "0.000000001", "1e9"),
        max_symbol_exposure=env.number("MAX_SYMBOL_EXPOSURE", "25000", "1", "1e12"),
        max_gross_exposure=env.number("MAX_GROSS_EXPOSURE", "100000", "1", "1e12"),
        max_open_positions=env.whole("MAX_OPEN_POSITIONS", 20, 1, 100_000),
        max_orders_per_day=env.whole("MAX_ORDERS_PER_DAY", 50, 1, 1_000_000),
        max_symbol_orders_per_day=env.whole("MAX_SYMBOL_ORDERS_PER_DAY", 10, 1, 1_000_000),
        max_orders_per_minute=env.whole("MAX_ORDERS_PER_MINUTE", 60, 1, 1_000_000),
        duplicate_window_minutes=env.whole("DUPLICATE_WINDOW_MINUTES", 10, 0, 1440),
        max_daily_loss=env.number("MAX_DAILY_LOSS", "2000", "0.01", "1e12"),
        price_collar_pct=env.number("PRICE_COLLAR_PCT", "5", "0.01", "1000"),
        decision_max_age_hours=env.number("DECISION_MAX_AGE_HOURS", "96", "0.01", "87600"),
        allow_short=env.boolean("ALLOW_SHORT", False),
        symbol_denylist=env.symbols("SYMBOL_DENYLIST"),
        daytrade_flatten_minutes=env.whole("DAYTRADE_FLATTEN_MINUTES_BEFORE_CLOSE", 0, 0, 390),
    )
