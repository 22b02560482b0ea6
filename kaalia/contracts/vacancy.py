"""What is still free of a machine, model by model: which GPUs a new contract may have. Pure.

GPUs are held while a workload runs or should run. Those of bids and default jobs count as free: they give way. A GPU
that is not well (`fitness`) is free for nobody, and no less well for whoever has it.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from kaalia.contracts import arbitration
from kaalia.contracts.contract import Contract
from kaalia.contracts.slicing import by_model, model_of
from kaalia.model.machine import Gpu

NO_MODEL = ""
"""Of a machine without GPUs, whose one part is the whole of it."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A contract that has GPUs (`holds`; which ones, where its machine has said so), or shall run (`wants`)."""

    contract: Contract
    holds: bool
    wants: bool
    gpu_uuids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Vacancy:
    """The GPUs of one model: how many there are, how many are well, how many of those a new contract may have.

    `usable`: those that are well and those that firm contracts have; `rivals`: the contracts that shall run on them.
    """

    total: int
    fit: int
    free: int
    usable: int
    rivals: tuple[Contract, ...] = ()

    def bid_to_win(self, gpu_count: int, floor: Decimal) -> Decimal | None:
        """Per GPU; see `arbitration.bid_to_win`."""
        return arbitration.bid_to_win(self.rivals, self.usable, gpu_count, floor)

    def without(self, contract_id: int) -> "Vacancy":
        """As one of the rivals sees it."""
        return replace(self, rivals=tuple(one for one in self.rivals if one.contract_id != contract_id))


def vacancies(gpus: Sequence[Gpu], unfit: Collection[str], holders: Iterable[Holder]) -> dict[str, Vacancy]:
    """By model; a machine without GPUs has one, of `NO_MODEL`."""
    groups = by_model(gpus) or {NO_MODEL: ()}
    models = {gpu.uuid: model_of(gpu) for gpu in gpus}
    told = [(one, _model(one, groups, models)) for one in holders]
    return {
        model: _vacancy(members, unfit, [one for one, its in told if its in (model, None)])
        for model, members in groups.items()
    }


def _model(one: Holder, groups: Collection[str], models: dict[str, str]) -> str | None:
    """None: nobody said. Then it counts against every model."""
    if one.contract.gpu_model is not None:
        return one.contract.gpu_model
    if len(groups) == 1:
        return next(iter(groups))
    return next((models[uuid] for uuid in one.gpu_uuids if uuid in models), None)


def _vacancy(members: Sequence[Gpu], unfit: Collection[str], holders: Sequence[Holder]) -> Vacancy:
    firm = [one for one in holders if one.holds and arbitration.is_firm(one.contract.kind)]
    # A GPU that is lost, or broken, under its tenant is no less his: it takes nothing from the others.
    well = {gpu.uuid for gpu in members} - set(unfit)
    usable = len(well.union(*(one.gpu_uuids for one in firm)))
    return Vacancy(
        total=len(members),
        fit=len(well),
        free=max(0, usable - sum(one.contract.spec.gpu_count for one in firm)),
        usable=usable,
        rivals=tuple(one.contract for one in holders if one.wants),
    )
