"""Compares the positions in our books with the broker's, and follows what is proved to have happened there.

Shares can leave without an order of ours: a person closes them in the broker's app, the broker liquidates, a company
splits. Only evidence moves our books; absence alone does not. Source: docs/architecture.md, positions compared.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

from account_sync import AccountSync
from adjustment_records import (
    SPLITS_SINCE,
    Adjustment,
    add_adjustments,
    closing_side,
    forget_guesses,
    given_by_splits,
    lock_trades,
    restate_prices,
    share_out,
    symbols_of_others,
    trades_alive,
    unattributed,
    unfollowed_splits,
)
from alpaca_client import Broker, Holding, JsonObject
from audit_trail import AlertKind, AlertLevel
from clock import Clock
from db_layer import Row, TradingDB
from fill_records import fills_by_order
from order_desk import OrderDesk
from order_life import AT_BROKER, ENDED, AdjustmentKind, Fill, decimal_text, is_ratio_of_a_split, opposite, total_qty
from order_records import unknown_entries_in
from pass_log import ALERTS_OF_TRADE, Event, PassLog
from trade import Trade
from trade_book import conclude, give_way, held_at, load_open_trades, load_trades, settle_estimates
from trade_records import estimated_trades, hold_positions

# Positions lag fills: nothing is concluded from a difference while an order's last news is younger.
SETTLING = timedelta(minutes=2)
LOOKS = 3
# What other people hold is what they ever traded and what splits made of it.
SPLITS_OF_OTHERS_SINCE = timedelta(days=365)
EVER, NEVER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

log = logging.getLogger("reconciliation")

Positions = Mapping[str, Decimal]


class Reconciliation:
    """One comparison of all positions, and what follows from it."""

    def __init__(
        self, db: TradingDB, broker: Broker, clock: Clock, desk: OrderDesk, sync: AccountSync, found: PassLog,
    ) -> None:
        self._db = db
        self._broker = broker
        self._clock = clock
        self._desk = desk
        self._sync = sync
        self._found = found
        self._splits: list[JsonObject] | None = None
        self.holdings: Mapping[str, Holding] | None = None  # what the account holds, as last heard
        self.settling: str | None = None  # a difference that may only be the broker's delay
        self._others: set[str] = set()
        self._is_ours = False  # the account knows an order of ours, as far as that was asked

    def run(self) -> None:
        """Compare, and follow what is proved. Raises DatabaseError and BrokerError, before anything was concluded."""
        trades, positions = self._snapshot()
        self._others = symbols_of_others(self._db, self._clock.now() - SPLITS_SINCE)
        doubted = self._found.open_subjects((AlertKind.POSITION_MISMATCH, AlertKind.EXTERNAL_POSITION))
        symbols = sorted({trade.symbol for trade in trades} | positions.keys() | self._others | doubted)
        for symbol in symbols:
            ours = [trade for trade in trades if trade.symbol == symbol]
            self._found.tolerate(symbol, partial(self._compare, symbol, ours, positions, trades))
        self._settle_guesses()

    def _snapshot(self) -> tuple[list[Trade], Positions]:
        """Return our trades with shares and the broker's positions, with nothing moving between the two readings."""
        positions = self._positions()
        trades = self._trades_with_shares()
        for _ in range(LOOKS):
            if _net(trades) == positions:
                break
            before, changed = positions, self._found.events[Event.CHANGED]
            self._sync.orders(self._found)
            self._sync.fills()
            trades = self._trades_with_shares()
            positions = self._positions()
            if positions == before and self._found.events[Event.CHANGED] == changed:
                break
        return trades, positions

    def _positions(self) -> Positions:
        self.holdings = self._broker.list_holdings()
        return {symbol: holding.qty for symbol, holding in self.holdings.items()}

    def _trades_with_shares(self, symbol: str | None = None) -> list[Trade]:
        trades = give_way(self._db, load_open_trades(self._db, self._found), self._found, self._clock.now())
        return [trade for trade in trades if trade.held != 0 and symbol in (None, trade.symbol)]

    def _compare(self, symbol: str, ours: Sequence[Trade], positions: Positions, everything: Sequence[Trade]) -> None:
        booked, there = _net(ours).get(symbol, Decimal(0)), positions.get(symbol, Decimal(0))
        if booked != there or self._does_not_add_up(symbol, booked, there):
            self._follow_splits(symbol, there)
            ours = self._trades_with_shares(symbol)
            ours = self._follow_evidence(symbol, ours, there) if ours else ours
            booked = _net(ours).get(symbol, Decimal(0))
        if booked == there:
            self._found.resolve((AlertKind.POSITION_MISMATCH, AlertKind.EXTERNAL_POSITION), (symbol,))
            self._found.resolve((AlertKind.POSITION_VANISHED,), [trade.name for trade in ours])
        elif (there - booked) * booked > 0 or not ours or self._theirs(symbol) == there - booked:
            self._note_external(symbol, there - booked)
        elif self._is_settling(ours):
            words = f"{symbol}: {decimal_text(booked)} shares in the books, {decimal_text(there)} at the broker"
            self.settling = f"{words}, where an order filled just now; the next pass compares again"
        else:
            self._doubt(symbol, ours, booked, there, positions, everything)

    def _does_not_add_up(self, symbol: str, booked: Decimal, there: Decimal) -> bool:
        """Tell whether books and position agree only because somebody else traded as many shares as a split brought."""
        return symbol in self._others and booked + self._theirs(symbol) != there

    def _follow_evidence(self, symbol: str, ours: Sequence[Trade], there: Decimal) -> Sequence[Trade]:
        """Follow executions that closed our shares, as far as the broker's position bears them out.

        On another account they are somebody else's, a position may be missing from a truncated answer only, and one
        that lags may lack shares that have just come.
        """
        longs, shorts = [trade for trade in ours if trade.position > 0], [trade for trade in ours if trade.position < 0]
        booked = sum((trade.position for trade in ours), Decimal(0))
        for trades, missing in ((longs, booked - there), (shorts, there - booked)):
            if missing > 0 and trades:
                came, _ = self._shares_came(trades)
                ordered = min(order["created_at"] for trade in trades for order in trade.entries)
                # What was sold before they came is missing from them only where an exit of ours then sold too many.
                parts = self._parts_of(trades, missing, came) or self._parts_of(trades, missing, ordered)
                if not parts or self._may_lag(ours, parts) or not self._account_is_ours(trades):
                    continue
                if there or not self._broker.position(symbol).qty:
                    self._adjust(trades, parts)
        return [trade for trade in load_trades(self._db, [trade.id for trade in ours]) if trade.held != 0]

    def _parts_of(self, trades: Sequence[Trade], missing: Decimal, since: datetime) -> list[Adjustment]:
        """Share out what other people's executions since this moment took of these trades' shares, all on one side."""
        symbol, sign = trades[0].symbol, -1 if trades[0].position > 0 else 1
        theirs = sign * self._theirs(symbol, since)
        qty = min(missing, theirs, sum((abs(trade.held) for trade in trades), Decimal(0)))
        return share_out(trades, self._closes(trades[0], since, self._clock.now()), qty)

    def _theirs(self, symbol: str, since: datetime = EVER, until: datetime = NEVER) -> Decimal:
        """Return what other people's executions and the splits of their shares add up to, signed.

        What is put down to our trades is left out.
        """
        splits = [split for split in self._recent_splits() if split["symbol"] == symbol]
        given = given_by_splits(self._db, splits)
        pending = {split["id"] for split in self._pending_splits(symbol)}
        moved = [(row["filled_at"], row["qty"] if row["side"] == "buy" else -row["qty"])
                 for row in unattributed(self._db, symbol)]
        moved += [(split["at"], split["qty"] - given.get(split["id"], 0))
                  for split in splits if split["id"] not in pending]
        return sum((qty for at, qty in moved if since <= at < until), Decimal(0))

    def _closes(self, trade: Trade, since: datetime, until: datetime) -> list[Row]:
        """Return other people's executions that can have closed shares of such a trade, newest first."""
        rows = unattributed(self._db, trade.symbol)
        return [row for row in rows if row["side"] == closing_side(trade) and since <= row["filled_at"] <= until]

    def _pending_splits(self, symbol: str) -> list[JsonObject]:
        """Return the splits of a symbol that changed what our trades hold and that the books do not know."""
        found = []
        for split in unfollowed_splits(self._db, self._recent_splits(), symbol):
            held = held_at(self._db, self._trades_alive(split), split["at"])
            if held is None or any(held.values()):
                found.append(split)
        return found

    def _trades_alive(self, split: JsonObject) -> list[Trade]:
        return load_trades(self._db, trades_alive(self._db, split["symbol"], split["at"]))

    def _follow_splits(self, symbol: str, there: Decimal) -> None:
        """Follow the splits of a symbol that the books do not know, if the broker's position bears them out."""
        pending = self._pending_splits(symbol)
        while pending:
            self._follow_split(pending[0], there - sum(split["qty"] for split in pending))
            pending = pending[1:]

    def _follow_split(self, split: JsonObject, there: Decimal) -> None:
        """Follow a split of what was held when it was booked; `there` is today's position without it and later splits.

        What else is on the account must be known, or have rested beside our shares with nothing traded since.
        """
        trades = self._trades_alive(split)
        held = held_at(self._db, trades, split["at"])
        if held is None:
            return
        ours = sum(held.values(), Decimal(0))
        traded = sum((trade.position for trade in trades), -ours) + self._theirs(split["symbol"], since=split["at"])
        before = there - traded
        others = before - ours
        known = others == self._theirs(split["symbol"], until=split["at"])
        if before != 0 and (known or (traded == 0 and others * ours > 0)) and self._account_is_ours(trades):
            self._restate([trade for trade in trades if held[trade.id] != 0], held, 1 + split["qty"] / before, split)

    def _restate(
        self, trades: Sequence[Trade], held: Mapping[int, Decimal], ratio: Decimal, split: JsonObject,
    ) -> None:
        """Multiply the shares that trades held by a split's ratio, and divide their stops and targets by it."""
        if not is_ratio_of_a_split(ratio):
            return
        self._adjust(trades, [_split_of(trade, held[trade.id], ratio, split) for trade in trades], ratio)
        words = f"{split['symbol']} was split, {decimal_text(round(ratio, 6))} shares for each one"
        words = f"{words}; the shares, stops and targets of our trades were restated"
        self._found.alert(AlertLevel.WARNING, AlertKind.SPLIT, split["symbol"], words)

    def _recent_splits(self) -> list[JsonObject]:
        if self._splits is None:
            self._splits = self._broker.list_splits(self._clock.now() - SPLITS_OF_OTHERS_SINCE)
        return self._splits

    def _adjust(
        self, trades: Sequence[Trade], adjustments: Sequence[Adjustment], ratio: Decimal = Decimal(1),
    ) -> None:
        """Write adjustments, and what the trades hold after them; trades without shares left are closed.

        Nothing is done when another process changed one of the trades meanwhile.
        """
        if not adjustments:
            return
        now, ids = self._clock.now(), [trade.id for trade in trades]
        with self._db.transaction():
            lock_trades(self._db, ids)
            present = {trade.id: trade.held for trade in load_trades(self._db, ids)}
            if present != {trade.id: trade.held for trade in trades}:
                return
            add_adjustments(self._db, adjustments, now)
            if ratio != 1:
                for trade in trades:
                    restate_prices(self._db, trade, ratio, now)
            after = load_trades(self._db, ids)
            hold_positions(self._db, [trade for trade in after if trade.held != 0], now)
        self._found.events[Event.ADJUSTED] += len(adjustments)
        for change in adjustments:
            log.warning("a position changed without an order of ours", extra={
                "journal": change.journal_id, "kind": str(change.kind), "side": change.side, "qty": str(change.qty),
                "evidence": change.evidence_id,
            })
        for trade in after:
            if trade.held == 0:
                self._close(trade)

    def _close(self, trade: Trade) -> None:
        """Take away what still works for a trade without shares, then close it; else the order monitor goes on."""
        working = [order for order in (*trade.exits, trade.entry) if order["order_status"] not in ENDED]
        gone = [order["alpaca_order_id"] is not None and self._desk.cancel(order) for order in working]
        (trade,) = load_trades(self._db, [trade.id])
        if all(gone) and trade.held == 0:
            with self._db.transaction():
                conclude(self._db, [trade], self._clock.now())
            self._found.events[Event.CLOSED] += 1
            self._found.resolve(ALERTS_OF_TRADE, (trade.name,))

    def _doubt(
        self, symbol: str, ours: Sequence[Trade], booked: Decimal, there: Decimal, positions: Positions,
        everything: Sequence[Trade],
    ) -> None:
        """Alert about a difference without evidence; a position that is gone for sure is closed as an estimate."""
        words = f"{symbol}: {decimal_text(booked)} shares in the books, {decimal_text(there)} at the broker"
        if there != 0:
            self._mismatch(symbol, f"{words}, and no execution explains it; compare by hand")
            return
        reserved = any(order["order_status"] in AT_BROKER for trade in ours for order in trade.exits)
        if reserved or not self._is_our_account(ours) or self._broker.position(symbol).qty != 0:
            self._mismatch(symbol, f"{words}, but the broker contradicts itself; nothing was concluded")
            return
        everything_gone = not any(positions.get(trade.symbol) for trade in everything)
        for trade in ours:
            if everything_gone and not self._found.is_open(AlertKind.POSITION_VANISHED, trade.name):
                self._found.critical(
                    AlertKind.POSITION_VANISHED, trade.name,
                    f"every position is gone from the broker at once, {trade.name} too, and no execution explains it; "
                    "the next pass looks again",
                )
                continue
            self._close_as_estimate(trade)

    def _mismatch(self, symbol: str, words: str) -> None:
        self._found.critical(AlertKind.POSITION_MISMATCH, symbol, words)

    def _close_as_estimate(self, trade: Trade) -> None:
        now = self._clock.now()
        price = self._broker.latest_prices([trade.symbol]).get(trade.symbol) or trade.entry_price
        self._found.critical(
            AlertKind.POSITION_VANISHED, trade.name,
            f"the shares of {trade.name} are gone from the broker and no execution says how; closed at "
            f"{decimal_text(price)}, an estimate",
        )
        self._adjust([trade], [Adjustment(
            trade.id, AdjustmentKind.MANUAL_EXIT, closing_side(trade), abs(trade.held), round(price, 6), None, now,
        )])

    def _is_our_account(self, ours: Sequence[Trade]) -> bool:
        """Tell whether the broker knows the orders that opened these trades; another account would not."""
        heard = [trade.entries[0]["alpaca_order_id"] for trade in ours]
        return all(order_id is not None and self._broker.get_order(order_id) is not None for order_id in heard)

    def _account_is_ours(self, trades: Sequence[Trade]) -> bool:
        """Tell whether the account that the broker tells of is the one with our orders; asked until one is known."""
        self._is_ours = self._is_ours or self._is_our_account(trades[:1])
        return self._is_ours

    def _shares_came(self, trades: Sequence[Trade]) -> tuple[datetime, datetime]:
        """Return when the first and the last shares of these trades came."""
        fills = fills_by_order(self._db, [trade.id for trade in trades])
        entries = [order for trade in trades for order in trade.entries if order["filled_qty"] > 0]
        spans = [_filled_between(order, fills.get(order["id"], ())) for order in entries]
        return min(first for first, _ in spans), max(last for _, last in spans)

    def _may_lag(self, ours: Sequence[Trade], parts: Sequence[Adjustment]) -> bool:
        """Tell whether the broker's position may still lack shares of ours that came after these executions."""
        _, came = self._shares_came(ours)
        return self._clock.now() - came < SETTLING and max(part.happened_at for part in parts) < came

    def _is_settling(self, ours: Sequence[Trade]) -> bool:
        orders = [order for trade in ours for order in (*trade.entries, *trade.exits)]
        return self._clock.now() - _last_fill(orders) < SETTLING

    def _note_external(self, symbol: str, qty: Decimal) -> None:
        words = f"{decimal_text(qty)} shares of {symbol} on the account were not bought or sold by a trade here"
        if unknown := unknown_entries_in(self._db, symbol):
            words = (
                f"{words}, but may be of {', '.join(unknown)}, whose outcome is unknown; they have no stop until it is "
                "known, so look for the order in the broker's app, and protect or close them there"
            )
            self._found.critical(AlertKind.EXTERNAL_POSITION, symbol, words)
            return
        self._found.alert(AlertLevel.WARNING, AlertKind.EXTERNAL_POSITION, symbol, f"{words}; they are left alone")

    def _settle_guesses(self) -> None:
        """Replace the exits that were estimated where their executions have come to be known."""
        settled = []
        for trade in load_trades(self._db, estimated_trades(self._db)):
            guessed = sum((row["qty"] for row in trade.guesses), Decimal(0))
            if guessed == 0:
                continue
            opened, gone = trade.entries[0]["created_at"], max(row["happened_at"] for row in trade.guesses)
            rows = unattributed(self._db, trade.symbol)
            closes = [row for row in rows if row["side"] == opposite(trade.side) and opened <= row["filled_at"] <= gone]
            if sum((row["qty"] for row in closes), Decimal(0)) < guessed:
                continue
            now = self._clock.now()
            with self._db.transaction():
                forget_guesses(self._db, trade)
                (open_again,) = load_trades(self._db, [trade.id])
                add_adjustments(self._db, share_out([open_again], closes, guessed), now)
            settled.append(trade.name)
        if settled:
            settle_estimates(self._db, self._clock.now())
            self._found.resolve((AlertKind.POSITION_VANISHED,), settled)


def _net(trades: Sequence[Trade]) -> dict[str, Decimal]:
    """Return the shares of these trades by symbol, negative for short ones; symbols without any are left out."""
    net: defaultdict[str, Decimal] = defaultdict(Decimal)
    for trade in trades:
        net[trade.symbol] += trade.position
    return {symbol: qty for symbol, qty in net.items() if qty != 0}


def _filled_between(order: Row, fills: Sequence[Fill]) -> tuple[datetime, datetime]:
    """Return when an order filled first and last; where not every execution is known, between what moments it did."""
    moments = [fill.at for fill in fills if fill.at is not None]
    if len(moments) < len(fills) or total_qty(fills) != order["filled_qty"]:
        return order["created_at"], order["filled_at"] or order["updated_at"]
    return min(moments), max(moments)


def _last_fill(orders: Sequence[Row]) -> datetime:
    last: datetime = max(order["filled_at"] or order["updated_at"] for order in orders if order["filled_qty"] > 0)
    return last


def _split_of(trade: Trade, held: Decimal, ratio: Decimal, split: JsonObject) -> Adjustment:
    """Return what a split gave to a trade, or took from it, at no price."""
    added = round(held * ratio, 9) - held
    side = "buy" if added > 0 else "sell"
    return Adjustment(trade.id, AdjustmentKind.SPLIT, side, abs(added), Decimal(0), split["id"], split["at"])
