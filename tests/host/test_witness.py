"""Whoever answers at all shows that the internet is there."""

import asyncio

from kaalia.host import witness
from tests.support.stack import free_port

NOWHERE = ("255.255.255.255", 9)
"""No connection can be made to a broadcast address."""


async def test_one_that_answers_is_enough() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert await witness.answers([NOWHERE, ("127.0.0.1", port)])


async def test_a_refusal_is_an_answer() -> None:
    assert await witness.answers([("127.0.0.1", free_port())])


async def test_nobody_asked_and_nobody_there() -> None:
    assert not await witness.answers([])
    assert not await witness.answers([NOWHERE])
