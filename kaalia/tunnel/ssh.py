"""One connection to a relay, by the real OpenSSH client: `ssh -N` in the background, asked by its control socket.

It belongs to nobody: it outlives the daemon, which finds it again by the socket. Nothing of it is taken from the
user's configuration, and no host key is trusted but the one that the marketplace named.
"""

import asyncio
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.process import Result, run
from kaalia.model.relay import LocalForward, RelayLink

CONNECT_TIMEOUT_S = 10
ALIVE_S, ALIVE_COUNT = 10, 2
"""A relay that is silent for half a minute is gone: ssh ends, and frees the way for the next connection."""
START_S = 25.0
"""To the end of the login; the name's resolution may take some of it."""
ASK_S = 10.0
SOCKET_MAX_BYTES = 107 - 17
"""ssh binds a name that is longer by 17 characters first (mux.c), and sun_path ends at 108."""

_KEY_SIGNS = ("host key verification failed", "host identification has changed", "host key is known")


class Connection:
    """`folder`: holds the machine's key, the relays' keys and the sockets, and is the daemon's alone.

    `name`: of the link. Every method may raise HostError `command_timeout` or `command_missing`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._socket = folder / f"{name}.sock"
        self._known_hosts = folder / f"{name}.known_hosts"

    async def pid(self) -> int | None:
        """The process of a connection that is up; None: there is none."""
        result = await self._ask("check")
        _, found, rest = result.stderr.partition("(pid=")
        number = rest.partition(")")[0]
        return int(number) if result.exit_code == 0 and found and number.isdecimal() else None

    async def connect(self, link: RelayLink) -> int:
        """Log in and leave the connection behind. Raises HostError `relay_down` or `relay_key_changed`."""
        if len(bytes(self._socket)) > SOCKET_MAX_BYTES:
            raise HostError(
                "relay_down",
                f"cannot make the control socket {self._socket}: a path of at most {SOCKET_MAX_BYTES} bytes is wanted",
                remedy="choose a shorter state_dir",
            )
        await asyncio.to_thread(self._prepare, link)
        argv = ("ssh", *self._options(link), "-M", "-f", "-N", "-p", str(link.port), "-l", link.user)
        result = await run((*argv, "--", link.host), START_S)
        found = await self.pid() if result.exit_code == 0 else None
        if found is None:
            raise _failure(link, result)
        return found

    async def forward(self, forward: LocalForward) -> None:
        """Listen there; one that stands already is well. Raises HostError `relay_port_refused`."""
        result = await self._ask("forward", forward)
        if result.exit_code != 0:
            raise HostError(
                "relay_port_refused",
                f"cannot listen on port {forward.relay_port} of the relay: {self._name} refuses",
                remedy="the relay's operator sees why in its log; it is tried again by itself",
                evidence=result.stderr.strip()[-500:],
            )

    async def cancel(self, forward: LocalForward) -> None:
        """Listen there no longer. That nobody did is no error; connections that run on it run on."""
        await self._ask("cancel", forward)

    async def close(self) -> None:
        """End it, with all that goes through it."""
        await self._ask("exit")

    def _prepare(self, link: RelayLink) -> None:
        self._socket.unlink(missing_ok=True)  # of a connection that was killed
        self._known_hosts.write_text(f"{_alias(link)} {link.host_key}\n")

    def _options(self, link: RelayLink) -> tuple[str, ...]:
        settings = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": _quoted(self._known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": _alias(link),
            "HostKeyAlgorithms": "ssh-ed25519",
            "CheckHostIP": "no",
            "UpdateHostKeys": "no",
            "IdentityFile": _quoted(self._folder / "key"),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "PreferredAuthentications": "publickey",
            "ExitOnForwardFailure": "yes",
            "ConnectTimeout": str(CONNECT_TIMEOUT_S),
            "ServerAliveInterval": str(ALIVE_S),
            "ServerAliveCountMax": str(ALIVE_COUNT),
            "TCPKeepAlive": "yes",
            "LogLevel": "ERROR",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return ("-F", "none", "-S", _escaped(self._socket), *options)

    async def _ask(self, what: str, forward: LocalForward | None = None) -> Result:
        words = ("-R", f"{forward.relay_port}:{forward.local_address}:{forward.local_port}") if forward else ()
        return await run(("ssh", "-F", "none", "-S", _escaped(self._socket), "-O", what, *words, "relay"), ASK_S)


def _alias(link: RelayLink) -> str:
    """The name that the key is known by, whatever the address."""
    return f"kaalia-relay-{link.relay}"


def _failure(link: RelayLink, result: Result) -> HostError:
    told, where = result.stderr.strip()[-500:], f"{link.host}:{link.port}"
    if any(sign in told.lower() for sign in _KEY_SIGNS):
        return HostError(
            "relay_key_changed",
            f"cannot trust relay {link.relay} at {where}: its host key is not the one that the marketplace named",
            remedy="ask the relay's operator: somebody else may be answering there; nothing was sent to it",
            evidence=told,
        )
    return HostError(
        "relay_down",
        f"cannot reach relay {link.relay} at {where}",
        remedy="let this machine open TCP connections to it; it is tried again by itself",
        evidence=told or f"ssh ended with {result.exit_code}",
    )


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")


def _quoted(path: Path) -> str:
    """As one word of ssh's configuration."""
    return '"' + _escaped(path) + '"'
