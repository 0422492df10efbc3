"""Signals and sizes by the formulas of docs/strategies.md: the same snapshot gives the same signals."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from broker_answers import DailyBar
from config import Limits, load_settings
from decision import NewTrade
from decision.values import decimals
from strategies import STRATEGIES, CongressionalTradingStrategy, Disclosure, InsiderTradingStrategy, Signal, Snapshot
from strategies.industries import oversees, words_by_symbol
from strategies.plan import judge
from strategies.sizing import Levels, Room, levels_of, size
from tests.flow.disclosing import still_market

TODAY = date(2025, 1, 15)
NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
LIMITS: Limits = load_settings(True, {}).limits
PLENTY = Room(Decimal(1_000_000), 20)
SEMICONDUCTORS = "Committee on Examples: Semiconductors and other examples"


def bought(person: str = "A", dollars: int = 50_001, days_ago: int = 20, **changes: Any) -> Disclosure:
    traded = TODAY - timedelta(days=days_ago)
    number = changes.pop("id", 1)
    return replace(
        Disclosure(number, "NVDA", "buy", person, f"Member {person}", Decimal(dollars), traded, TODAY, NOW), **changes,
    )


def signals(*found: Disclosure, **seats: list[str]) -> list[Signal]:
    return CongressionalTradingStrategy().signals(Snapshot(NOW, TODAY, found, seats))


def insiders(*found: Disclosure) -> list[Signal]:
    return InsiderTradingStrategy().signals(Snapshot(NOW, TODAY, found))


STRENGTHS = {
    "two members agree": ([bought("A"), bought("B")], {}, "0.5250"),
    "one alone is enough only just": ([bought("A")], {}, "0.4024"),
    "three lots of one member are one member": ([bought("A", 20_000)] * 3, {}, "0.4116"),
    "four members and a million are all there is": ([bought(name, 250_000, 0) for name in "ABCD"], {}, "0.8500"),
    "more members and more dollars are not more": ([bought(name, 5_000_000, 0) for name in "ABCDEF"], {}, "0.8500"),
    "both sit on a committee for the industry": (
        [bought("A"), bought("B")], {"A": [SEMICONDUCTORS], "B": ["Rules", SEMICONDUCTORS]}, "0.6750",
    ),
    "one of both does": ([bought("A"), bought("B")], {"A": [SEMICONDUCTORS]}, "0.6000"),
    "another committee does not count": ([bought("A"), bought("B")], {"A": ["Agriculture: farms"]}, "0.5250"),
    "old purchases are not fresh": ([bought("A", days_ago=90), bought("B", days_ago=200)], {}, "0.4083"),
}


@pytest.mark.parametrize("case", STRENGTHS)
def test_strength_is_the_documented_sum(case: str) -> None:
    found, seats, strength = STRENGTHS[case]
    (signal,) = signals(*found, **seats)
    assert signal.strength == Decimal(strength)


NONE = {
    "nothing": [],
    "a small purchase of one member": [bought(dollars=1_001)],
    "sales": [bought("A", side="sell"), bought("B", side="sell")],
    "more sell than buy": [bought("A"), bought("B", side="sell"), bought("C", side="sell")],
}


@pytest.mark.parametrize("case", NONE)
def test_some_disclosures_are_no_signal(case: str) -> None:
    assert signals(*NONE[case]) == []


def test_signals_come_strongest_first_with_the_purchase_that_triggered_them() -> None:
    later = NOW + timedelta(minutes=1)
    found = signals(
        bought("A", symbol="ABLE"), bought("B", symbol="ABLE", days_ago=60),
        bought("A", id=2), bought("B", id=3, available_at=later), bought("C", 100_001, id=4, available_at=later),
        bought("D", id=5, side="sell", available_at=later + timedelta(1)),
    )
    assert [signal.symbol for signal in found] == ["NVDA", "ABLE"]
    assert (found[0].primary.id, found[0].confidence) == (4, Decimal("0.7500"))
    assert [purchase.id for purchase in found[0].purchases] == [2, 3, 4]
    assert found[0].people == ["Member A", "Member B", "Member C"]


def test_insiders_are_officers_and_directors_who_buy() -> None:
    officer, director = bought("A", is_officer=True, days_ago=0), bought("B", is_director=True, days_ago=3)
    (signal,) = insiders(officer, director, bought("C", 900_000))
    assert (signal.strength, signal.people) == (Decimal("0.7333"), ["Member A", "Member B"])
    assert insiders(bought("C", 900_000), bought("D", 900_000)) == []
    assert insiders(officer, replace(director, side="sell"), bought("C", side="sell", is_officer=True)) == []


def test_the_strategies_are_found_by_their_names() -> None:
    assert {name: (found.name, found.version) for name, found in STRATEGIES.items()} == {
        "congressional": ("congressional", "1.0.0"), "insider": ("insider", "1.0.0"),
    }


@pytest.mark.parametrize(
    ("committee", "symbol", "fits"),
    [
        ("Armed Services: military and other matters", "LMT", True), ("Armed Services", "NVDA", False),
        ("Energy and Commerce: HEALTH care", "PFE", True), ("On commonwealth matters", "PFE", False),
        ("Banking, Housing", "JPM", True), ("Banking, Housing", "UNHEARD.OF", False), ("", "JPM", False),
    ],
)
def test_a_committee_fits_an_industry_by_a_word_at_its_beginning(committee: str, symbol: str, fits: bool) -> None:
    assert oversees([committee], symbol) is fits
    assert len(words_by_symbol()) > 200


def planned(count: int = 12, **market: Any) -> tuple[list[tuple[str, int]], dict[str, str]]:
    """What is planned of that many equal signals of half the strength, and what is left alone and why."""
    symbols = [f"S{number:02}" for number in range(count)]
    found = [Signal(symbol, Decimal("0.5"), Decimal(1), {}, (bought(symbol=symbol),)) for symbol in symbols]
    plan = judge(CongressionalTradingStrategy(), NOW, found, still_market(symbols, **market))
    return (
        [(each.signal.symbol, int(each.trade.qty)) for each in plan.planned],
        {each.signal.symbol: each.reason for each in plan.skipped},
    )


def test_ten_decisions_are_enough_for_a_run() -> None:
    bought, left = planned(12)
    assert [symbol for symbol, _ in bought] == [f"S{number:02}" for number in range(10)]
    assert left == dict.fromkeys(["S10", "S11"], "10 stronger ones are enough for a run")


def test_what_a_stronger_signal_takes_is_gone_for_the_next() -> None:
    bought, left = planned(4, room=Room(Decimal(30_000), 20))
    assert bought == [("S00", 199), ("S01", 99)]  # 20,000 dollars of MAX_ORDER_NOTIONAL, then what is left of 30,000
    assert set(left) == {"S02", "S03"}
    bought, left = planned(3, room=Room(Decimal(1_000_000), 2))
    assert len(bought) == 2
    assert left == {"S02": "MAX_OPEN_POSITIONS=20 is reached"}


def test_a_symbol_with_a_decision_that_waits_is_left_alone() -> None:
    assert planned(1, waiting={"S00"}) == ([], {"S00": "an earlier decision about it still waits"})


def past(low: str, high: str = "140", sessions: int = 20) -> list[DailyBar]:
    return [
        DailyBar(TODAY - timedelta(days=back), Decimal(high), Decimal(low)) for back in range(sessions, 0, -1)
    ]


@pytest.mark.parametrize(
    ("last", "low", "levels"),
    [
        ("135", "128", "135.67 128 151.01"),
        ("135", "134", "135.67 131.59 143.83"),  # at least 3 % away
        ("135", "60", "135.67 115.31 176.39"),  # at most 15 %
        ("1", "0.5", "1 0.85 1.3"),
        ("1", "0.99", "1 0.97 1.06"),
    ],
)
def test_the_stop_is_the_low_of_the_recent_range_within_bounds(last: str, low: str, levels: str) -> None:
    found = levels_of(Decimal(last), past(low))
    assert [found.limit, found.stop, found.target] == [Decimal(level) for level in levels.split()]
    assert max(map(decimals, (found.limit, found.stop, found.target))) <= 2


def test_only_the_last_twenty_sessions_count() -> None:
    assert levels_of(Decimal(135), past("1", sessions=30)[:10] + past("128")).low == Decimal(128)


def test_without_a_range_the_stop_is_eight_per_cent_away() -> None:
    assert levels_of(Decimal(100), past("99", sessions=4)) == Levels(
        Decimal("100.50"), Decimal("92.46"), Decimal("116.58"), None, None,
    )
    assert levels_of(Decimal(100), past("95", sessions=5)).stop == Decimal(95)


SIZES = {
    "by risk": (Decimal("0.5"), {}, PLENTY, Decimal(100_000), 65),  # 500 / 7.67
    "by equity": (Decimal(1), {}, PLENTY, Decimal(100_000), 73),  # 10,000 / 135.67
    "by a dearer limit": (Decimal(1), {"max_order_notional": Decimal(1_000)}, PLENTY, Decimal(100_000), 7),
    "by a quantity": (Decimal(1), {"max_order_qty": Decimal("5.5")}, PLENTY, Decimal(100_000), 5),
    "by symbol exposure": (Decimal(1), {"max_symbol_exposure": Decimal(500)}, PLENTY, Decimal(100_000), 3),
    "by what is left": (Decimal(1), {}, Room(Decimal(300), 20), Decimal(100_000), 2),
    "not one": (Decimal(1), {}, Room(Decimal(135), 20), Decimal(100_000), "the buying power leave"),
    "nothing left": (Decimal(1), {}, Room(Decimal(-5), 20), Decimal(100_000), "the buying power leave"),
    "no place": (Decimal(1), {}, Room(Decimal(10_000), 0), Decimal(100_000), "MAX_OPEN_POSITIONS=20 is reached"),
    "a poor account": (Decimal("0.4"), {}, PLENTY, Decimal(1_000), "1% of the equity at risk"),
}


@pytest.mark.parametrize("case", SIZES)
def test_whole_shares_fit_into_every_bound(case: str) -> None:
    strength, changes, room, equity, expected = SIZES[case]
    levels = Levels(*map(Decimal, ("135.67", "128", "151.01", "128", "136")))
    found = size(strength, levels, equity, replace(LIMITS, **changes), room, "congressional")
    if isinstance(expected, str):
        assert isinstance(found, str)
        assert expected in found
        return
    assert isinstance(found, NewTrade)
    assert (found.qty, found.limit_price, found.stop_price) == (expected, levels.limit, levels.stop)
    assert room.less(found) == Room(room.dollars - expected * levels.limit, room.symbols - 1)
