"""A machine that serves the files of volumes, and a renter with a key and the real rsync."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from kaalia.contracts.volume import Volume, VolumeDesired
from kaalia.model.copying import DoorOrder, Holder, HolderKind
from kaalia.model.machine import PortRange
from kaalia.model.workload import Protocol
from kaalia.service import Tasks
from kaalia.store import volumes
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database
from kaalia.transfer.between import Tools
from kaalia.transfer.clouds import Clouds
from kaalia.transfer.copier import Copier
from kaalia.transfer.gate import DoorGate
from kaalia.transfer.keeper import PortKeeper
from kaalia.transfer.service import Equipment, TransferService
from kaalia.transfer.serving import Serving, Shown
from kaalia.wire import signature
from kaalia.wire.protocol import TaskRequest, Verb
from tests.support.clock import FakeClock
from tests.support.kits import KITS
from tests.support.ssh import new_key

FIRST, LAST = 23000, 23009
POOL = "10.214.0.0/16"


def holder(number: int) -> Holder:
    return Holder(HolderKind.VOLUME, number)


@dataclass
class World:
    folder: Path
    database: Database
    changes: Changes
    clock: FakeClock
    service: TransferService
    key: Path
    public: str
    busy: set[int]
    tools: Tools
    host_key: str
    clouds: Clouds

    def files(self, number: int) -> Path:
        """Those of a volume."""
        return self.folder / "files" / str(number)

    async def add_volume(self, number: int, desired: VolumeDesired = VolumeDesired.PRESENT) -> Path:
        self.files(number).mkdir(parents=True, exist_ok=True)
        volume = Volume(number, "k", 10**9, desired)
        await self.database.transaction(lambda tx: volumes.upsert(tx, volume), Topic.CONTRACTS)
        return self.files(number)

    async def open(self, number: int, *keys: str) -> int:
        request = TaskRequest(
            "t", Verb.DOOR, 0, self.clock.now(), door=DoorOrder(holder(number), keys or (self.public,))
        )
        return int((await self.service.answer(request)).partition(" ")[0])

    def rsync(self, port: int, *words: str, key: Path | None = None) -> subprocess.CompletedProcess[str]:
        """As the public client calls it; `AT` in a word is the machine."""
        ssh = f"ssh -F none -i {key or self.key} -p {port} -o StrictHostKeyChecking=no -o IdentitiesOnly=yes"
        ssh += f" -o UserKnownHostsFile={self.folder}/known -o BatchMode=yes -o LogLevel=ERROR"
        argv = ["rsync", "-arz", "-v", "--progress", "--rsh=ssh", "-e", ssh]
        argv += [word.replace("AT", "vastai_kaalia@127.0.0.1") for word in words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@asynccontextmanager
async def world_in(folder: Path, first: int = FIRST, allowed: tuple[str, ...] = ()) -> AsyncIterator[World]:
    folder.mkdir(exist_ok=True)
    changes, clock, busy = Changes(), FakeClock(), set[int]()
    database = Database(folder / "state.db", changes)
    await database.open()

    @asynccontextmanager
    async def show(one: Holder) -> AsyncIterator[Shown]:
        yield Shown(str(folder / "files" / str(one.number)))

    def is_busy(port: int, _: Protocol) -> bool:
        return port in busy

    made = signature.generate_key()
    host_key = signature.openssh_private(made)
    serving = Serving((KITS / "current").resolve, folder / "transfer", host_key, show)
    keeper = PortKeeper(database, clock, PortRange(first, first + LAST - FIRST), is_busy)
    public_of = signature.openssh_public
    equipment = Equipment(
        check=serving.check,
        serve=serving.serve,
        by_ipv6=lambda: False,
        host_key=public_of(made),
        gate=DoorGate(folder),
        copy_key=lambda _: public_of(copy_key),
    )
    copy_key = signature.generate_key()
    tools = Tools((KITS / "current").resolve, folder / "transfer", show, lambda _: signature.openssh_private(copy_key))
    clouds = Clouds(folder / "transfer", show, allowed, (POOL,))
    copier = Copier(database, clock, tools, clouds)
    service = TransferService(database, changes, clock, keeper, equipment, copier)
    key, public = new_key(folder)
    running = Tasks()
    running.start("transfer", service.run())
    try:
        yield World(folder, database, changes, clock, service, key, public, busy, tools, equipment.host_key, clouds)
    finally:
        await running.close()
        await database.close()
