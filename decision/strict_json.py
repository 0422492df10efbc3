"""Reads JSON that nobody vouches for: bounded, unambiguous, numbers kept as they were written."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

MAX_BYTES = 64 * 1024
MAX_DEPTH = 20
MAX_REASON = 300
MAX_SHOWN = 40

# The closing quote is optional so that an unterminated string is consumed once and the scan stays linear.
_STRINGS_AND_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

JsonObject = dict[str, object]


class DecisionError(ValueError):
    """Why a decision cannot be used: one line of printable ASCII for a person, at most 300 characters."""

    def __init__(self, reason: str) -> None:
        super().__init__(_printable(reason, MAX_REASON))


@dataclass(frozen=True, slots=True)
class Number:
    """A JSON number as it was written; extra keys may hold any, so only used ones become Decimal."""

    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """A decoded object, and the first fault that forbids acting on it but does not hide what it says."""

    content: JsonObject
    fault: str | None


def read_document(text: str | None) -> Document:
    """Decode one JSON object; JSON text within a JSON string is decoded once more.

    Raises DecisionError when nothing can be read. NaN, a key given twice and text that PostgreSQL
    cannot keep are reported as the document's fault instead.
    """
    faults: list[str] = []
    value = _decode(text, faults)
    if isinstance(value, str):
        value = _decode(value, faults)
    if not isinstance(value, dict):
        raise DecisionError(f"the Decision must be a JSON object, not {shown(value)}")
    faults += (
        f"text that cannot be stored (NUL or half a surrogate pair): {shown(bad)}"
        for bad in _strings(value)
        if _UNSTORABLE.search(bad)
    )
    return Document(value, faults[0] if faults else None)


def shown(value: object) -> str:
    """Name a JSON value for a message: short, on one line, in printable ASCII."""
    match value:
        case None | bool():
            return json.dumps(value)
        case Number(text):
            return _printable(text, MAX_SHOWN)
        case str():
            return f'"{_printable(value, MAX_SHOWN)}"'
        case list():
            return "a list"
        case _:
            return "an object"


def _decode(text: str | None, faults: list[str]) -> object:
    if text is None or not text.strip():
        raise DecisionError("the Decision is empty; a JSON object is expected")
    _check_size(text)
    _check_depth(text)
    try:
        return json.loads(
            text,
            object_pairs_hook=partial(_object, faults),
            parse_constant=lambda word: faults.append(f"{word} is not a number in JSON"),
            parse_float=Number,
            parse_int=Number,
        )
    except json.JSONDecodeError as error:
        problem = error.msg.removesuffix(" at")
        raise DecisionError(f"the Decision is not JSON: {problem} at character {error.pos + 1}") from error


def _check_size(text: str) -> None:
    try:
        too_large = len(text) > MAX_BYTES or len(text.encode()) > MAX_BYTES
    except UnicodeEncodeError as error:
        raise DecisionError("the Decision holds half a surrogate pair, so it is not valid text") from error
    if too_large:
        raise DecisionError(f"the Decision is larger than {MAX_BYTES} bytes")


def _check_depth(text: str) -> None:
    """Count brackets before the parser sees them, because the parser recurses."""
    depth = 0
    for token in _STRINGS_AND_BRACKETS.finditer(text):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            raise DecisionError(f"the Decision is nested deeper than {MAX_DEPTH} levels")


def _object(faults: list[str], pairs: list[tuple[str, object]]) -> JsonObject:
    """Build an object in which a key given twice has no value, so that neither one is believed."""
    times = Counter(key for key, _ in pairs)
    faults += (
        f"the key {shown(key)} is given {count} times in one object"
        for key, count in times.items()
        if count > 1
    )
    return {key: value for key, value in pairs if times[key] == 1}


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _printable(text: str, limit: int) -> str:
    """Escape all but printable ASCII and cut to limit: look-alike and invisible letters shall be seen."""
    escaped = "".join(
        char if " " <= char <= "~" else char.encode("unicode_escape").decode() for char in text[: limit + 1]
    )
    return escaped if len(escaped) <= limit else escaped[: limit - 3] + "..."
