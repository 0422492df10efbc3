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

from broker_answers import BrokerError, JsonObject, checked_order, id_of_json, read_json, readable
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
    """A row of the listing: its JSON text, its id if it has one, and its order if that is of the usual shape."""

    text: msgspec.Raw
    id: str | None
    order: ListedOrder | None

    def whole(self) -> JsonObject:
        """Return all that the broker says of the order."""
        order: JsonObject = read_json(bytes(self.text).decode())
        return order


IsNews = Callable[[ListedOrder], bool]
# A page as it came, and those of its rows that were on none before, all with an id.
ListedPage = tuple[list[ListedRow], list[ListedRow]]

_PAGE = msgspec.json.Decoder(list[msgspec.Raw])
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
        for place, (page, fresh) in iter(self._pages.get, None):
            if is_news is not None:
                fresh = [row for row in fresh if row.order is None or is_news(row.order)]
                news.update(row.id for row in fresh)
                request, reply = self._heard[place]
                self._heard[place] = request, replace(reply, extract=_extract(page, news))
            orders += readable(checked_order, (row.whole() for row in fresh))
        try:
            self._end.result()
        except BrokerError:
            self._record([(request, replace(reply, extract=None)) for request, reply in self._heard])
            raise
        self._record(self._heard)
        return orders


def listed_rows(text: str) -> list[ListedRow] | None:
    """Return the rows of a page, or None where the text is no JSON list."""
    try:
        return [_listed_row(row) for row in _PAGE.decode(text)]
    except (ValueError, RecursionError):
        page = read_json(text)  # it takes half a surrogate pair, which must not spoil the rows beside it
    rows = page if isinstance(page, list) else None
    return rows and [_listed_row(msgspec.Raw(json.dumps(row, default=str).encode())) for row in rows]


def _listed_row(text: msgspec.Raw) -> ListedRow:
    try:
        order = _ORDER.decode(text)
    except (ValueError, RecursionError):
        return ListedRow(text, id_of_json(read_json(bytes(text).decode())), None)
    return ListedRow(text, id_of_json({"id": order.id}), order)


def _extract(page: Sequence[ListedRow], news: Container[str | None]) -> Extract:
    """Let go of a page's rows but for the orders whose ids are `news`."""
    kept = b",".join(bytes(row.text) for row in page if row.id in news)
    return Extract(len(page), f"[{kept.decode()}]")
