"""The relay's program beside a marketplace: whom it refuses to serve for, and what it goes on with."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from kaalia.contracts.relay import parse_ports
from kaalia.marketplace import relay_list
from kaalia.relay import sshd
from kaalia.relay.options import Options, find_sshd
from kaalia.wire import signature
from kaalia.wire.relay import MachinePermit
from tests.marketplace.support import open_market
from tests.support import own_network

pytestmark = [
    pytest.mark.skipif(not own_network.is_possible(), reason="needs scripts/sandbox: starts sshd"),
    pytest.mark.timeout(120),
]

PORTS = "20000-20063"


async def serve(folder: Path, url: str, token: str, name: str = "west") -> asyncio.subprocess.Process:
    await asyncio.to_thread((folder / "token").write_text, token)
    words = f"--name {name} --ports {PORTS} --listen 127.0.0.1:20500 --marketplace {url}".split()
    files = ["--token-file", str(folder / "token"), "--data", str(folder / "relay")]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kaalia.cli.main", "relay", "serve", *words, *files),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.parametrize(
    ("name", "token", "code"), [("east", "", "relay_unknown"), ("west", "wrong", "relay_token_invalid")]
)
async def test_a_relay_that_the_marketplace_does_not_know_ends(
    tmp_path: Path, name: str, token: str, code: str
) -> None:
    (tmp_path / "market").mkdir()
    async with open_market(tmp_path / "market") as market:
        await relay_list.add(market.context.engine, "west", "relay.example", 2222, parse_ports(PORTS))
        program = await serve(tmp_path, market.url, token or "x", name)
        async with asyncio.timeout(30):
            _, told = await program.communicate()

    assert code.encode() in told
    assert program.returncode == 1


async def test_without_a_marketplace_who_was_known_is_served_and_it_ends_when_told(tmp_path: Path) -> None:
    program = await asyncio.to_thread(find_sshd)
    made = Options("west", "127.0.0.1", 20500, parse_ports(PORTS), "", "", tmp_path / "relay", "nobody", program)
    permit = MachinePermit(1, signature.openssh_public(signature.generate_key()), (20000,))
    await asyncio.to_thread(sshd.prepare, made)
    await asyncio.to_thread(sshd.write_permits, made, [permit])
    relay = await serve(tmp_path, "http://127.0.0.1:1", "token")
    assert relay.stdout is not None
    async with asyncio.timeout(30):
        line = await relay.stdout.readline()
        relay.terminate()
        _, told = await relay.communicate()

    assert line.startswith(b"the relay answers on 127.0.0.1:20500 ssh-ed25519 ")
    assert b"marketplace_unreachable" in told
    assert permit.public_key in (made.data / "authorized_keys").read_text()
    assert relay.returncode == 0
