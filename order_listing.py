"""The broker's listing of orders, of which only the news is read whole.

Of the others, thousands in a pass, no more is looked at than what can change under an order.
"""

import json
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Protocol

import msgspec

from broker_answers import JsonObject, checked_order, id_of_json, read_json, readable
from broker_line import Extract, Reply, Request

Exchange = tuple[Request, Reply]


class Recorder(Protocol):
    """Is told reads with their answers before these are used."""

    def __call__(self, exchanges: Sequence[Exchange]) -> None: ...


class ListedOrder(msgspec.Struct):
    """What can change under an order, in the broker's words."""

    id: str
    status: str
    filled_qty: str | None = None
    qty: str | None = None
    limit_price: str | None = None
    stop_price: str | None = None
    replaced_by: str | None = None
    legs: "list[ListedOrder] | None" = None


@dataclass(slots=True)
class ListedRow:
    """A row of the listing: its JSON text, and its id if it has one."""

    text: msgspec.Raw
    id: str | None

    def order(self) -> ListedOrder | None:
        """Return the row's order if it is of the usual shape."""
        try:
            return _ORDER.decode(self.text)
        except (ValueError, RecursionError):
            return None

    def whole(self) -> JsonObject:
        """Return all that the broker says of the order."""
        order: JsonObject = read_json(bytes(self.text).decode())
        return order


class _Named(msgspec.Struct):
    id: str | None = None


IsNews = Callable[[ListedOrder], bool]
# A page as it came, and those of its rows that were on none before, all with an id.
ListedPage = tuple[list[ListedRow], list[ListedRow]]

RECORDED_AT_ONCE = 8  # pages; the caller has time for it while others are on their way

_PAGE = msgspec.json.Decoder(list[msgspec.Raw])
_IDS = msgspec.json.Decoder(list[_Named])
_ORDER = msgspec.json.Decoder(ListedOrder)


class Listing:
    """Orders that are being read: legs under their parents, oldest first."""

    def __init__(
        self, pages: Iterator[ListedPage], heard: list[Exchange], reader: ThreadPoolExecutor, record: Recorder,
    ) -> None:
        self._pages: SimpleQueue[tuple[int, ListedPage] | None] = SimpleQueue()
        self._heard = heard
        self._record = record
        self._end = reader.submit(self._read, pages)

    def _read(self, pages: Iterator[ListedPage]) -> None:
        try:
            for page in pages:
                self._pages.put((len(self._heard) - 1, page))
        finally:
            self._pages.put(None)

    def orders(self, is_news: IsNews | None = None) -> list[JsonObject]:
        """Return the orders, when the last page has come.

        `is_news` is shown each order; what it turns down is neither returned nor recorded. A row that makes no sense is
        left out, as if it had not been listed. Raises BrokerError.
        """
        news: set[str | None] = {None}
        orders: list[JsonObject] = []
        recorded = 0
        for place, (page, fresh) in iter(self._pages.get, None):
            if is_news is not None:
                fresh = [row for row in fresh if (order := row.order()) is None or is_news(order)]
                news.update(row.id for row in fresh)
                request, reply = self._heard[place]
                self._heard[place] = request, replace(reply, extract=_extract(page, news))
            orders += readable(checked_order, (row.whole() for row in fresh))
            if place + 1 - recorded >= RECORDED_AT_ONCE:
                self._record(self._heard[recorded:place + 1])
                recorded = place + 1
        try:
            self._end.result()
        finally:
            self._record(self._heard[recorded:])
        return orders


def listed_rows(text: str) -> list[ListedRow] | None:
    """Return the rows of a page, or None where the text is no JSON list."""
    try:
        texts = _PAGE.decode(text)
    except (ValueError, RecursionError):
        page = read_json(text)  # it takes half a surrogate pair, which must not spoil the rows beside it
        if not isinstance(page, list):
            return None
        texts = [msgspec.Raw(json.dumps(row, default=str).encode()) for row in page]
        return [ListedRow(row, _id_of(row)) for row in texts]
    try:
        ids = [id_of_json({"id": row.id}) for row in _IDS.decode(text)]
    except (ValueError, RecursionError):
        ids = list(map(_id_of, texts))
    return list(map(ListedRow, texts, ids))


def _id_of(row: msgspec.Raw) -> str | None:
    return id_of_json(read_json(bytes(row).decode()))


def _extract(page: Sequence[ListedRow], news: Container[str | None]) -> Extract:
    """Let go of a page's rows but for the orders whose ids are `news`."""
    kept = b",".join(bytes(row.text) for row in page if row.id in news)
    return Extract(len(page), f"[{kept.decode()}]")
