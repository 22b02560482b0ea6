"""The door to the kernel's traffic control (`tc`): how fast an interface sends, by a token bucket."""

import json
from collections.abc import Mapping

from kaalia.errors import HostError
from kaalia.host.process import EVIDENCE_CHARACTERS, Result, run

_TIMEOUT_S = 10.0
_BURST_MIN_BYTES = 65_536
"""The kernel hands over segments of up to 64 KiB."""
_BURST_S = 0.01
"""The bucket refills at the kernel's ticks, of which there are a hundred a second at least."""
_LATENCY = "50ms"
"""What waits longer is dropped."""
_BITS = 8


async def limit(interface: str, bits_per_s: int) -> None:
    """What the interface sends is held to this rate. Raises HostError `tc_missing`, `tc_refused`."""
    burst = max(_BURST_MIN_BYTES, round(bits_per_s / _BITS * _BURST_S))
    bucket = ("tbf", "rate", f"{bits_per_s}bit", "burst", str(burst), "latency", _LATENCY)
    await _tc("qdisc", "replace", "dev", interface, "root", *bucket)


async def unlimit(interface: str) -> None:
    """Take the limit away. Raises HostError `tc_refused` when there is none."""
    await _tc("qdisc", "delete", "dev", interface, "root")


async def limits() -> Mapping[str, int | None]:
    """Every interface with the bits per second that a token bucket holds it to, None: none does. Raises HostError."""
    result = await _tc("-j", "qdisc", "show")
    found: dict[str, int | None] = {}
    try:
        for one in json.loads(result.stdout):
            is_bucket = one["kind"] == "tbf" and one.get("root")
            found[str(one["dev"])] = int(one["options"]["rate"]) * _BITS if is_bucket else None
    except (ValueError, KeyError, TypeError) as error:
        raise HostError("tc_refused", f"cannot read the limits of interfaces: {error!r}") from error
    return found


async def _tc(*words: str) -> Result:
    try:
        result = await run(("tc", *words), _TIMEOUT_S)
    except HostError as error:
        if error.code != "command_missing":
            raise
        raise HostError(
            "tc_missing",
            "cannot limit bandwidth: tc is not on this machine",
            remedy="install iproute2: apt-get install iproute2",
        ) from error
    if result.exit_code != 0:
        raise HostError(
            "tc_refused",
            f"cannot limit bandwidth: tc {words[0]} {words[1]} ended with {result.exit_code}",
            remedy="see whether the kernel has sch_tbf: modprobe sch_tbf",
            evidence=result.stderr.strip()[-EVIDENCE_CHARACTERS:],
        )
    return result
