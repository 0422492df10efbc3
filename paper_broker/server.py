"""The HTTP server: keys, rate limit, request log, faults, and the routes behind them."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import sys
import threading
import uuid
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from paper_broker import control, data_api, http_api
from paper_broker.drafts import RefusalError
from paper_broker.engine import PaperBroker
from paper_broker.faults import Fault
from paper_broker.store import Store
from paper_broker.values import stamp
from paper_broker.wire import Reply, Request, ok, parse_target, refuse

logger = logging.getLogger(__name__)
_USUAL_LIMIT = 200
_WINDOW = 60
_LONGEST_LOG = 100_000
_LARGEST_BODY = 64 * 1024 * 1024


class Server:
    """A PaperBroker behind a port of the loopback interface; use it as a context manager.

    `url` has scheme, host and port, `broker` is the engine, `requests` the log of API requests so far. Raises
    OSError when the port cannot be had.
    """

    def __init__(self, broker: PaperBroker, port: int = 0, store: Store | None = None) -> None:
        self.broker = broker
        self._store = store
        self._windows: dict[str, tuple[int, int]] = {}
        self._stopping = threading.Event()
        self._http = _HttpServer(("127.0.0.1", port), self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def requests(self) -> list[dict[str, object]]:
        return self.broker.requests

    def start(self) -> Server:
        """Begin to answer in a thread of its own."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End all connections and give the port back."""
        self._stopping.set()
        self._http.wake()
        self._http.shutdown()
        self._http.close_connections()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def answer(self, request: Request) -> tuple[Reply | None, dict[str, str]]:
        """The reply to a request with its extra headers; None instead of a reply drops the line."""
        if request.path.startswith("/control/"):
            return self._run(request), {}
        self._let_late_ones_arrive()
        with self.broker.lock:
            entry = self._log(request)
            headers, over = self._meter(request)
            fault = None if over else self._fault_for(request)
            entry["executed"] = not over and (fault is None or fault.executed)
        if over:
            reply: Reply | None = refuse(over)
        elif not _keys(request):
            reply = ok({"message": "unauthorized."}, 401)
        else:
            reply = self._run(request) if fault is None else self._suffer(fault, request)
        entry["status"] = None if reply is None else reply.status
        return reply, headers if fault is None else headers | (fault.headers or {})

    def _let_late_ones_arrive(self) -> None:
        """Carry out what was on its way for as long as a fault said."""
        broker = self.broker
        with broker.lock:
            arrived = [late for late in broker.late_requests if late[0] <= broker.clock.now()]
            broker.late_requests = [late for late in broker.late_requests if late not in arrived]
        for _, request in arrived:
            self._run(request)

    def _run(self, request: Request) -> Reply:
        with self.broker.lock:
            try:
                self.broker.step()
                if request.path.startswith("/control/"):
                    reply = control.call(self.broker, request)
                elif request.path.startswith("/v2/stocks"):
                    reply = data_api.ROUTES.call(self.broker, request)
                else:
                    reply = http_api.ROUTES.call(self.broker, request)
            except RefusalError as refusal:
                reply = refuse(refusal)
            if self._store is not None:
                self._store.save(self.broker.state)
            return reply

    def _suffer(self, fault: Fault, request: Request) -> Reply | None:
        """Do what a fault says, the real thing first where it says so."""
        reply = self._run(request) if fault.executed else None
        if fault.kind == "late":
            due = self.broker.clock.now() + timedelta(seconds=fault.seconds)
            self.broker.late_requests.append((due, request))
            return None
        if fault.kind == "hang":
            self._stopping.wait(fault.seconds)
        if fault.kind in ("hang", "drop"):
            return reply if fault.kind == "hang" else None
        body = fault.body if isinstance(fault.body, str) else json.dumps(fault.body)
        if fault.kind == "status":
            return Reply(fault.code, b"" if fault.body is None else body.encode(), fault.content_type)
        if fault.kind == "empty" or reply is None:
            return Reply(200)
        if fault.kind == "garbled":
            broken = reply.body[: len(reply.body) // 2] if fault.body is None else body.encode()
            return Reply(reply.status, broken, fault.content_type)
        return Reply(reply.status, _edited(reply.body, fault.set or {}), reply.content_type)

    def _fault_for(self, request: Request) -> Fault | None:
        faults = self.broker.faults
        body = request.text
        return next(
            (f for f in faults if _keys(request) and f.strikes(request.method, request.path, body)), None
        )

    def _log(self, request: Request) -> dict[str, object]:
        entry: dict[str, object] = {
            "method": request.method,
            "path": request.path,
            "query": request.raw_query,
            "body": request.text,
            "status": None,
            "executed": False,
            "at": stamp(self.broker.clock.now()),
        }
        self.broker.requests.append(entry)
        del self.broker.requests[:-_LONGEST_LOG]
        return entry

    def _meter(self, request: Request) -> tuple[dict[str, str], RefusalError | None]:
        """Count a request against its key's minute; keys are remembered only as digests."""
        now = int(self.broker.clock.now().timestamp())
        key = hashlib.sha256(request.headers.get("APCA-API-KEY-ID", "").encode()).hexdigest()
        ends, used = self._windows.get(key, (0, 0))
        if now >= ends or ends > now + _WINDOW:
            ends, used = now + _WINDOW, 0
        enforced = self.broker.state.behaviour.rate_limit
        limit = enforced or _USUAL_LIMIT
        over = bool(enforced) and used >= limit
        self._windows[key] = (ends, used if over else used + 1)
        headers = {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(limit - self._windows[key][1], 0)),
            "X-RateLimit-Reset": str(ends),
        }
        if not over:
            return headers, None
        code = None if request.path.startswith("/v2/stocks") else 42910000
        return headers, RefusalError(429, code, "rate limit exceeded")


class _HttpServer(ThreadingHTTPServer):
    """The listening socket; it knows its connections, so that a stop ends them too."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    # A second broker on the same port must fail, but a port just given back may be taken again.
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], server: Server) -> None:
        self.owner = server
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def wake(self) -> None:
        """End the wait for the next connection, where the system can; elsewhere it ends by itself."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close_connections(self) -> None:
        for connection in list(self._connections):
            self.shutdown_request(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            logger.error("A connection failed.", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536
    server: _HttpServer

    def _serve(self) -> None:
        path, query = parse_target(self.path)
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > _LARGEST_BODY:
            self.close_connection = True
            self._send(ok({"message": "request body too large"}, 413), {})
            return
        request = Request(self.command, path, query, self.rfile.read(int(length)), dict(self.headers))
        try:
            reply, headers = self.server.owner.answer(request)
        except Exception:
            logger.exception("The request %s %s failed.", request.method, request.path)
            reply, headers = ok({"code": 50010000, "message": "internal server error occurred"}, 500), {}
        if reply is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(reply, headers)

    def _send(self, reply: Reply, headers: dict[str, str]) -> None:
        self.send_response(reply.status)
        self.send_header("X-Request-ID", uuid.uuid4().hex)
        for name, value in headers.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if reply.status != 204:
            self.wfile.write(reply.body)

    def version_string(self) -> str:
        return "paper-broker"

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: the request log is read through the control routes."""


for _method in ("GET", "POST", "PATCH", "DELETE", "PUT"):
    setattr(_Handler, f"do_{_method}", _Handler._serve)


def _keys(request: Request) -> bool:
    return bool(request.headers.get("APCA-API-KEY-ID") and request.headers.get("APCA-API-SECRET-KEY"))


def _edited(body: bytes, changes: dict[str, object]) -> bytes:
    """A JSON answer with some keys overwritten in the object, or in each object of the list."""
    content = json.loads(body)
    for row in content if isinstance(content, list) else [content]:
        row.update(changes)
    return json.dumps(content).encode()
