"""Bring a contract to life: image, ports and subnet, container, start. Every step may be repeated after a crash.

Errors leave as they come: `service` decides which are worth another try, and calls `execute.fail` for the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace

from kaalia.clock import Clock
from kaalia.contracts import image, policy, ports
from kaalia.contracts.contract import Contract
from kaalia.contracts.policy import OPEN, Policy
from kaalia.contracts.slicing import share
from kaalia.errors import WorkloadError
from kaalia.model.machine import MachineReport
from kaalia.model.workload import PortBinding, PortRequest, Protocol, WorkloadState, WorkloadStatus
from kaalia.reconciler import status
from kaalia.reconciler.actions import Launch
from kaalia.reconciler.image_use import ImageUse, plain_name
from kaalia.reconciler.ledger import Grant, Ledger, taken_ports
from kaalia.runtime.base import BindMount, ImageFacts, Observed, Placement, Progress, RegistryLogin, Runtime
from kaalia.runtime.networking import NetworkPool
from kaalia.service import Tasks
from kaalia.store.claims import Claim, ClaimKind
from kaalia.wire import gpu_figures

PLACES_MAX = 3
"""How often other ports or another subnet are tried when a foreign program turns out to hold them."""
_OF_SUBNETS = ("subnet_taken", "network_exists")
"""Names of networks follow from their subnets: another one has another name."""
PROGRESS_INTERVAL_S = 1.0
DEFAULT_SUBNET_POOL = "10.214.0.0/16"


@dataclass(frozen=True, slots=True)
class Settings:
    """The owner's part of the configuration."""

    subnet_pool: str = DEFAULT_SUBNET_POOL
    stop_grace_s: float = 10.0
    """Between SIGTERM and SIGKILL; Docker's own default."""
    resync_s: float = 60.0
    """How often everything is looked at, events or not."""
    parallel_starts: int = 8
    """More at once gain nothing: the engine is the limit (measured)."""
    policy: Policy = OPEN
    """What new contracts must keep, whoever signed them."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What actions are done with. `checkpoint` is `crash.at`; `randbelow(n)` gives 0 to n - 1."""

    ledger: Ledger
    runtime: Runtime
    clock: Clock
    machine: str
    """Owner of all that is created: `runtime.labels.machine_name`."""
    login_source: Callable[[int], Awaitable[RegistryLogin | None]]
    settings: Settings
    port_busy: Callable[[int, Protocol], bool]
    """True: a program of the machine listens there. Called on the store's thread."""
    host_routes: Callable[[], Collection[str]]
    """Networks that the machine routes, as CIDR."""
    randbelow: Callable[[int], int]
    checkpoint: Callable[[str], None]
    starts: asyncio.Semaphore
    mounts: Callable[[Contract], Awaitable[tuple[BindMount, ...]]]
    """Makes sure of the contract's volumes, and says where they are."""
    tags: Callable[[str, RegistryLogin | None], Awaitable[tuple[str, ...]]]
    """The tags of an image's name, by its registry. Raises WorkloadError."""
    networks: NetworkPool | None = None
    """None: every contract's network is made when it comes."""
    images: ImageUse = field(default_factory=ImageUse)
    tasks: Tasks = field(default_factory=Tasks)
    pulling: set[int] = field(default_factory=set)
    """Contracts whose image is under way: these actions may be cancelled."""


@dataclass(frozen=True, slots=True)
class _Avoid:
    """What turned out to be in use by others."""

    ports: frozenset[tuple[int, Protocol]] = frozenset()
    subnets: frozenset[str] = frozenset()


async def launch(tools: Tools, action: Launch, row: WorkloadStatus | None, report: MachineReport) -> Observed:
    """Run the contract; returns what is seen right after the start."""
    action = replace(action, contract=await tagged(tools, action.contract, row, report))
    async with tools.images.using(action.contract.spec.image):
        return await _launch(tools, action, row, report)


async def _launch(tools: Tools, action: Launch, row: WorkloadStatus | None, report: MachineReport) -> Observed:
    facts = await _image(tools, action, row)
    requests = ports.wanted(action.contract.spec.ports, facts.exposed_ports)
    avoid = _Avoid()
    for last in (*[False] * (PLACES_MAX - 1), True):
        decide = _decision(tools, action, row, report, requests, avoid)
        grant = await tools.ledger.grant("launch", decide, action.contract.restart_count)
        try:
            return await _create_and_start(tools, action.contract, grant, report)
        except WorkloadError as error:
            if last or error.code not in ("port_taken", *_OF_SUBNETS):
                raise
            await tools.runtime.remove(action.contract.contract_id)
            avoid = _widened(avoid, error.code, grant)
    raise AssertionError("unreachable")


async def tagged(tools: Tools, contract: Contract, row: WorkloadStatus | None, report: MachineReport) -> Contract:
    """With a tag that this machine's driver allows, where the contract leaves that to the machine.

    It is chosen once a generation: what was begun with one is not to end because the registry has another by now, or
    does not answer.

    Raises WorkloadError `no_tag_fits`, `image_banned`, the registry's codes, and what `login_source` raises.
    """
    name = image.automatic_name(contract.spec.image)
    if name is None:
        return contract
    if _is_creating(contract, row) and row is not None and row.image is not None:
        return replace(contract, spec=replace(contract.spec, image=row.image))
    driver_cuda = report.driver.cuda_version if report.driver else None
    cuda = gpu_figures.cuda_max(driver_cuda, report.gpus) if driver_cuda else None
    login = await tools.login_source(contract.contract_id) if contract.spec.needs_registry_login else None
    tags = await tools.tags(name, login) if cuda else ()
    tag = await asyncio.to_thread(image.choose_tag, tags, cuda) if cuda else None
    if tag is None:
        raise WorkloadError(
            "no_tag_fits",
            f"cannot choose a tag of {name}: none of {len(tags)} names a CUDA that this machine supports, up to {cuda}",
            remedy="name a tag, or rent a machine with a newer driver",
        )
    chosen = replace(contract, spec=replace(contract.spec, image=f"{name}:{tag}"))
    if (banned := policy.image_refusal(tools.settings.policy, chosen)) is not None:
        raise WorkloadError(banned.code, banned.message, remedy=banned.remedy)
    return chosen


async def _image(tools: Tools, action: Launch, row: WorkloadStatus | None) -> ImageFacts:
    """The image, from this machine when anyone may have it. For a private one the registry decides, every time."""
    contract = action.contract
    if (present := await _present(tools, contract, row)) is not None:
        return present
    pulling = status.preparing(contract, row, action.gpu_uuids, WorkloadState.PULLING, tools.clock.now())
    await tools.ledger.intend("pull", pulling, action.gpu_uuids)
    tools.checkpoint("pull.intended")
    return await pull(tools, contract, pulling)


async def _present(tools: Tools, contract: Contract, row: WorkloadStatus | None) -> ImageFacts | None:
    """The image that is here, if it will do: a later generation wants a fresh one, which `renew` has pulled before."""
    spec = contract.spec
    if contract.generation > 1:
        return await tools.runtime.image(spec.image) if _is_creating(contract, row) else None
    present = None if spec.needs_registry_login else await tools.runtime.image(spec.image)
    is_public = present is not None and not await tools.ledger.is_private(spec.image, present.image_id)
    return present if is_public else None


def _is_creating(contract: Contract, row: WorkloadStatus | None) -> bool:
    """The image of this generation was here, and its container was about to be."""
    return row is not None and row.generation == contract.generation and row.state is WorkloadState.CREATING


async def pull(tools: Tools, contract: Contract, pulling: WorkloadStatus) -> ImageFacts:
    """Pull, telling how it goes in the words of `pulling`. May be cancelled. Raises WorkloadError."""
    tools.pulling.add(contract.contract_id)
    try:
        return await _pull(tools, contract, _progress(tools, pulling))
    finally:
        tools.pulling.discard(contract.contract_id)
        tools.tasks.cancel(_progress_key(contract.contract_id))


async def _pull(tools: Tools, contract: Contract, progress: Progress) -> ImageFacts:
    """Pull with the contract's login, and remember for the next renter whether it took one."""
    spec = contract.spec
    login = await tools.login_source(contract.contract_id) if spec.needs_registry_login else None
    if login is not None:
        await tools.ledger.mark_private(spec.image)
    before = await tools.runtime.image(spec.image)
    pulled = await tools.runtime.pull(spec.image, login, progress)
    tools.checkpoint("pull.done")
    if before is None or before.image_id != pulled.image_id:
        # Not one that was here already: that may be the owner's.
        await tools.ledger.mark_pulled(pulled.image_id, plain_name(spec.image))
    if login is None:
        await tools.ledger.mark_public(spec.image, pulled.image_id)
    else:
        await tools.ledger.mark_private(pulled.image_id)
    return pulled


def _progress(tools: Tools, pulling: WorkloadStatus) -> Progress:
    """Tells the newest line, once a second at most."""
    told_at_s = tools.clock.monotonic_s()
    key = _progress_key(pulling.contract_id)

    def tell(line: str) -> None:
        nonlocal told_at_s
        now_s = tools.clock.monotonic_s()
        is_late = pulling.contract_id not in tools.pulling
        if is_late or now_s - told_at_s < PROGRESS_INTERVAL_S or tools.tasks.busy(key):
            return
        told_at_s = now_s
        news = replace(pulling, status_msg=line, as_of=tools.clock.now())
        tools.tasks.start(key, tools.ledger.tell([news]))

    return tell


def _progress_key(contract_id: int) -> object:
    return ("progress", contract_id)


def _decision(
    tools: Tools,
    action: Launch,
    row: WorkloadStatus | None,
    report: MachineReport,
    requests: tuple[PortRequest, ...],
    avoid: _Avoid,
) -> Callable[[tuple[Claim, ...]], Grant]:
    """What `Ledger.grant` asks: ports and subnet, given everybody's claims."""
    contract = action.contract

    def decide(held: tuple[Claim, ...]) -> Grant:
        creating = status.preparing(contract, row, action.gpu_uuids, WorkloadState.CREATING, tools.clock.now())
        taken = taken_ports(held, but_of=contract.contract_id) | avoid.ports
        bindings = _free_ports(tools, requests, report, taken, row.ports if row else ())
        granted = replace(creating, ports=bindings, public_ipaddr=report.network.told_ip)
        return Grant(granted, _subnet(tools, contract, held, avoid))

    return decide


def _subnet(tools: Tools, contract: Contract, held: tuple[Claim, ...], avoid: _Avoid) -> str:
    """The one that it has, else one whose network stands ready, else the first that nobody has."""
    owners = {one.key: one.contract_id for one in held if one.kind is ClaimKind.SUBNET}
    mine = [key for key, owner in owners.items() if owner == contract.contract_id and key not in avoid.subnets]
    if mine:
        return mine[0]
    others, pool = avoid.subnets.union(owners), tools.networks
    # A host name is given to a network when it is made.
    ready = pool.warm - others if pool is not None and not contract.spec.hostname else frozenset()
    if ready:
        return min(ready)
    making = pool.making if pool is not None else frozenset()
    return ports.next_subnet(tools.settings.subnet_pool, {*others, *making, *tools.host_routes()})


def _free_ports(
    tools: Tools,
    requests: tuple[PortRequest, ...],
    report: MachineReport,
    taken: set[tuple[int, Protocol]],
    kept: tuple[PortBinding, ...],
) -> tuple[PortBinding, ...]:
    """Choose, ask the machine whether they are really free, choose others for those that are not."""
    while True:
        bindings = ports.allocate(requests, report.network.port_range, taken, tools.randbelow, kept)
        busy = {(b.host_port, b.protocol) for b in bindings if tools.port_busy(b.host_port, b.protocol)}
        if not busy:
            return bindings
        taken |= busy


async def _create_and_start(tools: Tools, contract: Contract, grant: Grant, report: MachineReport) -> Observed:
    mounts = await tools.mounts(contract)
    placement = Placement(
        machine=tools.machine,
        contract=contract,
        gpu_uuids=grant.status.gpu_uuids,
        ports=grant.status.ports,
        subnet=grant.subnet,
        share=share(report, contract.spec.gpu_count),
        env=environment(contract, grant.status),
        mounts=mounts,
    )
    async with tools.starts:
        tools.checkpoint("create.intended")
        await tools.runtime.create(placement)
        tools.checkpoint("create.done")
        return await start_now(tools, contract, grant.status)


async def start_now(tools: Tools, contract: Contract, intended: WorkloadStatus) -> Observed:
    """Start what an open intent stands for, and write down what is seen. `intended`: the status of that intent."""
    await tools.mounts(contract)  # after a reboot they may have to be mounted
    started = await tools.runtime.start(contract.contract_id)
    tools.checkpoint("start.done")
    done = await _earlier_restarts(tools, intended) if started.was_running else contract.restart_count
    seen = status.seen(contract, intended, started.observed, tools.clock.now())
    await tools.ledger.settle(replace(seen, restarts_done=done), sight=started.observed)
    tools.checkpoint("launch.recorded")
    return started.observed


async def _earlier_restarts(tools: Tools, intended: WorkloadStatus) -> int:
    """The reboots that a start by another intent than the newest did: a daemon that died had asked the engine for it.

    Which of them is not known, so it is the oldest: one reboot too many rather than one that was forgotten.
    """
    *earlier, _ = (await tools.ledger.books()).start_counts(intended.contract_id)
    return max(intended.restarts_done, *earlier[:1])


async def no_tags(_name: str, _login: RegistryLogin | None) -> tuple[str, ...]:
    """Of a machine that asks no registry."""
    return ()


async def no_mounts(_: Contract) -> tuple[BindMount, ...]:
    """Of a machine without volumes."""
    return ()


def environment(contract: Contract, granted: WorkloadStatus) -> tuple[tuple[str, str], ...]:
    """The spec's variables, and what only the machine knows: mapped ports and the public address."""
    env = dict(contract.spec.env)
    for binding in granted.ports:
        env[f"VAST_{binding.protocol.upper()}_PORT_{binding.requested}"] = str(binding.host_port)
    if granted.public_ipaddr:
        env["PUBLIC_IPADDR"] = granted.public_ipaddr
    # Ports are single ones out of the range, not a block: images read -1 as "no block".
    env |= {"DIRECT_PORT_START": "-1", "DIRECT_PORT_END": "-1"}
    return tuple(env.items())


def _widened(avoid: _Avoid, code: str, grant: Grant) -> _Avoid:
    if code in _OF_SUBNETS:
        return replace(avoid, subnets=avoid.subnets | {grant.subnet})
    return replace(avoid, ports=avoid.ports | {(b.host_port, b.protocol) for b in grant.status.ports})
