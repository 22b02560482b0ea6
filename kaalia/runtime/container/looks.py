"""What was seen of each container, so that a whole list costs one call of the engine and not one a container.

A line of the list tells most of what happens to a container. That it ended and ran anew in between shows in the
endpoint of its network, which a container in a sandbox does not have: there the engine's events tell it.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kaalia.errors import WorkloadError
from kaalia.runtime.base import Found, Observed, SetApart
from kaalia.runtime.container import reading
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.labels import Labels, machine_filter, sandbox_of
from kaalia.runtime.sandbox import pauses
from kaalia.runtime.sandbox.pauses import joined


@dataclass(frozen=True, slots=True)
class _Seen:
    """A workload as last inspected, and the line of the list that it was inspected for."""

    line: tuple[str, str, str]
    observed: Observed


class Looks:
    """At the workloads of one machine (`labels.machine_name`) on one engine."""

    def __init__(self, engine: DockerEngine, machine: str) -> None:
        self._engine = engine
        self._machine = machine
        self._seen: dict[str, _Seen] = {}
        self._moved: set[str] = set()
        """Containers of which something was heard since the last list was asked for."""
        self._hears = False

    def heard(self, container_id: str) -> None:
        """Something happened to this one."""
        self._moved.add(container_id)
        self._seen.pop(container_id, None)

    def hearing(self, hears: bool) -> None:
        """Events come from now on, or come no longer. What happened before nobody told."""
        self._hears = hears
        if hears:
            self._seen.clear()

    def sorted_out(
        self, entries: Collection[dict[str, Any]]
    ) -> tuple[list[tuple[dict[str, Any], Labels]], list[SetApart]]:
        """The lines of all that names this machine: those that can be read, with their labels, and the others."""
        mine: list[tuple[dict[str, Any], Labels]] = []
        apart: list[SetApart] = []
        homes = pauses.homes(entries, self._machine)
        for entry in entries:
            if sandbox_of(entry.get("Labels"), self._machine) is not None:
                continue
            try:
                if labels := reading.read_labels(entry, self._machine):
                    mine.append((entry, labels))
            except WorkloadError as error:
                apart.append(reading.set_apart(entry, self._machine, error.problem, homes))
        return mine, apart

    async def all(self) -> Found:
        """One call for the list; details are asked for, all at once, only where a line of the list is new."""
        self._moved.clear()
        mine, apart = self.sorted_out(await self._engine.containers(machine_filter(self._machine)))
        looked = await asyncio.gather(*(self._look(*one) for one in mine))
        seen = {one.observed.container_id: one for one in looked if isinstance(one, _Seen)}
        self._seen = {container_id: one for container_id, one in seen.items() if container_id not in self._moved}
        apart += [one for one in looked if isinstance(one, SetApart)]
        return Found(tuple(one.observed for one in seen.values()), tuple(apart))

    async def _look(self, entry: Mapping[str, Any], labels: Labels) -> _Seen | SetApart | None:
        """The details for a line of the list, as known if the line is; None: it is gone meanwhile.

        A container that the engine lists and refuses to describe, as with a broken layer, holds nobody else up.
        """
        container_id, line = str(entry["Id"]), reading.line_of(entry)
        known = self._seen.get(container_id)
        if known is not None and known.line == line and (self._hears or joined(entry) is None):
            return known
        try:
            document = await self._engine.inspect_container(container_id)
        except WorkloadError as error:
            if error.code == "engine_unavailable":
                raise
            return reading.set_apart(entry, self._machine, error.problem)
        return None if document is None else _Seen(line, reading.observed(document, labels))
