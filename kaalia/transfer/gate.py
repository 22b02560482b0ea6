"""Lets renters past this machine's own INPUT rules to the doors that are open, which listen on the machine itself.

The ports of instances never meet INPUT, so an owner may well have closed it. Where it cannot be opened, that is logged,
and doors are reached as far as the rules of the machine let them.
"""

import hashlib
import logging
from collections.abc import Collection
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host import netfilter
from kaalia.host.netfilter import Change, Family, Rule
from kaalia.runtime.sandbox.layer import Layer, Place

log = logging.getLogger(__name__)

_TABLE, _HOOK = "filter", "INPUT"


class DoorGate:
    """A chain of its own, which is there while a door is open. `state_dir` tells daemons of one machine apart."""

    def __init__(self, state_dir: Path) -> None:
        self._chain = f"KAALIA-COPY-{hashlib.sha256(str(state_dir).encode()).hexdigest()[:8]}"

    async def hold(self, ports: Collection[int], *, by_ipv6: bool) -> None:
        """These are open, and no others."""
        for family in (Family.IPV4, *([Family.IPV6] if by_ipv6 else [])):
            try:
                await self._hold(family, ports)
            except HostError as error:
                log.info("copies: cannot let renters past the firewall: %s", error)

    async def _hold(self, family: Family, ports: Collection[int]) -> None:
        if ports:
            rules = tuple(_accepted(port) for port in sorted(ports))
            layer = Layer(family, _TABLE, _HOOK, self._chain, Place.FIRST)
            await layer.write({self._chain: rules}, await layer.read())
            return
        now = await netfilter.saved(family, _TABLE)
        if self._chain in now:
            jumps = sum(rule.text == f"-j {self._chain}" for rule in now.get(_HOOK, ()))
            gone: list[Rule] = [("-D", _HOOK, "-j", self._chain)] * jumps
            await netfilter.apply(family, [Change(_TABLE, {self._chain: ()}, [*gone, ("-X", self._chain)])])


def _accepted(port: int) -> Rule:
    return ("-p", "tcp", "-m", "tcp", "--dport", str(port), "-j", "ACCEPT")
