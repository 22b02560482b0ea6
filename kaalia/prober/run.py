"""Runs a prober that stands alone, until SIGTERM or SIGINT."""

import asyncio
import errno
import resource
import signal
import socket
from collections.abc import Callable

from aiohttp import web

from kaalia.errors import ConfigError

FILES_WANTED = 8192


async def serve(app: web.Application, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """`on_ready` gets the URL once requests are answered. Raises ConfigError `address_invalid`."""
    _allow_files()
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with _bind(host, port) as door:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.SockSite(runner, door).start()
            name = f"[{host}]" if ":" in host else host
            on_ready(f"http://{name}:{door.getsockname()[1]}")
            await stop.wait()
        finally:
            await runner.cleanup()


def _bind(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        why = "another program does" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise ConfigError(
            "address_invalid",
            f"cannot listen on {host}:{port}: {why}",
            remedy=f"Use an address of this machine, and a port that is free: ss -ltnp 'sport = :{port}'",
        ) from error


def _allow_files() -> None:
    """Each port that is being tried is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
