"""What adds up, of one contract: its disk while its container exists, CPU and memory while that may run. Pure."""

from kaalia.contracts.contract import Contract
from kaalia.contracts.slicing import share
from kaalia.model.machine import MachineReport
from kaalia.reconciler.actions import Frees
from kaalia.store.amounts import Amount, AmountKind, OwnerKind

FREED: dict[Frees, tuple[AmountKind, ...]] = {
    Frees.NOTHING: (),
    Frees.GPUS: (AmountKind.CPU, AmountKind.RAM),
    Frees.ALL: tuple(AmountKind),
}
"""What goes with the GPUs when a container stops, and what stays until it is gone."""


def of_contract(
    contract: Contract, generation: int, report: MachineReport | None, *, may_run: bool
) -> tuple[Amount, ...]:
    """Its disk, and with `may_run` its shares of CPU and memory. Without a report the shares are not known."""
    sizes = {AmountKind.DISK: contract.spec.disk_bytes}
    if may_run and report is not None:
        part = share(report, contract.spec.gpu_count)
        sizes |= {AmountKind.CPU: round(part.cpu_cores * 1000), AmountKind.RAM: part.memory_bytes}
    return tuple(
        Amount(kind, OwnerKind.CONTRACT, contract.contract_id, generation, size) for kind, size in sizes.items()
    )


def limits(report: MachineReport | None) -> dict[AmountKind, int]:
    """What may never be exceeded. CPU and memory follow from the GPUs, which have one owner each; CPU may burst."""
    return {} if report is None or report.disk is None else {AmountKind.DISK: report.disk.total_bytes}
