"""The data side of a marketplace's speed tests: a child process, so that no request waits for the bytes."""

import asyncio
import json
import secrets
import sys
from typing import Any

from kaalia.errors import ConfigError, HostError
from kaalia.host.process import Child
from kaalia.wire import stream
from kaalia.wire.error import ApiError
from kaalia.wire.speed import SpeedGrant, SpeedRequest

PEER = (sys.executable, "-I", "-m", "kaalia.speed.peer")
ANSWER_S = 10.0


class PeerChild:
    """Gives orders to the peer; a peer that died is started again. `public_host` None: as the marketplace's own."""

    def __init__(self, host: str, port: int, public: tuple[str, int] | None = None) -> None:
        self._host = host
        self._port = port
        self._public = public
        self._child: Child | None = None
        self._lock = asyncio.Lock()

    async def open(self) -> int:
        """Listen; the port. Raises ConfigError `speed_listen_failed`, HostError."""
        child = await Child.start(PEER)
        try:
            answer = await _ask(child, {"listen": [self._host, self._port]})
            if "error" in answer:
                raise ConfigError(
                    "speed_listen_failed",
                    f"cannot listen for speed tests on {self._host}:{self._port}: {answer['error']}",
                    remedy=f"see who does: ss -ltnp 'sport = :{self._port}'; or give --speed-listen HOST:PORT, or off",
                )
        except BaseException:
            await child.kill()
            raise
        self._child = child
        self._port = int(answer["port"])  # after a restart of the child the same one
        return self._port

    async def grant(self, owner: str, request: SpeedRequest) -> SpeedGrant:
        """An order for `owner`. Raises ApiError 429 speed_busy, speed_too_often, 503 speed_peer_down."""
        order, key = secrets.token_hex(stream.ID_BYTES), secrets.token_hex(stream.KEY_BYTES)
        sizes = {"streams": request.streams, "seconds": request.seconds, "bytes_max": request.bytes_max}
        try:
            async with self._lock:
                answer = await self._order({"owner": owner, "order": order, "key": key, **sizes})
        except (HostError, ConfigError) as error:
            raise ApiError(
                503, "speed_peer_down", "cannot measure: the speed peer does not run", retry_after_s=300
            ) from error
        if code := answer.get("refused"):
            wait_s = int(answer["retry_after_s"])
            raise ApiError(
                429,
                str(code),
                f"cannot measure now: the peer is busy, or {owner} asked too often; try again in {wait_s} s",
                retry_after_s=wait_s,
            )
        host, port = self._public or (None, self._port)
        return SpeedGrant(order, key, host, port, answer["streams"], answer["seconds"], answer["bytes_max"])

    async def close(self) -> None:
        if self._child is not None:
            await self._child.kill()

    async def _order(self, what: dict[str, Any]) -> dict[str, Any]:
        if self._child is None or not self._child.alive:
            await self.open()
        if self._child is None:
            raise HostError("child_gone", "cannot ask the speed peer: it has ended")
        return await _ask(self._child, what)


async def _ask(child: Child, what: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(await child.request(json.dumps(what), ANSWER_S))
    return answer
