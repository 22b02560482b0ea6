"""The real sshd, locked down: logs in machines by their keys, and lets each listen on its own ports. Nothing else.

Sessions are processes of their own: they live on when sshd or the relay ends, so that a restart cuts nobody off.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from kaalia.contracts import relay as rules
from kaalia.errors import ConfigError, ContractError, HostError, KaaliaError
from kaalia.host.process import Program, run
from kaalia.relay.options import Options
from kaalia.wire import signature
from kaalia.wire.relay import MachinePermit

log = logging.getLogger(__name__)

CHECK_S = 10.0
CLIENT_ALIVE_S, CLIENT_ALIVE_COUNT = 10, 2
"""A machine that is silent for half a minute is gone, and its ports are free for its next connection."""
_NO_FOLDER = "Missing privilege separation directory: "


def config(options: Options, *, is_root: bool, has_penalties: bool = False) -> str:
    """The whole of sshd_config(5). Root's sshd reads keys by `cat`, since the user may not enter the data folder.

    `has_penalties`: this sshd (9.8 or newer) shuts out addresses whose logins fail, as those of a machine do that comes
    before its permit.
    """
    keys = options.data / "authorized_keys"
    host = f"[{options.address}]" if ":" in options.address else options.address
    reading = ["AuthorizedKeysFile none", f"AuthorizedKeysCommand {shutil.which('cat')} {_quoted(keys)}"]
    reading += ["AuthorizedKeysCommandUser root"]
    lines = [
        f"ListenAddress {host}:{options.port}",
        f"HostKey {_quoted(options.data / 'host_key')}",
        "PidFile none",
        *(reading if is_root else [f"AuthorizedKeysFile {_quoted(keys)}"]),
        "StrictModes no",  # the folder is checked here; it may lie below one that others may write to, as /tmp is
        f"AllowUsers {options.user}",
        "AuthenticationMethods publickey",
        "PubkeyAuthentication yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "HostbasedAuthentication no",
        "PermitRootLogin no",
        "UsePAM no",
        "MaxSessions 0",  # no shell, no command, no subsystem: forwarding is no session
        "ForceCommand /bin/false",
        "PermitTTY no",
        "PermitUserRC no",
        "PermitUserEnvironment no",
        "PermitTunnel no",
        "X11Forwarding no",
        "AllowAgentForwarding no",
        "AllowStreamLocalForwarding no",
        "AllowTcpForwarding remote",
        "GatewayPorts yes",
        f"ClientAliveInterval {CLIENT_ALIVE_S}",
        f"ClientAliveCountMax {CLIENT_ALIVE_COUNT}",
        "TCPKeepAlive yes",
        "LoginGraceTime 20",
        "MaxAuthTries 2",
        "MaxStartups 100:30:500",  # after its restart all machines come at once
        "UseDNS no",
        *(["PerSourcePenalties no"] if has_penalties else []),  # behind one address may be many machines
        "PrintMotd no",
        "LogLevel INFO",
    ]
    return "\n".join(lines) + "\n"


def authorized_keys(permits: Iterable[MachinePermit], options: Options) -> str:
    """One line for each machine. Raises ContractError `relay_invalid`: a strange key, a port of no one or of two."""
    lines, owners = [], dict[int, int]()
    for permit in permits:
        rules.check_key(permit.public_key)
        for port in permit.ports:
            if port not in options.ports or owners.setdefault(port, permit.machine_id) != permit.machine_id:
                message = f"cannot let machine {permit.machine_id} listen on port {port}: it is not its own"
                raise ContractError("relay_invalid", message, remedy="ask the marketplace's operator")
        if permit.ports:  # a key without any would be one without limits
            listen = ",".join(f'permitlisten="{port}"' for port in permit.ports)
            lines.append(f"restrict,port-forwarding,{listen} {permit.public_key} machine-{permit.machine_id}\n")
    return "".join(lines)


def write_permits(options: Options, permits: Iterable[MachinePermit]) -> None:
    """Whole or not at all. Machines that are logged in keep what they have: no port ever becomes another's."""
    text = authorized_keys(permits, options)
    new = options.data / "authorized_keys.new"
    new.write_text(text)
    new.rename(options.data / "authorized_keys")


def prepare(options: Options) -> str:
    """Data folder (0700), host key, and permits as they were; the host key's public part.

    Raises ConfigError `data_dir_invalid` or `host_key_invalid`.
    """
    data = options.data
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        data.chmod(0o700)
        (data / "authorized_keys").touch(mode=0o600)
        key = data / "host_key"
        if not key.exists():
            new = data / "host_key.new"
            new.touch(mode=0o600)
            new.write_bytes(signature.openssh_private(signature.generate_key()))
            new.rename(key)
        key.chmod(0o600)
        return signature.openssh_public(signature.load_openssh(key.read_bytes()))
    except OSError as error:
        raise ConfigError(
            "data_dir_invalid",
            f"cannot use the data directory {data}: {error.strerror or error}",
            remedy="Name a directory that this user owns",
        ) from error
    except KaaliaError as error:
        raise ConfigError(
            "host_key_invalid",
            f"cannot use {data / 'host_key'}: {error.problem.message}",
            remedy="restore it from a copy; if it is lost, remove it and let the marketplace forget the old one",
        ) from error


async def check(options: Options) -> None:
    """Write the configuration that this sshd understands. Raises ConfigError `sshd_refused`."""
    file = options.data / "sshd_config"
    argv = (str(options.sshd), "-t", "-f", str(file))
    is_root = os.geteuid() == 0
    await asyncio.to_thread(file.write_text, config(options, is_root=is_root, has_penalties=True))
    result = await run(argv, CHECK_S)
    if result.exit_code != 0 and "PerSourcePenalties" in result.stderr:
        await asyncio.to_thread(file.write_text, config(options, is_root=is_root))
        result = await run(argv, CHECK_S)
    if result.exit_code != 0 and _NO_FOLDER in result.stderr and is_root:
        # Debian's service makes it at its start; it is an empty folder of root's.
        folder = Path(result.stderr.partition(_NO_FOLDER)[2].splitlines()[0].strip())
        await asyncio.to_thread(folder.mkdir, mode=0o755, parents=True, exist_ok=True)
        result = await run(argv, CHECK_S)
    if result.exit_code != 0:
        raise ConfigError(
            "sshd_refused",
            f"cannot start {options.sshd}: it refuses its configuration",
            remedy="a version from 7.8 on is wanted (2018)",
            evidence=result.stderr.strip()[-1000:],
        )


async def start(options: Options) -> Program:
    """It dies with this process; sessions do not. Raises HostError."""
    argv = (str(options.sshd), "-D", "-e", "-f", str(options.data / "sshd_config"))
    if (setpriv := shutil.which("setpriv")) is None:
        raise HostError(
            "command_missing", "cannot run `setpriv`: it is not on this machine", remedy="install util-linux"
        )
    return await Program.start((setpriv, "--pdeathsig", "KILL", *argv), lambda line: log.info("sshd: %s", line))


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("%", "%%") + '"'
