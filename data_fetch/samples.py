"""The bundled samples of test mode: invented people and trades, served like the sources they stand for, never old."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, BinaryIO

from config import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "demo" / "sources"
NEWEST = date(2025, 6, 2)  # the last day that the files tell of
DAY = re.compile(rb"\b[0-9]{4}-[0-9]{2}-[0-9]{2}\b")


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *request: Any, shift: timedelta) -> None:
        self._shift = shift
        super().__init__(*request, directory=str(FOLDER))

    def copyfile(self, source: Any, outputfile: BinaryIO) -> None:  # type: ignore[override]
        """Send a file with its days moved, which leaves its length as it is."""
        outputfile.write(DAY.sub(self._moved, source.read()))

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _moved(self, found: re.Match[bytes]) -> bytes:
        return (date.fromisoformat(found[0].decode()) + self._shift).isoformat().encode()


@contextmanager
def serve_samples(today: date) -> Iterator[str]:
    """Serve the files of `demo/sources` during the block as if their last day were today, and give their address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, shift=today - NEWEST)) as server:
        thread = Thread(target=lambda: server.serve_forever(poll_interval=0.05), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
