"""The state file: the whole State as JSON, decimals and times as strings."""

from __future__ import annotations

import json
import types
import typing
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from paper_broker.state import State

_FORMAT = 1


class StoreError(Exception):
    """A state file that cannot be read or written."""


class Store:
    """Keeps a State in a file, written whole and put in place in one move."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved_version = -1
        self._bars: tuple[int, str] = (-1, "{}")

    def load(self) -> State | None:
        """The state of the file, None when there is no file yet; raises StoreError for an unusable one."""
        try:
            content = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot read the state file {self._path}: {error}") from error
        try:
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']} is not {_FORMAT}")
            content["state"]["market"]["bars"] = content["bars"]
            state: State = decode(State, content["state"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"the state file {self._path} does not fit this broker: {error!r}") from error
        self._saved_version = state.version
        return state

    def save(self, state: State) -> None:
        """Write the state when it changed since the last time; raises StoreError."""
        if state.version == self._saved_version:
            return
        bars = state.market.bars
        count = sum(map(len, bars.values()))
        if count != self._bars[0]:
            # Bars are the bulk of the file and hardly ever change, so their text is kept.
            self._bars = (count, json.dumps(encode(bars)))
        state.market.bars = {}
        try:
            body = json.dumps(encode(state))
        finally:
            state.market.bars = bars
        temporary = self._path.with_name(self._path.name + ".new")
        try:
            temporary.write_text(
                f'{{"format": {_FORMAT}, "state": {body}, "bars": {self._bars[1]}}}\n', encoding="utf-8"
            )
            temporary.replace(self._path)
        except OSError as error:
            raise StoreError(f"cannot write the state file {self._path}: {error}") from error
        self._saved_version = state.version


def encode(value: Any) -> Any:
    """Turn records, decimals and times into what JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: encode(getattr(value, name)) for name in _types(type(value))}
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    return value


def decode(kind: Any, value: Any) -> Any:
    """Turn JSON back into a value of the annotated type `kind`."""
    if is_dataclass(kind) and isinstance(kind, type):
        known = _types(kind)
        return kind(**{name: decode(known[name], item) for name, item in value.items() if name in known})
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else decode(next(t for t in inner if t is not types.NoneType), value)
    if origin is dict:
        return {key: decode(inner[1], item) for key, item in value.items()}
    if origin is list:
        return [decode(inner[0], item) for item in value]
    if kind is Decimal:
        return Decimal(value)
    if kind in (datetime, date):
        return kind.fromisoformat(value)
    return value


@lru_cache(maxsize=32)
def _types(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}
