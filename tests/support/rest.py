"""A few raw REST calls for set-up and for fast polling; what users do goes through the real client."""

import json
import urllib.error
import urllib.request
from typing import Any


class Rest:
    """JSON over HTTP with a bearer key. Refusals come back as (status, body), never as exceptions."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self._url = url
        self._key = key

    def call(self, method: str, path: str, body: Any = None, timeout_s: float = 10.0) -> tuple[int, Any]:
        """Status and decoded body; (0, None) when nothing answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        if self._key:
            request.add_header("Authorization", f"Bearer {self._key}")
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as reply:
                return reply.status, _decode(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _decode(error.read())
        except OSError:
            return 0, None

    def get(self, path: str) -> Any:
        """The decoded body of a 200 answer, else None."""
        status, body = self.call("GET", path)
        return body if status == 200 else None


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace")
