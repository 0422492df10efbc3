"""The table of planted bugs cannot rot: each still fits the product, and the tests it names are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.mutants.table import MUTANTS, Mutant

PROJECT = Path(__file__).resolve().parents[2]
NAMES = [mutant.name for mutant in MUTANTS]


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_the_bug_can_be_planted(mutant: Mutant) -> None:
    text = (PROJECT / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    planted = text.replace(mutant.old, mutant.new)
    assert planted != text
    ast.parse(planted)


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_the_tests_that_must_notice_it_are_there(mutant: Mutant) -> None:
    assert mutant.killers
    for killer in mutant.killers:
        file, _, test = killer.partition("::")
        name, text = test.partition("[")[0], (PROJECT / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", text, re.MULTILINE)


def test_each_bug_has_its_own_name() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 12
