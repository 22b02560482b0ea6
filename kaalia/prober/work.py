"""A probe as a request: who may ask for what, how much at once, and the answer.

Refuses to be a port scanner for hire: only the address that a request comes from is tried, and no inner one (`bounds`),
or one that the operator named; only ports from 1024 on, only with a nonce that something there must answer, so much
an hour for one address.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from kaalia.prober import bounds
from kaalia.prober.bounds import Network
from kaalia.prober.dial import dial
from kaalia.wire.error import ApiError
from kaalia.wire.probe import (
    FIRST_PORT,
    NONCE_BYTES,
    TARGETS_MAX,
    ProbeReply,
    ProbeRequest,
    ProbeResult,
    ProbeTarget,
)

AT_ONCE = 1024
"""Sockets of all requests together; a process may usually open 1024 files, so `run` raises that limit."""
TARGETS_PER_HOUR = 300_000
"""Of one caller: the largest range, both protocols, twice."""
_CALLERS_MAX = 10_000
DEADLINE_S = 15.0
"""Of one request, whose ports take 6 s at most when there are sockets for all of them."""


@dataclass(slots=True)
class _Caller:
    left: float
    as_of_s: float
    is_busy: bool = False


class Prober:
    """`allowed`: networks whose addresses may be probed for whoever asks, such as those of the operator's own hosts."""

    def __init__(
        self,
        allowed: Iterable[Network] = (),
        targets_per_hour: int = TARGETS_PER_HOUR,
        at_once: int = AT_ONCE,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._allowed = tuple(allowed)
        self._per_hour = targets_per_hour
        self._slots = asyncio.Semaphore(at_once)
        self._deadline_s = deadline_s
        self._callers: dict[str, _Caller] = {}

    async def probe(self, seen_address: str, request: ProbeRequest, *, is_direct: bool = True) -> ProbeReply:
        """`seen_address`, `is_direct`: see `bounds`. Raises ApiError 400 probe_invalid, 403 probe_address_foreign,
        403 probe_address_internal, 429 probe_*, 503 prober_overloaded."""
        nonce = _nonce(request)
        _check_targets(request.targets)
        seen = plain(seen_address)
        address = self._address(seen, request.address, is_direct)
        if not request.targets:
            return ProbeReply(seen, address)
        caller = self._take(seen, len(request.targets))
        caller.is_busy = True
        try:
            return ProbeReply(seen, address, await self._results(address, nonce, request.targets))
        finally:
            caller.is_busy = False

    async def _results(self, address: str, nonce: bytes, targets: tuple[ProbeTarget, ...]) -> tuple[ProbeResult, ...]:
        found: dict[int, ProbeResult] = {}
        lacking: list[OSError] = []

        async def one(number: int, target: ProbeTarget) -> None:
            async with self._slots:
                if lacking:
                    return
                try:
                    found[number] = await dial(address, target, nonce)
                except OSError as error:
                    lacking.append(error)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._deadline_s):
                await asyncio.gather(*(one(number, target) for number, target in enumerate(targets)))
        if len(found) < len(targets):
            # Not to have tried is no finding: of a port that nobody tried nothing may be said.
            raise ApiError(
                503,
                "prober_overloaded",
                f"cannot probe {address}: only {len(found)} of {len(targets)} ports were tried"
                + (f" ({lacking[0].strerror})" if lacking else " in time"),
                retry_after_s=60,
            )
        return tuple(found[number] for number in range(len(targets)))

    def _address(self, seen: str, wanted: str | None, is_direct: bool) -> str:
        try:
            address = bounds.parse(seen if wanted is None else wanted)
        except ValueError as error:
            raise _invalid(f"address={(wanted or seen)[:60]!r} is no IP address") from error
        if bounds.is_within(address, self._allowed):
            return str(address)
        if str(address) != seen:
            raise ApiError(
                403,
                "probe_address_foreign",
                f"cannot probe {address}: the request comes from {seen}, and nobody's ports but the caller's are tried",
                remedy="ask from the machine that has this address, or let the prober's operator allow its network",
            )
        if (why := bounds.why_not(address, is_direct)) is not None:
            raise ApiError(
                403,
                "probe_address_internal",
                f"cannot probe {address}: {why}",
                remedy="ask from a machine outside, over the internet; or let the prober's operator allow it: "
                f"--may-probe {address}; or probe.url: off",
            )
        return str(address)

    def _take(self, identity: str, count: int) -> _Caller:
        now_s = asyncio.get_running_loop().time()
        caller = self._callers.get(identity)
        if caller is None:
            self._forget(now_s)
            caller = self._callers[identity] = _Caller(self._per_hour, now_s)
        caller.left = self._left(caller, now_s)
        caller.as_of_s = now_s
        if caller.is_busy:
            raise ApiError(
                429, "probe_busy", f"cannot probe {identity}: another probe of it is under way", retry_after_s=5
            )
        if caller.left < count:
            wait_s = max(1, round((count - caller.left) * 3600 / self._per_hour + 0.5))
            raise ApiError(
                429,
                "probe_too_often",
                f"cannot probe {identity}: more than {self._per_hour} ports within an hour",
                remedy=f"Wait {wait_s} s",
                retry_after_s=wait_s,
            )
        caller.left -= count
        return caller

    def _left(self, caller: _Caller, now_s: float) -> float:
        return min(float(self._per_hour), caller.left + (now_s - caller.as_of_s) * self._per_hour / 3600)

    def _forget(self, now_s: float) -> None:
        """Callers of whom nothing is known any more."""
        if len(self._callers) >= _CALLERS_MAX:
            known = self._callers.items()
            self._callers = {name: one for name, one in known if one.is_busy or self._left(one, now_s) < self._per_hour}


def plain(address: str) -> str:
    """Like `bounds.parse`."""
    try:
        return str(bounds.parse(address))
    except ValueError as error:
        raise _invalid("nobody can tell where the request comes from") from error


def _nonce(request: ProbeRequest) -> bytes:
    try:
        nonce = bytes.fromhex(request.nonce)
    except ValueError:
        nonce = b""
    if len(nonce) != NONCE_BYTES:
        raise _invalid(f"nonce must be {NONCE_BYTES} bytes in hex")
    return nonce


def _check_targets(targets: tuple[ProbeTarget, ...]) -> None:
    if len(targets) > TARGETS_MAX:
        raise _invalid(f"targets={len(targets)} is more than {TARGETS_MAX}")
    if wrong := next((one.port for one in targets if not FIRST_PORT <= one.port <= 65535), None):
        raise _invalid(f"port={wrong} is not within {FIRST_PORT}-65535")
    if len({(one.port, one.protocol) for one in targets}) < len(targets):
        raise _invalid("a port is named twice")


def _invalid(why: str) -> ApiError:
    return ApiError(400, "probe_invalid", f"cannot probe: {why}")
