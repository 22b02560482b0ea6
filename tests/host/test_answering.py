"""Who has a port for an instant, as a look whether it is free does, is not taken for a program."""

import asyncio
import socket

from kaalia.host.answering import INSTANT_S, Answering
from kaalia.model.reach import Place
from kaalia.model.workload import Protocol


async def opened(hold_s: float) -> tuple[tuple[Place, ...], Place]:
    """What is taken while another socket lets go of the port after a while."""
    answering = Answering()
    with socket.create_server(("0.0.0.0", 0)) as other:
        place = (other.getsockname()[1], Protocol.TCP)
        asyncio.get_running_loop().call_later(hold_s, other.close)
        try:
            return await answering.open([place], lambda *_: None), place
        finally:
            answering.close()


async def test_a_look_is_not_a_program() -> None:
    taken, _ = await opened(INSTANT_S / 5)

    assert taken == ()


async def test_a_program_is() -> None:
    taken, place = await opened(INSTANT_S * 50)

    assert taken == (place,)
