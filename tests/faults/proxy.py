"""A proxy on the loopback interface between a lake and its object store, which refuses, errs, waits or hangs up.

It is a process of its own: delta-rs waits for answers without letting other threads of Python run.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

from tests.conftest import REPOSITORY


@dataclass
class Trouble:
    """What happens to requests.

    Attributes:
        down_after: Requests that pass before the store is gone; None: it never goes.
        errors: Share of requests that are answered with `status`.
        status: HTTP status of those.
        delay_s: Longest time that a request waits before it is passed on.
        lost: Share of requests that are done but whose answer is not given: the connection is cut.
        seed: Of the shares.
    """

    down_after: int | None = None
    errors: float = 0.0
    status: int = 503
    delay_s: float = 0.0
    lost: float = 0.0
    seed: int = 0


class Dice:
    """Draws what happens to each request."""

    def __init__(self, trouble: Trouble):
        self.trouble, self.requests, self.injected = trouble, 0, 0
        self._random, self._lock = random.Random(trouble.seed), threading.Lock()

    def draw(self) -> str:
        """What happens to the next request: `pass`, `down`, `error` or `lost`; and waits if it has to."""
        trouble = self.trouble
        with self._lock:
            self.requests += 1
            chance, wait = self._random.random(), self._random.random() * trouble.delay_s
            kind = "pass"
            if trouble.down_after is not None and self.requests > trouble.down_after:
                kind = "down"
            elif chance < trouble.errors:
                kind = "error"
            elif chance < trouble.errors + trouble.lost:
                kind = "lost"
            self.injected += kind != "pass" or wait > 0
        time.sleep(wait)
        return kind


_CONTROL = "/trouble-of-the-proxy"


class Proxy:
    """The proxy, from the side of who uses it."""

    def __init__(self, target: str):
        self._target = target

    def trouble(self, trouble: Trouble) -> dict[str, int]:
        """Set what happens to requests from now on; returns numbers of requests and of faults since the last time."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", _CONTROL, json.dumps(asdict(trouble)))
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    @property
    def url(self) -> str:
        """Endpoint of the store behind the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.proxy", self._target],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    server: _Server

    def _exchange(self, body: bytes) -> None:
        """Set the trouble; answer with what the one before did."""
        before, self.server.dice = self.server.dice, Dice(Trouble(**json.loads(body)))
        text = json.dumps({"requests": before.requests, "injected": before.injected}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _pass_on(self) -> None:
        if self.path == _CONTROL:
            self._exchange(self._body())
            return
        body, kind = self._body(), self.server.dice.draw()
        if kind == "down":
            self._hang_up()
            return
        if kind == "error":
            text = b"<Error><Code>ServiceUnavailable</Code><Message>come back later</Message></Error>"
            self.send_response(self.server.dice.trouble.status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else text)
            return
        upstream = http.client.HTTPConnection(*self.server.target, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("transfer-encoding", "connection")}
        headers["Content-Length"] = str(len(body))
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        if kind == "lost":
            self._hang_up()
            return
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "connection", "date", "server", "content-length"):
                self.send_header(key, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(data)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, target: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = (urlsplit(target).hostname or "", urlsplit(target).port)
        self.dice = Dice(Trouble())

    def handle_error(self, *_: object) -> None:
        pass  # A client that was hung up on hangs up too.


if __name__ == "__main__":
    server = _Server(sys.argv[1])
    print(server.server_port, flush=True)
    server.serve_forever()
