"""`kaalia ledger`: a person sees who has what and what is free; a program gets the same as JSON."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from kaalia.model.volume import VolumeBackend, VolumeState, VolumeStatus
from kaalia.store import amounts, claims, disk, machine, volumes
from kaalia.store.amounts import Amount, AmountKind, OwnerKind
from kaalia.store.claims import Claim, ClaimKind
from kaalia.store.database import Transaction
from kaalia.units import GIB
from kaalia.wire.ledger import Resource
from kaalia.wire.local import ByteOwner, DiskEntry, DiskLedger
from tests.cli.conftest import Daemon, Run
from tests.support.builders import build_gpus, build_report, build_volume
from tests.support.clock import START

FIRST, SECOND = (gpu.uuid for gpu in build_gpus(2))


def hold(tx: Transaction) -> None:
    """Contract 51 has what the fixture gave it, ports, disk, CPU and memory; 52 and volume 901 have disk."""
    ports = [Claim(ClaimKind.PORT_TCP, "40011", 51, 1), Claim(ClaimKind.PORT_UDP, "40011", 51, 1)]
    gone = Claim(ClaimKind.GPU, "GPU-gone", 77, 2)
    claims.claim(tx, [*ports, Claim(ClaimKind.SUBNET, "10.214.0.0/28", 51, 1), gone], START)
    kinds = {AmountKind.DISK: 16 * GIB, AmountKind.CPU: 6000, AmountKind.RAM: 30 * GIB}
    mine = [Amount(kind, OwnerKind.CONTRACT, 51, 1, size) for kind, size in kinds.items()]
    amounts.claim(tx, [*mine, Amount(AmountKind.DISK, OwnerKind.CONTRACT, 52, 3, 20 * GIB)], START)
    volumes.upsert(tx, build_volume(901, 100 * GIB))
    volumes.put_status(tx, VolumeStatus(901, VolumeState.READY, START), START)
    entry = DiskEntry(ByteOwner.INSTANCE, "C.51", 3 * GIB, 16 * GIB)
    disk.put_ledger(tx, DiskLedger(START, 0, 0, VolumeBackend.LOOP, "/v", True, (entry,)))


@pytest.fixture
def show(run: Run, rented: Daemon) -> Callable[..., str]:
    rented.write(hold)

    def call(*args: str) -> str:
        result = run("ledger", *args, "--socket", str(rented.socket))
        assert (result.code, result.err) == (0, "")
        assert all(len(line) <= 100 for line in result.out.splitlines())
        return result.out

    return call


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_all_resources_are_one_table(show: Callable[..., str]) -> None:
    assert lines(show()) == [
        ["Resource", "Held", "Free", "Total", "Owners"],
        ["GPUs", "2", "7", "8", "2"],
        ["Ports", "1", "799", "800", "1"],
        ["Disk", "136.0", "GiB", "864.0", "GiB", "1000.0", "GiB", "3"],
        ["CPU", "6.0", "cores", "42.0", "cores", "48.0", "cores", "1"],
        ["RAM", "30.0", "GiB", "213.2", "GiB", "243.2", "GiB", "1"],
        ["Subnets", "1", "-", "-", "1"],
    ]


def test_every_gpu_has_its_owner_or_is_free(show: Callable[..., str]) -> None:
    text = show("gpu")

    assert lines(text)[0] == ["GPU", "Model", "Owner", "Gen.", "State", "Since"]
    assert lines(text)[1] == [FIRST, "NVIDIA", "GeForce", "RTX", "4090", "C.51", "1", "running", "just", "now"]
    assert lines(text)[2] == [SECOND, "NVIDIA", "GeForce", "RTX", "4090", "-", "-", "free", "-"]
    assert [line[0] for line in lines(text)[1:10]] == [*(gpu.uuid for gpu in build_gpus(8)), "GPU-gone"]
    assert "not seen by the driver" in text
    assert "C.77" in text
    assert "2, 7 free of 8" in text


def test_ports_name_where_they_lead_and_the_rest_is_free(show: Callable[..., str]) -> None:
    text = show("ports")

    assert lines(text)[1] == ["40011/tcp", "8080", "C.51", "1", "running", "just", "now"]
    assert lines(text)[2][:2] == ["40011/udp", "-"]
    assert lines(text)[3] == ["799", "of", "40000-40799", "-", "-", "-", "free", "-"]


def test_disk_tells_promised_and_filled_of_instances_and_volumes(show: Callable[..., str]) -> None:
    text = show("disk")

    assert lines(text)[0] == ["Owner", "Gen.", "State", "Since", "Promised", "Filled"]
    assert lines(text)[1] == ["C.51", "1", "running", "just", "now", "16.0", "GiB", "3.0", "GiB"]
    assert lines(text)[2] == ["C.52", "3", "unknown", "just", "now", "20.0", "GiB", "-"]
    assert lines(text)[3] == ["V.901", "-", "ready", "just", "now", "100.0", "GiB", "-"]
    assert lines(text)[4] == ["-", "-", "free", "-", "864.0", "GiB", "-"]
    assert "136.0 GiB, 864.0 GiB free of 1000.0 GiB" in text
    assert "800.0 GiB hold no data now" in text


def test_memory_that_the_machine_keeps_is_told(show: Callable[..., str]) -> None:
    assert "12.8 GiB for the machine itself" in show("ram")
    assert "6.0 cores, 42.0 cores free of 48.0 cores" in show("cpu")
    assert lines(show("subnets"))[1][:2] == ["10.214.0.0/28", "C.51"]


@pytest.mark.parametrize("resource", Resource)
def test_each_resource_speaks_json(show: Callable[..., str], resource: Resource) -> None:
    view = json.loads(show(resource.value, "--json"))

    assert view["resource"] == resource.value
    assert view["held"] >= 1
    assert all({"name", "owner", "generation", "since", "state", "amount"} <= row.keys() for row in view["rows"])
    whole = json.loads(show("--json"))
    assert view in whole["views"]


def test_a_machine_that_was_never_looked_at_has_no_totals(run: Run, daemon: Daemon) -> None:
    result = run("ledger", "--socket", str(daemon.socket))

    assert result.code == 0
    assert lines(result.out)[1] == ["GPUs", "0", "-", "-", "0"]
    assert run("ledger", "gpu", "--socket", str(daemon.socket)).code == 0


def test_an_unknown_resource_is_wrong_usage(run: Run, daemon: Daemon) -> None:
    result = run("ledger", "gold", "--socket", str(daemon.socket))

    assert result.code == 2
    assert all(f"'{resource}'" in result.err for resource in Resource)


def test_more_than_all_is_no_negative_rest(rented: Daemon, run: Run) -> None:
    rented.write(hold)
    small = build_report(cpu=replace(build_report().cpu, logical_cores=4))
    rented.write(lambda tx: machine.put_report(tx, small))

    assert "6.0 cores, 0.0 cores free of 4.0 cores" in run("ledger", "cpu", "--socket", str(rented.socket)).out
