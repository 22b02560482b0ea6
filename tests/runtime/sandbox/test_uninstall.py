"""uninstall.sh takes every chain that kaalia makes out of the firewall, as the daemon makes them."""

import subprocess
from pathlib import Path

from kaalia.capability.gate import FirewallGate
from kaalia.model.traffic import Counter
from kaalia.model.workload import PortBinding, Protocol
from kaalia.runtime.sandbox.counters import PacketCounters
from kaalia.runtime.sandbox.port_rules import Publication
from kaalia.runtime.sandbox.ports import Ports
from kaalia.runtime.sandbox.rules import Reach
from tests.runtime.sandbox.conftest import MACHINE, POOL, Scene

STEPS = Path(__file__).parents[3] / "scripts" / "steps.sh"
PROGRAMS = ("iptables", "ip6tables")


def saved() -> str:
    return "".join(
        subprocess.run([f"{one}-save"], check=True, capture_output=True, text=True).stdout for one in PROGRAMS
    )


async def test_no_chain_is_left(scene: Scene, tmp_path: Path) -> None:
    published = Publication(scene.networks[0], "10.214.0.2", (PortBinding(80, 80, 40001, Protocol.TCP),))

    async def look() -> list[Publication]:
        return [published]

    before = saved()
    await scene.walls(Reach(bits_per_s=8_000_000)).mend()
    await Ports(MACHINE, POOL, look).mend()
    await PacketCounters(MACHINE).build([Counter(51, "10.214.0.0/28", "000a")])
    await FirewallGate(tmp_path).open([(40002, Protocol.TCP)], [])
    chains = {word.strip(":") for word in saved().split() if word.startswith(":KAALIA-")}
    kinds = {chain.removeprefix("KAALIA-").rpartition("-")[0] for chain in chains}

    script = f". {STEPS}; dry_run=no; doing=uninstall; remove_firewall"
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], check=True)

    assert kinds >= {"WALLS", "REACH", "PACE", "PASSAGE", "PORTS", "HERE", "SOURCES", "THROUGH", "PROBE", "KNOCK"}
    assert kinds >= {"COUNT", "COUNT-UP", "COUNT-DOWN", "RELAY-UP", "RELAY-DOWN"}
    assert "KAALIA" not in saved()
    assert rules_of(saved()) == rules_of(before)


def rules_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("-A")]
