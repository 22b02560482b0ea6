"""GET /progress over TLS. The certificate is made at each start and signed by nobody: the client does not look at it.

A connection is served by a thread of its own, handshake included, so that a slow one holds up nobody. The port is open
to everybody: there are only so many connections, of which the oldest goes, and of a request only its beginning is read.
"""

import contextlib
import socket
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from verification.progress import Progress

WAIT_S = 10.0
"""For a client that says nothing; the public one gives up after as long."""
MOST_CONNECTIONS = 64
"""The client has one at a time, for less than a second: it comes through where others hold theirs."""
REQUEST_BYTES = 16 << 10
"""The client's is 200 bytes."""
VALID_DAYS = 30
_REQUEST = "[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=self-test\n"


def open_door(progress: Progress, port: int, folder: Path) -> ThreadingHTTPServer:
    """A server on all addresses, still to be run. Key and certificate are made in `folder`, and not needed later."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*_make_certificate(folder))
    return _Server(port, context, progress)


def _make_certificate(folder: Path) -> tuple[Path, Path]:
    wanted, certificate, key = folder / "request.cnf", folder / "certificate.pem", folder / "key.pem"
    wanted.write_text(_REQUEST, encoding="ascii")
    making = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    making += ["-days", str(VALID_DAYS), "-config", str(wanted), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(making, check=True, capture_output=True)
    return certificate, key


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, port: int, context: ssl.SSLContext, progress: Progress) -> None:
        super().__init__(("0.0.0.0", port), _Answer)
        self._context = context
        self._lock = threading.Lock()
        self._open: dict[Any, socket.socket] = {}
        self.progress = progress

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            # Another handle on the same connection, by which its own thread can be woken.
            self._open[client_address] = request.dup()
            if len(self._open) > MOST_CONNECTIONS:
                _end(self._open.pop(next(iter(self._open))))
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads
            self._forget(client_address)
            raise

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            request.settimeout(WAIT_S)
            with self._context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        finally:
            self._forget(client_address)

    def _forget(self, client_address: Any) -> None:
        with self._lock:
            handle = self._open.pop(client_address, None)
        if handle is not None:
            handle.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever speaks no TLS, or goes away, is no news."""

    def shutdown_request(self, request: Any) -> None:
        if isinstance(request, socket.socket) and request.fileno() >= 0:
            super().shutdown_request(request)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError), connection:
        connection.shutdown(socket.SHUT_RDWR)


class _Beginning:
    """Of a request: what comes after so many bytes is as if it were not there."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._left = REQUEST_BYTES

    def readline(self, size: int) -> bytes:
        line = bytes(self._stream.readline(min(size, self._left)))
        self._left -= len(line)
        return line

    def close(self) -> None:
        self._stream.close()


class _Answer(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "self-test", ""

    def setup(self) -> None:
        super().setup()
        self.rfile: Any = _Beginning(self.rfile)

    def do_GET(self) -> None:
        is_known = self.path.split("?")[0] == "/progress"
        body = self.server.progress.body().encode() if is_known else b"not found\n"
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The instance's log is the test's."""
