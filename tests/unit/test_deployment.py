"""What is installed beside the programs: the unit, its hardening, the installer, and files of other systems."""

from __future__ import annotations

import json
import os
import plistlib
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
DEPLOYMENT = PROJECT / "deployment"
UNIT = DEPLOYMENT / "trading-monitor.service"
MOST_EXPOSURE = 1.5


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_hardened_as_far_as_it_should_be() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot look at a file (--offline)")
    exposure = re.search(r"Overall exposure level.*: ([0-9.]+) ", done.stdout)
    assert exposure is not None, done
    assert float(exposure[1]) <= MOST_EXPOSURE


def test_the_unit_waits_for_readiness_and_keeps_secrets_out_of_its_environment() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    for needed in ("Type=notify", "LoadCredential=env:/etc/trading-monitor/env", "User=trading-monitor"):
        assert needed in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)
    (environment,) = [line.partition("=")[2] for line in lines if line.startswith("Environment=")]
    listed = (PROJECT / ".env.example").read_text(encoding="utf-8")
    names = [word.partition("=")[0] for word in environment.split() if not word.startswith("PYTHON")]
    assert [name for name in names if not re.search(rf"^#? ?{name}=", listed, re.MULTILINE)] == []


def test_systemd_never_gives_up_on_what_gets_better_by_itself() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    # A database that is away for ten minutes, and a lock that the server still holds for a lost connection.
    assert "StartLimitIntervalSec=0" in lines
    assert any(line.startswith("ExecStart=") and line.endswith("scheduler.py --standby") for line in lines)
    assert "RestartPreventExitStatus=2" in lines


def test_the_agent_of_macos_starts_the_same_daemon_and_lets_it_end() -> None:
    agent = plistlib.loads((DEPLOYMENT / "com.trading.monitor.plist").read_bytes())
    assert agent["Label"] == "com.trading.monitor"
    assert [Path(word).name for word in agent["ProgramArguments"]] == ["python", "scheduler.py"]
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["Umask"] == 0o077


def test_the_development_database_is_open_to_this_machine_only() -> None:
    service = yaml.safe_load((PROJECT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["postgres"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def install(source: Path, root: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "DESTDIR": str(root), "SKIP_VENV": "yes"}
    command = ["sh", str(source / "deployment/install.sh")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


@pytest.mark.timeout(60)
def test_the_installer_may_be_run_again_and_keeps_what_belongs_to_the_place(tmp_path: Path) -> None:
    # A copy, because other tests write their traces beside the programs meanwhile.
    source, unwanted = tmp_path / "source", shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(PROJECT, source, ignore=unwanted)
    for name in (".env.example", ".coverage.host.1"):
        (source / name).write_bytes((PROJECT / ".env.example").read_bytes())
    assert install(source, tmp_path).stderr == ""
    home, settings = tmp_path / "opt/trading-monitor", tmp_path / "etc/trading-monitor/env"
    example, made = (path.read_text().splitlines() for path in (PROJECT / ".env.example", settings))
    assert set(made) - set(example) == {"AUDIT_ANCHOR_FILE=/var/lib/trading-monitor/audit_anchors.txt"}
    assert len(made) == len(example)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (settings, settings.parent)] == [0o600, 0o700]
    assert (tmp_path / "etc/systemd/system/trading-monitor.service").read_bytes() == UNIT.read_bytes()
    settings.write_text("POSTGRES_HOST=db\n")
    (home / ".venv").mkdir()
    (home / "audit_anchors.txt").write_text("an anchor\n")
    (home / "from_an_earlier_version.py").touch()
    install(source, tmp_path)
    assert settings.read_text() == "POSTGRES_HOST=db\n"
    assert (home / ".venv").is_dir()
    assert (home / "audit_anchors.txt").read_text() == "an anchor\n"
    assert not (home / "from_an_earlier_version.py").exists()
    assert (home / "order_executor.py").read_bytes() == (PROJECT / "order_executor.py").read_bytes()
    assert sorted(path.name for path in home.glob(".*")) == [".env.example", ".venv"]


def test_the_workflow_for_n8n_is_whole() -> None:
    workflow = json.loads((DEPLOYMENT / "n8n" / "store-decision.json").read_text(encoding="utf-8"))
    names = {node["name"] for node in workflow["nodes"]}
    ends = {end["node"] for way in workflow["connections"].values() for branch in way["main"] for end in branch}
    assert workflow["connections"].keys() | ends == names
    assert not re.search(r"password|secret|token", json.dumps(workflow), re.IGNORECASE)
