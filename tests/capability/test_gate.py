"""The gate against the kernel of a network namespace of our own: what is accepted, what is counted, and what stays."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaalia.capability.gate import FirewallGate
from kaalia.errors import HostError
from kaalia.host import netfilter
from kaalia.host.netfilter import Change, Family, Saved
from kaalia.model.workload import Protocol
from tests.support.own_network import is_possible, own_network

TCP, UDP = Protocol.TCP, Protocol.UDP
FREE = [(40001, TCP), (40002, TCP), (40003, TCP), (40007, UDP)]
HELD = [(40009, TCP)]


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    if not is_possible():
        pytest.skip("needs a network namespace: run scripts/test as root")
    with own_network():
        yield


async def rules() -> tuple[Saved, Saved]:
    return await netfilter.saved(Family.IPV4, "filter"), await netfilter.saved(Family.IPV4, "raw")


def texts(saved: Saved, chain: str) -> list[str]:
    return [rule.text for name, found in saved.items() if name.startswith(chain) for rule in found]


async def test_a_batch_is_accepted_first_of_all_and_everything_is_as_before_it(tmp_path: Path) -> None:
    await netfilter.apply(Family.IPV4, [Change("filter", commands=[("-A", "INPUT", "-p", "tcp", "-j", "DROP")])])
    before, subject = await rules(), FirewallGate(tmp_path)

    assert await subject.open(FREE, HELD)
    accepted, counted = await rules()
    assert texts(accepted, "KAALIA-PROBE-") == [
        "-p tcp -m tcp --dport 40001:40003 -j ACCEPT",
        "-p tcp -m tcp --dport 40009 -j ACCEPT",
        "-p udp -m udp --dport 40007 -j ACCEPT",
    ]
    assert texts(accepted, "INPUT")[1:] == ["-p tcp -j DROP"]
    assert texts(counted, "KAALIA-KNOCK-") == ["-p tcp -m tcp --dport 40001:40003", "-p udp -m udp --dport 40007"]

    await subject.close()
    after = await rules()
    assert [texts(saved, "") for saved in after] == [texts(saved, "") for saved in before]
    assert not [chain for saved in after for chain in saved if chain.startswith("KAALIA")]


async def test_what_comes_for_a_free_port_is_counted_and_each_batch_begins_anew(tmp_path: Path) -> None:
    subject = FirewallGate(tmp_path)
    assert await subject.has_counted() is None, "nothing is counted yet"
    assert await subject.open(FREE, HELD)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", 40009))
        assert await subject.has_counted() is False
        sender.sendto(b"x", ("127.0.0.1", 40007))
    assert await subject.has_counted() is True
    assert await subject.open(FREE, HELD)
    assert await subject.has_counted() is False


async def test_another_daemon_takes_out_what_a_killed_one_left_and_nobody_elses(tmp_path: Path) -> None:
    assert await FirewallGate(tmp_path / "a").open(FREE, ())
    assert await FirewallGate(tmp_path / "b").open(FREE, ())

    await FirewallGate(tmp_path / "a").close()

    for saved in await rules():
        assert len([chain for chain in saved if chain.startswith("KAALIA")]) == 1
    await FirewallGate(tmp_path / "b").close()


async def test_a_table_that_fails_keeps_no_rule_in_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    subject, read = FirewallGate(tmp_path), netfilter.saved
    assert await subject.open(FREE, ())

    async def failing(family: Family, table: str, **how: bool) -> Saved:
        if table == "raw":
            raise HostError("firewall_busy", "cannot read the firewall")
        return await read(family, table, **how)

    monkeypatch.setattr(netfilter, "saved", failing)
    await subject.close()
    monkeypatch.undo()

    assert "cannot take rules of a probe out" in caplog.text
    filtered, counted = await rules()
    assert not texts(filtered, "KAALIA")
    assert texts(counted, "KAALIA")
    await subject.close()
    assert not texts((await rules())[1], "KAALIA")
    assert not await subject.has_counted()
