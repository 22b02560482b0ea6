"""Images: pulls with readable progress, one pull for all who wait for the same image.

A login is used for the one registry it was given for, in one request, and kept nowhere.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kaalia.clock import Clock
from kaalia.contracts import image as references
from kaalia.errors import ContractError, WorkloadError
from kaalia.model.workload import PortRequest, Protocol
from kaalia.runtime.base import ImageFacts, Progress, RegistryLogin
from kaalia.runtime.container.engine import DockerEngine
from kaalia.units import MIB

INACTIVITY_S = 120.0
"""A pull that brings no byte for this long has stalled: layers that extract slowly still report."""

_PROGRESS_EVERY_S = 0.25


def normalise(reference: str) -> str:
    """`repo` becomes `repo:latest`. Raises WorkloadError `image_invalid` for what is no reference."""
    try:
        return references.normalise(reference.strip())
    except ContractError as error:
        raise WorkloadError(error.code, error.problem.message, remedy=error.problem.remedy) from error


@dataclass(slots=True)
class _Layer:
    current: int = 0
    total: int = 0
    is_complete: bool = False


@dataclass(slots=True)
class PullProgress:
    """Folds the engine's progress documents into one line. The line never holds a word that sounds like an end."""

    reference: str
    _layers: dict[str, _Layer] = field(default_factory=dict)
    _note: str = ""

    def add(self, document: Mapping[str, Any]) -> None:
        layer_id, status = str(document.get("id", "")), str(document.get("status", ""))
        if status.startswith("Retrying in"):
            self._note = "connection lost, trying again soon"
        if not layer_id or status.startswith("Pulling from"):
            return
        layer = self._layers.setdefault(layer_id, _Layer())
        detail = document.get("progressDetail") or {}
        match status:
            case "Downloading":
                self._note = ""
                layer.current, layer.total = int(detail.get("current", 0)), int(detail.get("total", layer.total))
            case "Verifying Checksum" | "Download complete" | "Extracting":
                layer.current = layer.total = max(layer.total, layer.current)
            case "Pull complete" | "Already exists":
                layer.current, layer.is_complete = layer.total, True

    def line(self) -> str:
        name = references.shown(self.reference)
        current = sum(layer.current for layer in self._layers.values())
        total = sum(max(layer.total, layer.current) for layer in self._layers.values())
        complete = sum(layer.is_complete for layer in self._layers.values())
        if self._note:
            return f"pulling {name}: {self._note}"
        if total and current < total:
            percent = 100 * current // total
            return f"pulling {name}: {current / MIB:.0f} of {total / MIB:.0f} MiB ({percent} %)"
        if not self._layers:
            return f"pulling {name}"
        is_waiting = any(not layer.total and not layer.is_complete for layer in self._layers.values())
        verb = "pulling" if is_waiting else "unpacking"
        return f"{verb} {name}: {complete} of {len(self._layers)} layers"


@dataclass(eq=False, slots=True)
class _Flight:
    """One pull under way, and everyone who waits for it."""

    future: asyncio.Future[None]
    listeners: list[Progress] = field(default_factory=list)
    line: str = ""

    def tell(self, line: str) -> None:
        if line != self.line:
            self.line = line
            for listener in self.listeners:
                listener(line)


class Images:
    """The images of one engine."""

    def __init__(self, engine: DockerEngine, clock: Clock, inactivity_s: float = INACTIVITY_S) -> None:
        self._engine = engine
        self._clock = clock
        self._inactivity_s = inactivity_s
        self._flights: dict[tuple[str, RegistryLogin | None], _Flight] = {}

    async def image(self, reference: str) -> ImageFacts | None:
        document = await self._engine.image(normalise(reference))
        return None if document is None else _facts(document)

    async def pull(self, reference: str, login: RegistryLogin | None, progress: Progress) -> ImageFacts:
        """Raises WorkloadError: image_not_found, registry_unauthorized, pull_stalled, ... and engine_unavailable."""
        reference = normalise(reference)
        # Different logins are different pulls: nobody gets an image by another one's right.
        key = (reference, login)
        flight = self._flights.get(key) or self._take_off(key)
        flight.listeners.append(progress)
        progress(flight.line)
        try:
            await asyncio.shield(flight.future)
        finally:
            flight.listeners.remove(progress)
            if not flight.listeners:
                self._land(key, flight)
        facts = await self.image(reference)
        if facts is None:
            raise WorkloadError(
                "pull_interrupted",
                f"cannot find image {reference} after its pull: it was removed meanwhile",
                remedy="it is pulled again",
            )
        return facts

    def _take_off(self, key: tuple[str, RegistryLogin | None]) -> _Flight:
        reference, login = key
        state, loop = PullProgress(reference), asyncio.get_running_loop()
        told_at_s = self._clock.monotonic_s()

        def on_document(document: dict[str, Any]) -> None:
            """Runs in the pull's own thread; wakes the loop a few times a second at most."""
            nonlocal told_at_s
            state.add(document)
            now_s = self._clock.monotonic_s()
            if now_s - told_at_s >= _PROGRESS_EVERY_S:
                told_at_s = now_s
                loop.call_soon_threadsafe(flight.tell, state.line())

        params, given = {"fromImage": reference}, login_for(reference, login)
        future = self._engine.start_transfer(
            f"pull {reference}", "/images/create", params, given, self._inactivity_s, on_document
        )
        flight = _Flight(future, line=state.line())
        self._flights[key] = flight
        return flight

    def _land(self, key: tuple[str, RegistryLogin | None], flight: _Flight) -> None:
        """The last waiter leaves: a pull that nobody waits for any more is cut, and the next one starts anew."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        flight.future.cancel()


def login_for(reference: str, login: RegistryLogin | None) -> dict[str, str]:
    """As `docker login` does it: credentials go to the registry they were given for, and to no other."""
    registry = references.registry_of(reference)
    if login is None or references.registry_name(login.registry) != registry:
        return {}
    return {"username": login.username, "password": login.password, "serveraddress": registry}


def _facts(document: Mapping[str, Any]) -> ImageFacts:
    exposed = (document.get("Config") or {}).get("ExposedPorts") or {}
    ports = []
    for text in sorted(exposed):
        number, _, protocol = text.partition("/")
        if number.isdigit() and (protocol or "tcp") in {"tcp", "udp"}:
            ports.append(PortRequest(int(number), Protocol(protocol or "tcp")))
    return ImageFacts(str(document["Id"]), tuple(ports), int(document.get("Size", 0)))
