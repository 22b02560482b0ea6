"""Many callers of one prober: who is admitted is served, who is not is told at once when to come again."""

import asyncio
import errno
import os
import socket

import pytest

from kaalia.model.reach import Outcome
from kaalia.model.workload import Protocol
from kaalia.prober import dial, work
from kaalia.prober.bounds import LOOPBACK
from kaalia.prober.work import Prober
from kaalia.wire.error import ApiError
from kaalia.wire.probe import ProbeReply, ProbeRequest, ProbeResult, ProbeTarget
from tests.prober.test_work import HERE, NONCE, ask, free_port, results

TCP, UDP = Protocol.TCP, Protocol.UDP


async def test_no_more_is_admitted_than_can_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds of four sockets fit into the time: the third caller is refused at once, and the two are served."""
    open_, gate = 0, asyncio.Event()

    async def slow(_: str, target: ProbeTarget, __: bytes) -> ProbeResult:
        nonlocal open_
        open_ += 1
        await gate.wait()
        return ProbeResult(target.port, target.protocol, Outcome.SILENT)

    monkeypatch.setattr(work, "dial", slow)
    prober = Prober(at_once=4, deadline_s=2 * dial.LONGEST_S + 1)
    asked = ask(*((4000 + number, TCP) for number in range(4)))
    served = [asyncio.ensure_future(prober.probe(f"8.8.8.{number}", asked)) for number in range(2)]
    await asyncio.sleep(0.02)

    with pytest.raises(ApiError) as refused:
        await prober.probe("8.8.8.9", asked)

    assert (refused.value.status, refused.value.code, open_) == (429, "probe_crowded", 4)
    assert refused.value.extra["retry_after_s"] >= 1
    assert await prober.probe("8.8.8.9", ProbeRequest(NONCE.hex())), "what costs nothing is answered"
    gate.set()
    assert [len((await one).results) for one in served] == [4, 4]
    assert len((await prober.probe("8.8.8.9", asked)).results) == 4


async def test_one_network_of_ipv6_is_one_caller_and_a_machine_is_itself_wherever_it_comes_from() -> None:
    port = free_port()
    prober = Prober(LOOPBACK, targets_per_hour=2)

    async def fits(seen: str, identity: str | None = None) -> bool:
        request = ask((port, UDP), (port, TCP), connect_only=True, address=HERE)
        try:
            return isinstance(await prober.probe(seen, request, identity=identity), ProbeReply)
        except ApiError as error:
            if error.code != "probe_too_often":
                raise
            return False

    assert await fits("2600:1:2:3::1")
    assert not await fits("2600:1:2:3:ffff::2"), "of the same /64"
    assert await fits("2600:1:2:4::1")
    assert await fits("8.8.8.8")
    assert await fits("8.8.8.9")
    assert await fits("8.8.8.8", "machine 7")
    assert not await fits("8.8.4.4", "machine 7")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.ENETUNREACH])
async def test_what_the_prober_cannot_send_is_no_fault_of_the_host(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(_: socket.socket, __: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "connect", refusing)
    with pytest.raises(ApiError) as refused:
        await results(ask((free_port(), UDP)))

    assert (refused.value.status, refused.value.code) == (503, "prober_cut_off")
    assert os.strerror(number) in str(refused.value)
    assert refused.value.extra["retry_after_s"] >= 1


async def test_a_network_that_somebody_on_the_way_calls_unreachable_is_prohibited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def prohibited(*_: object) -> bytes:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(dial, "_repeat", prohibited)
    port = free_port()
    found = await results(ask((port, UDP)))

    assert found[port, UDP].outcome is Outcome.PROHIBITED, "this machine has a way there: it was told by ICMP"
