"""Runs the marketplace: opens its data directory, listens, serves until told to stop.

Refuses to speak plain HTTP to the network: keys and secrets travel in every request. Prints nothing: the caller is told
when it is ready.
"""

import asyncio
import errno
import ipaddress
import logging
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncEngine

from kaalia.clock import Clock, SystemClock
from kaalia.errors import ConfigError
from kaalia.marketplace import app, away, jobs, keys, scheduled_runs
from kaalia.marketplace.context import CERTIFICATE_LIFE, Context, Settings, SpeedSource
from kaalia.marketplace.db.engine import DATABASE_FILE, open_engine, sqlite_url
from kaalia.marketplace.db.tables import settings as settings_table
from kaalia.prober.bounds import LOOPBACK, Network
from kaalia.service import Tasks

SHUTDOWN_S = 2.0
"""Requests that are being answered get this long after SIGTERM; waiting machines simply ask again."""


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def is_wildcard(self) -> bool:
        return self.host in {"0.0.0.0", "::", ""}  # noqa: S104  # compared, not bound

    def url(self, scheme: str) -> str:
        return f"{scheme}://[{self.host}]:{self.port}" if ":" in self.host else f"{scheme}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    certificate: Path
    key: Path


def parse_address(listen: str) -> Address:
    """`127.0.0.1:8000` or `[::1]:8000`; port 0 takes any free one. Raises ConfigError `listen_invalid`."""
    host, _, port = listen.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ConfigError(
            "listen_invalid",
            f"cannot listen on {listen!r}: it is not HOST:PORT",
            remedy="Write it like 127.0.0.1:8000",
        )
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


@asynccontextmanager
async def open_database(data_dir: Path) -> AsyncIterator[AsyncEngine]:
    """The database of a data directory, made with it when missing (mode 0700)."""
    await asyncio.to_thread(_open_folder, data_dir)
    engine = await open_engine(sqlite_url(data_dir))
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def open_context(
    data_dir: Path,
    public_url: str,
    clock: Clock,
    behind_proxy: bool = False,
    proxies: Sequence[Network] = LOOPBACK,
    may_probe: Sequence[Network] = (),
    speed: SpeedSource | None = None,
    certificate_life: timedelta = CERTIFICATE_LIFE,
    verifies_simulated: bool = False,
) -> AsyncIterator[Context]:
    """All that handlers need. Closes the database at the end."""
    async with open_database(data_dir) as engine:
        epoch = await _epoch(engine, clock.now())
        context = Context(
            engine=engine,
            clock=clock,
            settings=Settings(
                public_url=public_url.rstrip("/"),
                behind_proxy=behind_proxy,
                proxies=tuple(proxies),
                may_probe=tuple(may_probe),
                certificate_life=certificate_life,
                verifies_simulated=verifies_simulated,
            ),
            signing_key=await asyncio.to_thread(keys.open_key, data_dir),
            epoch=epoch,
            speed=speed,
        )
        await away.look(context)
        yield context


async def serve(
    listen: str,
    data_dir: Path,
    *,
    on_ready: Callable[[str], None],
    public_url: str | None = None,
    tls: TlsFiles | None = None,
    behind_tls_proxy: bool = False,
    proxies: Sequence[Network] = LOOPBACK,
    may_probe: Sequence[Network] = (),
    clock: Clock | None = None,
    stop: asyncio.Event | None = None,
    speed: SpeedSource | None = None,
    certificate_life: timedelta = CERTIFICATE_LIFE,
    verifies_simulated: bool = False,
) -> None:
    """Serve until SIGTERM, SIGINT or `stop`. `on_ready` gets the URL once connections are answered.

    Raises ConfigError: listen_invalid, tls_required, tls_invalid, public_url_required, address_in_use, address_invalid.
    """
    address = parse_address(listen)
    if tls is None and not address.is_loopback and not behind_tls_proxy:
        raise ConfigError(
            "tls_required",
            f"cannot serve plain HTTP on {listen}: API keys would cross the network readable",
            remedy="Give a TLS certificate and key, listen on 127.0.0.1, or say that a TLS proxy is in front",
        )
    if public_url is None and address.is_wildcard:
        raise ConfigError(
            "public_url_required",
            f"cannot tell clients where {listen} is: a wildcard is no address to connect to",
            remedy="Give the public URL",
        )
    scheme = "http" if tls is None else "https"
    ssl_context = None if tls is None else await asyncio.to_thread(_tls_context, tls)
    stop = stop or asyncio.Event()
    with _bind(address) as listener, _stopped_by_signals(stop):
        bound = Address(address.host, listener.getsockname()[1]).url(scheme)
        url = public_url or bound
        opened = open_context(
            data_dir,
            url,
            clock or SystemClock(),
            behind_tls_proxy,
            proxies,
            may_probe,
            speed,
            certificate_life,
            verifies_simulated,
        )
        async with opened as context:
            runner = web.AppRunner(
                app.build(context),
                access_log_class=app.AccessLog,
                access_log=logging.getLogger("kaalia.marketplace.access"),
                shutdown_timeout=SHUTDOWN_S,
            )
            background = Tasks()
            await runner.setup()
            try:
                await web.SockSite(runner, listener, ssl_context=ssl_context).start()
                background.start("jobs", jobs.run(context))
                background.start("scheduled runs", scheduled_runs.run(context))
                on_ready(bound)
                await stop.wait()
            finally:
                await background.close()
                await runner.cleanup()


def _bind(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=1024)
    except OSError as error:
        where = f"{address.host}:{address.port}"
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                "address_in_use",
                f"cannot listen on {where}: another program does",
                remedy=f"Stop it (`ss -ltnp 'sport = :{address.port}'` names it) or choose another port",
            ) from error
        raise ConfigError(
            "address_invalid",
            f"cannot listen on {where}: {error.strerror or error}",
            remedy="Use an address of this machine and a port that this user may bind",
        ) from error


def _tls_context(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            "tls_invalid",
            f"cannot use the TLS certificate {tls.certificate} with the key {tls.key}: {error}",
            remedy="Give PEM files that belong together and that this user can read",
        ) from error
    return context


def _open_folder(data_dir: Path) -> None:
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        data_dir.chmod(0o700)
        (data_dir / DATABASE_FILE).touch(mode=0o600)  # SQLite gives its other files the same mode
    except OSError as error:
        raise ConfigError(
            "data_dir_invalid",
            f"cannot use the data directory {data_dir}: {error.strerror or error}",
            remedy="Name a directory that this user owns",
        ) from error


async def _epoch(engine: AsyncEngine, now: datetime) -> int:
    """The time of the database's making: a database that was lost and made again has a greater one."""
    async with engine.begin() as tx:
        known = await tx.scalar(sa.select(settings_table.c.value).where(settings_table.c.key == "epoch"))
        if known is None:
            known = str(int(now.timestamp()))
            await tx.execute(sa.insert(settings_table).values(key="epoch", value=known))
    return int(known)


@contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
