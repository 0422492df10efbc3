"""Assets, prices and bars."""

from __future__ import annotations

import uuid
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal

from paper_broker.values import ZERO, eastern_date, tick


@dataclass
class Asset:
    """What may be traded, and how."""

    symbol: str
    name: str = ""
    exchange: str = "NASDAQ"
    status: str = "active"
    tradable: bool = True
    marginable: bool = True
    fractionable: bool = True
    shortable: bool = True
    easy_to_borrow: bool = True
    attributes: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """An id that is the same in every run."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"asset:{self.symbol}"))


@dataclass
class Quote:
    """The present prices of one symbol; a bid or ask of 0 means nobody quotes that side."""

    bid: Decimal
    ask: Decimal
    last: Decimal
    at: datetime


@dataclass
class Day:
    """What one symbol's price did on one day."""

    day: date
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal


@dataclass
class Bar:
    """Open, high, low, close and volume from `start` to `end`."""

    symbol: str
    start: datetime
    end: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    whole_session: bool = False


@dataclass
class Market:
    """All that is known about assets and their prices."""

    assets: dict[str, Asset] = field(default_factory=dict)
    quotes: dict[str, Quote] = field(default_factory=dict)
    days: dict[str, list[Day]] = field(default_factory=dict)
    bars: dict[str, list[Bar]] = field(default_factory=dict)
    caps: dict[str, Decimal] = field(default_factory=dict)
    left: dict[str, Decimal] = field(default_factory=dict)

    def asset(self, symbol: str) -> Asset:
        """The asset of that symbol, made tradable when it is new."""
        return self.assets.setdefault(symbol, Asset(symbol, f"{symbol} Common Stock"))

    def find_asset(self, symbol_or_id: str) -> Asset | None:
        if symbol_or_id in self.assets:
            return self.assets[symbol_or_id]
        return next((asset for asset in self.assets.values() if asset.id == symbol_or_id.lower()), None)

    def last(self, symbol: str) -> Decimal | None:
        quote = self.quotes.get(symbol)
        return None if quote is None else quote.last

    def set_quote(
        self, symbol: str, at: datetime, bid: Decimal, ask: Decimal, last: Decimal | None = None
    ) -> None:
        """Take over new prices; without a last trade the former one is drawn inside the quote."""
        self.asset(symbol)
        if last is None:
            last = self._inside(self.last(symbol), bid, ask)
        self.quotes[symbol] = Quote(bid, ask, last, at)
        self._note_day(symbol, eastern_date(at), last)

    def new_step(self, symbol: str) -> None:
        """Give a symbol its full liquidity again."""
        if symbol in self.caps:
            self.left[symbol] = self.caps[symbol]

    def set_cap(self, symbol: str, shares: Decimal | None) -> None:
        """Limit the shares that can be traded in one price step; None lifts the limit."""
        self.caps.pop(symbol, None)
        self.left.pop(symbol, None)
        if shares is not None:
            self.caps[symbol] = self.left[symbol] = shares

    def available(self, symbol: str) -> Decimal | None:
        """Shares left in this price step, None for any number."""
        return self.left.get(symbol)

    def take(self, symbol: str, shares: Decimal) -> None:
        if symbol in self.left:
            # A trade made elsewhere may be larger than what this step still offers.
            self.left[symbol] = max(self.left[symbol] - shares, ZERO)

    def previous_close(self, symbol: str, today: date) -> Decimal:
        """The last price before today; for a symbol first seen today its first price."""
        days = self.days.get(symbol, [])
        earlier = [day.close for day in days if day.day < today]
        if earlier:
            return earlier[-1]
        return days[0].open if days else ZERO

    def split(self, symbol: str, ratio: Decimal) -> None:
        """Divide the present price and the days before it by `ratio`; bars keep the prices they came with."""
        quote = self.quotes.get(symbol)
        for record in (*self.days.get(symbol, []), *([quote] if quote else [])):
            for name, value in vars(record).items():
                if isinstance(value, Decimal):
                    setattr(record, name, divided(value, ratio))

    def add_bars(self, bars: list[Bar], now: datetime) -> None:
        """Add bars to be replayed; of those already past only the price they left behind is taken over."""
        for bar in bars:
            self.asset(bar.symbol)
            self.bars.setdefault(bar.symbol, []).append(bar)
        for symbol in {bar.symbol for bar in bars}:
            unique = {bar.start: bar for bar in self.bars[symbol]}
            self.bars[symbol] = [unique[start] for start in sorted(unique)]
            self._catch_up(symbol, now)

    def rewind(self, now: datetime) -> None:
        """Forget what prices will have done after `now`: bars say it again, prices set by hand stay."""
        for symbol, quote in list(self.quotes.items()):
            if quote.at <= now:
                continue
            self.days.pop(symbol, None)
            if symbol in self.bars:
                del self.quotes[symbol]
                self._catch_up(symbol, now)
            else:
                self.set_quote(symbol, now, quote.bid, quote.ask, quote.last)

    def points(self, after: datetime, until: datetime) -> Iterator[tuple[datetime, int, Bar]]:
        """The replay points (0 open, 1 and 2 the extremes, 3 close) later than `after`, up to `until`."""
        for bars in self.bars.values():
            for bar in bars[max(bisect_right(bars, after, key=lambda bar: bar.start) - 1, 0) :]:
                if bar.start > until:
                    break
                for number, at in enumerate(point_times(bar)):
                    if after < at <= until:
                        yield at, number, bar

    def _catch_up(self, symbol: str, now: datetime) -> None:
        begun = [bar for bar in self.bars[symbol] if bar.start <= now]
        known = self.quotes.get(symbol)
        for bar in begun[-2:]:
            price, at = (bar.close, bar.end) if bar.end <= now else (bar.open, bar.start)
            if known is None or known.at < at:
                self.set_quote(symbol, at, price, price, price)

    def _note_day(self, symbol: str, today: date, price: Decimal) -> None:
        days = self.days.setdefault(symbol, [])
        if not days or days[-1].day != today:
            days.append(Day(today, price, price, price, price))
            del days[:-2]
        day = days[-1]
        day.high, day.low, day.close = max(day.high, price), min(day.low, price), price

    @staticmethod
    def _inside(former: Decimal | None, bid: Decimal, ask: Decimal) -> Decimal:
        if not bid or not ask:
            return former or bid or ask
        return bid if former is None else min(max(former, bid), ask)


def divided(price: Decimal, ratio: Decimal) -> Decimal:
    """A price after a split into `ratio` shares, in whole ticks."""
    exact = price / ratio
    return exact.quantize(tick(exact))


def point_times(bar: Bar) -> tuple[datetime, datetime, datetime, datetime]:
    """When a bar's open, first extreme, second extreme and close happen."""
    third: timedelta = (bar.end - bar.start) / 3
    return bar.start, bar.start + third, bar.start + 2 * third, bar.end
