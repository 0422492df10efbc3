"""A small connection pooler: hands PostgreSQL's sessions to clients for a transaction, or for as long as they stay."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PORT = 6543  # names the socket
OK = b"R" + struct.pack("!ii", 8, 0)
TOLD = {
    "server_version": "16.0", "client_encoding": "UTF8", "server_encoding": "UTF8", "DateStyle": "ISO, MDY",
    "standard_conforming_strings": "on", "integer_datetimes": "on", "TimeZone": "UTC",
}


class Session:
    """One connection to PostgreSQL."""

    def __init__(self, database: dict[str, Any]) -> None:
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(f"{database['host']}/.s.PGSQL.{database['port']}")
        words = f"user\0{database['user']}\0database\0{database['dbname']}\0\0".encode()
        self._line.sendall(struct.pack("!ii", len(words) + 8, 196608) + words)
        self._until_ready()

    def ask(self, message: bytes) -> bytes:
        """Pass a message on and return everything up to the server's ReadyForQuery."""
        self._line.sendall(message)
        return self._until_ready()

    def close(self) -> None:
        self._line.close()

    def _until_ready(self) -> bytes:
        said = b""
        while True:
            kind, rest = read_message(self._line)
            said += kind + rest
            if kind == b"Z":
                return said


class Pooler:
    """Listens in a directory of its own; `shared` is transaction mode, `turns` gives out the longest unused first."""

    def __init__(self, database: dict[str, Any], folder: Path, sessions: int, shared: bool, turns: bool) -> None:
        self.keywords = dict(database) | {"host": str(folder), "port": PORT}
        self._shared, self._turns = shared, turns
        self._free = [Session(database) for _ in range(sessions)]
        self._all = list(self._free)
        self._changed = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/.s.PGSQL.{PORT}")
        self._listener.listen()
        threading.Thread(target=self._welcome, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        for session in self._all:
            session.close()

    def _welcome(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        session = None
        with client, suppress(OSError, EOFError):
            read_exactly(client, struct.unpack("!i", read_exactly(client, 4))[0] - 4)
            told = b"".join(message(b"S", f"{name}\0{value}\0".encode()) for name, value in TOLD.items())
            client.sendall(OK + told + message(b"K", struct.pack("!ii", 2_000_000_000, 1)) + message(b"Z", b"I"))
            try:
                while True:
                    kind, rest = read_message(client)
                    if kind == b"X":
                        return
                    session = session or self._take()
                    answer = session.ask(kind + rest)
                    if self._shared and answer.endswith(b"I"):  # no transaction is open
                        self._give(session)
                        session = None
                    client.sendall(answer)
            finally:
                if session is not None:
                    self._give(session)

    def _take(self) -> Session:
        with self._changed:
            self._changed.wait_for(lambda: self._free, 20)
            return self._free.pop(0 if self._turns else -1)

    def _give(self, session: Session) -> None:
        with self._changed:
            self._free.append(session)
            self._changed.notify()


@contextmanager
def pooler(
    database: dict[str, Any], folder: Path, sessions: int = 2, shared: bool = True, turns: bool = False,
) -> Iterator[dict[str, Any]]:
    """Run a pooler and give the keywords that lead through it."""
    running = Pooler(database, folder, sessions, shared, turns)
    try:
        yield running.keywords
    finally:
        running.close()


def message(kind: bytes, body: bytes) -> bytes:
    """Put a message together as PostgreSQL's protocol has it."""
    return kind + struct.pack("!i", len(body) + 4) + body


def read_message(line: socket.socket) -> tuple[bytes, bytes]:
    """Read one message: its kind, and the rest of it."""
    kind, length = read_exactly(line, 1), read_exactly(line, 4)
    return kind, length + read_exactly(line, struct.unpack("!i", length)[0] - 4)


def read_exactly(line: socket.socket, size: int) -> bytes:
    """Read that many bytes; EOFError when the line ends before."""
    data = b""
    while len(data) < size:
        part = line.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
