"""`kaalia probe serve`: try the ports of hosts that ask for it; `kaalia probe speed`: measure their line with them.

A program of its own.
"""

import asyncio
import ipaddress
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from kaalia import log
from kaalia.cli import output
from kaalia.errors import ConfigError
from kaalia.host import secret
from kaalia.prober import app as prober_app
from kaalia.prober import run
from kaalia.prober.bounds import LOOPBACK, networks
from kaalia.prober.work import Prober
from kaalia.speed import peer as speed_peer

probe = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Be a prober for other machines, and the peer of their speed tests.",
    epilog="Example: kaalia probe serve --listen 0.0.0.0:8090; on the host: probe: {url: http://THIS_MACHINE:8090}",
)


@probe.callback()
def _root() -> None:
    """Be a prober for other machines."""


@probe.command()
def serve(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = "0.0.0.0:8090",
    for_networks: Annotated[
        list[str] | None, typer.Option("--for", metavar="NETWORK", help="Answer only these; may be repeated.")
    ] = None,
    may_probe: Annotated[
        list[str] | None,
        typer.Option(
            "--may-probe",
            metavar="NETWORK",
            help="Addresses that may be probed for others than themselves; repeatable.",
        ),
    ] = None,
    behind_proxy: Annotated[bool, typer.Option("--behind-proxy", help="A proxy in front does TLS.")] = False,
    proxy: Annotated[
        list[str] | None,
        typer.Option("--proxy", metavar="NETWORK", help="Where that proxy is, if not on this machine; repeatable."),
    ] = None,
) -> None:
    """Serve until SIGTERM. Only the address that a request comes from is tried, and only so many ports an hour."""
    host, port = _address(listen)
    log.setup("info", "text")
    proxies = networks("--proxy", proxy) or LOOPBACK if behind_proxy else ()
    made = prober_app.build(Prober(networks("--may-probe", may_probe)), networks("--for", for_networks), proxies)
    asyncio.run(run.serve(made, host, port, lambda url: typer.echo(f"the prober answers on {url}")))


@probe.command(
    epilog="Example: kaalia probe speed --secret-file FILE; on the host: kaalia speedtest --peer HOST:8091 ..."
)
def speed(
    secret_file: Annotated[Path, typer.Option(metavar="FILE", help="What this peer and its machines both know.")],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = "0.0.0.0:8091",
) -> None:
    """Be the peer of machines' speed tests until SIGTERM. One test at a time, and none without the secret."""
    host, port = _address(listen)
    made = speed_peer.Peer(secret.read(secret_file).encode())
    try:
        listener = speed_peer.listen(host, port)
    except OSError as error:
        raise ConfigError(
            "speed_listen_failed",
            f"cannot listen for speed tests on {listen}: {error.strerror or error}",
            remedy=f"see who does: ss -ltnp 'sport = :{port}'; or give --listen HOST:PORT",
        ) from error
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    threading.Thread(target=made.serve, args=(listener,), daemon=True).start()
    typer.echo(f"the speed peer answers on {host}:{listener.getsockname()[1]}")
    signal.sigwait(ends)


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
        if not (port.isascii() and port.isdecimal() and int(port) <= 65535):
            raise ValueError
    except ValueError as error:
        raise ConfigError(
            "listen_invalid",
            f"cannot listen on {listen!r}: it is not ADDRESS:PORT",
            remedy="Write it like 0.0.0.0:8090 or [::]:8090",
        ) from error
    return host, int(port)


if __name__ == "__main__":
    sys.exit(output.run(probe, sys.argv[1:], "kaalia probe"))
