"""The wire under every call to another system: a request goes out once, and its answer is whole within one time."""

import io
import socket
import time
from http.client import HTTPResponse
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

READ_CHUNK = 1_000_000  # most pages at one go: after each chunk the reading thread waits for its turn again


class _Arriving(io.RawIOBase):
    """Reads from a socket for as long as its timeout says, all reads together: by itself that bounds each read."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = time.monotonic() + (sock.gettimeout() or 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer was not complete in time")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Arriving(sock))


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class Wire(HTTPAdapter):
    """Keeps the raw answer, and bounds each call as a whole: connecting, waiting and reading."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout = timeout_seconds
        self.hides_bodies = False
        self.response: requests.Response | None = None
        self.body = b""
        super().__init__(max_retries=0)
        self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}

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
