"""Labels survive a round trip, and nothing foreign is taken for ours."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.errors import WorkloadError
from kaalia.model.workload import PortBinding, Protocol
from kaalia.runtime.labels import Labels, decode, encode, encode_owner, machine_name, owner

MACHINE = machine_name(77, "0011223344556677")

port_numbers = st.integers(1, 65535)
bindings = st.builds(PortBinding, st.integers(1, 80000), port_numbers, port_numbers, st.sampled_from(Protocol))
labels = st.builds(
    Labels,
    machine=st.builds(machine_name, st.integers(1, 10**9), st.text("0123456789abcdef", min_size=16, max_size=16)),
    contract_id=st.integers(1, 10**9),
    generation=st.integers(1, 1000),
    spec_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    gpu_uuids=st.lists(st.uuids().map(lambda value: f"GPU-{value}"), max_size=8).map(tuple),
    ports=st.lists(bindings, max_size=8).map(tuple),
    end_at=st.none() | st.datetimes(min_value=datetime(2020, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - naive bound
)


@given(labels)
def test_labels_survive_the_round_trip(value: Labels) -> None:
    assert decode(encode(value), value.machine) == value


@given(labels, st.sampled_from(["1", "1@", "1@0011223344556677", "12@0011223344556677"]))
def test_another_machine_is_not_ours(value: Labels, machine: str) -> None:
    raw = {**encode(value), "io.kaalia.machine": machine}

    assert decode(raw, value.machine) is None
    assert owner(raw, value.machine) is None


def test_the_same_id_at_two_marketplaces_names_two_machines() -> None:
    here, there = machine_name(1, "0011223344556677"), machine_name(1, "8899aabbccddeeff")
    raw = encode(Labels(here, 5, 1, "f" * 64))

    assert decode(raw, here) is not None
    assert decode(raw, there) is None


@pytest.mark.parametrize("raw", [None, {}, {"maintainer": "someone"}, {"io.kaalia.contract": "5"}])
def test_unlabelled_is_not_ours(raw: dict[str, str] | None) -> None:
    assert decode(raw, MACHINE) is None
    assert owner(raw, MACHINE) is None


@pytest.mark.parametrize(
    "change",
    [
        {"io.kaalia.schema": "2"},
        {"io.kaalia.generation": "first"},
        {"io.kaalia.ports": "8080"},
        {"io.kaalia.ports": "8080:8080:99999/tcp"},
        {"io.kaalia.end_at": "tomorrow"},
        {"io.kaalia.end_at": "2026-01-01T00:00:00"},
        {"io.kaalia.contract": "-5"},
        {"io.kaalia.contract": "\u0665"},
        {"io.kaalia.contract": "9" * 40},
    ],
)
def test_unreadable_labels_of_this_machine_are_an_error_not_an_absence(change: dict[str, str]) -> None:
    raw = {**encode(Labels(MACHINE, 5, 1, "f" * 64)), **change}

    with pytest.raises(WorkloadError) as raised:
        decode(raw, MACHINE)

    assert raised.value.code == "labels_unreadable"


def test_owner_reads_the_contract_of_a_network() -> None:
    assert owner(encode_owner(MACHINE, 5), MACHINE) == 5
