"""Raw calls of the Docker Engine API, for set-up and for looking behind kaalia's back."""

import http.client
import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class EngineApi:
    """An engine that answers on a unix socket."""

    def __init__(self, socket_path: Path) -> None:
        self.socket = socket_path

    @property
    def docker_host(self) -> str:
        """For DOCKER_HOST and kaalia's `docker.host`."""
        return f"unix://{self.socket}"

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        timeout_s: float = 120,
    ) -> Any:
        """A raw call of the Engine API: the decoded answer, None when empty. Raises RuntimeError on a refusal."""
        connection = _UnixConnection(self.socket, timeout_s)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": content_type} if data is not None else {})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {text.decode(errors='replace')}")
        if not text:
            return None
        return json.loads(text)

    def inspect(self, container: str) -> dict[str, Any]:
        """What `docker inspect` tells. Raises RuntimeError where there is no such container."""
        document: dict[str, Any] = self.request("GET", f"/containers/{container}/json")
        return document

    def find(self, container: str) -> dict[str, Any] | None:
        """The same, and None where there is none: in one request, so it may come or go beside it."""
        try:
            return self.inspect(container)
        except RuntimeError as error:
            if ": 404 " in str(error):
                return None
            raise

    def has_container(self, name: str) -> bool:
        filters = quote(json.dumps({"name": [f"^/{name}$"]}))
        return bool(self.request("GET", f"/containers/json?all=1&filters={filters}"))

    def import_image(self, reference: str, tar: bytes, changes: Sequence[str] = ()) -> None:
        """`docker import`: a root filesystem becomes an image. `changes` are Dockerfile lines such as `EXPOSE 80`."""
        name, _, tag = reference.rpartition(":")
        query = "".join(f"&changes={quote(change)}" for change in changes)
        path = f"/images/create?fromSrc=-&repo={quote(name, safe='')}&tag={tag}{query}"
        connection = _UnixConnection(self.socket, 120)
        with suppress(BrokenPipeError):  # the engine refuses it half way: its answer tells why
            connection.request("POST", path, tar, {"Content-Type": "application/x-tar"})
        text = connection.getresponse().read().decode()
        connection.close()
        if "errorDetail" in text or '"message"' in text:
            raise RuntimeError(f"import of {reference}: {text}")
