"""Asking containers: their ports, their logs, and the runtime for what it refuses."""

import asyncio
import socket
import urllib.request
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import pytest

from kaalia.errors import WorkloadError
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.networks import publications
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.runtime.sandbox.pauses import joined
from kaalia.runtime.sandbox.ports import Ports
from tests.support.docker_engine import PrivateDocker
from tests.support.placements import MACHINE

T = TypeVar("T")


def ports_of(engine: DockerEngine, machine: str = MACHINE, pool: str = "172.28.0.0/15") -> Ports:
    """The hands that publish for a runtime on this engine."""
    return Ports(machine, pool, partial(publications, engine, machine))


def address_of(docker_host: PrivateDocker, name: str) -> str:
    """Of a container, in its own network or in that of the sandbox which it joined."""
    document = docker_host.inspect(name)
    if pause_id := joined(document):
        document = docker_host.inspect(pause_id)
    (network,) = document["NetworkSettings"]["Networks"].values()
    return str(network["IPAddress"])


def ask_tcp(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
        return str(response.read().decode())


def ask_udp(port: int) -> bytes:
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(b"ping", ("127.0.0.1", port))
        return client.recv(100)


async def answered(ask: Callable[[int], T], port: int) -> T:
    """The first answer: the server in the container may need a moment."""
    for _ in range(100):
        try:
            return await asyncio.to_thread(ask, port)
        except OSError:
            await asyncio.sleep(0.05)
    raise AssertionError(f"nothing answers on {port}")


async def output(runtime: ContainerRuntime, contract_id: int, ending: str) -> str:
    """The log once it holds `ending`."""
    text = ""
    for _ in range(100):
        text = await runtime.logs(contract_id, 1000)
        if ending in text:
            return text
        await asyncio.sleep(0.05)
    raise AssertionError(f"no {ending!r} in {text!r}")


async def refused(awaitable: Awaitable[object]) -> WorkloadError:
    with pytest.raises(WorkloadError) as raised:
        await awaitable
    return raised.value
