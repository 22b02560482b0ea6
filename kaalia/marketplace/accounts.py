"""Accounts: users, secrets (environment variables of every new container), SSH keys, enrolment tokens.

Private SSH keys are never taken: a key that is not public is refused without being kept.
"""

import base64
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from kaalia.clock import SystemClock
from kaalia.errors import ConfigError
from kaalia.marketplace import auth, billing
from kaalia.marketplace.db.tables import api_keys, enrol_tokens, secrets, ssh_keys, users
from kaalia.wire.error import ApiError

START_CREDIT = Decimal(1000)
"""US dollars a new user begins with; this marketplace takes no payments."""
ENROL_TOKEN_LIFE = timedelta(hours=24)
SECRETS_MAX = 100
SSH_KEY_MAX_CHARS = 16 * 1024
SSH_KEY_TYPES = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
"""What `ssh-keygen` makes and OpenSSH servers accept; DSA is refused by them."""


async def add_user(engine: AsyncEngine, name: str, is_host: bool, now: datetime | None = None) -> str:
    """Create a user with a key that opens everything; returns the key, which is not stored.

    Raises ConfigError `user_exists`.
    """
    now = now or SystemClock().now()
    created_at = now.timestamp()
    key = auth.new_key()
    try:
        async with engine.begin() as tx:
            user_id: int = (
                await tx.execute(
                    sa.insert(users)
                    .values(username=name, is_host=is_host, credit=str(START_CREDIT), created_at=created_at)
                    .returning(users.c.id)
                )
            ).scalar_one()
            await billing.note_invoice(tx, user_id, START_CREDIT, "credit", "credit", "Credit to begin with", now)
            await tx.execute(
                sa.insert(api_keys).values(
                    user_id=user_id,
                    name="first key",
                    key_sha256=auth.digest(key),
                    created_at=created_at,
                )
            )
    except IntegrityError as error:
        raise ConfigError(
            "user_exists", f"cannot add user {name!r}: that name is taken", remedy="Choose another name"
        ) from error
    return key


async def new_enrol_token(engine: AsyncEngine, username: str, now: datetime) -> str:
    """A token with which one machine may enrol for this owner within 24 hours.

    Raises ConfigError `no_such_user`, `not_a_host`.
    """
    token = auth.new_key()
    async with engine.begin() as tx:
        owner = (await tx.execute(sa.select(users).where(users.c.username == username))).one_or_none()
        if owner is None:
            raise ConfigError(
                "no_such_user",
                f"cannot make an enrolment token: there is no user {username!r}",
                remedy="Add the user with `kaalia marketplace user add`",
            )
        if not owner.is_host:
            raise ConfigError(
                "not_a_host",
                f"cannot make an enrolment token: {username!r} is a renter, and only hosts have machines",
                remedy="Add a user for it with `kaalia marketplace user add NAME --host`",
            )
        await tx.execute(
            sa.insert(enrol_tokens).values(
                token_sha256=auth.digest(token),
                user_id=owner.id,
                created_at=now.timestamp(),
                expires_at=(now + ENROL_TOKEN_LIFE).timestamp(),
            )
        )
    return token


async def user_row(tx: AsyncConnection, user_id: int, now: datetime) -> dict[str, Any]:
    """What `show user` prints. Billing fields are null: this marketplace takes no payments."""
    row = (await tx.execute(sa.select(users).where(users.c.id == user_id))).one()
    credit = float(await billing.credit(tx, user_id, now))
    return {
        **dict.fromkeys(_NO_BILLING),
        "id": row.id,
        "username": row.username,
        "user": row.username,
        "credit": credit,
        "balance": credit,
        "can_pay": credit > 0,
        "has_billing": False,
        "has_payout": False,
        "password_resettable": False,
        "email_verified": False,
        "got_signup_credit": True,
        "host_agreement_accepted": row.is_host,
        "created_at": row.created_at,
    }


_NO_BILLING = (
    "balance_threshold",
    "balance_threshold_enabled",
    "billaddress_city",
    "billaddress_country",
    "billaddress_line1",
    "billaddress_line2",
    "billaddress_zip",
    "billed_expected",
    "billed_verified",
    "billing_creditonly",
    "email",
    "fullname",
    "last4",
    "paid_expected",
    "paid_verified",
    "paypal_email",
    "ssh_key",
)


async def secrets_of(tx: AsyncConnection, user_id: int) -> dict[str, str]:
    rows = await tx.execute(sa.select(secrets).where(secrets.c.user_id == user_id).order_by(secrets.c.key))
    return {row.key: row.value for row in rows}


async def create_secret(tx: AsyncConnection, user_id: int, key: str, value: str) -> None:
    """Raises ApiError 400 `existing_key`, `max_secrets`."""
    known = await secrets_of(tx, user_id)
    if key in known:
        remedy = f"Change it with `vastai update env-var {key} VALUE`"
        raise ApiError(400, "existing_key", f"cannot create {key}: it exists", remedy=remedy)
    if len(known) >= SECRETS_MAX:
        message = f"cannot create {key}: the account has {SECRETS_MAX} already"
        raise ApiError(400, "max_secrets", message, remedy="Delete one with `vastai delete env-var KEY`")
    await tx.execute(sa.insert(secrets).values(user_id=user_id, key=key, value=value))


async def update_secret(tx: AsyncConnection, user_id: int, key: str, value: str) -> None:
    """Raises ApiError 404 `no_such_key`."""
    changed = await tx.execute(sa.update(secrets).where(_secret(user_id, key)).values(value=value))
    _found(changed.rowcount, "no_such_key", f"cannot update {key}: the account has no such variable")


async def delete_secret(tx: AsyncConnection, user_id: int, key: str) -> None:
    """Raises ApiError 404 `no_such_key`."""
    deleted = await tx.execute(sa.delete(secrets).where(_secret(user_id, key)))
    _found(deleted.rowcount, "no_such_key", f"cannot delete {key}: the account has no such variable")


def _secret(user_id: int, key: str) -> sa.ColumnElement[bool]:
    return sa.and_(secrets.c.user_id == user_id, secrets.c.key == key)


async def ssh_keys_of(tx: AsyncConnection, user_id: int) -> list[dict[str, Any]]:
    rows = await tx.execute(
        sa.select(ssh_keys)
        .where(ssh_keys.c.user_id == user_id, ssh_keys.c.deleted_at.is_(None))
        .order_by(ssh_keys.c.id)
    )
    return [_ssh_row(row) for row in rows]


async def add_ssh_key(tx: AsyncConnection, user_id: int, text: str, now: datetime) -> dict[str, Any]:
    """Keep a public key; the same key twice is one key. Raises ApiError 400 `invalid_ssh_key`."""
    line = check_ssh_key(text)
    for known in await ssh_keys_of(tx, user_id):
        if known["public_key"] == line:
            return known
    made = await tx.execute(
        sa.insert(ssh_keys).values(user_id=user_id, public_key=line, created_at=now.timestamp()).returning(*ssh_keys.c)
    )
    return _ssh_row(made.one())


async def update_ssh_key(tx: AsyncConnection, user_id: int, key_id: int, text: str) -> dict[str, Any]:
    """Raises ApiError 400 `invalid_ssh_key`, 404 `no_such_ssh_key`."""
    line = check_ssh_key(text)
    changed = await tx.execute(
        sa.update(ssh_keys).where(_ssh_key(user_id, key_id)).values(public_key=line).returning(*ssh_keys.c)
    )
    row = changed.one_or_none()
    if row is None:
        raise _no_ssh_key(key_id)
    return _ssh_row(row)


async def delete_ssh_key(tx: AsyncConnection, user_id: int, key_id: int, now: datetime) -> None:
    """Raises ApiError 404 `no_such_ssh_key`."""
    gone = await tx.execute(sa.update(ssh_keys).where(_ssh_key(user_id, key_id)).values(deleted_at=now.timestamp()))
    if not gone.rowcount:
        raise _no_ssh_key(key_id)


def check_ssh_key(text: str) -> str:
    """One line of `authorized_keys`: type, base64, comment. Raises ApiError 400 `invalid_ssh_key`, `private_ssh_key`.

    Of a private key nothing is kept, nor told again in the answer.
    """
    line = text.strip()
    if "PRIVATE KEY" in line or line.startswith("PuTTY-User-Key-File"):
        raise ApiError(
            400,
            "private_ssh_key",
            "cannot use a private SSH key: it was not kept, and must never leave its owner",
            remedy="Send the public key, the file that ends in .pub; make a new pair, since this one has travelled",
        )
    parts = line.split(None, 2)
    if len(line) <= SSH_KEY_MAX_CHARS and line.isprintable() and len(parts) >= 2 and _is_blob(parts[0], parts[1]):
        return line
    raise ApiError(
        400,
        "invalid_ssh_key",
        f"cannot use {line[:40]!r} as an SSH key: it is no public key in OpenSSH format",
        remedy="Send the line itself, such as 'ssh-ed25519 AAAA... me@home', not the name of its file",
    )


def _is_blob(kind: str, blob: str) -> bool:
    """The base64 part begins with the length and the name of its own type."""
    try:
        raw = base64.b64decode(blob, validate=True)
    except ValueError:
        return False
    return kind in SSH_KEY_TYPES and raw[4 : 4 + int.from_bytes(raw[:4], "big")] == kind.encode()


async def number_of_key(tx: AsyncConnection, user_id: int, line: str, now: datetime) -> int:
    """The account's number for this key; one that the account does not have gets a number, and stays outside of it."""
    known = sa.select(ssh_keys.c.id).where(ssh_keys.c.user_id == user_id, ssh_keys.c.public_key == line)
    found = (await tx.scalars(known.order_by(ssh_keys.c.deleted_at.is_not(None), ssh_keys.c.id))).first()
    if found is not None:
        return int(found)
    moment = now.timestamp()
    row = {"user_id": user_id, "public_key": line, "created_at": moment, "deleted_at": moment}
    return int((await tx.execute(sa.insert(ssh_keys).values(row).returning(ssh_keys.c.id))).scalar_one())


def _ssh_key(user_id: int, key_id: int) -> sa.ColumnElement[bool]:
    return sa.and_(ssh_keys.c.user_id == user_id, ssh_keys.c.id == key_id, ssh_keys.c.deleted_at.is_(None))


def _ssh_row(row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "user_id": row.user_id,
        "public_key": row.public_key,
        "key": row.public_key,
        "created_at": row.created_at,
        "deleted_at": row.deleted_at,
    }


def _no_ssh_key(key_id: int) -> ApiError:
    return ApiError(
        404,
        "no_such_ssh_key",
        f"cannot find SSH key {key_id}: the account has no such key",
        remedy="`vastai show ssh-keys` lists them",
    )


def _found(count: int, code: str, message: str) -> None:
    if not count:
        raise ApiError(404, code, message, remedy="`vastai show env-vars` lists them")
