"""Accounts: user, API keys, environment variables, SSH keys."""

import re
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.marketplace import accounts, api_keys, copy_keys, machines
from kaalia.marketplace.routing import PUBLIC, Call, Route
from kaalia.wire import facts
from kaalia.wire.error import ApiError

SECRET_MAX_CHARS = 32 * 1024
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,127}", re.ASCII)


async def show_user(call: Call) -> dict[str, Any]:
    async with call.context.engine.begin() as tx:
        return await accounts.user_row(tx, call.caller.user_id, call.context.clock.now())


async def create_api_key(call: Call) -> dict[str, Any]:
    if call.body.get("key_params"):
        raise _invalid("key_params", "wildcard parameters are not supported", "Write the values into the permissions")
    name = call.body.get("name") or ""
    if not isinstance(name, str):
        raise _invalid("name", "it must be text", "Send text")
    async with call.context.engine.begin() as tx:
        now = call.context.clock.now()
        return {"success": True, **await api_keys.create(tx, call.caller, name, call.body.get("permissions"), now)}


async def show_api_keys(call: Call) -> dict[str, Any]:
    async with call.context.engine.begin() as tx:
        return {"apikeys": await api_keys.of_user(tx, call.caller.user_id)}


async def show_api_key(call: Call) -> dict[str, Any]:
    async with call.context.engine.begin() as tx:
        return await api_keys.get(tx, call.caller.user_id, call.number("id"))


async def delete_api_key(call: Call) -> dict[str, Any]:
    async with call.context.engine.begin() as tx:
        await api_keys.delete(tx, call.caller.user_id, call.number("id"))
    return {"success": True, "msg": f"API key {call.number('id')} deleted"}


async def reset_api_key(call: Call) -> dict[str, Any]:
    async with call.context.engine.begin() as tx:
        return {"success": True, "new_api_key": await api_keys.renew(tx, call.caller.key_id)}


async def show_secrets(call: Call) -> dict[str, Any]:
    async with call.context.engine.begin() as tx:
        return {"success": True, "secrets": await accounts.secrets_of(tx, call.caller.user_id)}


async def create_secret(call: Call) -> dict[str, Any]:
    key, value = _secret_key(call), _secret_value(call)
    async with call.context.engine.begin() as tx:
        await accounts.create_secret(tx, call.caller.user_id, key, value)
    return {"success": True, "msg": f"{key} created: new instances will have it"}


async def update_secret(call: Call) -> dict[str, Any]:
    key, value = _secret_key(call), _secret_value(call)
    async with call.context.engine.begin() as tx:
        await accounts.update_secret(tx, call.caller.user_id, key, value)
    return {"success": True, "msg": f"{key} updated: new instances will have it"}


async def delete_secret(call: Call) -> dict[str, Any]:
    key = _secret_key(call)
    async with call.context.engine.begin() as tx:
        await accounts.delete_secret(tx, call.caller.user_id, key)
    return {"success": True, "msg": f"{key} deleted: new instances will not have it"}


async def show_ssh_keys(call: Call) -> list[dict[str, Any]]:
    async with call.context.engine.begin() as tx:
        return await accounts.ssh_keys_of(tx, call.caller.user_id)


async def create_ssh_key(call: Call) -> dict[str, Any]:
    text = _text(call, "ssh_key")
    async with call.context.engine.begin() as tx:
        row = await accounts.add_ssh_key(tx, call.caller.user_id, text, call.context.clock.now())
    return {"success": True, "key": row}


async def update_ssh_key(call: Call) -> dict[str, Any]:
    text = _text(call, "ssh_key")
    async with call.context.engine.begin() as tx:
        before = await accounts.ssh_keys_of(tx, call.caller.user_id)
        row = await accounts.update_ssh_key(tx, call.caller.user_id, call.number("id"), text)
        told = await _withdraw(call, tx, before)
    copy_keys.ring(call.context, told)
    return {"success": True, "key": row}


async def delete_ssh_key(call: Call) -> dict[str, Any]:
    async with call.context.engine.begin() as tx:
        before = await accounts.ssh_keys_of(tx, call.caller.user_id)
        await accounts.delete_ssh_key(tx, call.caller.user_id, call.number("id"), call.context.clock.now())
        told = await _withdraw(call, tx, before)
    copy_keys.ring(call.context, told)
    return {"success": True, "msg": f"SSH key {call.number('id')} deleted"}


async def _withdraw(call: Call, tx: AsyncConnection, before: list[dict[str, Any]]) -> set[int]:
    """Doors for copies that were opened for the keys that there were."""
    lines = [str(one["public_key"]) for one in before]
    return await copy_keys.withdraw(tx, call.caller.user_id, lines, call.context.clock.now())


async def gpu_names(call: Call) -> dict[str, Any]:
    """Names that are on this marketplace. Null while there are none: the client would refuse every name for a day."""
    async with call.context.engine.begin() as tx:
        reports = [machine.report for machine in (await machines.reported(tx)).values()]
    names = {facts.gpu_name(gpu.name) for report in reports if report for gpu in report.gpus}
    return {"gpu_names": sorted(names) or None}


def _secret_key(call: Call) -> str:
    key = _text(call, "key").strip().upper()
    if not _VARIABLE.fullmatch(key):
        raise _invalid("key", f"{key[:40]!r} is no name of a variable", "Use letters, digits and _, no digit first")
    return key


def _secret_value(call: Call) -> str:
    value = call.body.get("value")
    if value is None:
        raise _missing("value")
    text = str(value)
    if "\0" in text or len(text) > SECRET_MAX_CHARS:
        raise _invalid("value", f"it holds a NUL or more than {SECRET_MAX_CHARS} characters", "Send a shorter text")
    return text


def _text(call: Call, name: str) -> str:
    value = call.body.get(name)
    if value is None or value == "":
        raise _missing(name)
    if not isinstance(value, str):
        raise _invalid(name, "it must be text", "Send text")
    return value


def _missing(name: str) -> ApiError:
    return ApiError(400, "missing_input", f"cannot do this without {name}", remedy=f"Send {name}")


def _invalid(name: str, cause: str, remedy: str) -> ApiError:
    return ApiError(400, "invalid_args", f"cannot use {name}: {cause}", remedy=remedy)


ROUTES: tuple[Route, ...] = (
    Route("GET", "/api/v0/users/current", "user_read", show_user),
    Route("POST", "/api/v0/auth/apikeys", "user_write", create_api_key),
    Route("GET", "/api/v0/auth/apikeys", "user_read", show_api_keys),
    Route("GET", r"/api/v0/auth/apikeys/{id:\d+}", "user_read", show_api_key),
    Route("DELETE", r"/api/v0/auth/apikeys/{id:\d+}", "user_write", delete_api_key),
    Route("PUT", "/api/v0/commands/reset_apikey", "user_write", reset_api_key),
    Route("GET", "/api/v0/secrets", "user_read", show_secrets),
    Route("POST", "/api/v0/secrets", "user_write", create_secret),
    Route("PUT", "/api/v0/secrets", "user_write", update_secret),
    Route("DELETE", "/api/v0/secrets", "user_write", delete_secret),
    Route("GET", "/api/v0/ssh", "user_read", show_ssh_keys),
    Route("POST", "/api/v0/ssh", "user_write", create_ssh_key),
    Route("PUT", r"/api/v0/ssh/{id:\d+}", "user_write", update_ssh_key),
    Route("DELETE", r"/api/v0/ssh/{id:\d+}", "user_write", delete_ssh_key),
    Route("GET", "/api/v0/gpu_names/unique", PUBLIC, gpu_names),
)
