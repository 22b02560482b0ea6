"""Accounts: users, API keys, secrets (environment variables of every new container), SSH keys, enrolment tokens."""

from datetime import datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from kaalia.clock import SystemClock
from kaalia.errors import ConfigError
from kaalia.marketplace import auth
from kaalia.marketplace.db.tables import api_keys, enrol_tokens, users

START_CREDIT = Decimal(1000)
"""US dollars a new user begins with; this marketplace takes no payments."""
ENROL_TOKEN_LIFE = timedelta(hours=24)


async def add_user(engine: AsyncEngine, name: str, is_host: bool, now: datetime | None = None) -> str:
    """Create a user with a key that opens everything; returns the key, which is not stored.

    Raises ConfigError `user_exists`.
    """
    created_at = (now or SystemClock().now()).timestamp()
    key = auth.new_key()
    try:
        async with engine.begin() as tx:
            user_id = await tx.scalar(
                sa.insert(users)
                .values(username=name, is_host=is_host, credit=str(START_CREDIT), created_at=created_at)
                .returning(users.c.id)
            )
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
    """A token with which one machine may enrol for this owner within 24 hours. Raises ConfigError `no_such_user`."""
    token = auth.new_key()
    async with engine.begin() as tx:
        user_id = await tx.scalar(sa.select(users.c.id).where(users.c.username == username))
        if user_id is None:
            raise ConfigError(
                "no_such_user",
                f"cannot make an enrolment token: there is no user {username!r}",
                remedy="Add the user with `kaalia marketplace user add`",
            )
        await tx.execute(
            sa.insert(enrol_tokens).values(
                token_sha256=auth.digest(token),
                user_id=user_id,
                created_at=now.timestamp(),
                expires_at=(now + ENROL_TOKEN_LIFE).timestamp(),
            )
        )
    return token
