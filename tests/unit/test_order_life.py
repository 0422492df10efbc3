"""The life of an order and of a trade: words, moves and profit."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum

import pytest
from alpaca.trading.enums import OrderStatus as BrokerStatus
from hypothesis import given
from hypothesis import strategies as st

from order_life import (
    AT_BROKER,
    DECISION_MOVES,
    ENDED,
    EXECUTION_OF_ORDER,
    FILLED_EXIT,
    JOURNAL_MOVES,
    ORDER_MOVES,
    UNFILLED_END,
    DecisionStatus,
    ExitReason,
    Fill,
    JournalStatus,
    OrderRole,
    OrderStatus,
    average_price,
    before,
    heard_status,
    opposite,
    realised_pnl,
    total_qty,
)

FINAL_WORDS = {
    "filled": OrderStatus.FILLED, "canceled": OrderStatus.CANCELLED, "expired": OrderStatus.EXPIRED,
    "rejected": OrderStatus.REJECTED, "replaced": OrderStatus.REPLACED,
}
qtys = st.decimals("0.000000001", "10000", places=9)
prices = st.decimals("0.0001", "100000", places=4)
fill_lists = st.lists(st.builds(Fill, qtys, prices), min_size=1, max_size=6)


def fills(*pairs: tuple[str, str]) -> list[Fill]:
    return [Fill(Decimal(qty), Decimal(price)) for qty, price in pairs]


@pytest.mark.parametrize("word", [status.value for status in BrokerStatus])
def test_every_word_of_the_broker_is_understood_and_only_five_are_final(word: str) -> None:
    heard = heard_status(word, Decimal(0))
    assert heard is not None
    assert (heard in ENDED) == (word in FINAL_WORDS)
    assert word not in FINAL_WORDS or heard is FINAL_WORDS[word]


@pytest.mark.parametrize("word", ["", "FILLED", "cancelled", "triggered", "filled "])
def test_a_word_nobody_knows_means_nothing(word: str) -> None:
    assert heard_status(word, Decimal(1)) is None


@pytest.mark.parametrize("word", ["new", "accepted", "pending_cancel", "done_for_day", "held"])
def test_a_working_order_with_filled_shares_is_partially_filled(word: str) -> None:
    assert heard_status(word, Decimal("0.5")) is OrderStatus.PARTIALLY_FILLED


def test_a_cancelled_order_with_filled_shares_is_cancelled() -> None:
    assert heard_status("canceled", Decimal("0.5")) is OrderStatus.CANCELLED


@pytest.mark.parametrize(
    ("statuses", "moves"),
    [(OrderStatus, ORDER_MOVES), (JournalStatus, JOURNAL_MOVES), (DecisionStatus, DECISION_MOVES)],
)
def test_every_status_has_its_moves_and_none_moves_to_itself(
    statuses: type[StrEnum], moves: dict[StrEnum, frozenset[StrEnum]],
) -> None:
    assert set(moves) == set(statuses)
    assert not [status for status, after in moves.items() if status in after]


def test_only_a_late_fill_follows_the_end_of_an_order() -> None:
    later = {(before, after) for before in ENDED for after in ORDER_MOVES[before]}
    assert later == {(OrderStatus.CANCELLED, OrderStatus.FILLED), (OrderStatus.EXPIRED, OrderStatus.FILLED)}


@pytest.mark.parametrize("status", OrderStatus)
def test_every_order_can_come_to_an_end(status: OrderStatus) -> None:
    assert status in ENDED or ORDER_MOVES[status] >= ENDED


@pytest.mark.parametrize("status", OrderStatus)
def test_nothing_returns_to_intended_or_unknown_from_the_broker(status: OrderStatus) -> None:
    after = ORDER_MOVES[status]
    assert OrderStatus.INTENDED not in after
    assert OrderStatus.UNKNOWN not in after or status is OrderStatus.INTENDED


def test_only_a_late_fill_changes_the_outcome_of_a_decision() -> None:
    ends = set(DecisionStatus) - {DecisionStatus.PENDING}
    assert DECISION_MOVES[DecisionStatus.PENDING] == ends
    assert all(DECISION_MOVES[end] <= {DecisionStatus.EXECUTED} for end in ends)
    assert not DECISION_MOVES[DecisionStatus.EXECUTED]


def test_a_position_is_closed_never_cancelled() -> None:
    assert JOURNAL_MOVES[JournalStatus.POSITION] == {JournalStatus.CLOSED}
    assert JournalStatus.CLOSED not in JOURNAL_MOVES[JournalStatus.ORDERED]


@pytest.mark.parametrize(
    ("status", "earlier"),
    [
        (OrderStatus.INTENDED, set()),
        (OrderStatus.UNKNOWN, {"intended"}),
        (OrderStatus.PARTIALLY_FILLED, {"intended", "unknown", "pending"}),
        (OrderStatus.FILLED, {"intended", "unknown", "pending", "partially_filled", "cancelled", "expired"}),
        (OrderStatus.REJECTED, {"intended", "unknown", "pending", "partially_filled"}),
    ],
)
def test_a_status_knows_from_where_it_may_be_reached(status: OrderStatus, earlier: set[str]) -> None:
    assert set(before(ORDER_MOVES, status)) == earlier


def test_every_status_and_end_has_its_word_elsewhere() -> None:
    assert set(EXECUTION_OF_ORDER) == set(OrderStatus)
    assert set(UNFILLED_END) == ENDED - {OrderStatus.FILLED}
    assert set(FILLED_EXIT) == set(OrderRole) - {OrderRole.ENTRY}
    assert AT_BROKER.isdisjoint(ENDED)
    assert FILLED_EXIT[OrderRole.STOP_LOSS] is ExitReason.STOPPED_OUT


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_the_opposite_of_the_opposite_is_the_side(side: str) -> None:
    assert opposite(side) != side
    assert opposite(opposite(side)) == side


@pytest.mark.parametrize(("side", "pnl"), [("buy", "-124.50"), ("sell", "124.50")])
def test_profit_counts_every_fill_and_the_side(side: str, pnl: str) -> None:
    entries = fills(("30", "133.80"), ("15", "133.70"))
    exits = fills(("10", "124.00"), ("35", "133.00"))
    assert realised_pnl(side, entries, exits) == Decimal(pnl)


def test_profit_of_an_unbalanced_trade_is_refused() -> None:
    with pytest.raises(ValueError, match="45 shares entered but 44 left"):
        realised_pnl("buy", fills(("45", "1")), fills(("44", "1")))


def test_nothing_filled_has_no_average_price() -> None:
    assert average_price([]) is None
    assert total_qty([]) == 0
    assert realised_pnl("buy", [], []) == 0


@given(fill_lists)
def test_the_average_price_lies_between_the_cheapest_and_the_dearest_fill(some: list[Fill]) -> None:
    average = average_price(iter(some))
    assert average is not None
    slack = Decimal("1e-15")
    assert min(fill.price for fill in some) - slack <= average <= max(fill.price for fill in some) + slack


@given(fill_lists, prices)
def test_what_a_long_trade_wins_the_short_one_loses(entries: list[Fill], price: Decimal) -> None:
    exits = [Fill(total_qty(entries), price)]
    assert realised_pnl("buy", entries, exits) == -realised_pnl("sell", iter(entries), iter(exits))


@given(fill_lists)
def test_leaving_at_the_prices_of_entry_wins_nothing(entries: list[Fill]) -> None:
    assert realised_pnl("buy", entries, reversed(entries)) == pytest.approx(0, abs=Decimal("1e-12"))
