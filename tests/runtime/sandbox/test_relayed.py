"""Renters who come by a relay, from an address of loopback that nothing else uses, are the internet to the counters."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kaalia.model.relay import RENTERS_ADDRESS
from kaalia.model.traffic import Bytes, Counter
from kaalia.model.workload import PortBinding, Protocol
from kaalia.runtime.sandbox.counters import PacketCounters
from kaalia.runtime.sandbox.port_rules import Publication
from kaalia.runtime.sandbox.ports import Ports
from tests.runtime.sandbox.conftest import MACHINE, POOL, Scene
from tests.support import bytes_peer
from tests.support.bytes_peer import ask
from tests.support.neighbourhood import MACHINE_ON_LAN

PORT = 40001
SEGMENT, HEADER = 1448, 52
"""Bytes of a full TCP packet on Ethernet, by IPv4 and with timestamps."""


async def test_they_are_counted_and_programs_of_the_machine_are_not(scene: Scene) -> None:
    """What is given and taken is known to the byte; with it go headers, and acknowledgements of the other direction."""
    published = Publication(scene.networks[0], "10.214.0.2", (PortBinding(7000, 7000, PORT, Protocol.TCP),))

    async def look() -> list[Publication]:
        return [published]

    await scene.walls().stand(51)
    await Ports(MACHINE, POOL, look).stand(51)
    counters = PacketCounters(MACHINE)
    await counters.build([Counter(51, "10.214.0.0/28", "000a")])
    with bytes_server(scene.first):
        assert ask("get", "127.0.0.1", PORT, 500_000) == 500_000
        assert ask("put", MACHINE_ON_LAN, PORT, 500_000) == 500_000
        [of_the_machine] = (await counters.read()).readings
        assert ask("get", RENTERS_ADDRESS, PORT, 3_000_000) == 3_000_000
        assert ask("put", RENTERS_ADDRESS, PORT, 1_000_000) == 1_000_000
        found = await counters.read()

    assert (of_the_machine.raw, of_the_machine.relayed) == (Bytes(), Bytes())
    assert found.is_whole
    [reading] = found.readings
    assert reading.raw == Bytes()
    assert 3_000_000 < reading.relayed.up < 3_000_000 + headers(3_000_000 + 1_000_000)
    assert 1_000_000 < reading.relayed.down < 1_000_000 + headers(1_000_000 + 3_000_000)


def headers(size: int) -> int:
    """At most so many bytes of headers for so many of data: of segments, or of an acknowledgement for each."""
    return (size // SEGMENT + 20) * HEADER


@contextmanager
def bytes_server(pid: int) -> Iterator[None]:
    """`tests/support/bytes_peer.py` on port 7000 of a process's network."""
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-I", bytes_peer.__file__, "serve", "7000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
        process.kill()
