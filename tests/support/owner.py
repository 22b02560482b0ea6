"""Where an owner is told: a receiver of webhooks and a mail server, each on a thread, each able to misbehave."""

import base64
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import cast


@dataclass
class Got:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """`answers`: what becomes of the next requests: a status, `hang`, `drip` or `flood`; then 204."""

    url: str = ""
    got: list[Got] = field(default_factory=list)
    answers: list[int | str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver = cast(Receiver, self.server.receiver)  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        receiver.got.append(Got(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        answer = receiver.answers.pop(0) if receiver.answers else 204
        with suppress(OSError):
            self._answer(receiver, answer)

    def _answer(self, receiver: Receiver, answer: int | str) -> None:
        if answer == "hang":
            receiver.over.wait(60)
        elif answer == "drip":
            for char in "HTTP/1.1 200 OK\r\nX: " + "x" * 10_000:
                if receiver.over.wait(0.05):
                    return
                self.wfile.write(char.encode())
                self.wfile.flush()
        elif answer == "flood":
            while not receiver.over.is_set():
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
        else:
            self.send_response(int(answer))
            if 300 <= int(answer) < 400:
                self.send_header("Location", f"{receiver.url}/elsewhere")
            self.end_headers()
            self.wfile.write(b"<script>not to be trusted</script>" * 100)

    def log_message(self, *_: object) -> None:
        """A test's output is not for this."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    receiver: Receiver

    def handle_error(self, *_: object) -> None:
        """Who goes away in the middle is what some tests are about."""


@contextmanager
def receiver(tls: Path | None = None) -> Iterator[Receiver]:
    """`tls`: a folder with cert.pem and key.pem, see `certificate`."""
    server = _Server(("127.0.0.1", 0), _Hook)
    if tls is not None:
        server.socket = _context(tls).wrap_socket(server.socket, server_side=True)
    server.receiver = Receiver(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}/hook?token=hush-path")
    with _on_a_thread(server):
        yield server.receiver
        server.receiver.over.set()


@dataclass
class Mail:
    login: str
    sender: str
    to: list[str]
    text: str
    is_encrypted: bool


@dataclass
class Mailbox:
    """`answers`: by SMTP's verb, what is said instead of what is due: a line, or `endless`."""

    port: int = 0
    mails: list[Mail] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    logins: dict[str, str] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)


class _Smtp(StreamRequestHandler):
    """As much of RFC 5321, 3207 and 4954 as a client needs to hand a mail in."""

    def handle(self) -> None:
        server = cast("_MailServer", self.server)
        self._box, self._tls = server.box, server.tls
        self._login, self._is_encrypted = "", server.is_implicit
        with suppress(OSError):
            self._talk()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
        self.connection.close()  # with STARTTLS another one than the server knows

    def _talk(self) -> None:
        self._begin()
        self._say("GREETING", "220 mail.test ESMTP")
        while line := self._line():
            verb, _, rest = line.partition(" ")
            getattr(self, f"_on_{verb.lower()}", self._on_unknown)(rest)
            if verb.upper() == "QUIT":
                return

    def _begin(self) -> None:
        self._sender, self._to = "", list[str]()

    def _on_ehlo(self, _: str) -> None:
        can = [*([] if self._tls is None or self._is_encrypted else ["STARTTLS"])]
        can += ["AUTH PLAIN"] if self._is_encrypted else []
        self._say("EHLO", "\r\n".join(["250-mail.test", *(f"250-{one}" for one in can), "250 8BITMIME"]))

    def _on_starttls(self, _: str) -> None:
        self._say("STARTTLS", "220 go on")
        assert self._tls is not None
        self.connection = self._tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
        self._is_encrypted = True

    def _on_auth(self, rest: str) -> None:
        _, user, password = base64.b64decode(rest.removeprefix("PLAIN ")).decode().split("\0")
        is_known = self._box.logins.get(user) == password
        self._login = user if is_known else ""
        self._say("AUTH", "235 welcome" if is_known else "535 no such login hush-told")

    def _on_mail(self, rest: str) -> None:
        self._sender = rest.partition("<")[2].partition(">")[0]
        self._say("MAIL", "250 fine" if self._login or not self._box.logins else "530 log in first")

    def _on_rcpt(self, rest: str) -> None:
        self._to.append(rest.partition("<")[2].partition(">")[0])
        self._say("RCPT", "250 fine")

    def _on_data(self, _: str) -> None:
        self._say("DATA", "354 go on")
        lines = []
        while (line := self._line()) is not None and line != ".":
            lines.append(line.removeprefix("."))
        if self._say("TAKEN", "250 taken") == "250 taken":
            self._box.mails.append(Mail(self._login, self._sender, self._to, "\n".join(lines), self._is_encrypted))
        self._begin()

    def _on_quit(self, _: str) -> None:
        self._say("QUIT", "221 bye")

    def _on_unknown(self, _: str) -> None:
        self._say("UNKNOWN", "502 what?")

    def _line(self) -> str | None:
        raw = self.rfile.readline(65536)
        return raw.decode().rstrip("\r\n") if raw else None

    def _say(self, verb: str, text: str) -> str:
        said = self._box.answers.get(verb, text)
        while said == "endless":
            self.wfile.write(b"250-more\r\n" * 1000)
        self.wfile.write(said.encode() + b"\r\n")
        return said


class _MailServer(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    box: Mailbox
    tls: ssl.SSLContext | None
    is_implicit: bool

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        if self.is_implicit and self.tls is not None:
            connection = self.tls.wrap_socket(connection, server_side=True)
        return connection, address

    def handle_error(self, *_: object) -> None:
        """Who goes away in the middle is what some tests are about."""


@contextmanager
def mailbox(tls: Path | None = None, *, is_implicit: bool = False) -> Iterator[Mailbox]:
    server = _MailServer(("127.0.0.1", 0), _Smtp)
    server.tls = None if tls is None else _context(tls)
    server.is_implicit = is_implicit
    server.box = Mailbox(server.server_address[1])
    with _on_a_thread(server):
        yield server.box
        server.box.over.set()


def certificate(folder: Path) -> Path:
    """cert.pem and key.pem for localhost, its own authority: the certificate's path."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True, timeout=60)
    return folder / "cert.pem"


def secret_file(path: Path, *lines: str) -> Path:
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")
    return path


def _context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


@contextmanager
def _on_a_thread(server: ThreadingTCPServer | ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def silent_port() -> tuple[socket.socket, int]:
    """A listener that accepts nothing and answers nobody."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1)
    return listener, listener.getsockname()[1]
