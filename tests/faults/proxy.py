"""A reverse proxy before an S3 store that breaks calls on request.

It stands between a client and a real store, passes the client's Host header on (signatures cover it), and asks
its plan before each call: the plan is given the kind of the call and its number among that kind, and names one
of ``FAULTS`` or none.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

CALLS = ("LIST", "HEAD", "GET", "PUT", "CREATE", "INITIATE", "PART", "COMPLETE", "ABORT", "DELETE")
FAULTS = {
    "reset": "connection reset; the store never saw the call",
    "reset within": "connection reset in the middle of the answer",
    "lost answer": "the store did as told, and the connection was reset in place of its answer",
    "hang up": "connection closed without a byte",
    "stall": "no byte for longer than any timeout",
    "stall within": "the answer stops in the middle",
    "drip": "an answer of a few bytes a second",
    "429": "too many requests",
    "500": "an internal error, as S3's XML",
    "503": "a page that says to come back, with Retry-After",
    "cut": "a body shorter than announced",
    "damaged": "a body of the right length with other bytes",
    "damaged request": "the store gets other bytes than were sent",
    "page": "a web page with status 200",
    "blank": "status 200 and nothing else",
    "200 error": "S3's XML of an error, with status 200",
}
WITH_A_BODY = ("PUT", "CREATE", "PART", "COMPLETE")  # of the request
ANSWERED_WITH_A_BODY = ("LIST", "GET", "INITIATE", "COMPLETE")
PAGE = b"<html><br>Sign in to use the network</html>"
ERROR = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>Try again.</Message></Error>"
RETRY_AFTER = 0  # seconds
Plan = Callable[[str, int], str | None]


def calm(call: str, number: int) -> None:
    """The plan without faults."""


def on(call: str, fault: str, numbers: Iterable[int] | None = None) -> Plan:
    """Breaks calls of one kind: those of the given numbers (from 1), or all."""
    chosen = None if numbers is None else frozenset(numbers)
    return lambda kind, number: fault if kind == call and (chosen is None or number in chosen) else None


def storm(seed: int, share: float, faults: Iterable[str] = FAULTS) -> Plan:
    """Breaks a share of all calls. A call's number decides its fate, whatever order threads come in."""
    choices = list(faults)

    def plan(call: str, number: int) -> str | None:
        generator = random.Random(f"{seed} {call} {number}")
        return generator.choice(choices) if generator.random() < share else None

    return plan


def kind_of(method: str, target: str, conditional: bool) -> str:
    """Which of ``CALLS`` a request is; a PUT on the condition that there is no such object is a CREATE."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    if method == "GET" and "/" not in parts.path.strip("/"):
        return "LIST"
    if "uploads" in query:
        return "INITIATE"
    if "uploadId" in query:
        return {"PUT": "PART", "POST": "COMPLETE", "DELETE": "ABORT"}[method]
    return "CREATE" if conditional and method == "PUT" else method


class FaultProxy(ThreadingHTTPServer):
    """The proxy; ``plan`` may be changed while it runs.

    Attributes:
        seen: number of calls of each kind.
        broken: number of faults of each (kind, fault).
    """

    daemon_threads = True
    block_on_close = False  # stalled calls end by themselves

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = endpoint.removeprefix("http://")
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.reading_delay = 0.0  # seconds before a request's body is read: a line of little bandwidth
        self.reset(calm)

    def reset(self, plan: Plan) -> None:
        """Starts a new plan, and counts from zero."""
        with self.lock:
            self.plan = plan
            self.seen: Counter[str] = Counter()
            self.broken: Counter[tuple[str, str]] = Counter()

    def fault_for(self, call: str) -> str | None:
        with self.lock:
            self.seen[call] += 1
            fault = self.plan(call, self.seen[call])
            if fault:
                self.broken[call, fault] += 1
            return fault

    def handle_error(self, *_: object) -> None:
        """Clients hang up on faults; that is what they are for."""


@contextlib.contextmanager
def running(endpoint: str) -> Iterator[FaultProxy]:
    """Runs a proxy before a store."""
    with FaultProxy(endpoint) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.ended.set()
            proxy.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # status, headers and body in one segment

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def _serve(self) -> None:
        if self.server.reading_delay and "Content-Length" in self.headers:
            time.sleep(self.server.reading_delay)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault_for(kind_of(self.command, self.path, "If-None-Match" in self.headers))
        before = {
            "reset": self._reset,
            "hang up": self._hang_up,
            "stall": self._stall,
            "429": lambda: self._answer(429, {"Content-Type": "text/html"}, PAGE),
            "500": lambda: self._answer(500, {"Content-Type": "application/xml"}, ERROR),
            "503": lambda: self._answer(
                503, {"Content-Type": "text/html", "Retry-After": str(RETRY_AFTER)}, PAGE
            ),
            "page": lambda: self._answer(200, {"Content-Type": "text/html"}, PAGE),
            "blank": lambda: self._answer(200, {}, b""),
            "200 error": lambda: self._answer(200, {"Content-Type": "application/xml"}, ERROR),
        }
        if fault in before:
            before[fault]()
            return
        if fault == "damaged request":
            body = _damaged(body)
        status, headers, content = self._ask_store(body)
        if fault is None:
            self._answer(status, headers, content)
        elif fault == "lost answer":
            self._reset()
        elif fault == "damaged":
            self._answer(status, headers, _damaged(content))
        elif fault == "drip":
            self._answer(status, headers, content, pause=0.05)
        elif fault == "damaged request":
            self._answer(status, headers, content)
        else:
            self._answer(status, headers, content, until=0.5)
            {"reset within": self._reset, "cut": self._hang_up, "stall within": self._stall}[fault]()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _ask_store(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.store, timeout=30)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            headers = {name: value for name, value in response.getheaders() if name != "Transfer-Encoding"}
            return response.status, headers, response.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes, until: float = 1.0, pause: float = 0.0
    ) -> None:
        """Sends an answer, or its beginning: half of the body, or of the headers where there is none."""
        if self.command == "HEAD":
            content = b""
        elif status != 204:
            headers = {**headers, "Content-Length": str(len(content))}
        lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, '')}"]
        lines += [f"{name}: {value}" for name, value in headers.items() if name != "Connection"]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        whole = head + content
        if until < 1:
            whole = whole[: len(head) + len(content) // 2] if content else whole[: len(head) // 2]
        if not pause:
            self.wfile.write(whole)
            self.wfile.flush()
            return
        for byte in whole:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if self.server.ended.wait(pause):
                return

    def _reset(self) -> None:
        self.wfile.flush()
        time.sleep(0.01)  # so that the client sees what was sent before: a reset may overtake it
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())  # the server's own way of closing would send a FIN first
        self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True

    def _stall(self) -> None:
        """Holds the connection open until the client closes it."""
        self.wfile.flush()
        for _ in itertools.count():
            if self.server.ended.wait(0.02) or self._client_is_gone():
                break
        self.close_connection = True

    def _client_is_gone(self) -> bool:
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    def log_message(self, *_: Any) -> None:
        pass


def _damaged(content: bytes) -> bytes:
    """The same length with another byte at a place that differs from call to call.

    In XML a bracket is hit, for nothing guards what stands between them (but TLS).
    """
    if not content:
        return content
    places: Sequence[int] = range(len(content))
    if content.startswith((b"<?xml", b"<CompleteMultipartUpload")):
        places = [i for i in places if content[i : i + 1] == b"<"]
    place = random.choice(places)
    return content[:place] + bytes([content[place] ^ random.randrange(1, 128)]) + content[place + 1 :]
