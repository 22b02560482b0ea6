"""Who may log in to what runs while a newer generation of it cannot be made, or is on its way."""

from dataclasses import replace
from typing import Any

from kaalia.contracts.contract import Contract
from kaalia.model.workload import LaunchMode
from tests.reconciler.rig import IMAGE, Rig, contract


def agreed(mode: LaunchMode, generation: int = 1, image: str = IMAGE, **changes: Any) -> Contract:
    made = contract(generation=generation, **changes)
    return replace(made, spec=replace(made.spec, launch_mode=mode, image=image))


async def test_a_detached_key_is_gone_from_the_older_one_though_the_newer_one_has_no_access(rig: Rig) -> None:
    await rig.put(agreed(LaunchMode.SSH, ssh_keys=("ssh-ed25519 A", "ssh-ed25519 B")))
    await rig.settle()
    first = rig.runtime.authorized[51]
    await rig.put(agreed(LaunchMode.ARGS, 2, "gone:1", ssh_keys=("ssh-ed25519 B",)))
    await rig.settle()

    assert first == ("ssh-ed25519 A", "ssh-ed25519 B")
    assert (await rig.row()).generation == 1
    assert rig.runtime.authorized[51] == ("ssh-ed25519 B",)
    assert rig.runtime.authorized_older == {51}


async def test_what_runs_has_the_access_of_its_own_generation_until_the_newer_one_is_there(rig: Rig) -> None:
    await rig.put(agreed(LaunchMode.JUPYTER))
    await rig.settle()
    await rig.put(agreed(LaunchMode.SSH, 2, "gone:1"))
    await rig.settle()
    while_older = set(rig.runtime.authorized_older)
    await rig.put(agreed(LaunchMode.SSH, 3))
    await rig.settle()

    assert while_older == {51}
    assert (await rig.row()).generation == 3
    assert rig.runtime.authorized_older == set()
