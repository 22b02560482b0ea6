"""A marketplace in this process: a context on a folder, and the application on a loopback port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import sqlalchemy as sa
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kaalia.clock import Clock
from kaalia.marketplace import accounts, app, auth, listings, liveness, machines
from kaalia.marketplace.context import Context, Settings
from kaalia.marketplace.db import tables
from kaalia.marketplace.db.engine import open_engine, sqlite_url
from kaalia.model.machine import Cpu, Disk, Engine, Gpu, GpuDriver, MachineReport, Memory, Network, PortRange, System
from kaalia.units import GB, GIB
from tests.support.clock import FakeClock


@asynccontextmanager
async def open_context(folder: Path, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Context]:
    """A context with an empty database in `folder` and a clock that stands still."""
    engine = await open_engine(sqlite_url(folder))
    try:
        yield Context(
            engine=engine,
            clock=clock or FakeClock(),
            settings=Settings(**{"public_url": "http://127.0.0.1:1", **settings}),
            signing_key=Ed25519PrivateKey.generate(),
            epoch=1,
        )
    finally:
        await engine.dispose()


@asynccontextmanager
async def serve(context: Context) -> AsyncIterator[str]:
    """The application on a loopback port; yields its base URL."""
    server = TestServer(app.build(context), host="127.0.0.1")
    await server.start_server()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: dict[str, str]


class Api:
    """Calls one served marketplace with one key."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str | None = None) -> None:
        self._session = session
        self.url = url
        self.key = key

    def using(self, key: str | None) -> "Api":
        return Api(self._session, self.url, key)

    async def call(self, method: str, path: str, body: Any = None, data: bytes | None = None) -> Answer:
        """`path` as sent (it may hold doubled slashes). `data` overrides `body` with raw bytes."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        async with self._session.request(
            method, self.url + path, json=body, data=data, headers=headers, allow_redirects=False
        ) as reply:
            text = await reply.text()
            is_json = reply.headers.get("Content-Type") == "application/json"
            decoded = await reply.json() if is_json else text
            return Answer(reply.status, decoded, dict(reply.headers))


@dataclass(frozen=True)
class Market:
    """A served marketplace with one host and one renter."""

    context: Context
    clock: FakeClock
    url: str
    host: Api
    renter: Api
    anyone: Api


@asynccontextmanager
async def open_market(folder: Path, **settings: Any) -> AsyncIterator[Market]:
    clock = FakeClock()
    async with open_context(folder, clock, **settings) as context, serve(context) as url:
        host_key = await accounts.add_user(context.engine, "host", True, clock.now())
        renter_key = await accounts.add_user(context.engine, "renter", False, clock.now())
        async with aiohttp.ClientSession() as session:
            anyone = Api(session, url)
            yield Market(context, clock, url, anyone.using(host_key), anyone.using(renter_key), anyone)


async def add_machine(context: Context, report: MachineReport | None = None, owner: str = "host") -> int:
    """An enrolled machine of `owner` that has reported just now."""
    now = context.clock.now()
    async with context.engine.begin() as tx:
        user_id = await tx.scalar(sa.select(tables.users.c.id).where(tables.users.c.username == owner))
        machine_id: int = await tx.scalar(
            sa.insert(tables.machines)
            .values(user_id=user_id, public_key=auth.new_key(), fingerprint="f", enrolled_at=now.timestamp())
            .returning(tables.machines.c.id)
        )
        await machines.put_report(tx, machine_id, report or machine_report())
        await liveness.seen(tx, machine_id, now)
        await listings.refresh_asks(tx, machine_id, now)
    return machine_id


def machine_report(gpus: int = 8, gpu_name: str = "NVIDIA GeForce RTX 4090", **changes: Any) -> MachineReport:
    """A machine with as many RTX 4090 of 24 GiB, 64 cores, 256 GiB of memory, 1000 GB of disk."""
    cards = tuple(
        Gpu(
            uuid=f"GPU-{index:08d}",
            index=index,
            name=gpu_name,
            vram_mb=24564,
            pci_address=f"0000:{index + 1:02x}:00.0",
            pci_gen_max=4,
            pci_gen_current=4,
            pci_width_max=16,
            pci_width_current=16,
            power_limit_w=450.0,
            compute_capability=(8, 9),
            temperature_limit_c=90,
            display_active=False,
        )
        for index in range(gpus)
    )
    fields: dict[str, Any] = {
        "collected_at": datetime(2026, 1, 1, 12, 0, tzinfo=UTC),
        "agent_version": "0.1.0",
        "system": System(
            hostname="rig-1",
            os_name="Ubuntu 22.04.5 LTS",
            kernel="6.8.0",
            board="ROMED8-2T",
            boot_id="boot-1",
            booted_at=datetime(2025, 12, 1, tzinfo=UTC),
        ),
        "cpu": Cpu(
            model="AMD EPYC 7763 64-Core Processor",
            architecture="amd64",
            logical_cores=64,
            physical_cores=32,
            max_ghz=3.5,
            has_avx=True,
        ),
        "memory": Memory(total_bytes=256 * GIB, available_bytes=250 * GIB),
        "network": Network(public_ip="203.0.113.7", local_ips=("10.0.0.5",), port_range=PortRange(40000, 40999)),
        "gpus": cards,
        "driver": GpuDriver(version="550.54.15", cuda_version="12.4") if gpus else None,
        "disk": Disk(
            path="/var/lib/docker",
            total_bytes=1200 * GB,
            free_bytes=1000 * GB,
            filesystem="xfs",
            device="/dev/nvme0n1",
            model="Samsung 990",
        ),
        "engine": Engine(
            version="27.0",
            api_version="1.46",
            storage_driver="overlay2",
            data_root="/var/lib/docker",
            cgroup_version="2",
            live_restore=True,
            enforces_disk_size=True,
            gpu_mode="device_request",
        ),
    }
    return MachineReport(**{**fields, **changes})
