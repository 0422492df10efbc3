"""`python -m strategies` as a person runs it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from paper_broker import Server
from strategies.__main__ import main
from tests.acceptance.test_programs import PROJECT, run
from tests.flow.disclosing import agree, give_a_past


def test_it_says_what_it_decided_and_what_became_of_it(
    configured: dict[str, str], db: Any, paper: Server, tmp_path: Path,
) -> None:
    looked_after = tmp_path / "trading.prom"
    configured |= {"METRICS_FILE": str(looked_after)}
    now = datetime.now(UTC)
    agree(db, now)
    agree(db, now, "GONE")
    paper.broker.define_asset("GONE", tradable=False)
    give_a_past(paper.broker, "NVDA", "128", "136", now.date())
    planned = run(PROJECT, "-m", "strategies", "congressional", "--plan-only", **configured)
    assert (planned.returncode, planned.stdout.count("would be bought"), db.query("trade_decisions")) == (0, 1, [])
    assert not looked_after.exists()
    done = run(PROJECT, "-m", "strategies", "congressional", **configured)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("congressional 1.0.0, as of ")
    bought, left = (line for line in lines if "Member 0" in line)
    assert (bought.split()[0], bought.split()[-1], left.split()[0]) == ("NVDA", "decided", "GONE")
    assert "left alone: it cannot be traded" in left
    assert lines[-1] == "placed: 1"
    assert [order["symbol"] for order in db.query("trade_journal")] == ["NVDA"]
    assert looked_after.exists()  # with the alerts, whom people are told of then


def test_a_broker_that_is_out_of_reach_is_one_line_and_status_1(configured: dict[str, str], db: Any) -> None:
    agree(db, datetime.now(UTC))
    nowhere = {"ALPACA_BASE_URL": "http://127.0.0.1:9"}
    done = run(PROJECT, "-m", "strategies", "insider", **configured | nowhere)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("python -m strategies: ")
    assert db.query("trade_decisions") == []


@pytest.mark.parametrize("arguments", [["technical"], [], ["insider", "--plan"], ["insider", "congressional"]])
def test_wrong_arguments_are_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
