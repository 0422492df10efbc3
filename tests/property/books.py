"""An independent checker: the paper broker's own books held against the database, in plain SQL and plain sums.

It knows nothing of the product's code. The numbers are those of docs/architecture.md's invariants: I1 one intent, one
order; I7 every order and execution has one row; I9 nothing changed, nothing done; I11 executions are kept once and for
ever; I12 what we hold is what the broker holds; I13 no trade is closed without its shares; I14 one exit over exactly
the shares held; I15 profit is what the executions say.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg2
from psycopg2.extras import RealDictCursor

from paper_broker import PaperBroker
from paper_broker.orders import Order
from paper_broker.state import Activity
from paper_broker.values import stamp

Row = dict[str, Any]

READ = {
    "journals": "SELECT * FROM trade_journal ORDER BY id",
    "orders": "SELECT * FROM order_execution ORDER BY id",
    "fills": "SELECT * FROM order_fill ORDER BY id",
    "externals": "SELECT * FROM external_order ORDER BY id",
    "adjustments": "SELECT * FROM position_adjustment ORDER BY id",
    "tracked": "SELECT * FROM position_tracking ORDER BY id",
    "decisions": "SELECT * FROM audit.trade_decisions ORDER BY id",
    "executions": "SELECT * FROM audit.trade_executions ORDER BY id",
    "analysis": 'SELECT * FROM analysis_decision ORDER BY "Analysis_Id"',
}
ALERTS = "SELECT kind, subject, level, message FROM audit.alerts WHERE resolved_at IS NULL ORDER BY id"
BUSINESS = tuple(READ)
EACH_STEP = ("journals", "orders", "fills", "adjustments")

ENDED = frozenset({"filled", "cancelled", "expired", "rejected", "replaced"})
BROKER_ENDED = frozenset({"filled", "canceled", "expired", "rejected", "replaced"})
CENT = Decimal("0.01")
MILLIONTH = Decimal("0.000001")
ZERO = Decimal(0)


class Books:
    """What the database says, as of the last `read`."""

    def __init__(self, database: dict[str, str | int], broker: PaperBroker) -> None:
        self._connection = psycopg2.connect(**database, cursor_factory=RealDictCursor)
        self._connection.autocommit = True
        self._broker = broker
        self._kept: dict[tuple[str, int], Row] = {}
        self._splits: list[Split] = []
        self._amends: list[tuple[str, str, Decimal]] = []
        self.journals: list[Row] = []
        self.orders: list[Row] = []
        self.fills: list[Row] = []
        self.externals: list[Row] = []
        self.adjustments: list[Row] = []
        self.tracked: list[Row] = []

    def close(self) -> None:
        self._connection.close()

    def contents(self) -> dict[str, list[Row]]:
        """Every business row, for a comparison with later."""
        return {name: self._query(READ[name]) for name in BUSINESS}

    def alerts(self) -> list[Row]:
        """The alerts that nobody has ended."""
        return self._query(ALERTS)

    def positions(self) -> dict[int, Decimal]:
        """The signed shares of each trade that has any, by the broker's executions and the adjustments written."""
        return {id: qty for id, qty in self._held().items() if qty}

    def hindered(self) -> list[str]:
        """The trades that are not as they should be because of somebody else, with an alert that says so."""
        self._read(("journals", "orders", "adjustments"))
        open_trades = [journal for journal in self.journals if journal["status"] == "POSITION"]
        return [journal["trade_id"] for journal in open_trades if self._excused(journal)]

    def note_split(self, symbol: str, ratio: Decimal, held: dict[int, Decimal]) -> None:
        """Remember what the trades held when their stock was split, the broker's activity being its newest one."""
        self._read(("journals",))
        ours = {row["id"] for row in self.journals if row["symbol"] == symbol}
        changes = {id: round(qty * ratio, 9) - qty for id, qty in held.items() if id in ours}
        if changes:
            self._splits.append(Split(self._broker.state.activities[-1].id, changes))

    def note_amend(self, order_id: str, analysis_id: str, qty: Decimal) -> None:
        """Remember that a decision wants so many shares in place of what an order asks for."""
        self._amends.append((order_id, analysis_id, qty))

    def check_always(self) -> None:
        """Check what holds at every moment, whatever is on its way."""
        self._read(EACH_STEP)
        self._one_order_for_each_intent()
        self._executions_are_kept_once()
        self._no_second_exit()
        self._no_entry_beside_its_successor()
        self._ended_trades_have_no_shares()
        self._no_mistake_of_ours()

    def check_at_rest(self) -> None:
        """Check what holds once the programs have seen everything, in an open market without faults."""
        self._read(tuple(READ)[:6])
        self._every_order_has_a_row()
        self._every_execution_has_a_row()
        self._rows_say_what_the_broker_says()
        self._adjustments_rest_on_evidence()
        self._splits_reached_every_trade()
        self._shares_are_where_the_books_say()
        self._positions_are_protected()
        self._profits_are_what_executions_say()

    def _query(self, statement: str) -> list[Row]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return [dict(row) for row in cursor.fetchall()]

    def _read(self, names: Iterable[str]) -> None:
        for name in names:
            setattr(self, name, self._query(READ[name]))

    # What the broker has

    def our_orders(self) -> list[Order]:
        """The broker's orders that came from us: sent by us, legs of such, and what replaced such."""
        return [order for order in self._broker.state.orders.values() if self._is_ours(order)]

    def _is_ours(self, order: Order) -> bool:
        orders = self._broker.state.orders
        if order.client_order_id.startswith("tm-"):
            return True
        if order.replaces and self._is_ours(orders[order.replaces]):
            return True
        return bool(order.root) and order.root != order.id and self._is_ours(orders[order.root])

    def _posted(self) -> list[dict[str, str]]:
        """The bodies of all orders that arrived at the broker."""
        return [
            json.loads(str(seen["body"])) for seen in self._broker.requests
            if seen["method"] == "POST" and seen["path"] == "/v2/orders"
        ]

    def _executions(self) -> Iterator[Activity]:
        return (activity for activity in self._broker.state.activities if activity.kind == "FILL")

    def shares_at_broker(self, symbol: str) -> Decimal:
        """The signed position with what the broker does not show yet."""
        late = (fill.signed_qty for fill in self._broker.state.late_fills if fill.symbol == symbol)
        return self._broker.state.shares(symbol) + sum(late, ZERO)

    def _held(self) -> dict[int, Decimal]:
        held: defaultdict[int, Decimal] = defaultdict(Decimal)
        journal_of = {row["alpaca_order_id"]: row["trade_journal_id"] for row in self.orders}
        for activity in self._executions():
            if activity.order_id in journal_of:
                held[journal_of[activity.order_id]] += _signed(activity.data)
        for row in self.adjustments:
            held[row["trade_journal_id"]] += _signed(row)
        return held

    def _exit_groups(self, journal_id: int) -> list[list[Order]]:
        """The live exits of a trade at the broker, members of a group together; a cancel on its way counts as gone."""
        exits = {
            row["alpaca_order_id"] for row in self.orders
            if row["trade_journal_id"] == journal_id and row["order_type"] != "ENTRY"
        }
        groups: defaultdict[str, list[Order]] = defaultdict(list)
        for order in self._broker.state.live.values():
            if order.id in exits and order.status != "pending_cancel":
                groups[order.root or order.id].append(order)
        return list(groups.values())

    # Always

    def _one_order_for_each_intent(self) -> None:
        known = self._broker.state.orders
        for row in self.orders:
            order = known.get(row["alpaca_order_id"] or "")
            assert order is not None or row["alpaca_order_id"] is None, f"I1: the broker never gave {_name(row)}"
            assert order is None or order.client_order_id == row["client_order_id"], f"I1: another's id in {_name(row)}"
        posts = self._posts()
        assert set(posts.values()) <= {0, 1}, f"I1: sent more than once: {posts.most_common(1)}"
        ours = self.our_orders()
        written = {row["client_order_id"] for row in self.orders}
        strays = [order.client_order_id for order in ours if order.client_order_id in posts and
                  order.client_order_id not in written]
        assert not strays, f"I1: sent without an intent: {strays}"
        entries = Counter(
            row["trade_journal_id"] for row in self.orders
            if row["order_type"] == "ENTRY" and (order := known.get(row["alpaca_order_id"] or "")) is not None
            and order.live and order.status not in ("pending_cancel", "pending_replace")
        )
        assert set(entries.values()) <= {1}, f"I1: a trade has two entries at work: {entries.most_common(1)}"

    def _posts(self) -> Counter[str]:
        """How often each order was sent; an exit may be sent again when it provably never happened, an entry never.

        What the broker carried out before it had the order was a refusal, whose answer may have been lost.
        """
        sent: Counter[str] = Counter()
        orders = self._broker.state.by_client_id
        for seen in self._broker.requests:
            if seen["method"] == "POST" and seen["path"] == "/v2/orders":
                name = json.loads(str(seen["body"]))["client_order_id"]
                known = name in orders and stamp(orders[name].created_at) <= str(seen["at"])
                sent[name] += bool(known and seen["executed"]) or name.endswith("-e")
        return sent

    def _executions_are_kept_once(self) -> None:
        executions = {activity.id: activity for activity in self._executions()}
        order_of = {row["id"]: row["alpaca_order_id"] for row in self.orders}
        filled: defaultdict[str, Decimal] = defaultdict(Decimal)
        for row in self.fills:
            activity = executions.get(row["execution_id"])
            assert activity is not None, f"I11: no such execution at the broker: {row}"
            data = activity.data
            said = (row["qty"], row["price"], row["side"])
            did = (Decimal(data["qty"]), Decimal(data["price"]), data["side"].removesuffix("_short"))
            assert said == did, f"I11: execution {row['execution_id']} was {did}, written as {said}"
            if row["order_execution_id"] is not None:
                assert order_of[row["order_execution_id"]] == activity.order_id, f"I11: of another order: {row}"
            filled[activity.order_id] += row["qty"]
        for order_id, qty in filled.items():
            order = self._broker.state.orders[order_id]
            assert qty <= order.filled_qty, f"I11: {qty} written of the {order.filled_qty} filled of {order_id}"
        evidence = [row for row in self.adjustments if row["evidence_id"] is not None]
        for table, rows in (("order_fill", self.fills), ("position_adjustment", evidence)):
            now = {(table, row["id"]): row for row in rows}
            before = {key: row for key, row in self._kept.items() if key[0] == table}
            changed = [row for key, row in before.items() if now.get(key) != row]
            assert not changed, f"I11: {table} is only ever added to, but these rows changed: {changed}"
            self._kept |= now

    def _no_second_exit(self) -> None:
        """One exit group for a trade; and in a symbol no more exits than the broker took over the shares it has."""
        for journal in self.journals:
            groups = self._exit_groups(journal["id"])
            assert len(groups) <= 1, f"I14: {journal['trade_id']} has {len(groups)} exits at work: {_show(groups)}"

    def _no_entry_beside_its_successor(self) -> None:
        """An AMEND asks for what the order before has not filled, once that has ended. Source: I10."""
        known = self._broker.state.orders
        asked = {body["client_order_id"]: Decimal(body["qty"]) for body in self._posted()}  # a split changes the order
        for before, analysis_id, wanted in self._amends:
            names = {row["client_order_id"] for row in self.orders if row["analysis_decision_id"] == analysis_id}
            sent = [order for order in known.values() if order.client_order_id in names and _is_entry(order)]
            chain = [known[before]]
            while chain[-1].replaced_by:
                chain.append(known[chain[-1].replaced_by])
            filled = sum((old.filled_qty for old in chain), ZERO)
            for order in sent:
                assert not chain[-1].live, f"I10: {self._describe(before)} is at work beside {self._describe(order.id)}"
                qty = asked[order.client_order_id]
                assert qty == wanted - filled, f"I10: {qty} ordered of {wanted}, {filled} filled"

    def _ended_trades_have_no_shares(self) -> None:
        """By our own rows: what the broker has newer than the last pass is news for the next one.

        A split that comes to be known after the end is followed by the next pass of the order monitor.
        """
        ended = {row["id"]: row["exit_date"] for row in self.journals if row["exit_date"] is not None}
        split_since = {
            row["trade_journal_id"] for row in self.adjustments
            if row["kind"] == "SPLIT" and row["created_at"] >= ended.get(row["trade_journal_id"], row["created_at"])
        }
        moved: defaultdict[int, Decimal] = defaultdict(Decimal)
        for row in self.orders:
            moved[row["trade_journal_id"]] += row["filled_qty"] if row["side"] == "buy" else -row["filled_qty"]
        for row in self.adjustments:
            moved[row["trade_journal_id"]] += _signed(row)
        for journal in self.journals:
            if journal["status"] in ("CLOSED", "CANCELLED") and journal["id"] not in split_since:
                left = moved[journal["id"]]
                assert not left, f"I13: {journal['trade_id']} is {journal['status']} with {left} shares in its orders"

    def _no_mistake_of_ours(self) -> None:
        mistakes = [alert["message"] for alert in self.alerts() if alert["kind"] in OUR_MISTAKES]
        assert not mistakes, f"a pass stumbled: {mistakes}"

    # At rest

    def _every_order_has_a_row(self) -> None:
        ours = {order.id for order in self.our_orders()}
        theirs = set(self._broker.state.orders) - ours
        for kind, at_broker, rows in (("our", ours, self.orders), ("foreign", theirs, self.externals)):
            written = Counter(row["alpaca_order_id"] for row in rows if row["alpaca_order_id"])
            missing = [self._describe(id) for id in sorted(at_broker - set(written))]
            assert not missing, f"I7: {kind} orders without a row: {missing}"
            wrong = [self._describe(id) for id in sorted(set(written) - at_broker)]
            assert not wrong, f"I7: written down as {kind} orders: {wrong}"

    def _every_execution_has_a_row(self) -> None:
        order_of = {("order_execution_id", row["id"]): row["alpaca_order_id"] for row in self.orders}
        order_of |= {("external_order_id", row["id"]): row["alpaca_order_id"] for row in self.externals}
        written = {}
        for row in self.fills:
            ours = row["order_execution_id"] is not None
            kind = "order_execution_id" if ours else "external_order_id"
            written[row["execution_id"]] = order_of[kind, row[kind]]
        for activity in self._executions():
            words = f"{activity.data} of {self._describe(activity.order_id)}"
            assert activity.id in written, f"I7: an execution without a row: {words}"
            assert written[activity.id] == activity.order_id, f"I7: under another order: {words}"

    def _rows_say_what_the_broker_says(self) -> None:
        filled: defaultdict[int, Decimal] = defaultdict(Decimal)
        for row in self.fills:
            filled[row["order_execution_id"]] += row["qty"]
        for row in self.orders:
            order = self._broker.state.orders.get(row["alpaca_order_id"] or "")
            if order is None:
                assert row["order_status"] in ENDED, f"I7: {_name(row)} is {row['order_status']}, never sent"
                continue
            ended = row["order_status"] in ENDED
            words = f"{_name(row)} is {row['order_status']}, at the broker {order.status}"
            assert ended == (order.status in BROKER_ENDED), f"I7: {words}"
            assert row["broker_status"] == order.status, f"I7: {words}, written as {row['broker_status']}"
            sums = (row["filled_qty"], filled[row["id"]], order.filled_qty)
            assert len(set(sums)) == 1, f"I11: {_name(row)} filled by row, executions, broker: {sums}"
            if not ended:
                said, real = (row["limit_price"], row["stop_price"]), (order.limit_price, order.stop_price)
                assert said == real, f"I7: limit and stop of {_name(row)} are {said}, at the broker {real}"
        for row in self.externals:
            order = self._broker.state.orders[row["alpaca_order_id"]]
            said, real = (row["broker_status"], row["filled_qty"]), (order.status, order.filled_qty)
            assert said == real, f"I7: foreign order {order.id} is {real}, written as {said}"

    def _adjustments_rest_on_evidence(self) -> None:
        activities = {activity.id: activity for activity in self._broker.state.activities}
        symbol_of = {row["id"]: row["symbol"] for row in self.journals}
        ours = {order.id for order in self.our_orders()}
        used: defaultdict[str, Decimal] = defaultdict(Decimal)
        for row in self.adjustments:
            assert row["evidence_id"] is not None, f"I13: an estimate although every execution can be had: {row}"
            activity = activities.get(row["evidence_id"])
            assert activity is not None, f"I13: no such evidence at the broker: {row}"
            kind = {"FILL": "MANUAL_EXIT", "SPLIT": "SPLIT"}[activity.kind]
            said = (row["kind"], symbol_of[row["trade_journal_id"]])
            assert said == (kind, activity.data["symbol"]), f"I13: {row} rests on {activity}"
            assert activity.order_id not in ours, f"I13: {row} rests on an execution of our own order"
            if kind == "MANUAL_EXIT":
                did = (activity.data["side"].removesuffix("_short"), Decimal(activity.data["price"]))
                assert (row["side"], row["price"]) == did, f"I13: {row} rests on {activity.data}"
                used[activity.id] += row["qty"]
        for id, qty in used.items():
            assert qty <= Decimal(activities[id].data["qty"]), f"I13: {qty} shares rest on {activities[id].data}"

    def _splits_reached_every_trade(self) -> None:
        for split in self._splits:
            written = {
                row["trade_journal_id"]: _signed(row) for row in self.adjustments
                if row["evidence_id"] == split.evidence_id
            }
            assert written == split.changes, f"I12: a split gave {split.changes} by trade, written: {written}"

    def _shares_are_where_the_books_say(self) -> None:
        held = self._held()
        tracked = {row["trade_journal_id"]: row for row in self.tracked}
        together: defaultdict[str, Decimal] = defaultdict(Decimal)
        excess = set()
        for journal in self.journals:
            shares, row = held[journal["id"]], tracked.get(journal["id"])
            together[journal["symbol"]] += shares
            words = f"{journal['trade_id']} ({journal['status']}) has {shares} shares by its executions"
            sign = 1 if journal["side"] == "buy" else -1
            if journal["status"] == "POSITION":
                assert shares * sign > 0 or self._excused(journal), f"I12: {words}"
                excess |= {journal["symbol"]} if shares * sign < 0 else set()
            else:
                assert shares == 0, f"I13: {words}"
            known = ZERO if row is None else row["qty"] * (1 if row["side"] == "long" else -1)
            assert known == max(shares * sign, ZERO) * sign, f"I12: {words} and {known} in position_tracking"
        self._compare_with_the_broker(together, excess)

    def _compare_with_the_broker(self, ours: dict[str, Decimal], excess: set[str]) -> None:
        """What our trades do not hold is somebody else's, and must be what foreign executions and splits brought.

        We never claim more than there is, but for an `excess` that our exits took by mistake and somebody else hides,
        and where the broker netted our entry with shares that somebody else held on the other side.
        """
        netted = self._netted()
        foreign: defaultdict[str, Decimal] = defaultdict(Decimal)
        symbols = {row["id"]: row["symbol"] for row in self.externals}
        for row in self.fills:
            if row["external_order_id"] is not None:
                foreign[symbols[row["external_order_id"]]] += _signed(row)
        for activity in self._broker.state.activities:
            if activity.kind == "SPLIT":
                foreign[activity.data["symbol"]] += Decimal(activity.data["qty"])
        symbols = {row["id"]: row["symbol"] for row in self.journals}
        for row in self.adjustments:
            foreign[symbols[row["trade_journal_id"]]] -= _signed(row)
        for symbol in {*ours, *foreign, *self._broker.state.positions}:
            mine, theirs, total = ours.get(symbol, ZERO), foreign[symbol], self.shares_at_broker(symbol)
            assert mine + theirs == total, f"I12: {symbol}: ours {mine}, foreign {theirs}, at the broker {total}"
            words = f"I12: {symbol}: our trades claim {mine}, the broker has only {total}"
            assert mine * theirs >= 0 or symbol in excess | netted, words

    def _netted(self) -> set[str]:
        """The symbols in which shares of ours met shares of somebody else on the other side.

        An account has one net position. Somebody else's execution closes his own shares first, then ours, the oldest
        trade's first. An entry of ours can then meet shares of his, and an exit of ours can close a second time what
        he closed: what it turns the position into is put down to him, and other trades of ours may hide it.
        """
        trades = {row["alpaca_order_id"]: row["trade_journal_id"] for row in self.orders}
        entries = {row["alpaca_order_id"] for row in self.orders if row["order_type"] == "ENTRY"}
        ours: defaultdict[str, defaultdict[int, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
        theirs: defaultdict[str, Decimal] = defaultdict(Decimal)
        netted = set()
        for activity in self._broker.state.activities:
            symbol, trade = activity.data["symbol"], trades.get(activity.order_id, 0)
            held = ours[symbol]
            if activity.kind == "SPLIT":
                ratio = 1 + Decimal(activity.data["qty"]) / (sum(held.values(), ZERO) + theirs[symbol])
                theirs[symbol] *= ratio
                held.update({id: qty * ratio for id, qty in held.items()})
                continue
            qty = _signed({**activity.data, "side": activity.data["side"].removesuffix("_short")})
            if trade:
                held[trade] += qty
                if activity.order_id not in entries and held[trade] * qty > 0:
                    theirs[symbol] += held.pop(trade)
            else:
                own = _part_closed(theirs[symbol], qty)
                theirs[symbol] += own
                qty -= own
                for id in sorted(held):
                    part = _part_closed(held[id], qty)
                    held[id] += part
                    qty -= part
                theirs[symbol] += qty
            if theirs[symbol] * sum(held.values(), ZERO) < 0:
                netted.add(symbol)
        return netted

    def _positions_are_protected(self) -> None:
        held = self._held()
        for journal in self.journals:
            shares = held[journal["id"]] * (1 if journal["side"] == "buy" else -1)
            groups = self._exit_groups(journal["id"])
            if journal["status"] == "POSITION" and shares > 0:
                self._is_protected(journal, shares, groups)
            elif not self._excused(journal):
                assert not groups, f"I14: {journal['trade_id']} has {shares} shares and exits at work: {_show(groups)}"

    def _is_protected(self, journal: Row, shares: Decimal, groups: list[list[Order]]) -> None:
        words = f"{journal['trade_id']} holds {shares}, its exits: {_show(groups)}"
        if not groups:
            assert self._excused(journal), f"I14: {words}"
            return
        (group,) = groups
        covered = {order.qty - order.filled_qty for order in group}
        assert len(covered) == 1, f"I14: the exits of a group differ: {words}"
        (qty,) = covered
        hindered = self._hindrance(journal) if self._excused(journal) else ZERO
        assert shares - hindered <= qty <= shares, f"I14: {words}, {hindered} cannot be had"
        stops = [order for order in group if order.stop_price is not None]
        if stops:
            # After a split the broker and we round its half cent, each on his own.
            away = abs(journal["current_stop_loss"] - (stops[0].stop_price or ZERO))
            rounding = ZERO if journal["split_ratio"] == 1 else CENT
            assert away <= rounding, f"I14: {words}; the trade says {journal['current_stop_loss']}"
        else:
            assert [order.type for order in group] == ["market"], f"I14: no stop: {words}"

    def _excused(self, journal: Row) -> bool:
        """Whether somebody else stands in the way and we say so: a critical alert that names the trade is open.

        The only excuses are an order or a position that is not ours in the symbol: the broker then reserves the shares
        for it, refuses ours as a wash trade, or cannot be told whose shares are gone.
        """
        symbol, ours = journal["symbol"], {order.id for order in self.our_orders()}
        working = any(order.symbol == symbol and order.id not in ours for order in self._broker.state.live.values())
        held, journals = self._held(), {row["id"]: row["symbol"] for row in self.journals}
        mine = sum((qty for id, qty in held.items() if journals[id] == symbol), ZERO)
        named = any(
            alert["level"] == "critical" and alert["subject"] == journal["trade_id"] for alert in self.alerts()
        )
        return named and (working or mine != self.shares_at_broker(symbol))

    def _hindrance(self, journal: Row) -> Decimal:
        """The shares that an exit of a trade cannot be for: reserved for somebody else's exit, or not there."""
        symbol, ours = journal["symbol"], {order.id for order in self.our_orders()}
        reserved = sum((
            order.remaining for order in self._broker.state.live.values()
            if order.symbol == symbol and order.id not in ours and order.side != journal["side"]
        ), ZERO)
        journals = {row["id"]: row["symbol"] for row in self.journals}
        mine = sum((qty for id, qty in self._held().items() if journals[id] == symbol), ZERO)
        return reserved + abs(mine - self.shares_at_broker(symbol))

    def _profits_are_what_executions_say(self) -> None:
        journal_of = {row["alpaca_order_id"]: row["trade_journal_id"] for row in self.orders}
        money: defaultdict[int, Decimal] = defaultdict(Decimal)
        for activity in self._executions():
            if activity.order_id in journal_of:
                money[journal_of[activity.order_id]] -= _signed(activity.data) * Decimal(activity.data["price"])
        for row in self.adjustments:
            money[row["trade_journal_id"]] -= _signed(row) * row["price"]
        for journal in self.journals:
            if journal["status"] != "CLOSED":
                assert journal["actual_pnl"] is None, f"I15: {journal['trade_id']} is open and has a profit"
                continue
            assert not journal["pnl_is_estimate"], f"I15: {journal['trade_id']} is an estimate, all executions known"
            said, real = journal["actual_pnl"], money[journal["id"]]
            assert abs(said - real) <= MILLIONTH, f"I15: {journal['trade_id']} made {real}, written as {said}"

    def _describe(self, order_id: str) -> str:
        order = self._broker.state.orders.get(order_id)
        if order is None:
            return order_id
        return f"{order.client_order_id} {order.side} {order.qty} {order.symbol} {order.type} {order.status}"


@dataclass(frozen=True)
class Split:
    """What a split must bring to each trade, in signed shares."""

    evidence_id: str
    changes: dict[int, Decimal]


OUR_MISTAKES = ("not_attended_to", "order_not_recorded", "order_mismatch")


def differences(before: dict[str, list[Row]], after: dict[str, list[Row]]) -> list[str]:
    """Say for each row that differs between two contents what it was and is."""
    found = []
    for name, rows in before.items():
        old, new = _by_id(rows), _by_id(after[name])
        for id in sorted(old.keys() | new.keys(), key=str):
            was, now = old.get(id, {}), new.get(id, {})
            columns = [column for column in was | now if was.get(column) != now.get(column)]
            if columns:
                found.append(f"{name} {id}: " + ", ".join(f"{c} {was.get(c)} -> {now.get(c)}" for c in columns))
    return found


def _by_id(rows: list[Row]) -> dict[Any, Row]:
    return {row["id"] if "id" in row else row["Analysis_Id"]: row for row in rows}


def _is_entry(order: Order) -> bool:
    return order.client_order_id.startswith("tm-") and order.client_order_id.endswith("-e")


def _part_closed(held: Decimal, qty: Decimal) -> Decimal:
    """The part of a signed number of shares that closes some of those held."""
    return min(abs(held), abs(qty)).copy_sign(qty) if held * qty < 0 else ZERO


def _signed(row: Row | dict[str, str]) -> Decimal:
    qty = Decimal(row["qty"])
    return qty if row["side"] == "buy" else -qty


def _name(row: Row) -> str:
    return f"{row['client_order_id']} ({row['order_type']})"


def _show(groups: list[list[Order]]) -> list[list[str]]:
    return [
        [f"{order.type} {order.side} {order.remaining} {order.status}" for order in group] for group in groups
    ]
