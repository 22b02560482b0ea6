"""Who may log in, and by which certificate Jupyter is known: told to the runtime, and to nobody's workload."""

import logging
from collections.abc import Iterable, Mapping

from kaalia.contracts.contract import Contract
from kaalia.errors import KaaliaError
from kaalia.model.certificate import Certificate
from kaalia.model.workload import LaunchMode
from kaalia.runtime.base import Observed, Runtime

log = logging.getLogger(__name__)


class Keys:
    """In memory: a restarted daemon tells all of it once more, which changes nothing."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._told: dict[int, tuple[int, int, tuple[str, ...] | None, str | None]] = {}

    async def tell(
        self, contracts: Iterable[Contract], present: Iterable[Observed], certificates: Mapping[int, Certificate]
    ) -> None:
        """Those that changed, of contracts that have a container. What fails is told again in the next turn.

        A container of an older generation keeps the access that it was made with, and its keys are the newest.
        """
        there = {one.contract_id: one.generation for one in present}
        mine = [one for one in contracts if one.contract_id in there and _has_access(one, there[one.contract_id])]
        self._told = {one.contract_id: self._told[one.contract_id] for one in mine if one.contract_id in self._told}
        for contract in mine:
            known, made = certificates.get(contract.contract_id), there[contract.contract_id]
            chain = None if known is None else known.chain
            wanted = (made, contract.generation, contract.ssh_keys, chain)
            if self._told.get(contract.contract_id) == wanted:
                continue
            try:
                await self._runtime.authorize(contract, chain, is_older=made < contract.generation)
                self._told[contract.contract_id] = wanted
            except KaaliaError as error:
                log.warning("reconciler: %s", error)


def _has_access(contract: Contract, present: int) -> bool:
    """What an older generation had is not in the contract any more: the runtime sees it."""
    return present < contract.generation or contract.spec.launch_mode is not LaunchMode.ARGS
