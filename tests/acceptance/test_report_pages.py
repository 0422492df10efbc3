"""A report's page in a real browser, where one is installed."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from audit_trail.reports import as_page
from tests.unit.test_report_formats import report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
BAR = bytes((0xB0, 0x41, 0x3E))  # of a negative value
WIDTH, HEIGHT = 600, 480


def screenshot(page: str, folder: Path) -> list[bytes]:
    """The page as the browser shows it: rows of pixels, three or four bytes each."""
    file, picture = folder / "page.html", folder / "page.png"
    file.write_text(page, encoding="utf-8")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}",
        f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture}", file.as_uri(),
    ]
    subprocess.run(command, capture_output=True, check=True, timeout=50)
    return unfiltered(picture.read_bytes())


def unfiltered(png: bytes) -> list[bytes]:
    """Undo what PNG does to rows (filters 0 to 4 of its specification, section 9)."""
    at, data, header = 8, b"", b""
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at:at + 8])
        body = png[at + 8:at + 8 + length]
        header, data = (body if kind == b"IHDR" else header), data + (body if kind == b"IDAT" else b"")
        at += length + 12
    width, _, _, colours = struct.unpack(">IIBB", header[:10])
    step = {2: 3, 6: 4}[colours]
    raw, rows, above = zlib.decompress(data), [], bytes(width * step)
    for start in range(0, len(raw), width * step + 1):
        row = bytearray(raw[start + 1:start + 1 + width * step])
        for place in range(len(row)):
            left = row[place - step] if place >= step else 0
            corner = above[place - step] if place >= step else 0
            guesses = (0, left, above[place], (left + above[place]) // 2, nearest(left, above[place], corner))
            row[place] = (row[place] + guesses[raw[start]]) % 256
        above = bytes(row)
        rows.append(bytes(pixel for place in range(0, len(row), step) for pixel in row[place:place + 3]))
    return rows


def nearest(left: int, above: int, corner: int) -> int:
    """The neighbour nearest to left + above - corner (the Paeth predictor)."""
    guess = left + above - corner
    return min((left, above, corner), key=lambda value: abs(guess - value))


@pytest.mark.no_cover
@pytest.mark.skipif(BROWSER is None, reason="no headless Chromium is installed: apt-get install chromium")
def test_a_browser_shows_the_page_light_with_its_words_and_charts(tmp_path: Path) -> None:
    rows = screenshot(as_page(report("<b>words</b>", 3)), tmp_path)
    pixels = b"".join(rows)
    assert (len(rows), len(rows[0])) == (HEIGHT, WIDTH * 3)
    assert pixels.count(b"\xff\xff\xff") > 0.8 * WIDTH * HEIGHT
    assert sum(BAR * 100 in row for row in rows) > 3 * 5, "the three bars"
    assert all(row[-30:] == b"\xff" * 30 for row in rows), "nothing sticks out at the right"
