"""`kaalia probe serve`: try the ports of hosts that ask for it, from this machine. A program of its own."""

import asyncio
import ipaddress
import sys
from typing import Annotated

import typer

from kaalia import log
from kaalia.cli import output
from kaalia.errors import ConfigError
from kaalia.prober import app as prober_app
from kaalia.prober import run
from kaalia.prober.bounds import LOOPBACK, networks
from kaalia.prober.work import Prober

probe = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Be a prober for other machines.",
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
