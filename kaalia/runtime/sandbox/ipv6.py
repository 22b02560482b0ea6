"""Whether contracts' networks get IPv6 on this machine, and which network goes with an IPv4 one.

They do where the machine has an address of the internet or a local one (ULA) and its kernel takes every rule that walls
and ports need there. Where it has none, nothing is touched. A network keeps for life what it was made with.
"""

import asyncio
import logging
import typing
from collections.abc import Mapping
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

from kaalia.contracts.ports import ipv6_address_in, ipv6_pool, ipv6_subnet
from kaalia.errors import HostError, Problem, WorkloadError
from kaalia.host import ipv6, netfilter
from kaalia.host.net import ROOT
from kaalia.host.netfilter import Change, Family
from kaalia.model.workload import PortBinding, Protocol
from kaalia.runtime.sandbox import port_rules, rules
from kaalia.runtime.sandbox.layer import Chains
from kaalia.runtime.sandbox.port_rules import Publication
from kaalia.runtime.sandbox.rules import Enclosure, Reach

log = logging.getLogger(__name__)

_TRIED = PortBinding(1, 1, 1, Protocol.TCP)


class NetworkIpv6:
    """Of one machine (`labels.machine_name`). `is_wanted`: the owner's word."""

    def __init__(self, machine: str, reach: Reach, *, is_wanted: bool = True, root: Path = ROOT) -> None:
        self._machine = machine
        self._reach = reach
        self._is_wanted = is_wanted
        self._root = root
        self._has_tried = False

    async def subnet(self, subnet: str) -> str:
        """The IPv6 network of a new contract beside this one; "": it gets none."""
        if not await self.is_given():
            return ""
        wanted = ipv6_subnet(self._machine, subnet)
        routed = await asyncio.to_thread(ipv6.routed_networks, self._root)
        # Equal is its own, of a network that the engine has already.
        is_foreign = any(wanted != one and IPv6Network(wanted).overlaps(IPv6Network(one)) for one in routed)
        return "" if is_foreign else wanted

    async def is_given(self) -> bool:
        """To new contracts."""
        return await asyncio.to_thread(self._is_there) and await self.problem() is None

    async def problem(self) -> Problem | None:
        """Why new contracts get no IPv6 although the machine has it; None: they do, or it has none, or the owner wants
        none and the machine does without.
        """
        if not await asyncio.to_thread(self._is_there):
            return _needed() if not self._is_wanted and await asyncio.to_thread(ipv6.is_only, self._root) else None
        found = await asyncio.to_thread(self._hindrance)
        if found is None and not self._has_tried:
            try:
                await self._try()
            except HostError as error:
                return _unavailable(error.problem.message, error.problem.remedy, error.problem.evidence)
            self._has_tried = True
        return found

    def _is_there(self) -> bool:
        return self._is_wanted and bool(ipv6.addresses(self._root))

    def _hindrance(self) -> Problem | None:
        if interface := ipv6.lost_by_forwarding(self._root):
            return _unavailable(
                f"the kernel drops the addresses and routes that {interface} has from its router once Docker makes it "
                "forward IPv6",
                f"as root: sysctl -w net.ipv6.conf.{interface}.accept_ra=2, and write it to /etc/sysctl.d",
                f"net.ipv6.conf.{interface}.accept_ra = 1",
            )
        pool = IPv6Network(ipv6_pool(self._machine))
        wider = [one for one in ipv6.routed_networks(self._root) if IPv6Network(one).supernet_of(pool)]
        if wider:
            return _unavailable(
                f"this machine routes {wider[0]}, in which their networks would lie",
                "route a smaller network",
                wider[0],
            )
        return None

    async def _try(self) -> None:
        """Every kind of rule, in chains that are gone with the same stroke. Raises HostError."""
        own = rules.names(f"try of {self._machine}")
        one = Enclosure(0, "kaalia-try", "10.0.0.0/28", ipv6_subnet(self._machine, "10.0.0.0/28"))
        face = port_rules.face(Publication(one, "10.0.0.2", (_TRIED,)), Family.IPV6)
        pool, ports = ipv6_pool(self._machine), [face] if face is not None else []
        tables: dict[str, Chains] = {
            "mangle": {
                **rules.walls(Family.IPV6, own, self._reach, pool, (), (one,)),
                **rules.pace(own, self._reach, pool, Family.IPV6),
            },
            "nat": {**port_rules.ports(own, pool, ports), **port_rules.sources(own, pool, ports)},
            "filter": {**rules.passage(own, (one,)), **port_rules.through(own, pool, ports)},
        }
        changes = [
            Change(table, chains, [*(("-F", name) for name in chains), *(("-X", name) for name in chains)])
            for table, chains in tables.items()
        ]
        await netfilter.apply(Family.IPV6, changes)


class MakesNetworks(typing.Protocol):
    """Of a container engine. Raises WorkloadError."""

    async def create_network(self, body: dict[str, Any]) -> str: ...


async def make_network(engine: MakesNetworks, body: dict[str, Any], family: NetworkIpv6 | None) -> tuple[str, str]:
    """Its id, and the IPv6 network that it has beside that of `body`; "": the engine refuses that. WorkloadError."""
    (config,) = body["IPAM"]["Config"]
    six = await family.subnet(str(config["Subnet"])) if family is not None else ""
    try:
        return await engine.create_network(dual(body, six)), six
    except WorkloadError as error:
        if not six or error.code in {"network_exists", "engine_unavailable"}:
            raise
        log.warning("network %s gets no IPv6: %s", body["Name"], error.problem.message)
    return await engine.create_network(body), ""


def dual(body: Mapping[str, Any], subnet6: str) -> dict[str, Any]:
    """A network's create body with this IPv6 network beside its own; as it is without one."""
    if not subnet6:
        return dict(body)
    more = {"Subnet": subnet6, "Gateway": str(IPv6Network(subnet6)[1])}
    ipam = {**body["IPAM"], "Config": [*body["IPAM"]["Config"], more]}
    return {**body, "EnableIPv6": True, "IPAM": ipam}


def addressed(body: Mapping[str, Any], subnet6: str) -> dict[str, Any]:
    """A container's create body with its address in the IPv6 network that its network has, if it has one."""
    if not subnet6:
        return dict(body)
    ends = body["NetworkingConfig"]["EndpointsConfig"]
    six = {"IPv6Address": ipv6_address_in(subnet6)}
    given = {name: {**end, "IPAMConfig": {**end["IPAMConfig"], **six}} for name, end in ends.items()}
    return {**body, "NetworkingConfig": {"EndpointsConfig": given}}


def _needed() -> Problem:
    return Problem(
        "ipv6_unavailable",
        "cannot lead ports of this machine to new contracts: its only way out is by IPv6, and network.ipv6 is off",
        remedy="set network.ipv6: auto, or give the machine an IPv4 address and a default route",
    )


def _unavailable(why: str, remedy: str, evidence: str) -> Problem:
    return Problem(
        "ipv6_unavailable",
        f"cannot give contracts IPv6, which this machine has: {why}",
        remedy=f"{remedy}; or set network.ipv6: off",
        evidence=evidence,
    )
