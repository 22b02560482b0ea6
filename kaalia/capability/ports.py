"""Whether the kernel may put an outgoing connection of this machine on a port that is promised to a renter."""

from pathlib import Path

from kaalia.errors import HostError, Problem
from kaalia.host import net
from kaalia.model.health import Condition, Severity
from kaalia.model.machine import PortRange

SOURCE = "ports"


def find(wanted: PortRange, root: Path) -> tuple[Condition, ...]:
    """One condition, or none. Where the kernel does not tell, nothing is claimed."""
    try:
        outgoing, reserved = net.outgoing_ports(root), net.reserved_ports(root)
    except HostError:
        return ()
    exposed = [port for port in outgoing if port in wanted and not any(port in kept for kept in reserved)]
    if not exposed:
        return ()
    all_of_them = ",".join(f"{kept[0]}-{kept[-1]}" for kept in (*reserved, range(wanted.first, wanted.last + 1)))
    problem = Problem(
        "ports_not_reserved",
        f"cannot keep {len(exposed)} of ports.range={wanted.first}-{wanted.last} free for renters: the kernel takes "
        f"ports {outgoing[0]}-{outgoing[-1]} for outgoing connections",
        remedy=f"run install.sh again, or: sysctl -w net.ipv4.ip_local_reserved_ports={all_of_them}",
    )
    return (Condition(problem, Severity.WARN, "these ports are in net.ipv4.ip_local_reserved_ports"),)
