"""Whether a renter could log in: a container of mode ssh, and OpenSSH's own client with a key of the moment."""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.process import run
from kaalia.model.machine import MachineReport
from kaalia.model.workload import LaunchMode, PortRequest, WorkloadSpec, WorkloadStatus
from kaalia.selftest.container import Containers, own_address
from kaalia.units import MIB
from kaalia.wire import signature

PORT = 22
DISK_BYTES = 64 * MIB
LAUNCH_S = 60.0
LOGIN_S = 10.0
TRIES = 5
AGAIN_S = 1.0
"""sshd is there a moment after its container."""
SAYS = "kaalia-self-test"
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
    "GlobalKnownHostsFile": "/dev/null",
    "IdentitiesOnly": "yes",
    "IdentityAgent": "none",
    "PreferredAuthentications": "publickey",
    "ConnectTimeout": "5",
    "LogLevel": "ERROR",
}


class Key:
    """Of one login; its file is gone with it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kaalia-self-test-")
        made = signature.generate_key()
        self.path = Path(self._folder.name) / "key"
        self.path.touch(0o600)
        self.path.write_bytes(signature.openssh_private(made))
        self.public = signature.openssh_public(made)

    def close(self) -> None:
        self._folder.cleanup()


LogIn = Callable[[WorkloadStatus, str, Key], Awaitable[None]]
"""Into this container, at this address, with this key."""


async def tried(containers: Containers, report: MachineReport, log_in: LogIn) -> str:
    """By ssh, into a container of its own: what was seen. Raises KaaliaError: nobody could, or none came up."""
    if not await asyncio.to_thread(is_possible):
        return "ssh was not tried: this machine has no client"
    key = await asyncio.to_thread(Key)
    try:
        async with containers.one(spec(await containers.image(), key), LAUNCH_S) as row:
            await log_in(row, own_address(report), key)
    finally:
        await asyncio.to_thread(key.close)
    return "ssh logs in"


def is_possible() -> bool:
    """This machine has a client."""
    return shutil.which("ssh") is not None


def spec(image: str, key: Key) -> WorkloadSpec:
    """A container that takes no GPU: beside the one that has them all."""
    return WorkloadSpec(
        image=image,
        launch_mode=LaunchMode.SSH,
        disk_bytes=DISK_BYTES,
        gpu_count=0,
        env=(("SSH_PUBLIC_KEY", key.public),),
        ports=(PortRequest(PORT),),
    )


async def log_in(row: WorkloadStatus, address: str, key: Key) -> None:
    """Run one command there. Raises HostError `selftest_login_failed`."""
    port = next((one.host_port for one in row.ports if one.container_port == PORT), None)
    said = "it has no port 22"
    for _ in range(TRIES if port is not None else 0):
        options = [word for name, value in _OPTIONS.items() for word in ("-o", f"{name}={value}")]
        where = ("-i", str(key.path), "-p", str(port), "-l", "root", "--", address)
        try:
            result = await run(("ssh", "-F", "none", *options, *where, "echo", SAYS), LOGIN_S)
        except HostError as error:
            said = error.problem.message
        else:
            if result.exit_code == 0 and result.stdout.strip() == SAYS:
                return
            said = result.stderr.strip()[-500:] or f"ssh ended with {result.exit_code}"
        await asyncio.sleep(AGAIN_S)
    raise HostError(
        "selftest_login_failed",
        "cannot log in by ssh to a container of this machine's own",
        remedy="see docs/access.md, and whether other rules stand in the way: iptables -S FORWARD, nft list ruleset",
        evidence=said,
    )
