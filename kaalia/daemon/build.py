"""The composition root: names every concrete part of the daemon, joins them, and ends them in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

from kaalia.api import status
from kaalia.api.app import LocalApiService
from kaalia.api.context import Context
from kaalia.api.metrics.port import MetricsPortService
from kaalia.api.metrics.scrape import Scraper
from kaalia.api.metrics.tenants import TenantMetricsService
from kaalia.capability import speed, surroundings
from kaalia.capability.address import AddressService
from kaalia.capability.benches import BenchService
from kaalia.capability.gate import FirewallGate
from kaalia.capability.reach import NoReachService, ReachService, Wanted
from kaalia.capability.report import Inputs
from kaalia.capability.service import CapabilityService
from kaalia.capability.watch import GpuWatchService
from kaalia.clock import Clock, MachineClock
from kaalia.config import Config
from kaalia.config_network import host_and_port
from kaalia.daemon import notifications, policy, power
from kaalia.daemon.notify import NotifyService, Systemd
from kaalia.daemon.tenants import TenantsService
from kaalia.daemon.timekeeper import Timekeeper
from kaalia.errors import Problem, StoreError
from kaalia.health.availability import AvailabilityService
from kaalia.health.engine_pulse import EnginePulse
from kaalia.health.engine_time import EngineTime
from kaalia.health.gpu import GpuHealthService
from kaalia.health.gpu_inside import LOOK_S, GpuInsideService
from kaalia.health.host import HealthService
from kaalia.health.host_reading import HostReader, Places
from kaalia.health.host_rules import rules as host_rules
from kaalia.health.kernel_log import KernelLogService
from kaalia.host import cgroup, ipv6, searching, witness
from kaalia.host.answering import Answering
from kaalia.host.mount_ear import MountEar
from kaalia.host.nvml import NvmlProbe
from kaalia.model.machine import PortRange
from kaalia.model.volume import VolumeBackend
from kaalia.reconciler.ends import EndsService
from kaalia.runtime.base import RegistryLogin, Runtime
from kaalia.runtime.container import ping
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.kit import put_file
from kaalia.runtime.container.owners import machines_of_key
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.runtime.volumes.backends import kind_at
from kaalia.runtime.volumes.disk import default_folder
from kaalia.service import Service
from kaalia.store import ends, folder
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from kaalia.sync.client import HeardTime
from kaalia.sync.enroll import load_key
from kaalia.sync.prober import ProberLink
from kaalia.sync.service import SyncService
from kaalia.sync.speed import SpeedLink
from kaalia.tunnel.service import TunnelService
from kaalia.units import GB
from kaalia.wire import signature

REOPEN_INTERVAL_S = 10.0
"""How often safe mode looks whether the state can be used again."""


@asynccontextmanager
async def daemon(config: Config, clock: MachineClock, systemd: Systemd) -> AsyncIterator[list[Service]]:
    """Everything that runs while the state is sound. Raises StoreError when it is not."""
    changes = Changes()
    database = await folder.open_database(config, changes)
    engine = DockerEngine(Path(config.docker.host.removeprefix("unix://")))
    pulse = EnginePulse(partial(ping.asked, engine.socket_path), changes)
    engine_time = EngineTime(engine.facts, clock, pulse)
    timekeeper = Timekeeper(database, changes, clock)
    answering = Answering()
    probes, measures = config.probe.url != "off", config.speed.peer != "off"
    probe = NvmlProbe(deadline_s=config.nvml.deadline_s)
    watch = GpuWatchService(database, changes, clock, probe, config.intervals.gpus_s)
    try:
        await timekeeper.open()
        availability = _availability(config, clock, timekeeper, database)
        told = await notifications.service(config.notify, clock, changes, database)
        powered = await power.service(config.power, clock, changes, database)
        context = Context(
            database,
            clock,
            clock.now(),
            timekeeper.problem,
            probes_ports=probes,
            measures_speed=measures,
            canary_every=policy.canary_every(config.canary),
            notifications=None if told is None else told.show,
            heard_at=timekeeper.heard_at,
            usages=cgroup.usages,
            figures=watch.figures,
        )
        heard = timekeeper.hear if told is None else notifications.both(timekeeper.hear, told.hear)
        yield [
            timekeeper,
            availability,
            *_local_services(config, systemd, context),
            _capability(config, clock, changes, database, engine_time, probe),
            watch,
            BenchService(database, changes, clock, probe),
            pulse,
            AddressService(changes),
            KernelLogService(database, changes, clock),
            GpuHealthService(database, changes, clock, config.intervals.report_s),
            GpuInsideService(database, changes, clock, min(LOOK_S, config.intervals.resync_s)),
            _health(config, clock, changes, database, engine_time),
            *_reach(config, clock, changes, database, answering),
            _speed(config, clock, changes, database),
            *_marketplace_services(config, clock, timekeeper, changes, database, engine, answering, heard, probe),
            *([] if told is None else [told]),
            *([] if powered is None else [powered]),
        ]
        await availability.stopped()  # only who was told to stop comes here
    finally:
        answering.close()
        engine.close()
        await database.close()


@asynccontextmanager
async def safe_mode(config: Config, clock: Clock, systemd: Systemd, why: Problem) -> AsyncIterator[list[Service]]:
    """What runs while the state cannot be used: nothing that touches a tenant before the end that its labels name."""
    context = Context(Database(config.database_path, Changes()), clock, clock.now(), safe_mode=why)
    engine = DockerEngine(Path(config.docker.host.removeprefix("unix://")))
    services = [*_local_services(config, systemd, context), ReopenService(config)]
    if config.identity_path.exists():
        runtimes = partial(_runtimes_of_key, config, clock, engine)
        services.append(EndsService(runtimes, partial(ends.recorded, config.database_path), clock))
    try:
        yield services
    finally:
        engine.close()


async def _runtimes_of_key(config: Config, clock: Clock, engine: DockerEngine) -> list[Runtime]:
    """The key is what is left of the machine's name. Raises ConfigError, WorkloadError."""
    key = await asyncio.to_thread(load_key, config.state_dir)
    names = await machines_of_key(engine, signature.key_id(key))
    return [ContainerRuntime(engine, name, clock=clock) for name in names]


class ReopenService:
    """Ends as soon as the state can be opened again; the daemon then starts in full."""

    name = "reopen"

    def __init__(self, config: Config, interval_s: float = REOPEN_INTERVAL_S) -> None:
        self._config = config
        self._interval_s = interval_s

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                database = await folder.open_database(self._config, Changes())
            except StoreError:
                continue
            await database.close()
            return


def _local_services(config: Config, systemd: Systemd, context: Context) -> list[Service]:
    async def progress() -> str:
        return status.line(await status.read(context))

    scraper = Scraper(context)
    services: list[Service] = [
        LocalApiService(config.socket, context, scraper),
        NotifyService(systemd, context.listening, progress),
    ]
    if (place := config.metrics.place) is not None:
        database = None if context.safe_mode else context.database
        services.append(MetricsPortService(*place, scraper, context.clock, database))
    if config.metrics.tenants and not context.safe_mode:
        write = partial(put_file, config.access_path)
        services.append(TenantMetricsService(scraper, write, config.intervals.report_s))
    return services


def _availability(
    config: Config, clock: MachineClock, timekeeper: Timekeeper, database: Database
) -> AvailabilityService:
    places = [host_and_port(one) for one in config.network.witnesses]
    is_internet_there = partial(witness.answers, places)
    return AvailabilityService(database, clock, timekeeper.lease_time, timekeeper.before, is_internet_there)


def _capability(
    config: Config, clock: Clock, changes: Changes, database: Database, engine: EngineTime, probe: NvmlProbe
) -> Service:
    public_ip = config.ports.public_ip
    inputs = Inputs(
        probe=probe,
        engine=engine.facts,
        port_range=PortRange(config.ports.first, config.ports.last),
        public_ip=None if public_ip == "auto" else public_ip,
        volume_backend=lambda data_root: volume_backend(config, Path(data_root)),
    )
    return CapabilityService(database, clock, inputs, config.intervals.report_s, changes=changes)


def _health(config: Config, clock: MachineClock, changes: Changes, database: Database, engine: EngineTime) -> Service:
    places = Places(config.state_dir, config.disk.mount)
    reader = HostReader(places, clock, host_rules().limits, lambda: engine.answer_s)
    look_s = config.intervals.health_s
    return HealthService(database, changes, clock, reader, str(config.state_dir), look_s, hear=MountEar)


def _reach(config: Config, clock: Clock, changes: Changes, database: Database, answering: Answering) -> list[Service]:
    if config.probe.url == "off":
        return [NoReachService(database, clock, FirewallGate(config.state_dir))]
    wanted = Wanted(
        PortRange(config.ports.first, config.ports.last),
        None if config.ports.public_ip == "auto" else config.ports.public_ip,
        timedelta(hours=config.probe.every_hours),
    )
    url = None if config.probe.url == "marketplace" else config.probe.url
    link = ProberLink(url, database, config.state_dir, clock, by_ipv6=ipv6.is_only)
    gate = FirewallGate(config.state_dir)
    return [ReachService(database, changes, clock, wanted, link, answering, surroundings.read, gate)]


def _speed(config: Config, clock: Clock, changes: Changes, database: Database) -> Service:
    peer = config.speed.peer
    wanted = speed.Wanted(
        peer=None if peer in ("marketplace", "off") else peer,
        secret_path=config.speed.secret_file,
        every=timedelta(hours=config.speed.every_hours),
        bytes_max=round(config.speed.max_gb * GB),
        is_off=peer == "off",
    )
    return speed.SpeedService(database, changes, clock, wanted, SpeedLink(database, config.state_dir, clock))


async def volume_backend(config: Config, data_root: Path) -> VolumeBackend:
    """How volumes are held to their size, by the nearest folder that exists yet. Raises HostError."""
    folder = config.volumes.dir if isinstance(config.volumes.dir, Path) else await default_folder(data_root)
    while not await asyncio.to_thread(folder.is_dir) and folder != folder.parent:
        folder = folder.parent
    return await kind_at(folder)


def _marketplace_services(
    config: Config,
    clock: Clock,
    timekeeper: Timekeeper,
    changes: Changes,
    database: Database,
    engine: DockerEngine,
    answering: Answering,
    heard: HeardTime,
    probe: NvmlProbe,
) -> list[Service]:
    async def login(contract_id: int) -> RegistryLogin | None:
        return await sync.login_source(contract_id)

    tenants = TenantsService(config, clock, timekeeper.lease_time, changes, database, engine, login, answering, probe)
    sync = SyncService(
        database,
        changes,
        timekeeper,
        config.state_dir,
        tenants.logs,
        heartbeat_s=config.intervals.heartbeat_s,
        heard=heard,
        policy=policy.read(config.policy),
        execute=tenants.execute,
        copy=tenants.copy,
        search=searching.matching_lines,
        snapshot=tenants.snapshot,
    )
    return [sync, tenants, TunnelService(database, changes, clock, config.state_dir)]
