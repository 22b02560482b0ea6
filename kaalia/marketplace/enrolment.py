"""How a machine becomes known: a one-time token of its owner, against a key that the machine keeps.

Refuses a second machine for one token. Asking again with the same key is answered as the first time, so that a
machine whose answer was lost simply tries again.
"""

import logging
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import verification
from kaalia.errors import KaaliaError
from kaalia.marketplace import auth
from kaalia.marketplace import machines as registry
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.tables import deleted_machines, enrol_tokens, machines
from kaalia.wire import signature
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import EnrolReply, EnrolRequest

log = logging.getLogger(__name__)

_NEW_TOKEN = "Make a new one with `kaalia marketplace enroll-token`"  # noqa: S105 a sentence


async def enrol(context: Context, request: EnrolRequest) -> EnrolReply:
    """The machine's id. The caller has verified that the request is signed with `request.public_key`.

    Raises ApiError 403 `token_invalid`, 409 `token_used`, `key_taken` or `machine_deleted`.
    """
    now = context.clock.now()
    async with context.engine.begin() as tx:
        machine_id = await _machine_id(tx, request, now)
    log.info("machine %d is enrolled, kaalia %r", machine_id, request.agent_version[:40])
    key = context.signing_key
    return EnrolReply(machine_id, {signature.key_id(key): signature.public_key_text(key)}, now)


async def _machine_id(tx: AsyncConnection, request: EnrolRequest, now: datetime) -> int:
    by_token = sa.select(enrol_tokens).where(enrol_tokens.c.token_sha256 == auth.digest(request.token))
    token = (await tx.execute(by_token)).one_or_none()
    if token is None:
        raise ApiError(403, "token_invalid", "cannot enrol: the token is not known", remedy=_NEW_TOKEN)
    by_key = sa.select(machines).where(machines.c.public_key == request.public_key)
    known = (await tx.execute(by_key)).one_or_none()
    if token.used_by_machine_id is not None:
        if known is None or known.id != token.used_by_machine_id:
            raise ApiError(409, "token_used", "cannot enrol: another machine has used the token", remedy=_NEW_TOKEN)
        if await _is_deleted(tx, known.id):
            message = f"cannot enrol: machine {known.id} was deleted after it had used the token"
            raise ApiError(409, "machine_deleted", message, remedy=_NEW_TOKEN)
        return int(known.id)
    if token.expires_at <= now.timestamp():
        raise ApiError(403, "token_invalid", "cannot enrol: the token has expired", remedy=_NEW_TOKEN)
    if known is not None and known.user_id != token.user_id:
        raise ApiError(
            409,
            "key_taken",
            "cannot enrol: this machine's key belongs to a machine of another owner",
            remedy="remove identity.pem from the state directory of a machine that changed hands",
        )
    machine_id = await _insert(tx, request, token.user_id, now) if known is None else await _take_back(tx, known, now)
    await _use(tx, token.token_sha256, machine_id)
    return machine_id


async def _insert(tx: AsyncConnection, request: EnrolRequest, user_id: int, now: datetime) -> int:
    values = {
        "user_id": user_id,
        "public_key": request.public_key,
        "fingerprint": request.fingerprint,
        "enrolled_at": now.timestamp(),
    }
    machine_id: int = await tx.scalar(sa.insert(machines).values(**values).returning(machines.c.id))
    return machine_id


async def _take_back(tx: AsyncConnection, known: sa.Row[Any], now: datetime) -> int:
    """The machine of a key that is known. One that was deleted begins anew: not listed, not proven."""
    await registry.lock(tx, known.id)
    if await _is_deleted(tx, known.id):
        await tx.execute(sa.delete(deleted_machines).where(deleted_machines.c.machine_id == known.id))
        values = {"enrolled_at": now.timestamp(), "verification": "unverified"}
        await tx.execute(sa.update(machines).where(machines.c.id == known.id).values(values))
        machine = await registry.get(tx, known.id)
        if machine is not None and machine.verified is not None:
            await registry.put_verification(tx, known.id, verification.returned(machine.verified, now))
    return int(known.id)


async def _is_deleted(tx: AsyncConnection, machine_id: int) -> bool:
    query = sa.select(deleted_machines.c.machine_id).where(deleted_machines.c.machine_id == machine_id)
    return await tx.scalar(query) is not None


async def _use(tx: AsyncConnection, token_sha256: str, machine_id: int) -> None:
    """Mark the token used; a rival that was faster makes this fail, whatever the database's isolation."""
    used = await tx.execute(
        sa.update(enrol_tokens)
        .where(enrol_tokens.c.token_sha256 == token_sha256, enrol_tokens.c.used_by_machine_id.is_(None))
        .values(used_by_machine_id=machine_id)
    )
    if used.rowcount != 1:
        raise ApiError(409, "token_used", "cannot enrol: another machine has used the token", remedy=_NEW_TOKEN)


def check(request: EnrolRequest) -> None:
    """Refuse what cannot be a machine. Raises ApiError 400 `document_invalid`."""
    try:
        signature.load_public_key(request.public_key)
    except KaaliaError as error:
        sentence = f"cannot read EnrolRequest: public_key: {error.problem.message}"
        raise ApiError(400, "document_invalid", sentence) from error
    if not 0 < len(request.fingerprint) <= 128:
        raise ApiError(400, "document_invalid", "cannot read EnrolRequest: fingerprint: it must be 1 to 128 characters")
