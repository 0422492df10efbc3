"""The market data API for stocks: JSON numbers, short keys, errors without codes."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TypeVar

from paper_broker.bars import day_start, market_day
from paper_broker.drafts import RefusalError
from paper_broker.engine import PaperBroker
from paper_broker.market import Bar, Day, Market, Quote
from paper_broker.values import eastern_date, stamp
from paper_broker.wire import Reply, Request, Routes, choice, instant, integer, names, ok

ROUTES = Routes()

_LATEST_FEEDS = ("iex", "sip", "delayed_sip", "otc", "boats", "overnight")
_HISTORICAL_FEEDS = ("sip", "iex", "otc", "boats")
_RECENT = timedelta(minutes=15)
_MOST_BARS = 10_000
_TIMEFRAME = re.compile(r"([1-9]\d?)(Min|T|Hour|H|Day|D|Week|W|Month|M)", re.ASCII)
_UNITS = {"T": "Min", "H": "Hour", "D": "Day", "W": "Week", "M": "Month"}
_LARGEST = {"Min": 59, "Hour": 23, "Day": 1, "Week": 1, "Month": 12}

Json = dict[str, object]
T = TypeVar("T")


@ROUTES.add("GET", "/v2/stocks/quotes/latest")
def latest_quotes(broker: PaperBroker, request: Request) -> Reply:
    return _latest(broker, request, "quotes", lambda symbol: _quote(broker.state.market.quotes[symbol]))


@ROUTES.add("GET", "/v2/stocks/trades/latest")
def latest_trades(broker: PaperBroker, request: Request) -> Reply:
    now = broker.state.time if broker.calendar.at(broker.state.time) else None
    return _latest(broker, request, "trades", lambda symbol: _trade(broker.state.market.quotes[symbol], now))


@ROUTES.add("GET", "/v2/stocks/bars/latest")
def latest_bars(broker: PaperBroker, request: Request) -> Reply:
    return _latest(broker, request, "bars", lambda symbol: _minute_bar(broker.state.market.quotes[symbol]))


@ROUTES.add("GET", "/v2/stocks/snapshots")
def snapshots(broker: PaperBroker, request: Request) -> Reply:
    market, today = broker.state.market, eastern_date(broker.state.time)
    return ok({symbol: _snapshot(market, symbol, today) for symbol in _known(broker, request)})


@ROUTES.add("GET", "/v2/stocks/bars")
def bars(broker: PaperBroker, request: Request) -> Reply:
    query, now = request.query, broker.state.time
    symbols = sorted(_symbols(request))
    feed = _checked(lambda: choice(query, "feed", _HISTORICAL_FEEDS, "sip"))
    limit = _checked(lambda: integer(query, "limit", 1000, _MOST_BARS))
    newest_first = _checked(lambda: choice(query, "sort", ("asc", "desc"), "asc")) == "desc"
    start = _checked(lambda: instant(query, "start")) or day_start(eastern_date(now))
    end = _checked(lambda: instant(query, "end"))
    if feed == "sip" and not broker.state.behaviour.sip_subscription:
        if end is not None and end > now - _RECENT:
            raise RefusalError(403, None, "subscription does not permit querying recent SIP data")
        end = end or now - _RECENT
    count, unit = _timeframe(query)
    found: list[tuple[str, Json]] = []
    for symbol in symbols:
        past = [bar for bar in broker.state.market.bars.get(symbol, []) if bar.end <= now]
        rows = [bar for bar in _grouped(past, count, unit) if start <= bar.start <= (end or now)]
        found += [(symbol, _bar(bar)) for bar in (reversed(rows) if newest_first else rows)]
    return ok(_page(found, query.get("page_token", ""), limit))


def _latest(broker: PaperBroker, request: Request, name: str, form: Callable[[str], Json]) -> Reply:
    return ok({name: {symbol: form(symbol) for symbol in _known(broker, request)}})


def _known(broker: PaperBroker, request: Request) -> list[str]:
    feed = _checked(lambda: choice(request.query, "feed", _LATEST_FEEDS, "iex"))
    if feed == "sip" and not broker.state.behaviour.sip_subscription:
        raise RefusalError(403, None, "subscription does not permit querying recent SIP data")
    return [symbol for symbol in _symbols(request) if symbol in broker.state.market.quotes]


def _symbols(request: Request) -> list[str]:
    symbols = names(request.query, "symbols")
    if not symbols:
        raise RefusalError(400, None, "symbols is required")
    return list(dict.fromkeys(symbols))


def _checked(read: Callable[[], T]) -> T:
    try:
        return read()
    except RefusalError as refusal:
        raise RefusalError(400, None, str(refusal)) from refusal


def _timeframe(query: Mapping[str, str]) -> tuple[int, str]:
    found = _TIMEFRAME.fullmatch(query.get("timeframe", ""))
    if found:
        count, unit = int(found[1]), _UNITS.get(found[2], found[2])
        if count <= _LARGEST[unit]:
            return count, unit
    raise RefusalError(400, None, f"invalid timeframe: {query.get('timeframe', '')}")


def _grouped(bars: list[Bar], count: int, unit: str) -> list[Bar]:
    """Bars put together to a longer timeframe; whole sessions cannot be taken apart into hours or minutes."""
    merged: dict[datetime, Bar] = {}
    for bar in bars:
        if bar.whole_session and unit in ("Min", "Hour"):
            continue
        start = _period_start(bar, count, unit)
        former = merged.get(start)
        merged[start] = replace(bar, start=start) if former is None else _merge(former, bar)
    return list(merged.values())


def _period_start(bar: Bar, count: int, unit: str) -> datetime:
    if unit in ("Min", "Hour"):
        seconds = count * (60 if unit == "Min" else 3600)
        return datetime.fromtimestamp(bar.start.timestamp() // seconds * seconds, UTC)
    day = market_day(bar)
    if unit == "Week":
        day -= timedelta(days=day.weekday())
    elif unit == "Month":
        day = date(day.year, (day.month - 1) // count * count + 1, 1)
    return day_start(day)


def _merge(first: Bar, second: Bar) -> Bar:
    return replace(
        first,
        end=second.end,
        high=max(first.high, second.high),
        low=min(first.low, second.low),
        close=second.close,
        volume=first.volume + second.volume,
    )


def _page(found: list[tuple[str, Json]], token: str, limit: int) -> Json:
    try:
        start = int(base64.b64decode(token, validate=True).decode()) if token else 0
    except (binascii.Error, ValueError) as error:
        raise RefusalError(400, None, "invalid page_token") from error
    rows: dict[str, list[Json]] = {}
    for symbol, row in found[start : start + limit]:
        rows.setdefault(symbol, []).append(row)
    more = len(found) > start + limit
    following = base64.b64encode(str(start + limit).encode()).decode() if more else None
    return {"bars": rows, "next_page_token": following}


def _quote(quote: Quote) -> Json:
    return {
        "t": stamp(quote.at),
        "ap": float(quote.ask),
        "as": 100 if quote.ask else 0,
        "ax": "V",
        "bp": float(quote.bid),
        "bs": 100 if quote.bid else 0,
        "bx": "V",
        "c": ["R"],
        "z": "C",
    }


def _trade(quote: Quote, now: datetime | None = None) -> Json:
    # The paper market has no exchange that numbers its trades; their time tells them apart.
    number = int(quote.at.timestamp() * 1_000_000)
    return {
        "t": stamp(now or quote.at),
        "p": float(quote.last),
        "s": 100,
        "x": "V",
        "c": ["@"],
        "i": number,
        "z": "C",
    }


def _bar(bar: Bar) -> Json:
    mean = (bar.high + bar.low + bar.close) / 3
    return _bar_form(bar.start, (bar.open, bar.high, bar.low, bar.close), bar.volume, mean)


def _minute_bar(quote: Quote) -> Json:
    return _bar_form(quote.at.replace(second=0, microsecond=0), (quote.last,) * 4, 100, quote.last)


def _day_bar(day: Day) -> Json:
    return _bar_form(day_start(day.day), (day.open, day.high, day.low, day.close), 100, day.close)


def _bar_form(at: datetime, prices: tuple[Decimal, ...], volume: int, mean: Decimal) -> Json:
    opens, high, low, close = (float(price) for price in prices)
    return {
        "t": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "o": opens,
        "h": high,
        "l": low,
        "c": close,
        "v": volume,
        "n": 1 if volume else 0,
        "vw": float(round(mean, 6)),
    }


def _snapshot(market: Market, symbol: str, today: date) -> Json:
    quote, days = market.quotes[symbol], market.days[symbol]
    form: Json = {
        "latestTrade": _trade(quote),
        "latestQuote": _quote(quote),
        "minuteBar": _minute_bar(quote),
        "dailyBar": _day_bar(days[-1]),
    }
    if len(days) > 1:
        form["prevDailyBar"] = _day_bar(days[-2])
    return form
