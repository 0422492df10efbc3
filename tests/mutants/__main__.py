"""Plants each bug of the table in a copy of the project and runs the tests that must notice: `python -m tests.mutants`.

The exit status is 0 when all were noticed, 1 when one survived or could not be planted.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tables import print_table
from tests.mutants.table import MUTANTS, Mutant

PROJECT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".local", "__pycache__", ".*_cache", ".hypothesis", ".coverage*")
PASSED, FAILED = 0, 1
LONGEST_SECONDS = 300


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        copy = Path(temporary) / "project"
        shutil.copytree(PROJECT, copy, ignore=LEFT_OUT)
        killers = sorted({test for mutant in MUTANTS for test in mutant.killers})
        if run(copy, killers) != PASSED:
            print("the tests fail without any planted bug, so they prove nothing; run them first", file=sys.stderr)
            return 1
        verdicts = [(mutant.name, verdict(copy, mutant)) for mutant in MUTANTS]
    print_table("Planted bugs", ("bug", "verdict"), verdicts)
    return 0 if all(word == "killed" for _, word in verdicts) else 1


def verdict(copy: Path, mutant: Mutant) -> str:
    """Plant a bug in the copy, run its tests and take it out again."""
    path = copy / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        return f"not planted: the old text is {text.count(mutant.old)} times in {mutant.file}"
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        status = run(copy, mutant.killers)
    except subprocess.TimeoutExpired:
        return "not tested: the tests hung"
    finally:
        path.write_text(text, encoding="utf-8")
    return {PASSED: "SURVIVED", FAILED: "killed"}.get(status, f"not tested: pytest ended with {status}")


def run(copy: Path, tests: list[str] | tuple[str, ...]) -> int:
    """Run tests in the copy; 0 passed, 1 failed, anything else: they did not run."""
    command = [sys.executable, "-m", "pytest", "--quiet", "--exitfirst", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=copy, capture_output=True, check=False, timeout=LONGEST_SECONDS).returncode


if __name__ == "__main__":
    sys.exit(main())
