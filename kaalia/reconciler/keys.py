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
        self._told: dict[int, tuple[int, tuple[str, ...] | None, str | None]] = {}

    async def tell(
        self, contracts: Iterable[Contract], present: Iterable[Observed], certificates: Mapping[int, Certificate]
    ) -> None:
        """Those that changed, of contracts that have a container. What fails is told again in the next turn."""
        ids = {one.contract_id for one in present}
        mine = [one for one in contracts if one.contract_id in ids and one.spec.launch_mode is not LaunchMode.ARGS]
        self._told = {one.contract_id: self._told[one.contract_id] for one in mine if one.contract_id in self._told}
        for contract in mine:
            known = certificates.get(contract.contract_id)
            wanted = (contract.generation, contract.ssh_keys, None if known is None else known.chain)
            if self._told.get(contract.contract_id) == wanted:
                continue
            try:
                await self._runtime.authorize(contract, wanted[-1])
                self._told[contract.contract_id] = wanted
            except KaaliaError as error:
                log.warning("reconciler: %s", error)
