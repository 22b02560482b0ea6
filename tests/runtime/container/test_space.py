"""What a container's layer takes of the disk: counted where that can be, and otherwise not guessed."""

from pathlib import Path
from typing import Any

import pytest

from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.inside import Twins
from kaalia.runtime.container.space import EngineSpace
from kaalia.units import MIB
from tests.support.placements import MACHINE

SAID = 500 * MIB
"""What Docker says of a sparse file."""


class Inspected(DockerEngine):
    """An engine that gives one answer to every inspection."""

    def __init__(self, socket: Path, document: dict[str, Any] | None) -> None:
        super().__init__(socket)
        self._document = document

    async def inspect_container(self, name: str) -> dict[str, Any] | None:
        return self._document


async def allocated(folder: Path, document: dict[str, Any] | None) -> int | None:
    engine = Inspected(folder / "no.sock", document)
    try:
        return await EngineSpace(engine, MACHINE, Twins(engine, MACHINE)).allocated(51, SAID)
    finally:
        engine.close()


def overlay2(layer: Path | str) -> dict[str, Any]:
    return {"GraphDriver": {"Name": "overlay2", "Data": {"UpperDir": str(layer)}}}


async def test_the_blocks_of_a_layer_are_counted(tmp_path: Path) -> None:
    layer = tmp_path / "diff"
    layer.mkdir()
    with (layer / "sparse").open("wb") as file:
        file.write(bytes(MIB))
        file.truncate(SAID)

    size = await allocated(tmp_path, overlay2(layer))

    assert size is not None
    assert MIB <= size < 2 * MIB


async def test_a_volume_without_a_name_is_part_of_it(tmp_path: Path) -> None:
    for name in ("diff", "volume"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(bytes(MIB))
    mounts = [{"Type": "volume", "Source": str(tmp_path / "volume")}, {"Type": "bind", "Source": "/"}]

    size = await allocated(tmp_path, {**overlay2(tmp_path / "diff"), "Mounts": mounts})

    assert size is not None
    assert 2 * MIB <= size < 3 * MIB


@pytest.mark.parametrize(
    "document",
    [
        {"GraphDriver": {"Name": "btrfs", "Data": None}},
        {"GraphDriver": {"Name": "zfs", "Data": {"Mountpoint": "/x", "Dataset": "y"}}},
        overlay2("relative"),
        overlay2("/a/../b"),
        overlay2("/nowhere/at/all"),
        None,
    ],
    ids=["btrfs", "zfs", "a relative path", "a path that climbs", "a layer that du cannot read", "no container"],
)
async def test_what_cannot_be_counted_is_not_guessed(tmp_path: Path, document: dict[str, Any] | None) -> None:
    assert await allocated(tmp_path, document) is None


@pytest.mark.parametrize(
    "document",
    [
        {"Storage": {"RootFS": {"Snapshot": {"Name": "overlayfs"}}}},
        {"GraphDriver": {"Name": "overlayfs", "Data": None}},
    ],
    ids=["docker 29", "docker 25 to 28"],
)
async def test_containerds_image_store_counts_blocks_by_itself(tmp_path: Path, document: dict[str, Any]) -> None:
    assert await allocated(tmp_path, document) == SAID
