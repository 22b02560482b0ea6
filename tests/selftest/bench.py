"""A machine of two GPUs whose reconciler runs beside the service that is tested, on a runtime in memory."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta

from cryptography import x509

from kaalia.contracts.canary import Target
from kaalia.contracts.lease import LeaseTime, certain
from kaalia.errors import HostError, WorkloadError
from kaalia.model.canary import CanaryState
from kaalia.model.health import Condition
from kaalia.model.machine import MachineReport
from kaalia.model.reach import Outcome
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.selftest.canary import CanaryService, Wanted
from kaalia.selftest.container import Means, NotebookMeans
from kaalia.selftest.login import Key
from kaalia.selftest.notebook import Door
from kaalia.store import canary, certificates, conditions, contracts, machine
from kaalia.store.changes import Topic
from kaalia.wire import signature
from kaalia.wire.signature import TlsPublicKey
from tests.reconciler.rig import Rig
from tests.support.canaries import AnsweringRuntime
from tests.support.clock import FakeClock
from tests.support.serving import running

IMAGE = "kaalia.invalid/canary:0123456789ab"
JUPYTER_IMAGE = "kaalia.invalid/jupyter:0123456789ab"
MACHINE_KEY = signature.generate_key()
BOOT = "boot-1"
SAID = """address eth0 {address}
wrote 33000000 122
gpu nvidia0 195 0 try
gpu nvidia0 195 0 0
gpu nvidia1 195 1 try
gpu nvidia1 195 1 0
done
"""


NOWHERE = Target(why_not="no way out")


@dataclass
class Bench:
    rig: Rig
    runtime: AnsweringRuntime
    clock: FakeClock
    report: MachineReport
    every: timedelta | None = timedelta(hours=6)
    boot_id: str = BOOT
    target: Target = NOWHERE
    reach: Callable[[], Awaitable[Target]] | None = None
    """What happens while the place outside is looked for."""
    outside: Outcome | None = None
    image_fails_with: WorkloadError | None = None
    lease_time: LeaseTime | None = None
    login_fails_with: HostError | None = None
    logins: int = 0
    why_no_jupyter: str = ""
    jupyter_fails_with: HostError | None = None
    doors: list[Door] = field(default_factory=list)
    images: set[str] = field(default_factory=set)
    """Made for Jupyter, and not removed yet."""
    minors: dict[str, int] = field(default_factory=dict)
    """By UUID; empty: the driver does not say whose node is whose."""
    services: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> None:
        """The reconciler, and the service."""
        await self.services.enter_async_context(running(self.rig.service))
        await self.services.enter_async_context(running(self.service()))

    async def crash(self) -> None:
        """The daemon is gone; what it began is not."""
        await self.services.aclose()
        self.services = AsyncExitStack()
        self.rig.boot()

    def service(self) -> CanaryService:
        return CanaryService(
            self.rig.store,
            self.rig.changes,
            self.clock,
            lambda: self.lease_time or certain(self.clock.now()),
            Wanted(self.every, self.boot_id),
            self.means(),
        )

    def means(self) -> Means:
        logs, minors = self.runtime.logs, lambda: self.minors
        notebook = NotebookMeans(lambda: self.why_no_jupyter, self._jupyter_image, self._clear, _public_key)
        return Means(self._image, logs, self._target, self._outside, minors=minors, notebook=notebook)

    async def _jupyter_image(self) -> str:
        self.images.add(JUPYTER_IMAGE)
        return JUPYTER_IMAGE

    async def _clear(self) -> None:
        assert not any(number >= 10**12 for number in self.runtime.containers), "a container uses it"
        self.images.clear()

    async def ask(self, door: Door) -> None:
        """Its container runs, and has been given what the door is known by."""
        number = max(self.runtime.containers)
        for _ in range(2000):
            if number in self.runtime.chains:
                break
            await asyncio.sleep(0.005)
        leaf = x509.load_pem_x509_certificate(self.runtime.chains[number].encode())
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(door.root.encode()))
        self.doors.append(door)
        if self.jupyter_fails_with is not None:
            raise self.jupyter_fails_with

    async def _image(self) -> str:
        if self.image_fails_with is not None:
            raise self.image_fails_with
        return IMAGE

    async def _target(self) -> Target:
        return self.target if self.reach is None else await self.reach()

    async def _outside(self, _port: int) -> Outcome | None:
        return self.outside

    async def log_in(self, row: WorkloadStatus, _address: str, key: Key) -> None:
        assert row.state is WorkloadState.RUNNING
        status = await asyncio.to_thread(key.path.stat)
        assert status.st_mode & 0o777 == 0o600
        self.logins += 1
        if self.login_fails_with is not None:
            raise self.login_fails_with

    async def put_report(self, report: MachineReport) -> None:
        self.report = report
        await self.rig.store.transaction(lambda tx: machine.put_report(tx, report), Topic.MACHINE)

    async def order(self) -> None:
        now = self.clock.now()
        await self.rig.store.transaction(
            lambda tx: canary.change(tx, lambda state: replace(state, asked_at=now)), Topic.CANARY
        )

    async def state(self) -> CanaryState:
        return await self.rig.store.read(canary.get)

    async def until(self, what: Callable[[CanaryState], bool]) -> CanaryState:
        for _ in range(3000):
            if what(state := await self.state()):
                return state
            await asyncio.sleep(0.005)
        raise AssertionError(f"it did not come true: {state}")

    async def gone(self) -> None:
        """No contract, container, certificate and image of its own is left."""
        for _ in range(3000):
            own = [one for one in await self.rig.store.read(contracts.all_contracts) if one.origin != "marketplace"]
            known = await self.rig.store.read(certificates.all_certificates)
            left = [*own, *(number for number in self.runtime.containers if number >= 10**12), *known, *self.images]
            if not left:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"left: {left}")

    async def told(self) -> dict[str, Condition]:
        found = await self.rig.store.read(conditions.all_open)
        return {one.condition.problem.code: one.condition for one in found if one.source == canary.SOURCE}

    async def until_told(self, *codes: str) -> dict[str, Condition]:
        for _ in range(3000):
            if set(told := await self.told()) == set(codes):
                return told
            await asyncio.sleep(0.005)
        raise AssertionError(f"told: {told}")


def _public_key(contract_id: int) -> TlsPublicKey:
    return signature.tls_key(MACHINE_KEY, contract_id).public_key()
