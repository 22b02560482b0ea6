"""A new generation of an instance: recycle makes it anew as it is, update with other contents.

The machine keeps the container that is there until the new image has arrived; GPUs, ports and the contract stay.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import dockerflags, image
from kaalia.contracts.contract import OWN_KINDS, Contract
from kaalia.contracts.environment import Identity
from kaalia.errors import ContractError
from kaalia.marketplace import accounts, create_request, instances, machines, relays, rentals, specs, templates
from kaalia.marketplace.context import Context
from kaalia.marketplace.create_request import CreateRequest
from kaalia.marketplace.db.tables import contracts
from kaalia.marketplace.routing import Caller
from kaalia.marketplace.templates import NamedTemplate
from kaalia.units import GB
from kaalia.wire import document
from kaalia.wire.error import ApiError

_ANY_IMAGE = "image"
"""Stands for that of the instance or its template."""
_CHANGES = ("image", "args", "env", "onstart", "image_login")


async def recycle(context: Context, caller: Caller, instance_id: int) -> None:
    """Make the container anew, of the same image and options; what it holds besides its volumes is lost.

    A request that finds an earlier one still to be done is the same one, since clients repeat requests. What is stopped
    is made anew at its next start.

    Raises ApiError 404 `no_such_instance`, 400 `contract_expired`.
    """
    now = context.clock.now()
    async with context.engine.begin() as tx:
        row = await instances.owned(tx, caller, instance_id)
        contract = document.decode(Contract, row.document)
        instances.check_not_expired("recycle", contract, now)
        if _is_pending(row, contract):
            return
        await instances.change(tx, row, replace(contract, generation=contract.generation + 1), now)
    context.machine_bells.ring(row.machine_id)


async def update(context: Context, caller: Caller, instance_id: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """Make the container anew with what `body` changes, and its row then; volumes, disk, GPUs and price stay.

    A template brings all that it says, and what is given beside it wins. Without one, what is not given stays, and
    variables and ports are merged by key. Without anything the template that it was made from is taken as it is now.

    Raises ApiError 404 `no_such_instance`, 400 `contract_expired`, `invalid_args` and those of a create request.
    """
    now = context.clock.now()
    async with context.engine.begin() as tx:
        row = await instances.owned(tx, caller, instance_id)
        contract = document.decode(Contract, row.document)
        instances.check_not_expired("update", contract, now)
        _check_is_rental(contract)
        changes = _changes(body)
        template = await _template(tx, caller, row, body, changes)
        request = _request(row, contract, changes, template)
        await _write(context, tx, row, contract, request, template, now)
    context.machine_bells.ring(row.machine_id)
    await relays.ring(context, row.machine_id)
    (shown,) = await instances.rows(context, caller, instance_id)
    return shown


def check(body: Mapping[str, Any]) -> None:
    """What can be judged of an update before it is done. Raises ApiError 400 as a create request."""
    create_request.read({"image": _ANY_IMAGE, **_changes(body)}, None)
    create_request.named_template(body)


def _is_pending(row: instances.Row, contract: Contract) -> bool:
    """The machine has not dealt with the newest generation yet."""
    status = instances.status_of(row)
    return status is None or status.answered < contract.generation


def _check_is_rental(contract: Contract) -> None:
    if contract.kind in OWN_KINDS:
        message = f"cannot update instance {contract.contract_id}: it is a default job of the machine"
        raise ApiError(400, "invalid_args", message, remedy="Set another: `vastai set defjob`")


def _changes(body: Mapping[str, Any]) -> dict[str, Any]:
    """What is given of the fields of a create request; the client sends the arguments as one text."""
    given = {key: body[key] for key in _CHANGES if body.get(key) is not None}
    if isinstance(given.get("args"), str):
        given["args_str"] = given.pop("args")
    return given


async def _template(
    tx: AsyncConnection, caller: Caller, row: instances.Row, body: Mapping[str, Any], changes: Mapping[str, Any]
) -> NamedTemplate | None:
    named = create_request.named_template(body)
    if changes or any(named):
        return await templates.resolve(tx, caller.user_id, *named)
    if row.template_id is None:
        message = f"cannot update instance {row.id}: nothing is given, and it was made from no template"
        remedy = f"Give an image, env, onstart, args or a template; `vastai recycle instance {row.id}` pulls it anew"
        raise ApiError(400, "invalid_args", message, remedy=remedy)
    return await templates.resolve(tx, caller.user_id, row.template_id, None)


def _request(
    row: instances.Row, contract: Contract, changes: Mapping[str, Any], template: NamedTemplate | None
) -> CreateRequest:
    spec, before = contract.spec, json.loads(row.request)
    body: dict[str, Any] = {"user": before.get("user"), **changes}
    if template is None:
        args = None if "args_str" in changes else list(spec.args) or None
        body = {**before, "args_str": None, "args": args, **changes, "env": _merged(before["env"], changes.get("env"))}
    body["disk"] = float(spec.disk_bytes / GB)
    request = create_request.read(body, template.document if template else None)
    if request.new_volume is not None or not set(request.options.volumes) <= set(spec.volumes):
        message = f"cannot update instance {row.id} with other volumes: they are mounted when it is rented"
        raise ApiError(400, "invalid_args", message, remedy="Leave -v out; rent another instance for another volume")
    return request


def _merged(before: Any, given: Any) -> dict[str, Any]:
    try:
        options = dockerflags.merge(dockerflags.parse(before), dockerflags.parse(given))
    except ContractError as error:
        raise ApiError(400, "invalid_args", error.problem.message, remedy=error.problem.remedy) from error
    return dict(dockerflags.to_pairs(options))


async def _write(
    context: Context,
    tx: AsyncConnection,
    row: instances.Row,
    contract: Contract,
    request: CreateRequest,
    template: NamedTemplate | None,
    now: datetime,
) -> None:
    login = specs.sealed_login(context, request) or await _kept_login(context, tx, row, request)
    token = dict(request.options.env).get("JUPYTER_TOKEN") or row.jupyter_token
    identity = _identity(context, contract, token)
    account = await accounts.secrets_of(tx, row.user_id)
    old = contract.spec
    spec = specs.build(request, identity, account, old.disk_bytes, old.volumes, login is not None)
    if spec == old and _is_pending(row, contract):
        return
    changed = replace(contract, generation=contract.generation + 1, spec=spec)
    specs.check_size(document.encode(changed))
    values = {"request": json.dumps(request.shown), "jupyter_token": token, "image_login": login}
    if template is not None:
        values |= {"template_id": template.template_id, "template_hash_id": template.hash_id}
    await tx.execute(sa.update(contracts).where(contracts.c.id == row.id).values(values))
    await instances.change(tx, row, changed, now)
    machine = await machines.get(tx, row.machine_id)
    if machine is not None and not await relays.reached_by(tx, [row.id]):
        await relays.grant(context, tx, machine, row.id, request.launch_mode, request.runtype, now)


def _identity(context: Context, contract: Contract, token: str) -> Identity:
    env = dict(contract.spec.env)
    told = tuple(env.get("SSH_PUBLIC_KEY", "").splitlines())
    return Identity(
        contract_id=contract.contract_id,
        api_key=env["CONTAINER_API_KEY"],
        jupyter_token=token,
        gpu_count=contract.spec.gpu_count,
        marketplace_url=context.settings.public_url,
        ssh_public_keys=told if contract.ssh_keys is None else contract.ssh_keys,
    )


async def _kept_login(
    context: Context, tx: AsyncConnection, row: instances.Row, request: CreateRequest
) -> bytes | None:
    """The login of before, while the image comes from the registry that it was given for."""
    known = await rentals.registry_login(context, tx, row.id)
    if known is None or image.registry_name(known.registry) != image.registry_of(request.image):
        return None
    kept: bytes = row.image_login
    return kept
