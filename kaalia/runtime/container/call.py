"""Short calls of the Docker Engine API: JSON there, JSON back. They block, so they are made in threads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from kaalia.runtime.container.stream import Stream

Document = dict[str, Any]
Params = Mapping[str, str]

_JSON = {"Content-Type": "application/json"}
_TAR = {"Content-Type": "application/x-tar"}
_NONE: Params = {}


@dataclass(frozen=True, slots=True)
class Call:
    """How the engine is asked for one thing, which `doing` names in errors. `version`: of the API, to be spoken.

    Each raises WorkloadError for a refusal, and what `Stream` raises when nothing is known.
    """

    socket_path: Path
    version: str
    doing: str
    silence_s: float

    def get(self, path: str, params: Params = _NONE) -> Any:
        with self._stream() as stream:
            stream.open(self.doing, "GET", self.path(path), params)
            return stream.document()

    def find(self, path: str) -> Document | None:
        """None: it is proven absent."""
        with self._stream() as stream:
            status = stream.open(self.doing, "GET", self.path(path), _NONE, may_be_absent=True)
            return None if status == HTTPStatus.NOT_FOUND else dict(stream.document())

    def post(self, path: str, params: Params = _NONE, body: Document | None = None) -> Any:
        """The answer; None when it is empty, or nothing was to be done."""
        content, headers = (None, None) if body is None else (json.dumps(body).encode(), _JSON)
        with self._stream() as stream:
            stream.open(self.doing, "POST", self.path(path), params, headers, content)
            return stream.document()

    def load(self, path: str, params: Params, tar: bytes) -> list[Document]:
        """POST a tar; the answer's lines."""
        with self._stream() as stream:
            stream.open(self.doing, "POST", self.path(path), params, _TAR, tar)
            return list(stream.documents())

    def put(self, path: str, params: Params, tar: bytes) -> None:
        with self._stream() as stream:
            stream.open(self.doing, "PUT", self.path(path), params, _TAR, tar)

    def delete(self, path: str, params: Params = _NONE) -> None:
        """Absent is success."""
        with self._stream() as stream:
            stream.open(self.doing, "DELETE", self.path(path), params, may_be_absent=True)

    def path(self, path: str) -> str:
        return f"/v{self.version}{path}"

    def _stream(self) -> Stream:
        return Stream(self.socket_path, self.silence_s)
