"""Labels survive a round trip, and nothing foreign is taken for ours."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.errors import WorkloadError
from kaalia.model.workload import PortBinding, Protocol
from kaalia.runtime.labels import Labels, decode, encode, encode_owner, owner

port_numbers = st.integers(1, 65535)
bindings = st.builds(PortBinding, st.integers(1, 80000), port_numbers, port_numbers, st.sampled_from(Protocol))
labels = st.builds(
    Labels,
    machine_id=st.integers(1, 10**9),
    contract_id=st.integers(1, 10**9),
    generation=st.integers(1, 1000),
    spec_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    gpu_uuids=st.lists(st.uuids().map(lambda value: f"GPU-{value}"), max_size=8).map(tuple),
    ports=st.lists(bindings, max_size=8).map(tuple),
    end_at=st.none() | st.datetimes(min_value=datetime(2020, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - naive bound
)


@given(labels)
def test_labels_survive_the_round_trip(value: Labels) -> None:
    assert decode(encode(value), value.machine_id) == value


@given(labels, st.integers(1, 10**9))
def test_another_machine_id_is_not_ours(value: Labels, machine_id: int) -> None:
    raw = {**encode(value), "io.kaalia.machine": str(machine_id + value.machine_id)}

    assert decode(raw, value.machine_id) is None
    assert owner(raw, value.machine_id) is None


@pytest.mark.parametrize("raw", [None, {}, {"maintainer": "someone"}, {"io.kaalia.contract": "5"}])
def test_unlabelled_is_not_ours(raw: dict[str, str] | None) -> None:
    assert decode(raw, 77) is None
    assert owner(raw, 77) is None


@pytest.mark.parametrize(
    "change",
    [
        {"io.kaalia.schema": "2"},
        {"io.kaalia.generation": "first"},
        {"io.kaalia.ports": "8080"},
        {"io.kaalia.end_at": "tomorrow"},
    ],
)
def test_unreadable_labels_of_this_machine_are_an_error_not_an_absence(change: dict[str, str]) -> None:
    raw = {**encode(Labels(77, 5, 1, "f" * 64)), **change}

    with pytest.raises(WorkloadError) as raised:
        decode(raw, 77)

    assert raised.value.code == "labels_unreadable"


def test_owner_reads_the_contract_of_a_network() -> None:
    assert owner(encode_owner(77, 5), 77) == 5
