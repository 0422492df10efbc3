"""Prepared misfortunes: which request they strike and what they do to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

KINDS = ("status", "drop", "late", "hang", "garbled", "empty", "edit")
# Of these the broker has done what was asked before the answer goes wrong, unless told otherwise.
_EXECUTED = frozenset({"hang", "garbled", "empty", "edit"})


@dataclass
class Fault:
    """One misfortune for the next `times` requests that match, after `skip` that do not suffer it."""

    kind: str
    method: str = "*"
    path: str = "*"
    contains: str = ""
    times: int | None = 1
    skip: int = 0
    executed: bool = False
    code: int = 500
    body: object = None
    content_type: str = "application/json"
    seconds: float = 0.0
    set: dict[str, object] | None = None
    headers: dict[str, str] | None = None

    def strikes(self, method: str, path: str, body: str) -> bool:
        """Whether this fault hits a request; every hit, and every skipped one, is counted."""
        matches = fnmatchcase(method, self.method) and fnmatchcase(path, self.path) and self.contains in body
        if not matches or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


def read_fault(raw: Mapping[str, object]) -> Fault:
    """Read a fault from its JSON form; raises ValueError naming what is wrong."""
    kind = raw.get("kind")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    fault = Fault(str(kind), executed=kind in _EXECUTED)
    for name, value in raw.items():
        if name not in Fault.__dataclass_fields__:
            raise ValueError(f"unknown key {name}; known are {', '.join(Fault.__dataclass_fields__)}")
        setattr(fault, name, float(str(value)) if name == "seconds" else value)
    return fault
