"""The checks of the risk gate, one function each: what is held against what, and the words of a refusal.

Nothing is read or asked here: the same facts give the same verdict.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cached_property

from broker_answers import Asset, LastTrade, MarketHours
from config import Limits
from decision import DecisionError, NewTrade, OrderType, Side, TimeInForce
from decision import check_fraction as check_fractional
from exposure import Book, day_start
from order_life import decimal_text, opposite

FRESH = timedelta(minutes=15)  # how old the last trade may be that a market order is held against
MINUTE = timedelta(minutes=1)
POWER_BUFFER = Decimal("1.02")  # prices move between our look at the account and the broker's
DAY_TRADES = 3
DAY_TRADER_EQUITY = Decimal(25_000)  # Source: FINRA's former pattern day trader rule, where the broker still applies it
TRADING_ACTIVE = "ACTIVE"  # our own switch
ACCOUNT_ACTIVE = "ACTIVE"  # the broker's word for an account that may trade
SHARES = "us_equity"  # its word for what we trade
BLOCKS = ("trading_blocked", "account_blocked", "trade_suspended_by_user")


class Hold(StrEnum):
    """Why an order may not be sent yet although nothing is wrong with it."""

    HALTED = "trading is stopped, here or at the broker"
    LATER = "something must settle first"
    UNPRICED = "prices could not be had"
    UNANSWERED = "the broker did not answer"


@dataclass(frozen=True)
class RiskCheck:
    """One check: the limit in force, what was found, and, where it failed, the reason for a person.

    With `hold` the decision waits; without it a failed check refuses.
    """

    name: str
    limit: str
    observed: str
    refusal: str | None = None
    hold: Hold | None = None

    @property
    def passed(self) -> bool:
        return self.refusal is None


@dataclass(frozen=True)
class Account:
    """What of the broker's account answer decides about orders; dollars, None for what it does not say."""

    status: str | None
    blocks: tuple[str, ...]
    buying_power: Decimal | None
    equity: Decimal | None
    day_trades: int


@dataclass(frozen=True)
class Situation:
    """What an order is held against beside the limits.

    `unanswered` says what the broker was asked in vain; `priced` is false when no price that makes sense could be
    had, and `hours` None when nobody asked or answered. An amend's new order replaces the order `replaces`, of which
    `entered` shares have been filled.
    """

    now: datetime
    state: str
    state_reason: str
    account: Account
    asset: Asset | None
    last_trade: LastTrade | None
    book: Book
    day_pnl: Decimal
    priced: bool = True
    hours: MarketHours | None = None
    unanswered: str | None = None
    replaces: int | None = None
    entered: Decimal = Decimal(0)

    def rest_of(self, trade: NewTrade) -> Decimal:
        """Return the shares that are ordered: all but those that the replaced order has filled."""
        return max(trade.qty - self.entered, Decimal(0))

    @property
    def market_open(self) -> bool | None:
        return None if self.hours is None else self.hours.is_open


@dataclass(frozen=True)
class Proposal:
    """An order to be checked, with its price in dollars (price_of)."""

    symbol: str
    trade: NewTrade
    limits: Limits
    facts: Situation
    price: Decimal

    @cached_property
    def dollars(self) -> Decimal:
        """What it would add; shares that a replaced order has filled count already."""
        return self.facts.rest_of(self.trade) * self.price


def price_of(trade: NewTrade, last: LastTrade | None) -> Decimal | None:
    """Return the dollars a share of an order may come to: its limit, the last price for a market order, None without.

    A sell is filled at the market where that is above its limit.
    """
    if last is None:
        return trade.limit_price
    if trade.limit_price is None:
        return last.price
    return max(trade.limit_price, last.price) if trade.side is Side.SELL else trade.limit_price


def loss_words(pnl: Decimal, limits: Limits) -> str:
    """Say what a day has lost and what the limit is."""
    return f"{_money(-pnl)} dollars were lost today, more than MAX_DAILY_LOSS={decimal_text(limits.max_daily_loss)}"


def check_trading_state(facts: Situation) -> RiskCheck:
    """Held back until a person resumes trading."""
    words = None if facts.state == TRADING_ACTIVE else f"trading is {facts.state}: {facts.state_reason}"
    return RiskCheck("trading_state", TRADING_ACTIVE, facts.state, words, Hold.HALTED if words else None)


def check_daily_loss(limits: Limits, facts: Situation) -> RiskCheck:
    """Held back, not refused: the day passes, or a person decides."""
    lost = -facts.day_pnl
    over = lost > limits.max_daily_loss
    return RiskCheck(
        "max_daily_loss", decimal_text(limits.max_daily_loss), _money(lost),
        loss_words(facts.day_pnl, limits) if over else None, Hold.HALTED if over else None,
    )


def check_account(account: Account) -> RiskCheck:
    """The broker refuses every order of an account that is blocked or not active; that says nothing of the decision."""
    needed = f"{ACCOUNT_ACTIVE}, not blocked"
    if account.status is None:
        words = "the broker's answer about the account has no status; the next pass asks again"
        return RiskCheck("account", needed, "no status", words, Hold.UNANSWERED)
    wrong = [*account.blocks, *([] if account.status == ACCOUNT_ACTIVE else [f"status {account.status}"])]
    observed = ", ".join(wrong)
    if not wrong:
        return RiskCheck("account", needed, ACCOUNT_ACTIVE)
    words = f"the account may not trade ({observed}); settle it with the broker"
    return RiskCheck("account", needed, observed, words, Hold.HALTED)


def check_denylist(symbol: str, limits: Limits) -> RiskCheck:
    """A person may forbid symbols."""
    words = f"{symbol} is on SYMBOL_DENYLIST" if symbol in limits.symbol_denylist else None
    return RiskCheck("symbol_denylist", ",".join(sorted(limits.symbol_denylist)), symbol, words)


def check_asset(symbol: str, facts: Situation) -> RiskCheck:
    """The broker knows the symbol and lets it be traded; without its answer the decision waits."""
    if facts.unanswered is not None:
        return RiskCheck("asset", "active, tradable", "no answer", facts.unanswered, Hold.UNANSWERED)
    asset, words = facts.asset, None
    if asset is None:
        unknown = f"the broker does not know {symbol}; correct the symbol"
        return RiskCheck("asset", "active, tradable", "unknown", unknown)
    observed = f"{asset.status}, {'tradable' if asset.tradable else 'not tradable'}"
    if asset.asset_class != SHARES:
        words = f"{symbol} is {asset.asset_class} at the broker, and only shares ({SHARES}) are traded"
    elif asset.status != "active" or not asset.tradable:
        words = f"{symbol} cannot be traded at the broker now ({observed}); it is halted or delisted"
    return RiskCheck("asset", "active, tradable", observed, words)


def check_side(symbol: str, trade: NewTrade, limits: Limits, asset: Asset | None) -> RiskCheck:
    """A sell opens a short position, which needs leave and shares to borrow."""
    short, words = trade.side is Side.SELL, None
    if short and not limits.allow_short:
        words = "a sell would open a short position, and ALLOW_SHORT is false"
    elif short and asset is not None and not asset.shortable:
        words = f"{symbol} cannot be sold short: the broker has no shares to lend easily"
    return RiskCheck("side", f"ALLOW_SHORT={str(limits.allow_short).lower()}", trade.side, words)


def check_fraction(symbol: str, trade: NewTrade, facts: Situation) -> RiskCheck:
    """Fractions of a share only where the broker deals in them, also for what an amended order has not filled."""
    rest, words = facts.rest_of(trade), None
    qty, whole = decimal_text(rest), facts.asset is not None and not facts.asset.fractionable
    if whole and rest != int(rest):
        words = f"{symbol} trades in whole shares only, and qty is {qty}; order whole shares"
    elif facts.entered and rest:
        try:
            check_fractional(replace(trade, qty=Decimal(qty)))
        except DecisionError as error:
            words = f"{decimal_text(facts.entered)} shares are filled, and the rest cannot be ordered: {error}"
    return RiskCheck("fraction", "whole shares" if whole else "fractions", qty, words)


def check_settled(symbol: str, facts: Situation) -> RiskCheck:
    """An order whose outcome is unknown soon has one; until then nothing is added to it."""
    unknown = facts.book.unknown_in(symbol, facts.replaces)
    words = f"nobody knows yet whether the broker has the order of {', '.join(unknown)}; {symbol} waits for that"
    return RiskCheck(
        "unknown_orders", "0", str(len(unknown)), words if unknown else None, Hold.LATER if unknown else None,
    )


def check_reference_price(symbol: str, trade: NewTrade, facts: Situation) -> RiskCheck:
    """A limit order brings its own price; a market order needs one that is fresh, or the auction's."""
    last = facts.last_trade
    if not facts.priced:
        return RiskCheck("reference_price", "", "no answer", f"the broker gave no price for {symbol}", Hold.UNPRICED)
    if last is None:
        return RiskCheck("reference_price", "", "no price")
    observed = f"{decimal_text(last.price)}, {_age(last, facts.now)}"
    if trade.order_type is OrderType.LIMIT:
        return RiskCheck("reference_price", "any age", observed)
    limit = f"{FRESH // MINUTE} minutes"
    if last.at is not None and last.at - facts.now > FRESH:
        words = f"the last trade of {symbol} is dated {last.at:%Y-%m-%d %H:%M} UTC, which is still to come"
        return RiskCheck("reference_price", limit, observed, words, Hold.UNPRICED)
    if is_fresh(last, facts.now) or (trade.time_in_force is TimeInForce.OPG and facts.market_open is False):
        return RiskCheck("reference_price", limit, observed)
    if facts.market_open is None:
        return RiskCheck(
            "reference_price", limit, observed, "the broker did not say whether the market is open", Hold.UNANSWERED,
        )
    if not facts.market_open:
        words = f"the market is closed; a market order for {symbol} waits for a price of the session"
        return RiskCheck("reference_price", limit, observed, words, Hold.LATER)
    words = (
        f"the last trade of {symbol} is {_age(last, facts.now)}, and a market order needs one of the last {limit}; "
        "use a limit order"
    )
    return RiskCheck("reference_price", limit, observed, words)


def is_fresh(trade: LastTrade | None, now: datetime) -> bool:
    """Tell whether a market order can be held against this price."""
    return trade is not None and trade.at is not None and abs(now - trade.at) <= FRESH


def _age(trade: LastTrade, now: datetime) -> str:
    return "of unknown age" if trade.at is None else f"{max(now - trade.at, timedelta(0)) / MINUTE:.0f} minutes old"


def check_unpriced(symbol: str, limits: Limits) -> RiskCheck:
    """A market order for what has never traded cannot be valued."""
    words = f"{symbol} has no price now, so a market order cannot be held against MAX_ORDER_NOTIONAL; use a limit order"
    return RiskCheck("max_order_notional", str(limits.max_order_notional), "no price", words)


def check_price_collar(order: Proposal) -> RiskCheck:
    """Only what would pay too much is refused: a patient limit may be as far away as it likes."""
    limit, last, pct = order.trade.limit_price, order.facts.last_trade, order.limits.price_collar_pct
    name, setting = "price_collar", f"PRICE_COLLAR_PCT={decimal_text(pct)}"
    if limit is None or last is None:
        return RiskCheck(name, setting, "market order" if limit is None else "no price")
    buy = order.trade.side is Side.BUY
    edge = last.price * (1 + (pct if buy else -pct) / 100)
    words = None
    if limit > edge if buy else limit < edge:
        words = (
            f"the limit {decimal_text(limit)} of a {order.trade.side} is more than {decimal_text(pct)} % "
            f"{'above' if buy else 'below'} the last price {decimal_text(last.price)} ({setting}); "
            f"{'lower' if buy else 'raise'} the limit"
        )
    return RiskCheck(name, f"{setting}: {decimal_text(round(edge, 4))}", decimal_text(limit), words)


def check_stop_side(order: Proposal) -> RiskCheck:
    """A stop that the market has crossed would close at once what is opened; a target may wait beyond a limit only."""
    trade, last = order.trade, order.facts.last_trade
    if last is None:
        return RiskCheck("stop_side", f"stop {trade.stop_price}", "no price")
    price, buy, refusal = last.price, trade.side is Side.BUY, None
    words = f"is on the wrong side of the price {decimal_text(price)} for a {trade.side}"
    if (trade.stop_price >= price) if buy else (trade.stop_price <= price):
        refusal = f"the stop {trade.stop_price} {words}"
    elif trade.limit_price is None and trade.target_price is not None and (
        trade.target_price <= price if buy else trade.target_price >= price
    ):
        refusal = f"the target {trade.target_price} {words}"
    return RiskCheck("stop_side", f"stop {trade.stop_price}", f"price {decimal_text(price)}", refusal)


def check_exposure(order: Proposal) -> Iterator[RiskCheck]:
    """Everything held or on its way counts, with this order, as if it were all filled."""
    book, limits, symbol, old = order.facts.book, order.limits, order.symbol, order.facts.replaces
    yield check_at_most(
        "max_symbol_exposure", limits.max_symbol_exposure, book.in_symbol(symbol, old) + order.dollars,
        f"dollars in {symbol}, with {_money(order.dollars)} for this order,",
    )
    yield check_at_most(
        "max_gross_exposure", limits.max_gross_exposure, book.gross(symbol, old) + order.dollars,
        f"dollars in all symbols, with {_money(order.dollars)} for this order,",
    )
    yield check_at_most(
        "max_open_positions", Decimal(limits.max_open_positions), Decimal(book.symbols_with(symbol)),
        "symbols with a position or an order, this one included,", "close or cancel one, or raise the limit",
    )


def check_pace(order: Proposal) -> Iterator[RiskCheck]:
    """Orders of the day, of the symbol and of the last minute; a burst waits, since nothing is wrong with the order."""
    book, limits, now = order.facts.book, order.limits, order.facts.now
    today, limit = day_start(now), Decimal(limits.max_orders_per_day)
    later = "decide again tomorrow, or raise the limit"
    yield check_at_most(
        "max_orders_per_day", limit, Decimal(book.sent_since(today) + 1), "orders today, this one included,", later,
    )
    here = sum(entry.created_at >= today for entry in book.entries_in(order.symbol)) + 1
    yield check_at_most(
        "max_symbol_orders_per_day", Decimal(limits.max_symbol_orders_per_day), Decimal(here),
        f"orders in {order.symbol} today, this one included,", later,
    )
    sent = book.sent_since(now - MINUTE) + 1
    words = f"{sent} orders within a minute are over MAX_ORDERS_PER_MINUTE={limits.max_orders_per_minute}; it waits"
    fast = sent > limits.max_orders_per_minute
    yield RiskCheck(
        "max_orders_per_minute", str(limits.max_orders_per_minute), str(sent), words if fast else None,
        Hold.LATER if fast else None,
    )


def check_duplicate(order: Proposal) -> RiskCheck:
    """The same order by another decision shortly before is more likely a slip than a wish."""
    window, trade, now = order.limits.duplicate_window_minutes, order.trade, order.facts.now
    wanted = (trade.side, trade.qty, trade.limit_price)
    same = [
        entry for entry in order.facts.book.entries_in(order.symbol, order.facts.replaces)
        if (entry.side, entry.qty, entry.limit_price) == wanted and not entry.came_to_nothing
        and now - entry.created_at < timedelta(minutes=window)
    ]
    words = None
    if same:
        words = (
            f"{same[-1].decided_by or 'another decision'} ordered the same at {same[-1].created_at:%H:%M} UTC "
            f"({same[-1].trade_name}); if it is meant twice, decide again after {window} minutes "
            "(DUPLICATE_WINDOW_MINUTES)"
        )
    return RiskCheck("duplicate_order", f"{window} minutes", f"{len(same)} alike", words)


def check_opposite(order: Proposal) -> RiskCheck:
    """The broker calls opposite orders of one account a wash trade, and holds one net position in a symbol."""
    side, symbol, other = str(order.trade.side), order.symbol, opposite(order.trade.side)
    working = [
        entry.trade_name for entry in order.facts.book.entries_in(symbol, order.facts.replaces)
        if entry.works and entry.side == other
    ]
    shares = order.facts.book.shares(symbol) * (1 if other == "buy" else -1)
    words, observed = None, "none"
    if working:
        observed = ", ".join(working)
        words = (
            f"a {other} order in {symbol} is at work ({observed}), and this {side} beside it would be a wash trade; "
            "cancel that one first"
        )
    elif shares > 0:
        observed = f"{decimal_text(shares)} shares"
        kind = "long" if other == "buy" else "short"
        words = f"this {side} would close the {kind} position of {observed} in {symbol}, not open one; close it first"
    return RiskCheck("opposite_order", "none", observed, words)


def check_buying_power(order: Proposal) -> RiskCheck:
    """The broker has the last word; this keeps an order from it that it would refuse."""
    facts = order.facts
    if facts.account.buying_power is None:
        return RiskCheck("buying_power", "not said by the broker", _money(order.dollars))
    freed = sum((
        entry.to_come for entry in facts.book.entries_in(order.symbol)
        if entry.order_id == facts.replaces and entry.at_broker
    ), Decimal(0))
    power = facts.account.buying_power - facts.book.not_at_broker + freed
    needed = order.dollars * POWER_BUFFER
    words = (
        f"{_money(needed)} dollars (2 % above {_money(order.dollars)}) is over the account's buying power of "
        f"{_money(power)}; order less, or free money first"
    )
    return RiskCheck("buying_power", _money(power), _money(needed), words if needed > power else None)


def check_day_trades(account: Account) -> RiskCheck:
    """Only where the broker still counts day trades; it need not."""
    poor = account.equity is not None and account.equity < DAY_TRADER_EQUITY
    words = (
        f"the account has made {account.day_trades} day trades and is worth less than {DAY_TRADER_EQUITY} dollars, so "
        "the broker takes no further one; wait, or decide a SWING or TREND"
    )
    restricted = poor and account.day_trades >= DAY_TRADES
    return RiskCheck("day_trades", f"under {DAY_TRADES}", str(account.day_trades), words if restricted else None)


def check_flatten_window(limits: Limits, facts: Situation) -> RiskCheck:
    """A day trade opened shortly before the close would be closed again by the next pass."""
    name, minutes = "flatten_window", limits.daytrade_flatten_minutes
    setting = f"DAYTRADE_FLATTEN_MINUTES_BEFORE_CLOSE={minutes}"
    if not minutes:
        return RiskCheck(name, setting, "off")
    if facts.hours is None:
        words = "the broker did not say when the market closes; the next pass asks again"
        return RiskCheck(name, setting, "no answer", words, Hold.UNANSWERED)
    left = facts.hours.next_close - facts.hours.now
    observed = f"{left / MINUTE:.0f} minutes to the close"
    if not facts.hours.is_open or left > timedelta(minutes=minutes):
        return RiskCheck(name, setting, observed)
    words = f"a DAYTRADE would be closed at once, {observed} ({setting}); it waits for the next session"
    return RiskCheck(name, setting, observed, words, Hold.LATER)


def check_at_most(
    name: str, limit: Decimal, observed: Decimal, unit: str,
    advice: str = "order less, or raise the limit",
) -> RiskCheck:
    """Check a number against the limit whose variable is the check's name in capitals."""
    is_are = "are" if unit.endswith(",") else "is"
    words = f"{decimal_text(observed)} {unit} {is_are} over {name.upper()}={decimal_text(limit)}; {advice}"
    return RiskCheck(name, decimal_text(limit), decimal_text(observed), words if observed > limit else None)


def _money(dollars: Decimal) -> str:
    return decimal_text(round(dollars, 2))
