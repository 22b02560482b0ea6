"""The contracts of this machine, with the workloads that serve them."""

from datetime import datetime

from aiohttp import web

from kaalia.api import context
from kaalia.api.responses import NotFoundError, answer
from kaalia.store import contracts, energy, traffic, workloads
from kaalia.store.database import Transaction
from kaalia.wire.local import ContractView, contract_view, traffic_view


async def show_all(request: web.Request) -> web.Response:
    """GET /v1/contracts: a list of ContractView, by id."""
    return answer(await _read(request))


async def show(request: web.Request) -> web.Response:
    """GET /v1/contracts/{contract_id}: one ContractView."""
    contract_id = int(request.match_info["contract_id"])
    for view in await _read(request):
        if view.contract_id == contract_id:
            return answer(view)
    raise NotFoundError(
        "no_such_contract",
        f"cannot show contract {contract_id}: this machine has none with that id",
        remedy="see all with: kaalia contracts",
    )


async def _read(request: web.Request) -> tuple[ContractView, ...]:
    here = context.of(request)
    now = here.clock.now()
    return await here.read(lambda tx: _views(tx, now))


def _views(tx: Transaction, now: datetime) -> tuple[ContractView, ...]:
    statuses, tallies, energies = workloads.all_workloads(tx), traffic.all_tallies(tx), energy.totals(tx)
    return tuple(
        contract_view(
            stored.contract,
            statuses.get(stored.contract.contract_id),
            stored.missing_since,
            traffic_view(tallies.get(stored.contract.contract_id), now),
            energies.get(stored.contract.contract_id),
        )
        for stored in contracts.all_contracts(tx)
    )
