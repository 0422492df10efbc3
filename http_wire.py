"""The wire under every call to another system: a request goes out once, and its answer is whole within one time."""

import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter

READ_CHUNK = 1_000_000  # most pages at one go: after each chunk the reading thread waits for its turn again


class Wire(HTTPAdapter):
    """Keeps the raw answer, and bounds each call as a whole: connecting, waiting and reading."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout = timeout_seconds
        self.hides_bodies = False
        self.response: requests.Response | None = None
        self.body = b""
        super().__init__(max_retries=0)

    def close(self) -> None:
        self.response = None  # as long as it is there, its connection is not closed
        super().close()

    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:
        deadline = time.monotonic() + self._timeout
        options |= {"stream": True, "timeout": (self._timeout, self._timeout)}
        response = super().send(request, **options)
        chunks: list[bytes] = []
        # read1 gives what has arrived; a plain read would wait for a full chunk however slowly it drips in.
        while chunk := response.raw.read1(READ_CHUNK, decode_content=True):
            chunks.append(chunk)
            if time.monotonic() > deadline:
                response.close()
                raise requests.ReadTimeout(f"the answer was not complete after {self._timeout:g} seconds")
        self.body = b"".join(chunks)
        # alpaca-py parses whatever it is handed, and a page of orders is half a megabyte.
        response._content = b"" if self.hides_bodies else self.body
        self.response = response
        return response
