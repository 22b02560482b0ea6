"""The connection to the Docker Engine: the only importer of docker-py, whose low-level client it uses in threads.

Short calls share eight threads; what may last (pulls, stops with a grace, the event stream) has its own, so that
looking never waits for them. Every failure leaves here as WorkloadError; `engine_unavailable`: nothing is known.
"""

import asyncio
import http.client
import json
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import docker.errors
from docker import APIClient
from docker.auth import encode_header

from kaalia.runtime.container.facts import NEWEST_API, agreed_api
from kaalia.runtime.container.faults import classify, unavailable
from kaalia.runtime.container.stream import Stream, peer_pid

T = TypeVar("T")

__all__ = [
    "DEFAULT_SOCKET",
    "LOOK_TIMEOUT_S",
    "WORK_TIMEOUT_S",
    "APIClient",
    "AbsentError",
    "EngineLink",
    "login_header",
]

AbsentError = docker.errors.NotFound
"""What a call of the client raises when the engine has no such thing."""

DEFAULT_SOCKET = Path("/var/run/docker.sock")
LOOK_TIMEOUT_S = 30
"""An engine that says nothing for this long when it is only asked is taken for hung."""
WORK_TIMEOUT_S = 180
_CALL_THREADS = 8
_LONG_THREADS = 24

_SILENCE = (OSError, http.client.HTTPException, json.JSONDecodeError, struct.error, docker.errors.DockerException)
"""What an answer that never came, or broke off, raises; the exceptions of requests are OSErrors."""


def login_header(login: Mapping[str, str]) -> dict[str, str]:
    """Never without it: the engine's host may hold logins of its owner."""
    return {"X-Registry-Auth": encode_header(dict(login)).decode()}


class EngineLink:
    """Calls to one Docker Engine on a unix socket, in threads. Create it anywhere; await it in one event loop."""

    def __init__(self, socket_path: Path = DEFAULT_SOCKET, look_timeout_s: int = LOOK_TIMEOUT_S) -> None:
        self.socket_path = socket_path
        self._look_timeout_s = look_timeout_s
        self._lock = threading.Lock()
        self._clients: dict[int, APIClient] = {}
        self._calls = ThreadPoolExecutor(_CALL_THREADS, "docker")
        self._long = ThreadPoolExecutor(_LONG_THREADS, "docker-long")
        self._streams: set[Stream] = set()

    def close(self) -> None:
        """Cut what streams and let the threads end. Touches no workload."""
        for stream in list(self._streams):
            stream.cut()
        for pool in (self._calls, self._long):
            pool.shutdown(wait=False, cancel_futures=True)
        self._forget_clients()

    async def _look(self, doing: str, work: Callable[[APIClient], T]) -> T:
        return await self._in_thread(self._calls, doing, lambda: work(self._client(self._look_timeout_s)))

    async def _work(self, doing: str, work: Callable[[APIClient], T]) -> T:
        return await self._in_thread(self._calls, doing, lambda: work(self._client(WORK_TIMEOUT_S)))

    async def _in_thread(self, pool: ThreadPoolExecutor, doing: str, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, self._translated, doing, work)

    def _register(self, stream: Stream, reading: asyncio.Future[None]) -> None:
        """Keep the stream where `close` finds it, and cut it when its future ends or is cancelled."""

        def ended(future: asyncio.Future[None]) -> None:
            stream.cut()
            self._streams.discard(stream)
            if not future.cancelled():
                # Everyone who waited may have gone; asyncio would complain of an exception that nobody fetched.
                future.exception()

        self._streams.add(stream)
        reading.add_done_callback(ended)

    def _translated(self, doing: str, work: Callable[[], T]) -> T:
        """Run `work` in this thread; whatever docker-py or the socket raises becomes a WorkloadError."""
        try:
            return work()
        except docker.errors.APIError as error:
            status = error.response.status_code if error.response is not None else None
            raise classify(doing, str(error.explanation or error), status) from error
        except _SILENCE as error:
            self._forget_clients()
            raise unavailable(doing, str(error)) from error

    def _client(self, timeout_s: int) -> APIClient:
        """The client for calls of this time-out. The API version is settled with the engine at first use."""
        with self._lock:
            client = self._clients.get(timeout_s)
        if client is None:
            # docker-py would leave a socket open for each connection that fails: try one first.
            peer_pid(self.socket_path, LOOK_TIMEOUT_S)
            with self._new_client(NEWEST_API, self._look_timeout_s) as newest:
                version = agreed_api(newest.version(api_version=False))
            with self._lock:
                client = self._clients.setdefault(timeout_s, self._new_client(version, timeout_s))
        return client

    def _new_client(self, api_version: str, timeout_s: int) -> APIClient:
        client = APIClient(f"unix://{self.socket_path}", api_version, timeout_s, max_pool_size=_LONG_THREADS)
        # The proxy variables of the environment are not meant for a unix socket.
        client.trust_env = False
        return client

    def _path(self, path: str) -> str:
        return f"/v{self._client(self._look_timeout_s).api_version}{path}"

    def _forget_clients(self) -> None:
        """After a silence the engine may come back as another version."""
        with self._lock:
            clients = list(self._clients.values())
            self._clients.clear()
        for client in clients:
            client.close()
