"""Joins what copies need: ports, the kit, the machine's key for them, and renters' files."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kaalia.clock import Clock
from kaalia.config import Config
from kaalia.contracts.ports import ipv6_pool
from kaalia.errors import WorkloadError
from kaalia.host import ipv6
from kaalia.model.copying import Holder, HolderKind
from kaalia.model.machine import PortRange
from kaalia.model.workload import Protocol
from kaalia.runtime.base import ANY_CONTRACT
from kaalia.runtime.container.kit import AccessFolders
from kaalia.runtime.container.roots import Roots
from kaalia.runtime.volumes.disk import DiskVolumes
from kaalia.store import volumes
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from kaalia.transfer.between import Tools
from kaalia.transfer.clouds import Clouds
from kaalia.transfer.copier import Copier
from kaalia.transfer.gate import DoorGate
from kaalia.transfer.keeper import PortKeeper
from kaalia.transfer.service import Equipment, TransferService
from kaalia.transfer.serving import Serving, Show, Shown
from kaalia.wire import signature

FOLDER = "transfer"
"""Below the state directory."""


def transfers(
    config: Config,
    machine: str,
    key: Ed25519PrivateKey,
    database: Database,
    changes: Changes,
    clock: Clock,
    is_port_busy: Callable[[int, Protocol], bool],
    disk: DiskVolumes,
    roots: Roots,
    access: AccessFolders,
) -> TransferService:
    def kit() -> Path:
        return Path(access.kit(ANY_CONTRACT).folder)

    def copy_key(copy_id: str) -> Ed25519PrivateKey:
        return signature.derived_key(key, f"key of copy {copy_id}")

    host_key = signature.derived_key(key, "host key of copies")
    show, folder = _show(database, disk, roots), config.state_dir / FOLDER
    serving = Serving(kit, folder, signature.openssh_private(host_key), show)
    ports = PortRange(config.ports.first, config.ports.last)
    equipment = Equipment(
        check=serving.check,
        serve=serving.serve,
        by_ipv6=ipv6.is_only,
        host_key=signature.openssh_public(host_key),
        gate=DoorGate(config.state_dir),
        copy_key=lambda copy_id: signature.openssh_public(copy_key(copy_id)),
    )
    tools = Tools(kit, folder, show, lambda copy_id: signature.openssh_private(copy_key(copy_id)))
    pools = (config.docker.subnet_pool, ipv6_pool(machine))
    keeper = PortKeeper(database, clock, ports, is_port_busy)
    copier = Copier(database, clock, tools, Clouds(folder, show, config.network.allow, pools))
    return TransferService(database, changes, clock, keeper, equipment, copier)


def _show(database: Database, disk: DiskVolumes, roots: Roots) -> Show:
    @asynccontextmanager
    async def show(holder: Holder) -> AsyncIterator[Shown]:
        if holder.kind is HolderKind.INSTANCE:
            async with roots.open(holder.number) as view:
                yield Shown(f"/{view.path.name}", view.pid)  # below the root of that process
            return
        stored = await database.read(lambda tx: volumes.get(tx, holder.number))
        if stored is None:
            raise WorkloadError("volume_missing", f"cannot find the data of volume {holder.number} on this machine")
        yield Shown(await disk.ready(stored.volume))

    return show
