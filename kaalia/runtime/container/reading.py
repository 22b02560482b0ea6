"""What a line of the engine's list, or an inspection, says of a workload: pure readings."""

import re
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from kaalia.errors import Problem, WorkloadError
from kaalia.model.workload import Protocol
from kaalia.runtime.base import Observed, ObservedState, Present, SetApart
from kaalia.runtime.container.spec import container_name, network_name
from kaalia.runtime.labels import Labels, decode, owner
from kaalia.runtime.sandbox.pauses import Pause, joined, taken_name

Place = tuple[int, Protocol]
"""A port of this machine."""
_NEVER = "0001-01-01T00:00:00Z"
_OWN_NAME = re.compile(r"C\.[0-9]{1,18}")


def read_labels(entry: Mapping[str, Any], machine: str) -> Labels | None:
    """The labels of a line of the list; None: not ours. Raises WorkloadError `labels_unreadable`.

    A container keeps the name that it was created with. Under another one it is a copy that inherited the labels (an
    image made of a workload has them), or somebody renamed the workload.
    """
    labels = decode(entry.get("Labels"), machine)
    names = _names(entry)
    if labels is not None and names and container_name(labels.contract_id) not in names:
        raise renamed(entry, labels.contract_id)
    return labels


def renamed(entry: Mapping[str, Any], contract_id: int) -> WorkloadError:
    name, own = next(iter(_names(entry)), str(entry["Id"])[:12]), container_name(contract_id)
    return WorkloadError(
        "labels_unreadable",
        f"cannot take container {name} for contract {contract_id}: it has the labels of {own} under another name",
        remedy=f"if it is the instance itself: docker rename {name} {own}; if it is a copy of it, remove it",
        evidence=str(entry["Id"]),
    )


def set_apart(
    entry: Mapping[str, Any], machine: str, problem: Problem, homes: Mapping[str, int] = MappingProxyType({})
) -> SetApart:
    names = _names(entry)
    named = {int(name[2:]) for name in names if _OWN_NAME.fullmatch(name)}
    labelled = owner(entry.get("Labels"), machine)
    container_id = str(entry["Id"])
    whose = named | {labelled} if labelled and has_network_of(entry, labelled, homes) else named
    return SetApart(next(iter(names), container_id[:12]), container_id, frozenset(whose), problem)


def has_network_of(entry: Mapping[str, Any], contract_id: int, homes: Mapping[str, int]) -> bool:
    """A workload keeps its network when it is renamed; a copy of it has another one. `homes`: `pauses.homes`."""
    if (pause_id := joined(entry)) is not None:
        return pause_id == taken_name(contract_id) or homes.get(pause_id) == contract_id
    return bool((entry.get("HostConfig") or {}).get("NetworkMode") == network_name(contract_id))


def _names(entry: Mapping[str, Any]) -> list[str]:
    return [str(name).lstrip("/") for name in entry.get("Names") or []]


def line_of(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    """What changes in a container's line of the list when it started, ended or ran anew in between.

    Each start makes a new network endpoint; the status text holds exit code and age.
    """
    return str(entry["State"]), str(entry["Status"]), ",".join(_of_networks(entry, "EndpointID"))


def present(entry: Mapping[str, Any], labels: Labels, leading: frozenset[Place], pause: Pause | None) -> Present:
    """A container's line of the list. `leading`: ports that the firewall leads to its address. `pause`: it joined it.

    Of a container whose ports Docker publishes, the line has those that it does, not those it was asked.
    """
    lines = [port for port in entry.get("Ports") or [] if port.get("PublicPort") and port["Type"] in tuple(Protocol)]
    state, published = ObservedState(entry["State"]), {(int(one["PublicPort"]), Protocol(one["Type"])) for one in lines}
    addresses = [pause.address] if pause is not None and pause.is_running else _of_networks(entry, "IPAddress")
    if labels.address and state is ObservedState.RUNNING and labels.address in addresses:
        published |= leading
    return Present(
        contract_id=labels.contract_id,
        container_id=str(entry["Id"]),
        generation=labels.generation,
        state=state,
        gpu_uuids=labels.gpu_uuids,
        promised=frozenset((port.host_port, port.protocol) for port in labels.ports),
        published=frozenset(published),
        is_cut_off=pause is not None and not pause.is_running and state is ObservedState.RUNNING,
    )


def _of_networks(entry: Mapping[str, Any], field: str) -> list[str]:
    networks = ((entry.get("NetworkSettings") or {}).get("Networks") or {}).values()
    return [str(network.get(field, "")) for network in networks]


def observed(document: Mapping[str, Any], labels: Labels) -> Observed:
    state = document["State"]
    finished_at = time_of(state.get("FinishedAt"))
    return Observed(
        contract_id=labels.contract_id,
        generation=labels.generation,
        name=str(document["Name"]).lstrip("/"),
        container_id=str(document["Id"]),
        state=ObservedState(state["Status"]),
        gpu_uuids=labels.gpu_uuids,
        ports=labels.ports,
        end_at=labels.end_at,
        pid=int(state.get("Pid") or 0) or None,
        started_at=time_of(state.get("StartedAt")),
        finished_at=finished_at,
        exit_code=None if finished_at is None or state.get("Running") else int(state.get("ExitCode", 0)),
        oom_killed=bool(state.get("OOMKilled", False)),
        error=str(state.get("Error", "")),
    )


def time_of(text: str | None) -> datetime | None:
    """Docker's time has nanoseconds, which `fromisoformat` of Python 3.11 cuts to microseconds."""
    return None if not text or text == _NEVER else datetime.fromisoformat(text)
