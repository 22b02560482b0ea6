"""The contracts of this machine, with the workloads that serve them."""

from aiohttp import web

from kaalia.api import context
from kaalia.api.responses import NotFoundError, answer
from kaalia.store import contracts, workloads
from kaalia.store.database import Transaction
from kaalia.wire.local import ContractView, contract_view


async def show_all(request: web.Request) -> web.Response:
    """GET /v1/contracts: a list of ContractView, by id."""
    return answer(await context.of(request).read(_views))


async def show(request: web.Request) -> web.Response:
    """GET /v1/contracts/{contract_id}: one ContractView."""
    contract_id = int(request.match_info["contract_id"])
    for view in await context.of(request).read(_views):
        if view.contract_id == contract_id:
            return answer(view)
    raise NotFoundError(
        "no_such_contract",
        f"cannot show contract {contract_id}: this machine has none with that id",
        remedy="see all with: kaalia contracts",
    )


def _views(tx: Transaction) -> tuple[ContractView, ...]:
    statuses = workloads.all_workloads(tx)
    return tuple(
        contract_view(stored.contract, statuses.get(stored.contract.contract_id), stored.missing_since)
        for stored in contracts.all_contracts(tx)
    )
