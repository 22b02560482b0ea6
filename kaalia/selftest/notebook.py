"""Whether a renter's Jupyter answers: a container of mode jupyter with this machine's own Python, asked by HTTPS.

A certificate comes as to a tenant's, but from an authority of the moment: no marketplace hears of the container. Who
asks trusts that authority and nothing else. The token is in headers only.
"""

import asyncio
import json
import secrets
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import aiohttp

from kaalia.contracts import certificate as rules
from kaalia.errors import HostError, KaaliaError
from kaalia.host import knock
from kaalia.model.certificate import Certificate
from kaalia.model.machine import MachineReport
from kaalia.model.workload import LaunchMode, PortRequest, WorkloadSpec, WorkloadStatus
from kaalia.selftest.container import Containers, NotebookMeans, own_address
from kaalia.units import MIB
from kaalia.wire import authority

PORT = 8080
DISK_BYTES = 512 * MIB
"""Some engines count the image too, which is of some 130 MB."""
CERTIFIED = timedelta(hours=1)
LAUNCH_S = 60.0
COMES_UP_S = 60.0
ANSWER_S = 5.0
AGAIN_S = 0.5
CLOSED_S = 2.0
TOKEN_BYTES = 16
REPLY_MAX_BYTES = 64 * 1024
LOG_LINES = 5
LOG_CHARACTERS = 500
PATH = "/api/status"


@dataclass(frozen=True, slots=True)
class Door:
    """Where one Jupyter is. `root`: the authority that it is known by, PEM."""

    address: str
    port: int
    root: str
    token: str = field(repr=False)


Ask = Callable[[Door], Awaitable[None]]
"""Whether who knows the token is let in, and nobody else. Raises HostError `selftest_jupyter_failed`."""


async def tried(containers: Containers, report: MachineReport, now: datetime, ask: Ask) -> str:
    """In a container of its own: what was seen. Raises KaaliaError: it does not answer, or answers whom it should not.

    `now`: for its certificate.
    """
    means = containers.notebook
    why_not = "it is not asked for" if means is None else await asyncio.to_thread(means.why_not)
    if means is None or why_not:
        return f"Jupyter was not tried: {why_not}"
    address, token = own_address(report), secrets.token_hex(TOKEN_BYTES)
    signer = await asyncio.to_thread(authority.made, "localhost", (), now)
    certify = _certifier(signer, means, rules.names(address, None), now)
    async with containers.one(spec(await means.image(), token), LAUNCH_S, certify) as row:
        door = Door(address, _port(row), authority.pem(signer[0]), token)
        try:
            await ask(door)
        except HostError as error:
            raise await _with_log(error, containers, row, token) from error
    await _closed(door)
    return "Jupyter answers by HTTPS to its token alone"


def spec(image: str, token: str) -> WorkloadSpec:
    """A container that takes no GPU: beside the one that has them all."""
    return WorkloadSpec(
        image=image,
        launch_mode=LaunchMode.JUPYTER,
        disk_bytes=DISK_BYTES,
        gpu_count=0,
        env=(("JUPYTER_TOKEN", token),),
        ports=(PortRequest(PORT),),
    )


async def ask(door: Door) -> None:
    """As `Ask` says, by this machine's own client."""
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=door.root), force_close=True)
    jar = aiohttp.DummyCookieJar()  # whoever was let in once has a cookie, and would be again
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, timeout=timeout) as session:
        await _comes_up(session, door)
        for who, token in (("who brings no token", None), ("who brings another token", door.token[::-1] + "0")):
            try:
                status, _ = await _get(session, door, token)
            except (aiohttp.ClientError, OSError) as error:
                raise _failed(f"it does not answer {who}", str(error) or type(error).__name__) from error
            if status != 403:
                raise _failed(f"it does not refuse {who}", f"HTTP {status}")


async def _comes_up(session: aiohttp.ClientSession, door: Door) -> None:
    """Python takes its time to begin."""
    said = "nothing was tried"
    try:
        async with asyncio.timeout(COMES_UP_S):
            while True:
                try:
                    status, reply = await _get(session, door, door.token)
                except aiohttp.ClientConnectorCertificateError as error:
                    raise _failed("it shows a certificate that is not its own", str(error)) from error
                except (aiohttp.ClientError, OSError) as error:
                    said = str(error) or type(error).__name__
                else:
                    if status == 200 and _is_jupyter(reply):
                        return
                    said = f"HTTP {status}"
                    if status == 403:
                        raise _failed("it refuses its own token", said)
                await asyncio.sleep(AGAIN_S)
    except TimeoutError:
        raise _failed(f"it does not answer within {COMES_UP_S:g} s", said) from None


async def _get(session: aiohttp.ClientSession, door: Door, token: str | None) -> tuple[int, bytes]:
    """Raises aiohttp.ClientError, OSError."""
    headers = {} if token is None else {"Authorization": f"token {token}"}
    url = f"https://{door.address}:{door.port}{PATH}"
    async with session.get(url, headers=headers, allow_redirects=False) as reply:
        return reply.status, await reply.content.read(REPLY_MAX_BYTES)


def _is_jupyter(reply: bytes) -> bool:
    try:
        return "kernels" in json.loads(reply)
    except (ValueError, TypeError):
        return False


def _certifier(
    signer: authority.Signer, means: NotebookMeans, names: tuple[str, ...], now: datetime
) -> Callable[[int], Certificate]:
    return lambda number: authority.signed(signer, number, means.public_key(number), names, now, CERTIFIED)


def _port(row: WorkloadStatus) -> int:
    """Raises HostError `selftest_jupyter_failed`."""
    port = next((one.host_port for one in row.ports if one.container_port == PORT), None)
    if port is None:
        raise _failed("it has no port 8080", "")
    return port


async def _closed(door: Door) -> None:
    """Its container is gone. Raises HostError `selftest_jupyter_failed`."""
    try:
        await knock.connect(door.address, door.port, CLOSED_S)
    except OSError:
        return
    raise _failed("its port is open when it is gone", f"{door.address}:{door.port}")


async def _with_log(error: HostError, containers: Containers, row: WorkloadStatus, token: str) -> HostError:
    """With the last words of its container, which does not write the token down; should it, nobody reads it here."""
    why, told = error.problem, ""
    with suppress(KaaliaError):  # what was seen is worth more than why its log is not there
        told = (await containers.logs(row.contract_id, LOG_LINES)).replace(token, "...")[-LOG_CHARACTERS:].strip()
    evidence = f"{why.evidence}; its log: {told}" if told else why.evidence
    return HostError(why.code, why.message, remedy=why.remedy, evidence=evidence)


def _failed(what: str, said: str) -> HostError:
    return HostError(
        "selftest_jupyter_failed",
        f"cannot use Jupyter in a container of this machine's own: {what}",
        remedy="see docs/jupyter.md, and whether other rules close port 8080: iptables -S, nft list ruleset",
        evidence=said,
    )
