"""Every SQL statement of the documents, and of the workflow for n8n, can be planned on a database with our tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from db_layer import TradingDB

PROJECT = Path(__file__).resolve().parents[2]
# As NocoDB makes it: with a key of its own.
NOCODB = "CREATE TEMP TABLE analysis_decision AS SELECT 1 AS id, * FROM public.analysis_decision"


def statements() -> list[tuple[str, str]]:
    found = []
    for path in (PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))):
        for block in re.findall(r"^```sql\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            lines = [line for line in block.splitlines() if not line.startswith(("\\", "--"))]
            found += [(path.name, text) for text in re.split(r";\s*(?:\n|$)", "\n".join(lines)) if text.strip()]
    workflow = json.loads((PROJECT / "deployment" / "n8n" / "store-decision.json").read_text(encoding="utf-8"))
    queries = [node["parameters"]["query"] for node in workflow["nodes"] if "query" in node["parameters"]]
    return found + [("store-decision.json", query) for query in queries]


@pytest.fixture(scope="module")
def nocodb(clones: Any) -> Any:
    database = clones.create()
    with TradingDB(config=database) as db:
        db.execute_update(NOCODB)
        yield db
    clones.drop(database)


@pytest.mark.parametrize(("place", "statement"), statements())
def test_the_server_can_plan_it(nocodb: TradingDB, place: str, statement: str) -> None:
    nocodb.execute_query("EXPLAIN " + statement.replace("$1", "1"))


def test_the_statement_of_the_workflow_is_the_explained_one() -> None:
    by_place: dict[str, set[str]] = {}
    for place, statement in statements():
        by_place.setdefault(place, set()).add(" ".join(statement.split()))
    assert by_place["store-decision.json"] <= by_place["n8n-workflow-modification.md"]
