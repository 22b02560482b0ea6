"""The machine's own test container: its program as the kit has it, and a runtime in memory whose containers answer."""

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import cast

from kaalia.model.workload import LaunchMode, PortBinding, Protocol
from kaalia.runtime.base import Placement, Started
from tests.support.clock import FakeClock
from tests.support.fake_runtime import FakeRuntime
from tests.support.kits import KITS

SOURCE = Path(__file__).parents[2] / "scripts" / "kit" / "canary.c"


def compile_program(folder: Path) -> Path:
    """By the machine's compiler, with all warnings."""
    made = folder / "canary"
    subprocess.run(["cc", "-Os", "-static", "-s", "-Wall", "-Werror", "-o", made, SOURCE], check=True)
    return made


def kit_with_program(folder: Path) -> Path:
    """A copy of this checkout's kit; one that was built before there was a test program gets it here."""
    kit = folder / "kits" / "0123456789abcdef"
    shutil.copytree(KITS.resolve() / "current", kit, symlinks=True)
    if not (kit / "sbin" / "canary").exists():
        compile_program(kit / "sbin")
    (kit.parent / "current").symlink_to(kit.name)
    return kit.parent


class AnsweringRuntime(FakeRuntime):
    """Its containers answer on 127.0.0.1 as the test program does, and say `said`; "{address}" is theirs."""

    def __init__(self, clock: FakeClock, said: str) -> None:
        super().__init__(clock)
        self.said = said
        self.deaf: set[Protocol] = set()
        self.stays_open: set[LaunchMode] = set()
        self.says_its_variables = False
        self._doors: dict[int, list[asyncio.AbstractServer | asyncio.DatagramTransport]] = {}

    async def start(self, contract_id: int) -> Started:
        placement = self.placements[contract_id]
        key = "".join(placement.contract.spec.args[:1]).encode()  # a tenant has none
        if contract_id not in self._doors:
            self._doors[contract_id] = [
                await _open(port, key) for port in placement.ports if port.protocol not in self.deaf
            ]
        return await super().start(contract_id)

    async def stop(self, contract_id: int, grace_s: float) -> None:
        self.shut(contract_id)
        await super().stop(contract_id, grace_s)

    async def remove(self, contract_id: int) -> None:
        placement = self.placements.get(contract_id)
        if placement is None or placement.contract.spec.launch_mode not in self.stays_open:
            self.shut(contract_id)
        await super().remove(contract_id)

    async def logs(self, contract_id: int, tail: int) -> str:
        await super().logs(contract_id, tail)
        placement = self.placements[contract_id]
        env = placement.contract.spec.env if self.says_its_variables else ()
        told = "".join(f"{name}={value}\n" for name, value in env)
        return self.said.replace("{address}", _address(placement)) + told

    def shut(self, *contract_ids: int) -> None:
        for contract_id in contract_ids or tuple(self._doors):
            for door in self._doors.pop(contract_id, []):
                door.close()


def _address(placement: Placement) -> str:
    first, _, last = placement.subnet.partition("/")[0].rpartition(".")
    return f"{first}.{int(last) + 2}"


async def _open(port: PortBinding, key: bytes) -> asyncio.AbstractServer | asyncio.DatagramTransport:
    if port.protocol is Protocol.UDP:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(key), local_addr=("127.0.0.1", port.host_port)
        )
        return transport

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(key + await reader.read(64))
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", port.host_port)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, key: bytes) -> None:
        self._key = key
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        self._transport.sendto(self._key + data, addr)
