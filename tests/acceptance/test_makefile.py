"""The set-up that every target of the Makefile begins with, in a project without packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
OLD = "#!/bin/sh\nexit 1\n"
WITHOUT_VENV = '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; *) exit 0 ;; esac\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = tmp_path / "a project"
    (project / "scripts").mkdir(parents=True)
    for name in ("Makefile", "scripts/bootstrap.sh"):
        shutil.copy(PROJECT / name, project / name)
    (project / "requirements.txt").write_text("# nothing\n")
    return project


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=project, env=outer, capture_output=True, text=True, check=False)


def interpreter(project: Path, script: str) -> str:
    path = project / "python"
    path.write_text(script)
    path.chmod(0o755)
    return "PYTHON=./python"


def test_without_a_python_that_is_new_enough_the_reader_is_told_so(project: Path) -> None:
    done = make(project, ".venv", interpreter(project, OLD))
    assert done.returncode != 0
    assert "No Python 3.11 or newer among: ./python" in done.stderr
    assert not (project / ".venv").exists()


def test_without_the_venv_module_the_reader_is_told_what_to_install(project: Path) -> None:
    done = make(project, ".venv", interpreter(project, WITHOUT_VENV))
    assert done.returncode != 0
    assert "apt install python3-venv" in done.stderr


def test_the_set_up_happens_once_and_again_after_an_interruption_or_a_change(project: Path) -> None:
    python = f"PYTHON={sys.executable}"
    assert "Making .venv" in make(project, ".venv", python).stdout
    assert make(project, ".venv", python).stdout == ""

    (project / ".venv" / "installed-requirements.txt").unlink()
    assert "Making" not in (again := make(project, ".venv", python).stdout)
    assert "Installing" in again

    (project / "requirements.txt").write_text("# nothing either\n")
    assert "Installing" in make(project, ".venv", python).stdout

    (project / "requirements.txt").write_text("no-such-package @ file:///no/such/directory\n")
    assert make(project, ".venv", python).returncode != 0
    assert not (project / ".venv" / "installed-requirements.txt").exists()

    make(project, "clean")
    assert not (project / ".venv").exists()
