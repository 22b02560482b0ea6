"""Accepting an offer: an ask becomes a contract; and what the machine says of the contract until it is proven gone.

One transaction takes the ask, writes the contract and its key, and raises the machine's revision. A request that is
repeated within a minute gets the contract it made before: the public client repeats any request whose answer is lost.
A launch, which names no offer, is repeated only as long as its answer has reached nobody.
"""

import hashlib
import json
import secrets as random_secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import offer, pricing
from kaalia.contracts.contract import Contract, ContractKind, Desired
from kaalia.contracts.environment import Identity
from kaalia.contracts.offer import Listing, bid_floor
from kaalia.marketplace import (
    accounts,
    auth,
    billing,
    create_request,
    instance_keys,
    listings,
    machines,
    relays,
    sealing,
    search,
    specs,
    templates,
    volumes,
)
from kaalia.marketplace.context import Context
from kaalia.marketplace.create_request import CreateRequest
from kaalia.marketplace.db.tables import api_keys, asks, contracts, ssh_keys
from kaalia.marketplace.listings import AskRecord
from kaalia.marketplace.machines import MachineRecord
from kaalia.marketplace.routing import Caller
from kaalia.marketplace.templates import NamedTemplate
from kaalia.model.workload import VolumeMount, WorkloadStatus
from kaalia.units import GB
from kaalia.wire import document
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import RegistryLoginReply

REPEAT_WINDOW = timedelta(seconds=60)
"""The client's retries and their delays fit into this several times."""
LAUNCH_TRIES = 10
"""Offers that others take between the search and the rental, before a launch gives up."""


@dataclass(frozen=True, slots=True)
class Rental:
    """What the renter is told. `api_key` opens this instance only."""

    contract_id: int
    api_key: str


async def rent(
    context: Context, caller: Caller, ask_id: int, body: Mapping[str, Any], repeat_key: str | None = None
) -> Rental:
    """Accept an offer. Raises ApiError 400, 403, 404 or 410 with `ask_id` beside the message.

    `repeat_key` tells repetitions of a request from others; by default the same offer and body are a repetition.
    """
    now = context.clock.now()
    repeat_key = repeat_key or _repeat_key(caller.user_id, ask_id, body)
    try:
        async with context.engine.begin() as tx:
            if (earlier := await _earlier(tx, repeat_key, now)) is not None:
                return earlier
            template = await templates.resolve(tx, caller.user_id, *create_request.named_template(body))
            request = create_request.read(body, template.document if template else None)
            machine, record, left = await _take_offer(context, tx, caller, ask_id, request, now)
            mounts = await volumes.grant(context, tx, caller, machine, request, now)
            _check_disk(request, await listings.free(tx, machine, now) if mounts else left)
            draft = _Draft(request, template, record, repeat_key, mounts)
            rental = await _write(context, tx, caller.user_id, machine, draft, now)
    except ApiError as error:
        error.extra.setdefault("ask_id", ask_id)
        raise
    context.machine_bells.ring(machine.id)
    await relays.ring(context, machine.id)
    return rental


async def launch(context: Context, caller: Caller, body: Mapping[str, Any]) -> Rental:
    """Search by `q` and accept the first offer that is still there. Raises what `rent` and the search raise."""
    repeat_key = _repeat_key(caller.user_id, None, body)
    async with context.engine.begin() as tx:
        if (earlier := await _earlier(tx, repeat_key, context.clock.now())) is not None:
            return earlier
    question = body.get("q")
    if not isinstance(question, Mapping):
        raise ApiError(400, "invalid_args", "cannot search: q is not an object", remedy='Send {"num_gpus": {"eq": 1}}')
    request = {key: value for key, value in body.items() if key != "q"}
    for offer_row in (await search.search(context, question))[:LAUNCH_TRIES]:
        try:
            return await rent(context, caller, offer_row["id"], request, repeat_key)
        except ApiError as error:
            if error.status != 410:
                raise
    remedy = "Widen the search: `vastai search offers` takes the same filters"
    raise ApiError(404, "no_such_ask", "cannot launch: no_such_ask, no offer fits the search", remedy=remedy)


async def answered(context: Context, rental: Rental) -> None:
    """The caller is about to read what he rented: his next launch with the same words is another one.

    A request that names its offer is told apart by that; one that names none only by whether it was answered.
    """
    values = {"idempotency_key": None}
    async with context.engine.begin() as tx:
        await tx.execute(sa.update(contracts).where(contracts.c.id == rental.contract_id).values(values))


async def record_status(tx: AsyncConnection, status: WorkloadStatus, *, in_order: bool = False) -> bool:
    """Keep the machine's newest word on a contract, drop an older one. The caller has checked whose contract it is.

    True: call `listings.refresh_asks` after it, since what the contract holds may have changed.

    `in_order`: it comes after all that came before, so that its time, by a clock that may be set back, says nothing.
    """
    query = sa.select(contracts.c.status).where(contracts.c.id == status.contract_id)
    row = (await tx.execute(query.with_for_update())).one_or_none()
    if row is None:
        return False
    known = None if row.status is None else document.decode(WorkloadStatus, row.status)
    if known is not None and status.generation < known.generation:
        return False
    if known is not None and status.generation == known.generation and status.as_of < known.as_of and not in_order:
        return False
    await tx.execute(
        sa.update(contracts).where(contracts.c.id == status.contract_id).values(status=document.encode(status))
    )
    return known is None or known.state is not status.state


async def finished(tx: AsyncConnection, contract_id: int, now: datetime) -> None:
    """The machine has proven container and data gone: the slice is free.

    Call `listings.refresh_asks` after it, and ring the machine's bell after the commit.
    """
    query = sa.select(contracts.c.machine_id).where(contracts.c.id == contract_id, contracts.c.removed_at.is_(None))
    machine_id = await tx.scalar(query)
    if machine_id is None:
        return
    ended_at = sa.func.coalesce(contracts.c.ended_at, now.timestamp())
    await tx.execute(
        sa.update(contracts)
        .where(contracts.c.id == contract_id)
        .values(removed_at=now.timestamp(), ended_at=ended_at, image_login=None)
    )
    await tx.execute(sa.delete(api_keys).where(api_keys.c.instance_id == contract_id))
    await machines.bump(tx, machine_id)


async def registry_login(context: Context, tx: AsyncConnection, contract_id: int) -> RegistryLoginReply | None:
    """The login for the contract's image, for its machine's eyes only. None: the renter gave none, or it has ended."""
    sealed = await tx.scalar(
        sa.select(contracts.c.image_login).where(contracts.c.id == contract_id, contracts.c.ended_at.is_(None))
    )
    clear = None if sealed is None else sealing.unseal(context.signing_key, sealed)
    return None if clear is None else document.decode(RegistryLoginReply, clear)


@dataclass(frozen=True, slots=True)
class _Draft:
    request: CreateRequest
    template: NamedTemplate | None
    ask: AskRecord
    repeat_key: str
    mounts: tuple[VolumeMount, ...] = ()


def _repeat_key(user_id: int, ask_id: int | None, body: Mapping[str, Any]) -> str:
    text = json.dumps([user_id, ask_id, body], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


async def _earlier(tx: AsyncConnection, repeat_key: str, now: datetime) -> Rental | None:
    row = (
        await tx.execute(
            sa.select(contracts.c.id, contracts.c.document).where(
                contracts.c.idempotency_key == repeat_key,
                contracts.c.ended_at.is_(None),
                contracts.c.start_date > (now - REPEAT_WINDOW).timestamp(),
            )
        )
    ).first()
    if row is None:
        return None
    env = dict(document.decode(Contract, row.document).spec.env)
    return Rental(row.id, env["CONTAINER_API_KEY"])


async def _take_offer(
    context: Context, tx: AsyncConnection, caller: Caller, ask_id: int, request: CreateRequest, now: datetime
) -> tuple[MachineRecord, AskRecord, listings.Free]:
    """The machine of an offer that this caller may rent now, the offer, and what is free on the machine."""
    machine_id = await listings.machine_of(tx, ask_id)
    if machine_id is None:
        remedy = "`vastai search offers` shows what is"
        raise ApiError(
            404, "invalid_args", f"cannot rent offer {ask_id}: no_such_ask, there is no such offer", remedy=remedy
        )
    # Raising the revision first locks the machine's row: of two renters of overlapping slices the second one waits.
    await machines.bump(tx, machine_id)
    machine = await machines.get(tx, machine_id)
    if machine is None or machine.listing is None:
        raise _gone(ask_id, request)
    left = await listings.free(tx, machine, now)
    record = next((one for one in await listings.of(tx, machine, left) if one.id == ask_id), None)
    if record is None:
        raise _gone(ask_id, request)
    if caller.is_host and machine.user_id != caller.user_id:
        message = f"cannot rent offer {ask_id}: it is not your own, and hosts can only rent their own machines"
        raise ApiError(403, "invalid_args", message, remedy="Rent with an account that is no host")
    if closed := listings.why_closed(machine, offer.end_of_offer(machine.listing, now), now):
        message = f"cannot rent offer {ask_id}: no_such_ask, {closed.message.removeprefix('cannot use ')}"
        raise ApiError(410, closed.code, message, remedy=closed.remedy)
    if not listings.can_rent(record, machine, now, context.settings):
        raise _gone(ask_id, request)
    _check_bid(request, machine, record, left)
    return machine, record, left


def _gone(ask_id: int, request: CreateRequest) -> ApiError:
    remedy = "Search again and rent another offer"
    if not request.cancel_unavail:
        remedy += "; cancel_unavail=false helps bids only: on-demand rentals are not queued here"
    return ApiError(
        410, "no_such_ask", f"cannot rent offer {ask_id}: no_such_ask, it is no longer available", remedy=remedy
    )


def _check_bid(request: CreateRequest, machine: MachineRecord, record: AskRecord, left: listings.Free) -> None:
    """A bid is never below the owner's floor; whether it must win at once is the renter's choice."""
    if request.bid_usd_per_hour is None or machine.listing is None:
        return
    units = max(record.num_gpus, 1)
    least = bid_floor(machine.listing) * units
    if request.bid_usd_per_hour < least:
        message = (
            f"cannot bid price={request.bid_usd_per_hour}: the owner's least is {least} $/h for {record.num_gpus} GPUs"
        )
        raise ApiError(400, "invalid_price", message, remedy=f"Bid {least} or more")
    winning = left.groups[record.model].bid_to_win(record.num_gpus, bid_floor(machine.listing))
    if request.cancel_unavail and (winning is None or request.bid_usd_per_hour < winning * units):
        raise _gone(record.id, request)


def _check_disk(request: CreateRequest, free: listings.Free) -> None:
    if request.disk_gb * GB > free.disk_bytes:
        free_gb = free.disk_bytes / GB
        message = f"cannot use disk={request.disk_gb}: the machine has {free_gb:.1f} GB free of other contracts"
        remedy = f"Ask for {create_request.MIN_DISK_GB} to {int(free_gb)} GB, or rent another offer"
        raise ApiError(400, "invalid_args", message, remedy=remedy)


async def _write(
    context: Context, tx: AsyncConnection, user_id: int, machine: MachineRecord, draft: _Draft, now: datetime
) -> Rental:
    if machine.listing is None:
        raise RuntimeError("an offer of an unlisted machine was taken")
    asked = dict(draft.request.options.env)
    jupyter_token = asked.get("JUPYTER_TOKEN") or random_secrets.token_hex(32)
    row = {
        "machine_id": machine.id,
        "user_id": user_id,
        "ask_id": draft.ask.id,
        "document": "",
        "request": json.dumps(draft.request.shown),
        "label": draft.request.label,
        "template_id": draft.template.template_id if draft.template else None,
        "template_hash_id": draft.template.hash_id if draft.template else None,
        "jupyter_token": jupyter_token,
        "image_login": specs.sealed_login(context, draft.request),
        "price_terms": document.encode(machine.listing),
        "start_date": now.timestamp(),
        "idempotency_key": draft.repeat_key,
    }
    contract_id = (await tx.execute(sa.insert(contracts).values(row).returning(contracts.c.id))).scalar_one()
    identity = Identity(
        contract_id=contract_id,
        api_key=auth.new_key(),
        jupyter_token=jupyter_token,
        gpu_count=draft.ask.num_gpus,
        marketplace_url=context.settings.public_url,
        ssh_public_keys=await _ssh_keys(tx, user_id),
    )
    terms = offer.frozen(machine.listing, listings.end_of_contract(machine, now))
    contract = _contract(draft, identity, await accounts.secrets_of(tx, user_id), terms, now)
    text = document.encode(contract)
    specs.check_size(text)
    await tx.execute(sa.update(contracts).where(contracts.c.id == contract_id).values(document=text))
    await billing.set_rate(tx, contract_id, billing.rate(now, contract.price_usd_per_hour, terms))
    await _keep_key(tx, user_id, identity, now)
    await instance_keys.keep(tx, contract_id, user_id, identity.ssh_public_keys, now)
    await relays.grant(context, tx, machine, contract_id, draft.request.launch_mode, draft.request.runtype, now)
    taken = await tx.execute(
        sa.update(asks).where(asks.c.id == draft.ask.id, asks.c.contract_id.is_(None)).values(contract_id=contract_id)
    )
    if taken.rowcount != 1:
        raise _gone(draft.ask.id, draft.request)
    if draft.template:
        await templates.count_rental(tx, draft.template.template_id, now)
    await listings.refresh_asks(tx, machine.id, now)
    return Rental(contract_id, identity.api_key)


def _contract(draft: _Draft, identity: Identity, account: Mapping[str, str], terms: Listing, now: datetime) -> Contract:
    request = draft.request
    disk_bytes = int(request.disk_gb * GB)
    spec = specs.build(request, identity, account, disk_bytes, draft.mounts, request.login is not None)
    is_bid = request.bid_usd_per_hour is not None
    on_demand = pricing.price(terms, draft.ask.num_gpus, request.disk_gb).dph_base
    return Contract(
        contract_id=identity.contract_id,
        generation=1,
        kind=ContractKind.INTERRUPTIBLE if is_bid else ContractKind.ON_DEMAND,
        desired=Desired.RUNNING if request.starts else Desired.STOPPED,
        spec=spec,
        price_usd_per_hour=request.bid_usd_per_hour or on_demand,
        start_at=now,
        end_at=terms.end_at,
        terms=terms,
        ssh_keys=identity.ssh_public_keys,
        gpu_model=draft.ask.model or None,
    )


async def _keep_key(tx: AsyncConnection, user_id: int, identity: Identity, now: datetime) -> None:
    await tx.execute(
        sa.insert(api_keys).values(
            user_id=user_id,
            name=f"instance {identity.contract_id}",
            key_sha256=auth.digest(identity.api_key),
            instance_id=identity.contract_id,
            created_at=now.timestamp(),
        )
    )


async def _ssh_keys(tx: AsyncConnection, user_id: int) -> tuple[str, ...]:
    query = sa.select(ssh_keys.c.public_key).where(ssh_keys.c.user_id == user_id, ssh_keys.c.deleted_at.is_(None))
    return tuple(await tx.scalars(query.order_by(ssh_keys.c.id)))
