"""The owner's default job: background instances of his own, one a GPU, that run while nobody rents the GPU.

They rank below every rental, so the machine stops them when a renter comes and starts them again afterwards. A job
stands until the owner removes it or sets another one; maintenance interrupts it.
"""

import json
import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import environment, image, maintenance, offer
from kaalia.contracts.contract import Contract, ContractKind, Desired, prolonged
from kaalia.contracts.environment import Identity, Launch
from kaalia.contracts.offer import Listing
from kaalia.errors import ContractError
from kaalia.marketplace import auth, listings, machines, terms
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.tables import contracts
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.workload import LaunchMode, WorkloadSpec
from kaalia.units import GB
from kaalia.wire import document
from kaalia.wire.error import ApiError

DISK_GB = 2
"""Of each job's container; counted as promised like any other."""
ARGS_MAX = 256


@dataclass(frozen=True, slots=True)
class Job:
    """What the owner wants to run. `terms`: the prices he gave, as a listing."""

    image: str
    args: tuple[str, ...]
    terms: Listing


def read(body: dict[str, Any]) -> Job:
    """The body of `set defjob`. Raises ApiError 400 `invalid_args` that names the field."""
    name, args = body.get("image"), body.get("args")
    if not isinstance(name, str) or not name:
        raise _invalid(f"cannot set the default job: image={str(name)[:80]!r} is no image", "Give it with --image")
    try:
        image.check(name)
    except ContractError as error:
        raise _invalid(error.problem.message, error.problem.remedy) from error
    args = [] if args is None else args
    if not isinstance(args, list) or len(args) > ARGS_MAX or not all(isinstance(one, str) for one in args):
        raise _invalid("cannot set the default job: args is no list of words", "Give them with --args WORD WORD")
    prices = {name: terms.money(name, body.get(name) or 0) for name in ("price_gpu", "price_inetu", "price_inetd")}
    listing = Listing(
        price_gpu_per_hour=prices["price_gpu"],
        price_disk_per_gb_month=Decimal(0),
        price_inet_up_per_gb=prices["price_inetu"],
        price_inet_down_per_gb=prices["price_inetd"],
    )
    return Job(name, tuple(args), listing)


async def put(context: Context, tx: AsyncConnection, machine: MachineRecord, job: Job) -> list[int]:
    """One contract a GPU in place of those before; returns their ids. Ring the machine's bell after the commit.

    They end when the next maintenance begins, see `resume`. Raises ApiError 409.
    """
    if machine.report is None:
        message = f"cannot set the default job of machine {machine.id}: its daemon has not reported yet"
        raise ApiError(409, "machine_not_ready", message, remedy="Start the daemon and see `kaalia status`")
    now = context.clock.now()
    if closed := listings.why_closed(machine, None, now):
        message = closed.message.replace("cannot use", "cannot set the default job of", 1)
        raise ApiError(409, closed.code, message, remedy="Set it afterwards")
    await _end(tx, machine.id, now)
    count = max(machine.num_gpus, 1)
    made = [await _create(context, tx, machine, job, now) for _ in range(count)]
    await _tell(tx, machine.id, now)
    return made


async def remove(tx: AsyncConnection, machine_id: int, now: datetime) -> int:
    """End them; returns how many there were. Ring the machine's bell after the commit."""
    ended = await _end(tx, machine_id, now)
    await _tell(tx, machine_id, now)
    return ended


async def resume(context: Context) -> None:
    """Let jobs whose maintenance is over or cancelled go on, to the next one or without an end."""
    now = context.clock.now()
    async with context.engine.begin() as tx:
        candidates = sorted({row.machine_id for row in await tx.execute(_ending())})
    for machine_id in candidates:
        async with context.engine.begin() as tx:
            resumed = await _resume(tx, machine_id, now)
        if resumed:
            context.machine_bells.ring(machine_id)


async def _resume(tx: AsyncConnection, machine_id: int, now: datetime) -> int:
    # The windows must not change under this.
    await machines.lock(tx, machine_id)
    machine = await machines.get(tx, machine_id)
    resumed = 0
    for row in (await tx.execute(_ending().where(contracts.c.machine_id == machine_id))).all():
        contract = document.decode(Contract, row.document)
        end_at = maintenance.extended(None, contract.end_at, machine.windows if machine else (), now)
        if contract.kind is ContractKind.DEFAULT_JOB and offer.is_later(end_at, contract.end_at):
            text = document.encode(prolonged(contract, end_at))
            await tx.execute(sa.update(contracts).where(contracts.c.id == row.id).values(document=text))
            resumed += 1
    if resumed:
        await _tell(tx, machine_id, now)
    return resumed


def _ending() -> sa.Select[Any]:
    """Live default jobs with an end. A search in the text, so that the other contracts need not be decoded."""
    text = contracts.c.document
    jobs = text.contains(f'"kind":"{ContractKind.DEFAULT_JOB}"', autoescape=True)
    ending = ~text.contains('"end_at":null', autoescape=True)
    query = sa.select(contracts.c.id, contracts.c.machine_id, text)
    return query.where(jobs, ending, contracts.c.ended_at.is_(None), contracts.c.removed_at.is_(None))


async def _tell(tx: AsyncConnection, machine_id: int, now: datetime) -> None:
    await machines.bump(tx, machine_id)
    await listings.refresh_asks(tx, machine_id, now)


async def _end(tx: AsyncConnection, machine_id: int, now: datetime) -> int:
    alive = sa.and_(contracts.c.machine_id == machine_id, contracts.c.ended_at.is_(None))
    rows = (await tx.execute(sa.select(contracts.c.id, contracts.c.document).where(alive))).all()
    ended = 0
    for row in rows:
        contract = document.decode(Contract, row.document)
        if contract.kind is ContractKind.DEFAULT_JOB:
            text = document.encode(replace(contract, desired=Desired.ENDED))
            values = {"document": text, "ended_at": now.timestamp()}
            await tx.execute(sa.update(contracts).where(contracts.c.id == row.id).values(values))
            ended += 1
    return ended


async def _create(context: Context, tx: AsyncConnection, machine: MachineRecord, job: Job, now: datetime) -> int:
    token = secrets.token_hex(32)
    row = {
        "machine_id": machine.id,
        "user_id": machine.user_id,
        "ask_id": 0,
        "document": "",
        "request": json.dumps({"runtype": "args", "env": [], "image": job.image}),
        "label": "default job",
        "jupyter_token": token,
        "price_terms": document.encode(job.terms),
        "start_date": now.timestamp(),
    }
    contract_id = (await tx.execute(sa.insert(contracts).values(row).returning(contracts.c.id))).scalar_one()
    gpu_count = min(machine.num_gpus, 1)
    # The key of a job opens nothing: it is not kept, so nobody can act with it.
    identity = Identity(contract_id, auth.new_key(), token, gpu_count, context.settings.public_url, ())
    spec = WorkloadSpec(
        image=job.image,
        launch_mode=LaunchMode.ARGS,
        disk_bytes=DISK_GB * GB,
        gpu_count=gpu_count,
        args=job.args,
        env=environment.compose({}, (), identity, Launch(LaunchMode.ARGS)),
    )
    price = job.terms.price_gpu_per_hour
    end_at = maintenance.cut(None, machine.windows, now)
    made = Contract(contract_id, 1, ContractKind.DEFAULT_JOB, Desired.RUNNING, spec, price, start_at=now, end_at=end_at)
    await tx.execute(sa.update(contracts).where(contracts.c.id == contract_id).values(document=document.encode(made)))
    return int(contract_id)


def _invalid(message: str, remedy: str) -> ApiError:
    return ApiError(400, "invalid_args", message, remedy=remedy)
