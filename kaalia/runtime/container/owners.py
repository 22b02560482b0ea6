"""Whose containers stand on an engine, by their labels alone."""

from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.labels import any_machine_filter, is_name_of, machine_of


async def machines_of_key(engine: DockerEngine, key_id: str) -> tuple[str, ...]:
    """The machine names of this key that containers bear: for when the books that know the id are lost."""
    names = {machine_of(entry.get("Labels")) for entry in await engine.containers(any_machine_filter())}
    return tuple(sorted(name for name in names if is_name_of(name, key_id)))
