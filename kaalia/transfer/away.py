"""The line to a door of another machine: the real ssh, with a key of this one copy that never leaves this machine."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from kaalia.contracts import relay as rules
from kaalia.errors import ContractError, HostError
from kaalia.host.process import Program
from kaalia.model.copying import CopyDestination
from kaalia.transfer import sshd

CONNECT_S, ALIVE_S, ALIVE_COUNT = 15, 15, 4
_ALIAS = "kaalia-copy"


def check(away: CopyDestination) -> None:
    """What becomes arguments of ssh. Raises ContractError `copy_destination_invalid`."""
    is_good = 1024 <= away.port <= 65535
    try:
        rules.check_host(away.host)
        rules.check_key(away.host_key)
    except ContractError:
        is_good = False
    if not is_good:
        message = f"cannot copy to {away.host[:80]!r}, port {away.port}: the marketplace named what can be no machine"
        raise ContractError(
            "copy_destination_invalid", message, remedy="copy again, or tell the marketplace's operator"
        )


@asynccontextmanager
async def line(
    away: CopyDestination, folder: Path, name: str, key: bytes, on_line: Callable[[str], None]
) -> AsyncIterator[socket.socket]:
    """One end of it; the other one is ssh's. `key`: private, in OpenSSH's form. Raises HostError."""
    if await asyncio.to_thread(shutil.which, "ssh") is None:
        raise HostError(
            "ssh_missing",
            "cannot copy to another machine: the program ssh is not on this machine",
            remedy="install OpenSSH's client: apt install openssh-client",
        )
    files = folder / f"{name}.key", folder / f"{name}.known_hosts"
    await asyncio.to_thread(_write, files, key, f"{_ALIAS} {away.host_key}\n".encode())
    ours, theirs = socket.socketpair()
    try:
        program = await Program.start(_argv(away, *files), on_line, connection=theirs.fileno())
        theirs.close()
        try:
            yield ours
        finally:
            await program.stop()
    finally:
        theirs.close()
        ours.close()
        await asyncio.to_thread(_remove, files)


def _argv(away: CopyDestination, key: Path, known_hosts: Path) -> tuple[str, ...]:
    settings = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f'"{str(known_hosts).replace("%", "%%")}"',
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": _ALIAS,
        "HostKeyAlgorithms": "ssh-ed25519",
        "CheckHostIP": "no",
        "UpdateHostKeys": "no",
        "IdentityFile": f'"{str(key).replace("%", "%%")}"',
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "ClearAllForwardings": "yes",
        "ConnectTimeout": str(CONNECT_S),
        "ServerAliveInterval": str(ALIVE_S),
        "ServerAliveCountMax": str(ALIVE_COUNT),
        "LogLevel": "ERROR",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    place = ("-p", str(away.port), "-l", sshd.ACCOUNT, "--", away.host)
    return ("ssh", "-F", "none", "-T", *options, *place, "rsync --server --daemon .")


def _write(files: tuple[Path, Path], key: bytes, known_hosts: bytes) -> None:
    for path, content in zip(files, (key, known_hosts), strict=True):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)


def _remove(files: tuple[Path, Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)
