"""The day's end of a replay: our books held against the broker's, by plain sums and with nothing of the workers.

Each check is a sentence that can turn out wrong; what it finds are breaches, in words.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from decimal import Decimal

from alpaca_client import Broker, JsonObject
from db_layer import Row, TradingDB

EVER = datetime(2000, 1, 1, tzinfo=UTC)
AT_WORK = ("new", "held", "accepted", "pending_new", "partially_filled", "accepted_for_bidding")
NOTHING, MILLIONTH = Decimal(0), Decimal("0.000001")

ORDERS = """
SELECT orders.*, journal.symbol FROM order_execution orders
JOIN trade_journal journal ON journal.id = orders.trade_journal_id
"""
FILLS = """
SELECT fill.*, orders.trade_journal_id, journal.symbol
FROM order_fill fill
JOIN order_execution orders ON orders.id = fill.order_execution_id
JOIN trade_journal journal ON journal.id = orders.trade_journal_id
"""
TRADES = """
SELECT journal.*, position.qty AS tracked_qty FROM trade_journal journal
LEFT JOIN position_tracking position ON position.trade_journal_id = journal.id
"""
LEFT_OPEN = """
SELECT 'order ' || client_order_id || ' is of unknown outcome' AS words
FROM order_execution WHERE order_status = 'unknown'
UNION ALL
SELECT 'decision ' || analysis_decision_id || ' is pending, and no order of it works'
FROM audit.trade_decisions decision
WHERE status = 'pending' AND target_order_id IS NULL AND NOT EXISTS (
    SELECT FROM order_execution orders
    WHERE orders.trade_decision_id = decision.id AND order_status IN ('intended', 'pending', 'partially_filled'))
UNION ALL
SELECT 'request ' || request.id || ' has no answer' FROM audit.api_payloads request
WHERE request.type = 'ApiRequest'
  AND NOT EXISTS (SELECT FROM audit.api_call_logs call WHERE call.api_request_payload_id = request.id)
  AND NOT EXISTS (SELECT FROM audit.trade_executions execution
                  WHERE execution.api_request_payload_id = request.id AND execution.status <> 'submitted')
"""
RUNS = "SELECT job_name, due_at, status FROM audit.job_runs WHERE due_at BETWEEN %(first)s AND %(last)s"


def breaches(db: TradingDB, broker: Broker, due: Collection[tuple[str, datetime]]) -> list[str]:
    """Return what is wrong at the end of a day on which these jobs were due; nothing is written.

    Raises DatabaseError and BrokerError.
    """
    orders = {order["id"]: order for order in _with_legs(broker.list_orders(EVER))}
    rows = db.execute_query(ORDERS)
    fills = db.execute_query(FILLS)
    trades = db.execute_query(TRADES)
    executions = [fill for page in broker.fill_pages(EVER) for fill in page]
    return [
        *_orders_agree(rows, orders),
        *_executions_agree(fills, executions),
        *_shares_agree(trades, fills, broker.list_positions()),
        *_positions_have_stops(trades, rows, orders),
        *_profits_are_sums(trades, fills),
        *(row["words"] for row in db.execute_query(LEFT_OPEN)),
        *_runs_are_written(db, due),
    ]


def _with_legs(orders: list[JsonObject]) -> Iterator[JsonObject]:
    for order in orders:
        yield order
        yield from order["legs"]


def _orders_agree(rows: list[Row], orders: dict[str, JsonObject]) -> Iterator[str]:
    written = Counter(row["alpaca_order_id"] for row in rows if row["alpaca_order_id"])
    for order_id in orders.keys() | written.keys():
        if written[order_id] != 1 or order_id not in orders:
            yield f"order {order_id}: {written[order_id]} rows, {'' if order_id in orders else 'not '}at the broker"
    for row in rows:
        order = orders.get(row["alpaca_order_id"])
        said = row["broker_status"], row["filled_qty"]
        if order is not None and said != (real := (order["status"], order["filled_qty"])):
            yield f"order {row['client_order_id']}: {said} in the books, {real} at the broker"


def _executions_agree(fills: list[Row], executions: list[JsonObject]) -> Iterator[str]:
    ours = {(row["execution_id"], row["qty"], row["price"]) for row in fills}
    theirs = {(fill["id"], fill["qty"], fill["price"]) for fill in executions}
    for name, qty, price in sorted(ours ^ theirs):
        where = "only in the books" if (name, qty, price) in ours else "not in the books"
        yield f"execution {name}: {qty} at {price} {where}"


def _shares_agree(trades: list[Row], fills: list[Row], at_broker: dict[str, Decimal]) -> Iterator[str]:
    by_fills: defaultdict[str, Decimal] = defaultdict(Decimal)
    tracked: defaultdict[str, Decimal] = defaultdict(Decimal)
    for fill in fills:
        by_fills[fill["symbol"]] += _signed(fill["side"], fill["qty"])
    for trade in trades:
        tracked[trade["symbol"]] += _signed(trade["side"], trade["tracked_qty"] or NOTHING)
        if (trade["tracked_qty"] is not None) is not (trade["status"] == "POSITION"):
            yield f"trade {trade['trade_id']} is {trade['status']} with {trade['tracked_qty']} shares tracked"
    for symbol in sorted(by_fills.keys() | at_broker.keys()):
        numbers = by_fills[symbol], tracked[symbol], at_broker.get(symbol, NOTHING)
        if len(set(numbers)) > 1:
            yield f"{symbol}: {numbers[0]} shares by executions, {numbers[1]} tracked, {numbers[2]} at the broker"


def _positions_have_stops(trades: list[Row], rows: list[Row], orders: dict[str, JsonObject]) -> Iterator[str]:
    covered: defaultdict[int, Decimal] = defaultdict(Decimal)
    for row in rows:
        order = orders.get(row["alpaca_order_id"])
        if order is not None and row["order_type"] == "STOP_LOSS" and order["status"] in AT_WORK:
            covered[row["trade_journal_id"]] += order["qty"] - order["filled_qty"]
    for trade in trades:
        held = trade["tracked_qty"] or NOTHING
        # A stop over a fraction lives for one session only.
        if covered[trade["id"]] != held and held == int(held):
            yield f"trade {trade['trade_id']} holds {held} and has stops over {covered[trade['id']]}"


def _profits_are_sums(trades: list[Row], fills: list[Row]) -> Iterator[str]:
    money: defaultdict[int, Decimal] = defaultdict(Decimal)
    for fill in fills:
        money[fill["trade_journal_id"]] -= _signed(fill["side"], fill["qty"]) * fill["price"]
    for trade in trades:
        said = trade["actual_pnl"]
        if trade["status"] == "CLOSED" and (said is None or abs(said - money[trade["id"]]) > MILLIONTH):
            yield f"trade {trade['trade_id']} made {money[trade['id']]} by its executions, {said} in the books"


def _runs_are_written(db: TradingDB, due: Collection[tuple[str, datetime]]) -> Iterator[str]:
    if not due:
        return
    times = [moment for _, moment in due]
    rows = db.execute_query(RUNS, {"first": min(times), "last": max(times)})
    written = {(row["job_name"], row["due_at"]): row["status"] for row in rows}
    for job, moment in due:
        if written.get((job, moment), "running") == "running":
            yield f"the run of {job} due at {moment:%H:%M} UTC has {'no end' if (job, moment) in written else 'no row'}"


def _signed(side: str, qty: Decimal) -> Decimal:
    return qty if side in ("buy", "long") else -qty
