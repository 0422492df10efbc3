"""A line between program and PostgreSQL that breaks at a COMMIT of the test's choice."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.db.pooler import PORT, read_exactly, read_message

COMMIT = b"COMMIT\0"


class Line:
    """Passes everything on, until the COMMIT that was chosen comes by; from then on nobody gets through."""

    def __init__(self, database: dict[str, Any], folder: Path, commit: int, arrives: bool) -> None:
        self.keywords = dict(database) | {"host": str(folder), "port": PORT}
        self.broken = False
        self._server = f"{database['host']}/.s.PGSQL.{database['port']}"
        self._left, self._arrives = commit, arrives
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/.s.PGSQL.{PORT}")
        self._listener.listen()
        threading.Thread(target=self._welcome, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _welcome(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError, EOFError):
            if self.broken:
                return
            server.connect(self._server)
            length = read_exactly(client, 4)
            server.sendall(length + read_exactly(client, int.from_bytes(length) - 4))
            self._answer(server, client)
            while True:
                kind, rest = read_message(client)
                if kind == b"Q" and rest.endswith(COMMIT):
                    self._left -= 1
                    self.broken = self._left == 0
                if not self.broken:
                    server.sendall(kind + rest)
                    self._answer(server, client)
                    continue
                if self._arrives:
                    server.sendall(kind + rest)
                    self._answer(server, None)
                return

    def _answer(self, server: socket.socket, client: socket.socket | None) -> None:
        kind = b""
        while kind != b"Z":
            kind, rest = read_message(server)
            if client is not None:
                client.sendall(kind + rest)


@contextmanager
def breaking_line(database: dict[str, Any], folder: Path, commit: int, arrives: bool) -> Iterator[Line]:
    """Lay a line that breaks at the COMMIT of that number, which arrives at the server or does not."""
    line = Line(database, folder, commit, arrives)
    try:
        yield line
    finally:
        line.close()
