"""One scrape: the store is read, samples are made of it, and the library writes them down; beside the event loop."""

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from dataclasses import replace

from kaalia.api.context import Context
from kaalia.api.metrics import reading
from kaalia.api.metrics.internals import Internals
from kaalia.api.metrics.reading import Reading
from kaalia.api.responses import NotFoundError
from kaalia.errors import StoreError
from kaalia.model.gpu_health import GpuFigures
from kaalia.model.machine import MachineReport
from kaalia.model.workload import WorkloadState
from kaalia.pulse import PULSE


class Scraper:
    """One scrape at a time: they come from outside, and threads are few."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._one_at_a_time = asyncio.Lock()

    async def whole(self) -> bytes:
        """All there is. In safe mode, and when the store cannot be read: only of the daemon itself."""
        async with self._one_at_a_time:
            internals = self._internals()
            found: Reading | None = None
            with contextlib.suppress(StoreError):
                found = await self._read()
            return await asyncio.to_thread(_whole, self._context, found, internals)

    async def of_contract(self, contract_id: int) -> bytes:
        """What a tenant may see. Raises NotFoundError, StoreError."""
        async with self._one_at_a_time:
            found = await self._read()
            if all(stored.contract.contract_id != contract_id for stored in found.contracts):
                raise NotFoundError(
                    "no_such_contract",
                    f"cannot show contract {contract_id}: this machine has none with that id",
                    remedy="see all with: kaalia contracts",
                )
            return (await asyncio.to_thread(_of_contracts, self._context, found, (contract_id,)))[contract_id]

    async def of_tenants(self) -> dict[int, bytes]:
        """What each tenant whose contract runs may see, by contract, of one moment. Raises StoreError."""
        async with self._one_at_a_time:
            found = await self._read()
            numbers = [number for number, one in found.workloads.items() if one.state is WorkloadState.RUNNING]
            return await asyncio.to_thread(_of_contracts, self._context, found, numbers)

    async def _read(self) -> Reading:
        now, figures = self._context.clock.now(), self._context.figures()
        found = await self._context.read(lambda tx: reading.read(tx, now))
        return replace(found, report=_newer(found.report, figures)) if found.report is not None else found

    def _internals(self) -> Internals:
        here = self._context
        return Internals(
            started_at=here.started_at,
            safe_mode=here.safe_mode is not None,
            pulse=PULSE,
            unwritable=here.database.write_problem is not None,
            heard_at=here.heard_at(),
        )


# The first scrape imports the modules and the library that make the text: without a Prometheus they take no memory.


def _whole(here: Context, found: Reading | None, internals: Internals) -> bytes:
    from kaalia.api.metrics import text  # noqa: PLC0415

    return text.whole(found, here.usages(_running(found)) if found else {}, internals)


def _of_contracts(here: Context, found: Reading, contract_ids: Collection[int]) -> dict[int, bytes]:
    from kaalia.api.metrics import text  # noqa: PLC0415

    return text.of_contracts(found, here.usages(_running(found, contract_ids)), contract_ids)


def _newer(report: MachineReport, figures: Mapping[int, GpuFigures]) -> MachineReport:
    """With what moves of its GPUs as it was seen last."""
    gpus = (
        replace(
            gpu,
            temperature_c=figures[gpu.index].temperature_c,
            power_draw_w=figures[gpu.index].power_draw_w,
            utilization_percent=figures[gpu.index].utilization_percent,
            sm_clock_mhz=figures[gpu.index].sm_clock_mhz,
        )
        if gpu.index in figures
        else gpu
        for gpu in report.gpus
    )
    return replace(report, gpus=tuple(gpus))


def _running(found: Reading, contract_ids: Collection[int] | None = None) -> list[str]:
    """Ids of the containers that run; of these contracts, if they are named."""
    return [
        status.container_id
        for number, status in found.workloads.items()
        if status.container_id
        and status.state is WorkloadState.RUNNING
        and (contract_ids is None or number in contract_ids)
    ]
