"""A web server on loopback that serves a folder by ranges of bytes, and can fail."""

import contextlib
import http.server
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class FolderServer(http.server.ThreadingHTTPServer):
    """Serves a folder; ``asked`` has what it was asked for, ``beside`` how many requests waited at the time."""

    daemon_threads = True

    def __init__(self, folder: Path, *, fail_every: int = 0, latency: float = 0, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.fail_every = fail_every
        self.latency = latency
        self.ranges = ranges
        self.status = 503
        self.asked: list[str] = []
        self.beside: list[int] = []
        self.waiting = 0
        self.n_bytes = 0
        self.gone = False
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no fault."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FolderServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        with self.server.lock:
            self.server.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".rstrip())
            n_asked = len(self.server.asked)
            self.server.waiting += 1
            self.server.beside.append(self.server.waiting)
        time.sleep(self.server.latency)
        with self.server.lock:
            self.server.waiting -= 1
        if self.server.gone:
            # Connections that are kept alive outlive the server.
            self.close_connection = True
            return
        if self.server.fail_every and n_asked % self.server.fail_every == 0:
            self._send(self.server.status, b"", {}, with_body=with_body)
            return
        file = self.server.folder / self.path.lstrip("/")
        if not file.is_file():
            self._send(404, b"", {}, with_body=with_body)
            return
        content = file.read_bytes()
        given = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if given is None or not self.server.ranges:
            self._send(200, content, {"Accept-Ranges": "bytes"}, with_body=with_body)
            return
        start, stop = int(given[1]), min(int(given[2] or len(content)) + 1, len(content))
        about = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        if start >= len(content):
            self._send(416, b"", {}, with_body=with_body)
        else:
            self._send(206, content[start:stop], about, with_body=with_body)

    def _send(self, status: int, content: bytes, about: dict[str, str], *, with_body: bool) -> None:
        self.server.n_bytes += len(content)
        self.send_response(status)
        for name, value in {**about, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)


@contextlib.contextmanager
def serving(folder: Path, **options: Any) -> Iterator[FolderServer]:
    server = FolderServer(folder, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.gone = True
        server.shutdown()
        server.server_close()
        thread.join()
