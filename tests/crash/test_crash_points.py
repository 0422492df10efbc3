"""The programs may be ended anywhere: started again, they bring every decision, order and position to one end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from hypothesis import settings

from tests.crash.harness import Run, Theatre
from tests.crash.scenarios import SCENARIOS

# `make soak` takes every point, reads and records of reads too, and after each every fourth second one, another fourth
# after the next; `make test` takes the points that can differ, and a sample of the second ones.
SOAK = settings.get_current_profile_name() == "soak"
EVERY_FIRST_CRASH, EVERY_SECOND_CRASH = (1, 4) if SOAK else (6, 25)
OUTCOMES: dict[str, dict[str, Any]] = {
    "not received": {"kind": "drop"},
    "refused": {"kind": "status", "code": 422, "body": {"code": 42210000, "message": "no"}},
    "executed, answer lost": {"kind": "drop", "executed": True},
}
ENTRY = "-e"

pytestmark = [pytest.mark.timeout(7200 if SOAK else 120), pytest.mark.no_cover]


@pytest.fixture(scope="module")
def calm_runs(theatre: Theatre) -> dict[str, Run]:
    """What each scenario comes to when nothing goes wrong."""
    return {name: theatre.play(scenario, reads=SOAK) for name, scenario in SCENARIOS.items()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_program_may_end_before_any_of_its_effects(
    theatre: Theatre, calm_runs: dict[str, Run], name: str,
) -> None:
    calm = calm_runs[name]
    for number in count(1):
        if number in calm.idle and not SOAK:
            continue
        with at(name, f"ended before effect {number}"):
            run = theatre.play(SCENARIOS[name], number, reads=SOAK)
            if not run.killed_before:
                assert number == len(calm.lives[0]) + 1
                return
            assert run.killed_before == [calm.lives[0][number - 1]] or "/v2/orders/" in run.killed_before[0]
            check_end(calm, run)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_program_that_follows_may_end_too(theatre: Theatre, calm_runs: dict[str, Run], name: str) -> None:
    calm = calm_runs[name]
    first = [number for number in range(1, len(calm.lives[0]) + 1) if number not in calm.idle]
    for number in first[(EVERY_FIRST_CRASH - 1) // 2::EVERY_FIRST_CRASH]:
        for second in count(1 + number % EVERY_SECOND_CRASH, EVERY_SECOND_CRASH):
            with at(name, f"ended before effect {number}, then before effect {second}"):
                run = theatre.play(SCENARIOS[name], number, second, reads=SOAK)
                check_end(calm, run)
            if len(run.killed_before) == 1:
                break


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_whatever_becomes_of_a_message_a_program_may_end_before_it_knows(
    theatre: Theatre, calm_runs: dict[str, Run], name: str, outcome: str,
) -> None:
    calm = calm_runs[name]
    effects = calm.lives[0]
    places = [index for index, effect in enumerate(effects) if is_message(effect)]
    for skipped, place in enumerate(places):
        fault = {"method": "[PD]*", "path": "*", "skip": skipped, **OUTCOMES[outcome]}
        # Ended before the answer to an executed one is a point of its own already.
        ends: list[tuple[int, ...]] = [()] if OUTCOMES[outcome].get("executed") else [(), (place + 2,)]
        if SOAK:
            ends += [(number,) for number in range(place + 3, len(effects) + 40)]
        for end in ends:
            with at(name, f"{effects[place]}: {outcome}, ended before {end}"):
                run = theatre.play(SCENARIOS[name], *end, fault=fault, reads=SOAK)
                check_outcome(calm, run, effects[place].removesuffix(" goes out"), outcome)
            if end and not run.killed_before:
                break


def is_message(effect: str) -> bool:
    return effect.endswith(" goes out") and not effect.startswith("GET")


def check_end(calm: Run, run: Run) -> None:
    """An entry whose request was written and not sent is never sent; everything else comes to the same end."""
    words = f"{run.killed_before}: {run.end}"
    entries = Counter(name for name in run.posted if name.endswith(ENTRY))
    assert set(entries.values()) <= {1}, words
    if not never_sent(run):
        assert run.end == calm.end, words


def never_sent(run: Run) -> list[str]:
    """Return the entries that a process ended just before sending; nobody sent them later."""
    lost = [effect.split()[1] for effect in run.killed_before if effect.endswith(f"{ENTRY} goes out")]
    assert not set(lost) & set(run.posted), f"{run.killed_before}: {run.end}"
    return lost


def check_outcome(calm: Run, run: Run, message: str, outcome: str) -> None:
    """What the broker did counts, not what we heard: a lost answer changes nothing, a lost entry is not sent again.

    A lost or refused cancel and a lost exit are repeated. A refused exit is followed by another kind of exit, which
    the books have been checked for.
    """
    method, name = message.split()
    words = f"{run.killed_before}: {run.end}"
    if name.endswith(ENTRY) and outcome != "executed, answer lost":
        assert run.posted.count(name) == 1, words
        assert name not in run.orders, words
    elif not never_sent(run) and (method == "DELETE" or outcome != "refused"):
        assert run.end == calm.end, words


@contextmanager
def at(name: str, place: str) -> Iterator[None]:
    """Say where it was that something went wrong."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{name}, {place}")
        raise
