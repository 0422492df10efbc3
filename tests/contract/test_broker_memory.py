"""What the broker remembers is written and read without loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from paper_broker import PaperBroker
from paper_broker.__main__ import main
from paper_broker.store import Store, StoreError, encode
from tests.contract.conftest import Rehearsal

BARS = "timestamp,symbol,open,high,low,close,volume\n2025-01-14,AMD,130,136,129,133.5,1000\n"


def test_a_saved_broker_goes_on_where_it_was(desk: Rehearsal, tmp_path: Path) -> None:
    desk.broker.add_bars(BARS)
    desk.broker.behave(positions_lag="60", release_delay_seconds="60", cancel_delay_seconds="30")
    desk.broker.set_liquidity("NVDA", "4")
    desk.bracket(type="limit", limit_price="133.50")
    desk.order(symbol="AMD", side="sell", type="trailing_stop", trail_price="3")
    desk.api.delete(f"/orders/{desk.limit('buy', '120')['id']}")
    desk.eastern("2025-01-15 10:00:10")
    store = Store(tmp_path / "state.json")
    store.save(desk.broker.state)
    loaded = Store(tmp_path / "state.json").load()
    assert loaded is not None
    assert encode(loaded) == encode(desk.broker.state)
    again = PaperBroker(state=loaded)
    again.set_time(desk.broker.clock.now())
    for broker in (again, desk.broker):
        broker.set_price("NVDA", "120")
        broker.set_time(broker.clock.now().replace(minute=30))
    assert {order.id: order.status for order in again.state.orders.values()} == {
        order.id: order.status for order in desk.broker.state.orders.values()
    }
    assert encode(again.state.positions) == encode(desk.broker.state.positions)


def test_nothing_is_written_while_nothing_changes(desk: Rehearsal, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    store = Store(path)
    store.save(desk.broker.state)
    path.unlink()
    desk.api.get("/account")
    store.save(desk.broker.state)
    assert not path.exists()
    desk.limit("buy", "120")
    store.save(desk.broker.state)
    assert path.exists()


@pytest.mark.parametrize(
    "content", ["", "{}", '{"format": 99}', '{"format": 1, "state": {"market": {}}, "bars": {}}']
)
def test_a_file_that_is_no_state_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=r"state\.json"):
        Store(path).load()


def test_a_first_start_has_no_state(tmp_path: Path) -> None:
    assert Store(tmp_path / "state.json").load() is None


@pytest.mark.parametrize("option", ["--prices", "--state"])
def test_unusable_files_end_the_program_before_it_listens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    path = tmp_path / "input"
    path.write_text("nonsense")
    assert main(["--hours", "always", option, str(path)]) == 2
    assert capsys.readouterr().err.startswith("paper_broker: ")
