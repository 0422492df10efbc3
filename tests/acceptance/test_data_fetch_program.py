"""`python -m data_fetch` as a person runs it."""

from __future__ import annotations

from typing import Any

import pytest

from data_fetch.__main__ import main
from data_fetch.quiver_congress import LIVE
from tests.acceptance.test_programs import PROJECT, run
from tests.flow.sources import Answer, live_record, serve_sources


def test_it_fetches_says_what_it_did_and_fails_in_one_line(configured: dict[str, str], db: Any) -> None:
    with serve_sources() as sources:
        quiver = {"QUIVER_BASE_URL": sources.url, "QUIVER_API_KEY": "k3y"}

        def fetch(task: str) -> tuple[int, str, str]:
            done = run(PROJECT, "-m", "data_fetch", task, **configured, **quiver)
            return done.returncode, done.stdout, done.stderr

        sources.files[LIVE] = [live_record(), live_record(TransactionDate=None)]
        status, said, _ = fetch("congress_daily")
        (row,) = db.query("data_ingestion_runs")
        assert (status, said) == (0, (
            f"congress_daily: 2 records fetched: 1 created, 0 updated, 1 skipped (1 of them unusable). "
            f"Run {row['run_id']}.\n"
        ))
        sources.trouble.append(Answer(403, '{"detail": "Upgrade your subscription plan to access this dataset."}'))
        status, said, error = fetch("insider_daily")
        assert (status, said) == (1, "")
        assert error.startswith("python -m data_fetch: the plan of this key does not include /beta/live/insiders")
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["weekly"], [], ["congress_daily", "--days-back", "0"], ["congress_daily", "--days-back", "x"]],
)
def test_wrong_arguments_are_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
