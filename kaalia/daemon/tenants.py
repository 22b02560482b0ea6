"""The part of the daemon that needs to know which machine it is: the runtime and the reconciler, from enrolment on."""

import asyncio
import platform
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kaalia.clock import Clock
from kaalia.config import Config
from kaalia.contracts.canary import Target
from kaalia.contracts.lease import LeaseTime
from kaalia.daemon import policy, snapshots
from kaalia.daemon.copies import transfers
from kaalia.errors import HostError, WorkloadError
from kaalia.host import block, ipv6, net, system
from kaalia.host.answering import Answering
from kaalia.host.nvml import NvmlProbe
from kaalia.log import about
from kaalia.model.reach import Outcome
from kaalia.model.workload import Protocol
from kaalia.reconciler.disk import DiskService
from kaalia.reconciler.disk_watch import LOOK_S as DISK_LOOK_S
from kaalia.reconciler.disk_watch import DiskWatch, Hands, Space
from kaalia.reconciler.image_use import ImageUse
from kaalia.reconciler.kits import KitWatch
from kaalia.reconciler.launch import Settings
from kaalia.reconciler.ledger import Ledger
from kaalia.reconciler.sandboxes import SandboxService
from kaalia.reconciler.selfaudit import AuditService
from kaalia.reconciler.service import ReconcilerService
from kaalia.reconciler.traffic import TrafficService
from kaalia.reconciler.volumes import VolumesService
from kaalia.reconciler.walls_watch import WallsWatch
from kaalia.runtime.base import Progress, RegistryLogin
from kaalia.runtime.container import registry
from kaalia.runtime.container.canary_image import CanaryImage
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.jupyter_image import JupyterImage
from kaalia.runtime.container.kit import AccessFolders
from kaalia.runtime.container.networks import enclosures, publications
from kaalia.runtime.container.old_kits import Kits
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.runtime.container.snapshots import Order, Snapshots
from kaalia.runtime.container.space import EngineSpace
from kaalia.runtime.labels import machine_name
from kaalia.runtime.sandbox import pause
from kaalia.runtime.sandbox.counters import PacketCounters
from kaalia.runtime.sandbox.ipv6 import NetworkIpv6
from kaalia.runtime.sandbox.ports import Ports
from kaalia.runtime.sandbox.rules import CONNECTION_TABLE
from kaalia.runtime.sandbox.sandboxes import Sandboxes
from kaalia.runtime.sandbox.walls import Walls
from kaalia.runtime.volumes.disk import DiskVolumes
from kaalia.runtime.volumes.qgroups import BtrfsLimits
from kaalia.selftest import outside
from kaalia.selftest.asking import target
from kaalia.selftest.canary import CanaryService, Wanted
from kaalia.selftest.container import Means, NotebookMeans
from kaalia.selftest.service import SelfTestService, Test
from kaalia.service import Service, Tasks, run_forever
from kaalia.store import enrolment
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database
from kaalia.sync.enroll import load_key
from kaalia.sync.prober import ProberLink
from kaalia.transfer.service import CloudLoginSource, TransferService
from kaalia.wire import signature
from kaalia.wire.protocol import TaskRequest

JUPYTER = Path(sys.prefix, "share", "kaalia", "jupyter")
"""What install.sh fetched of it, beside the packages of the daemon and not among them."""


class TenantsService:
    """Waits for enrolment, then reconciles until cancelled. Tenants run on when it goes."""

    name = "tenants"

    def __init__(
        self,
        config: Config,
        clock: Clock,
        lease_time: Callable[[], LeaseTime],
        changes: Changes,
        database: Database,
        engine: DockerEngine,
        login_source: Callable[[int], Awaitable[RegistryLogin | None]],
        answering: Answering,
        probe: NvmlProbe,
    ) -> None:
        self._config = config
        self._clock = clock
        self._lease_time = lease_time
        self._changes = changes
        self._database = database
        self._engine = engine
        self._login_source = login_source
        self._answering = answering
        self._probe = probe
        self._enrolled = changes.subscribe(Topic.ENROLMENT)
        self._runtime: ContainerRuntime | None = None
        self._snapshots: Snapshots | None = None
        self._transfer: TransferService | None = None

    async def run(self) -> None:
        await run_forever(self.name, self._reconcile)

    async def _reconcile(self) -> None:
        member = await enrolment.wait_for(self._database, self._enrolled)
        key = await asyncio.to_thread(load_key, self._config.state_dir)
        machine = machine_name(member.machine_id, signature.key_id(key))
        limits, image_use = BtrfsLimits(), ImageUse()
        pool = self._config.docker.subnet_pool
        table = await asyncio.to_thread(net.connection_table)
        reach = policy.reach(self._config.network, table or CONNECTION_TABLE)
        walls = Walls(machine, reach, pool, partial(enclosures, self._engine, machine))
        ports = Ports(machine, pool, partial(publications, self._engine, machine))
        six = NetworkIpv6(machine, reach, is_wanted=self._config.network.ipv6 == "auto")
        sandboxes = self._sandboxes(machine, six)
        self._runtime = runtime = ContainerRuntime(
            self._engine,
            machine,
            clock=self._clock,
            limits=limits,
            walls=walls,
            ports=ports,
            ipv6=six,
            access=self._access(key),
            sandboxes=sandboxes,
        )
        low_water = self._config.disk.low_water_bytes
        held = self._config.state_dir / "snapshots"
        self._snapshots = snapshots.snapshots(self._engine, machine, self._database, self._space, low_water, held)
        await snapshots.sweep(self._snapshots)
        hands = self._hands(machine, limits)
        volumes = VolumesService(self._database, self._changes, hands, self._clock)
        space = EngineSpace(self._engine, machine, runtime.twins)
        disk = DiskService(self._database, self._changes, hands, space.usage, self._space, volumes, self._clock)
        room_s = min(DISK_LOOK_S, self._config.intervals.health_s)
        watch = DiskWatch(self._database, Hands(limits, space, self._space, image_use, low_water), self._clock, room_s)
        ledger = Ledger(self._database, self._clock)
        audit_s = self._config.intervals.resync_s
        walls_watch = WallsWatch(self._database, walls, ports, self._clock, ipv6=six)
        audit = AuditService(self._database, ledger, runtime.inventory, self._clock, audit_s)
        counters = PacketCounters(machine, six.is_given)
        traffic = TrafficService(self._database, self._changes, counters, self._clock, audit_s)
        boot_id = await asyncio.to_thread(_boot_id)
        reconciler = ReconcilerService(
            self._database,
            self._changes,
            self._runtime,
            self._clock,
            machine,
            self._login_source,
            Settings(
                subnet_pool=pool,
                resync_s=self._config.intervals.resync_s,
                policy=policy.read(self._config.policy),
            ),
            self._is_port_busy,
            host_routes=net.routed_networks,
            lease_time=self._lease_time,
            booted_at=await asyncio.to_thread(_booted_at),
            boot_id=boot_id,
            mounts=volumes.mounts,
            images=image_use,
            networks=sandboxes,
            tags=registry.tags,
        )
        self._transfer = transfers(
            self._config,
            machine,
            key,
            self._database,
            self._changes,
            self._clock,
            self._is_port_busy,
            hands,
            runtime.roots,
            self._access(key),
        )
        canary, selftest = self._canary(runtime, boot_id), self._selftest(runtime, machine, key)
        kits = KitWatch(self._database, self._kits(), self._engine.mount_sources, runtime.kit_changed, self._clock)
        beside_it: list[Service] = [volumes, disk, watch, audit, traffic, walls_watch, kits, self._transfer]
        beside_it += [canary, selftest]
        if sandboxes is not None:
            beside_it.append(SandboxService(sandboxes, ledger, pool, net.routed_networks))
        with about(machine_id=member.machine_id):
            beside = Tasks()
            for service in beside_it:
                beside.start(service.name, service.run())
            try:
                await reconciler.run()
            finally:
                await beside.close()
                await runtime.close()
                walls.close()

    def _sandboxes(self, machine: str, ipv6: NetworkIpv6) -> Sandboxes | None:
        if platform.machine() not in pause.PROCESSORS:
            return None
        docker = self._config.docker
        return Sandboxes(self._engine, machine, docker.warm_networks, ipv6, docker.subnet_pool)

    def _hands(self, machine: str, limits: BtrfsLimits) -> DiskVolumes:
        async def data_root() -> str:
            engine = await self._engine.facts()
            if engine.storage_driver == "btrfs":
                await limits.watch(Path(engine.data_root))
            return engine.data_root

        folder = self._config.volumes.dir
        fixed = folder if isinstance(folder, Path) else None
        return DiskVolumes(machine, data_root, self._engine.mount_sources, limits, fixed)

    def _canary(self, runtime: ContainerRuntime, boot_id: str) -> CanaryService:
        return CanaryService(
            self._database,
            self._changes,
            self._clock,
            self._lease_time,
            Wanted(policy.canary_every(self._config.canary), boot_id),
            self._means(runtime),
        )

    def _selftest(self, runtime: ContainerRuntime, machine: str, key: Ed25519PrivateKey) -> SelfTestService:
        def test() -> Test:
            # Most machines are tested once, and all would keep it in memory.
            from kaalia.selftest.trial import Trials  # noqa: PLC0415

            probes, measures = self._config.probe.url != "off", self._config.speed.peer != "off"
            here = Trials(self._database, self._changes, self._clock, self._lease_time)
            settings = replace(here.settings, probes_ports=probes, measures_speed=measures)
            return replace(here, settings=settings, probe=self._probe).test

        jupyter = JupyterImage(self._engine, machine, JUPYTER)
        notebook = NotebookMeans(
            jupyter.why_not,
            jupyter.ready,
            jupyter.clear,
            lambda contract_id: signature.tls_key(key, contract_id).public_key(),
        )
        means = replace(self._means(runtime), notebook=notebook)
        return SelfTestService(self._database, self._changes, self._clock, self._lease_time, means, test)

    def _means(self, runtime: ContainerRuntime) -> Means:
        async def place() -> Target:
            member = await self._database.read(enrolment.get)
            return await target(member.url, self._config.network.allow) if member else Target(why_not="not enrolled")

        image = CanaryImage(self._engine, self._config.kits_path)
        return Means(image.ready, runtime.logs, place, self._outside)

    async def _outside(self, port: int) -> Outcome | None:
        """What the prober sees of a TCP port, where one is configured."""
        url = self._config.probe.url
        if url == "off":
            return None
        named = None if url == "marketplace" else url
        link = ProberLink(named, self._database, self._config.state_dir, self._clock, by_ipv6=ipv6.is_only)
        return await outside.seen(self._database, link.open, port)

    def _kits(self) -> Kits:
        """A folder that the owner names may serve other machines too."""
        return Kits(self._config.kits_path, is_own=self._config.access.kit_dir == "auto")

    def _access(self, key: Ed25519PrivateKey) -> AccessFolders:
        def host_key(contract_id: int) -> bytes:
            return signature.openssh_private(signature.derived_key(key, f"host key of contract {contract_id}"))

        def tls_key(contract_id: int) -> bytes:
            return signature.tls_private_pem(signature.tls_key(key, contract_id))

        return AccessFolders(self._config.kits_path, self._config.access_path, host_key, tls_key)

    def _is_port_busy(self, port: int, protocol: Protocol) -> bool:
        """A port that is only being probed goes to the renter."""
        self._answering.release((port, protocol))
        return not net.is_port_free(port, protocol)

    async def _space(self) -> Space:
        found = await block.filesystem(Path((await self._engine.facts()).data_root))
        return Space(found.total_bytes, found.free_bytes)

    async def snapshot(self, request: TaskRequest, login: RegistryLogin | None, progress: Progress) -> str:
        """The digest that was pushed. Raises WorkloadError."""
        if self._snapshots is None:
            raise WorkloadError("not_enrolled", "cannot take a snapshot: this machine is not enrolled yet")
        return await self._snapshots.take(Order(request.contract_id, request.image, request.pause, login), progress)

    async def copy(self, request: TaskRequest, login: CloudLoginSource) -> str:
        """What is answered to a request for a copy. Raises KaaliaError."""
        if self._transfer is None:
            raise WorkloadError("not_enrolled", "cannot copy: this machine is not enrolled yet")
        return await self._transfer.answer(request, login)

    async def logs(self, contract_id: int, tail: int) -> str:
        """The last lines of a workload's output. Raises WorkloadError."""
        return await self._enrolled_runtime("read logs", contract_id).logs(contract_id, tail)

    async def execute(self, contract_id: int, command: str, seconds: float) -> str:
        """What a command prints about a workload's files. Raises KaaliaError."""
        runtime = self._enrolled_runtime("execute a command", contract_id)
        return await runtime.roots.execute(contract_id, command, seconds)

    def _enrolled_runtime(self, doing: str, contract_id: int) -> ContainerRuntime:
        if self._runtime is None:
            raise WorkloadError("not_enrolled", f"cannot {doing} of contract {contract_id}: not enrolled yet")
        return self._runtime


def _booted_at() -> datetime | None:
    try:
        return system.booted_at()
    except HostError:
        return None


def _boot_id() -> str:
    try:
        return system.boot_id()
    except HostError:
        return ""
