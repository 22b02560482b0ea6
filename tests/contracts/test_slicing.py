"""GPUs by neighbourhood, shares in proportion."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts.slicing import choose_gpus, reserve_bytes, share
from kaalia.units import GIB
from tests.support.builders import build_gpus, build_report

UUIDS = [gpu.uuid for gpu in build_gpus(8)]


@pytest.mark.parametrize(
    ("busy", "count", "chosen"),
    [
        ([], 1, [0]),
        ([], 2, [0, 1]),
        ([0], 2, [2, 3]),
        ([0, 1, 3], 2, [4, 5]),
        ([1, 3, 5, 7], 2, [0, 2]),
        ([2], 4, [4, 5, 6, 7]),
        ([0, 7], 4, [1, 2, 3, 4]),
        ([], 8, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_neighbours_in_aligned_blocks_come_first(busy: list[int], count: int, chosen: list[int]) -> None:
    found = choose_gpus(build_gpus(8), {UUIDS[index] for index in busy}, count)

    assert found == tuple(UUIDS[index] for index in chosen)


def test_too_few_free_gpus_is_none_and_no_gpus_is_nothing() -> None:
    assert choose_gpus(build_gpus(2), {UUIDS[0]}, 2) is None
    assert choose_gpus((), (), 1) is None
    assert choose_gpus((), (), 0) == ()


def test_gpus_of_one_contract_are_of_one_model() -> None:
    gpus = [replace(gpu, name="A" if gpu.index % 2 else "B") for gpu in build_gpus(4)]

    chosen = choose_gpus(gpus, (), 2)

    assert chosen is not None
    assert len({gpu.name for gpu in gpus if gpu.uuid in chosen}) == 1
    assert choose_gpus(gpus, (), 3) is None


def test_one_pci_domain_is_preferred_to_an_aligned_block() -> None:
    gpus = [replace(gpu, pci_address=f"{int(gpu.index > 2):04x}:{gpu.index + 1:02x}:00.0") for gpu in build_gpus(4)]

    assert choose_gpus(gpus, {UUIDS[0], UUIDS[1]}, 1) == (UUIDS[2],)
    assert choose_gpus(gpus, {UUIDS[0]}, 2) == (UUIDS[1], UUIDS[2])


@given(st.sets(st.sampled_from(UUIDS)), st.integers(0, 8))
def test_chosen_gpus_are_free_distinct_and_as_many_as_asked(busy: set[str], count: int) -> None:
    chosen = choose_gpus(build_gpus(8), busy, count)

    if chosen is None:
        assert count > 8 - len(busy)
    else:
        assert len(set(chosen)) == len(chosen) == count
        assert not set(chosen) & busy


def test_a_quarter_of_the_gpus_is_a_quarter_of_the_rest() -> None:
    report = build_report(gpus=4)

    quarter, whole = share(report, 1), share(report, 4)

    assert quarter.cpu_cores == 12
    assert quarter.cpu_quota_cores == 48
    assert quarter.memory_bytes * 4 == pytest.approx(whole.memory_bytes, abs=4)
    assert quarter.shm_bytes * 2 == pytest.approx(quarter.memory_bytes, abs=2)
    assert quarter.pids == 256 * 12
    assert share(report, 0) == whole
    assert share(build_report(gpus=0), 0).memory_bytes == whole.memory_bytes


def test_images_that_see_all_cores_may_have_16_processes_for_each() -> None:
    assert share(build_report(gpus=32), 1).pids == 1024
    report = build_report(gpus=32)
    big = replace(report, cpu=replace(report.cpu, logical_cores=256))
    assert share(big, 1).pids == 16 * 256


@pytest.mark.parametrize(("total_gib", "kept_gib"), [(4, 1), (16, 2), (256, 12.8)])
def test_the_reserve_fits_the_machine(total_gib: int, kept_gib: float) -> None:
    assert reserve_bytes(total_gib * GIB) == pytest.approx(kept_gib * GIB, rel=0.001)


@given(st.integers(1, 16), st.integers(1, 2048), st.integers(1, 512))
def test_all_shares_together_fit_into_the_machine(gpus: int, memory_gib: int, cores: int) -> None:
    report = build_report(gpus=gpus)
    report = replace(
        report,
        memory=replace(report.memory, total_bytes=memory_gib * GIB),
        cpu=replace(report.cpu, logical_cores=cores),
    )

    one = share(report, 1)

    assert one.memory_bytes * gpus <= memory_gib * GIB - reserve_bytes(memory_gib * GIB)
    assert one.cpu_cores * gpus <= cores * 1.000001
