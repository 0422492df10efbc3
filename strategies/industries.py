"""Which committees are about which companies: words of jurisdictions, and symbols, by industry (industries.csv).

No source of ours says what a company does, so the table names the larger ones; a symbol it lacks fits no committee.
"""

import csv
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("industries.csv")


def oversees(committees: Iterable[str], symbol: str) -> bool:
    """Tell whether one of these committees, in the words that say what it is about, is about a company's industry."""
    words = words_by_symbol().get(symbol)
    return words is not None and any(words.search(about) for about in committees)


@cache
def words_by_symbol() -> dict[str, re.Pattern[str]]:
    """Return, by symbol, what finds a word of its industry at the beginning of a word, in any case."""
    with TABLE.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    found: dict[str, list[str]] = {}
    for row in rows:
        for symbol in row["symbols"].split():
            found.setdefault(symbol, []).extend(row["words"].split("|"))
    return {symbol: re.compile(rf"\b({'|'.join(map(re.escape, words))})", re.I) for symbol, words in found.items()}
