"""The environment and `.env` as they are: each variable read with its type, or a ConfigError that names it."""

import difflib
import logging
import os
import re
import stat
from collections.abc import Mapping
from datetime import time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from decision import DecisionError
from decision.values import read_symbol

EXAMPLE = Path(__file__).resolve().parent / ".env.example"  # lists every setting
CLOCKS_HAVE_CHANGED = "03:00"

log = logging.getLogger("environment")


class ConfigError(Exception):
    """A setting is missing or malformed; the message names the variable and what to do."""


def read_environment(folder: Path, complete: bool = True) -> dict[str, str]:
    """Read the folder's `.env` under the process environment; `complete`: every line of it has to mean something.

    Raises ConfigError.
    """
    named = os.environ.get("ENV_FILE")
    path = Path(named or folder / ".env")
    if named and (path.is_dir() or not path.exists()):
        raise ConfigError(f"ENV_FILE is {named!r}, and there is no such file; give the path of a file, or unset it")
    if not path.is_file():
        return dict(os.environ)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        log.warning("%s can be read by other users; run: chmod 600 %s", path.name, path)
    try:
        if complete:
            _check_lines(path)
        values = dotenv_values(path)
    except (OSError, UnicodeDecodeError) as error:
        words = f"{path.name} cannot be read: {error}; make it a UTF-8 text that this user may read"
        raise ConfigError(words) from error
    return {key: value for key, value in values.items() if value is not None} | dict(os.environ)


def _check_lines(path: Path) -> None:
    """Refuse a line that says nothing, and warn of a name that is nearly a setting: either leaves a limit out of force.

    What stands in the line is not repeated, because it may be a secret.
    """
    names = re.findall(r"^(?:# )?([A-Z0-9_]+)=", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)
    with path.open(encoding="utf-8") as lines:
        for line in parse_stream(lines):
            if line.error or (line.key is not None and line.value is None):
                number = _number(line)
                raise ConfigError(f"line {number} of {path.name} is no setting; write NAME=value, without blanks")
            if line.key is not None and line.key not in names:
                _warn_of(line.key, path, names)


def _number(line: Binding) -> int:
    blank = len(line.original.string) - len(line.original.string.lstrip())
    return line.original.line + line.original.string[:blank].count("\n")


def _warn_of(name: str, path: Path, names: list[str]) -> None:
    meant = difflib.get_close_matches(name.upper(), names, 1, 0.75)
    if meant or name.partition("_")[0] in {known.partition("_")[0] for known in names}:
        hint = f"; is {meant[0]} meant?" if meant else ""
        log.warning("%s in %s is no setting and changes nothing%s", name, path.name, hint)


class Environment:
    """The variables of the environment, read one by one, each with its type; an empty one counts as absent."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str, default: str = "") -> str:
        """Return the variable without blanks around it."""
        return self._values.get(name, "").strip() or default

    def required(self, name: str) -> str:
        """Return a variable that there must be. Raises ConfigError, as do all below."""
        value = self.text(name)
        if not value:
            raise ConfigError(f"{name} is not set; put it into .env (see .env.example)")
        return value

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        """Return the allowed word that the variable spells, capitals or not."""
        value = self.text(name, default)
        for word in allowed:
            if value.lower() == word.lower():
                return word
        raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(allowed)}")

    def boolean(self, name: str, default: bool) -> bool:
        """Return whether the variable says yes."""
        value = self.text(name, "true" if default else "false").lower()
        if value in ("true", "yes", "on", "1"):
            return True
        if value in ("false", "no", "off", "0"):
            return False
        raise ConfigError(f"{name} is {value!r}; expected true or false")

    def number(self, name: str, default: str, low: str, high: str) -> Decimal:
        """Return a number from `low` to `high`."""
        value = self.text(name, default)
        try:
            number = Decimal(value) if value.isascii() else Decimal("NaN")
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or not Decimal(low) <= number <= Decimal(high):
            raise ConfigError(f"{name} is {value!r}; expected a number from {low} to {high}")
        return number

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`."""
        number = self.number(name, str(default), str(low), str(high))
        if number != int(number):
            raise ConfigError(f"{name} is {number}; expected a whole number from {low} to {high}")
        return int(number)

    def job_time(self, name: str, default: str) -> time:
        """Return a time of day, US Eastern, that every day has once."""
        value = self.text(name, default)
        if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", value):
            raise ConfigError(f"{name} is {value!r}; expected a time of day such as 09:45")
        if value < CLOCKS_HAVE_CHANGED:
            raise ConfigError(
                f"{name} is {value!r}; expected {CLOCKS_HAVE_CHANGED} or later, because the hours before that come "
                "twice or not at all when the clocks change"
            )
        return time.fromisoformat(value)

    def symbols(self, name: str) -> frozenset[str]:
        """Return symbols that stand with commas or blanks between them."""
        try:
            return frozenset(read_symbol(name, word) for word in self.text(name).replace(",", " ").split())
        except DecisionError as error:
            wrong = f"{name} is {self.text(name)!r}; expected symbols such as NVDA or BRK.B with commas between them"
            raise ConfigError(wrong) from error

    def zone(self, name: str, default: str) -> ZoneInfo:
        """Return a time zone."""
        value = self.text(name, default)
        try:
            return ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ConfigError(f"{name} is {value!r}; expected a time zone such as America/New_York") from error

    def url(self, name: str, default: str, example: str = "https://paper-api.alpaca.markets", path: str = "") -> str:
        """Return an address; `path` is the pattern of what may follow the host."""
        value = self.text(name, default).rstrip("/")
        if not value:
            return ""
        if "@" in value:
            raise ConfigError(f"{name} holds a user name or password; leave them out")
        wanted = "an address without ? and #" if path else "scheme and host only"
        wrong = f"{name} is {value!r}; expected {wanted}, such as {example}"
        # Other spellings of a host name, such as full-width letters, would slip past the check for the live broker.
        if not re.fullmatch(r"https?://[a-z0-9_.:\[\]-]*[a-z0-9\]]" + path, value, re.ASCII | re.IGNORECASE):
            raise ConfigError(wrong)
        try:
            parts = urlsplit(value)
            if not parts.hostname or parts.port == 0:
                raise ConfigError(wrong)
        except ValueError as error:
            raise ConfigError(wrong) from error
        return value
