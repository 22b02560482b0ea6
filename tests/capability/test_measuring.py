"""A whole test with real processes on loopback, and each way in which a peer can be wrong."""

import socket
import threading

import pytest

from kaalia.capability.measuring import measure, one_way
from kaalia.errors import HostError
from kaalia.model.speed import Direction, SpeedProgress
from kaalia.speed.peer import Peer
from tests.support import speed_peers
from tests.support.speed_peers import SECRET, Conduct, answering, misbehaving, plan, serving

pytestmark = pytest.mark.timeout(60)

DOWN, UP = Direction.DOWN, Direction.UP


async def quiet(_: SpeedProgress) -> None:
    """Nobody looks."""


async def test_both_ways_are_measured_and_progress_is_told() -> None:
    told: list[SpeedProgress] = []

    async def tell(progress: SpeedProgress) -> None:
        told.append(progress)

    with serving(Peer(SECRET)) as port:
        down, up = await measure(plan(port, seconds=2, bytes_max=32 * 10**9), tell)

    for figure in (down, up):
        assert figure.mbps > 100
        assert 1 < figure.duration_s < 2
        assert 0 < figure.cpu_percent < 400
        rate = figure.transferred_bytes * 8 / 2 / 1e6
        assert rate / 3 < figure.mbps < rate * 3
    assert [one.direction for one in told] == sorted((one.direction for one in told), key=[DOWN, UP].index)
    assert {one.direction for one in told} == {DOWN, UP}
    assert [one.share for one in told] == sorted(one.share for one in told)
    assert 0 < told[0].share < told[-1].share <= 1


async def test_an_order_whose_bytes_are_used_up_ends_early() -> None:
    with serving(Peer(SECRET)) as port:
        figure = await one_way(plan(port, seconds=20, bytes_max=3 * 10**9), DOWN, quiet)

    assert figure.duration_s < 10
    assert figure.transferred_bytes <= 3 * 10**9


@pytest.mark.parametrize(
    ("conduct", "direction", "code"),
    [
        (speed_peers.unproven, DOWN, "speed_peer_unproven"),
        (speed_peers.unproven, UP, "speed_peer_unproven"),
        (speed_peers.cutting_off, DOWN, "speed_cut_off"),
        (speed_peers.cutting_off, UP, "speed_cut_off"),
        (speed_peers.stalling, DOWN, "speed_stalled"),
        (speed_peers.trickling, DOWN, "speed_too_little"),
        (speed_peers.overflowing, DOWN, "speed_peer_lied"),
        (speed_peers.exaggerating, UP, "speed_peer_lied"),
        (speed_peers.forging, UP, "speed_peer_lied"),
        (speed_peers.silent_in_the_end, UP, "speed_cut_off"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_a_peer_that_does_wrong_gives_a_code_and_no_number(
    conduct: Conduct, direction: Direction, code: str
) -> None:
    is_long = conduct is speed_peers.stalling
    size = 20_000_000 if conduct is speed_peers.overflowing else 10**9
    with misbehaving(conduct) as port, pytest.raises(HostError) as found:
        await one_way(plan(port, seconds=8 if is_long else 2, bytes_max=size), direction, quiet)

    assert found.value.code == code
    assert str(port) in found.value.problem.message or code == "speed_too_little"


@pytest.mark.parametrize(
    ("says", "code"),
    [(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", "speed_peer_foreign"), (b"", "speed_stalled")],
    ids=["another program", "nothing"],
)
async def test_what_is_no_peer_is_told(says: bytes, code: str) -> None:
    done = threading.Event()

    def meet(connection: socket.socket) -> None:
        connection.sendall(says)
        done.wait(20)

    with answering(meet) as port, pytest.raises(HostError) as found:
        await one_way(plan(port), DOWN, quiet)
    done.set()

    assert found.value.code == code


async def test_a_wrong_secret_and_a_peer_that_is_busy_or_not_there_are_told() -> None:
    with serving(Peer(SECRET)) as port:
        with pytest.raises(HostError) as found:
            await measure(plan(port, secret=b"another secret"), quiet)
        assert found.value.code == "speed_order_unknown"
    with serving(Peer(SECRET, at_once=0)) as port:
        with pytest.raises(HostError) as found:
            await measure(plan(port), quiet)
        assert found.value.code == "speed_busy"
    with pytest.raises(HostError) as found:
        await measure(plan(port), quiet)
    assert found.value.code == "speed_peer_unreachable"
