"""A probe as a request: who may ask for what, how much at once, and the answer.

Refuses to be a port scanner for hire: only the address that a request comes from is tried, and no inner one (`bounds`),
or one that the operator named; only ports from 1024 on, only with a nonce that something there must answer, so much
an hour for one address.
"""

import asyncio
import contextlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from kaalia.prober import bounds
from kaalia.prober.bounds import Network
from kaalia.prober.dial import CUT_OFF, LONGEST_S, dial
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
"""Of one request: two rounds of ports that take their longest."""


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
        self._admits = at_once * max(1, int(deadline_s / LONGEST_S))
        self._admitted = 0
        """Targets of requests under way: sockets are given in order, so all of these end in time."""
        self._deadline_s = deadline_s
        self._callers: dict[str, _Caller] = {}

    async def probe(
        self, seen_address: str, request: ProbeRequest, *, is_direct: bool = True, identity: str | None = None
    ) -> ProbeReply:
        """`seen_address`, `is_direct`: see `bounds`. Raises ApiError 400 probe_invalid, 403 probe_address_foreign,
        403 probe_address_internal, 429 probe_*, 503 prober_*. `identity`: whom to count the request for, if that is
        known better than by address.
        """
        nonce = _nonce(request)
        _check_targets(request.targets)
        seen = plain(seen_address)
        address = self._address(seen, request.address, is_direct)
        if not request.targets:
            return ProbeReply(seen, address)
        count = len(request.targets)
        caller = self._take(identity or _identity(seen), count)
        caller.is_busy = True
        self._admitted += count
        try:
            return ProbeReply(seen, address, await self._results(address, nonce, request.targets))
        finally:
            caller.is_busy = False
            self._admitted -= count

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
            is_cut_off = bool(lacking) and lacking[0].errno in CUT_OFF
            raise ApiError(
                503,
                "prober_cut_off" if is_cut_off else "prober_overloaded",
                f"cannot probe {address}: only {len(found)} of {len(targets)} ports were tried"
                + (f" ({lacking[0].strerror})" if lacking else " in time"),
                remedy="its operator must let the prober's machine out to that address" if is_cut_off else "",
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
        if self._admitted and self._admitted + count > self._admits:
            raise ApiError(
                429,
                "probe_crowded",
                f"cannot probe {identity} now: {self._admitted} ports of others are being tried",
                retry_after_s=round(LONGEST_S),
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


def _identity(seen: str) -> str:
    """One line is one caller: of IPv6 it has at least a /64."""
    address = bounds.parse(seen)
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else seen


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
