"""An image's VOLUME paths lie inside the instance's disk: its data, its limit, its end. And what a twin is."""

import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from kaalia.errors import WorkloadError
from kaalia.runtime.base import BindMount
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.inside import twin, volume_paths, with_parents
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.runtime.container.space import EngineSpace
from kaalia.units import MIB
from tests.support.containers import output
from tests.support.docker_engine import PrivateDocker
from tests.support.images import DEMO_IMAGE, rootfs
from tests.support.placements import MACHINE, build_placement, build_spec

IMAGE = "kaalia/demo:volume"
TWIN_MACHINE = "io.kaalia.twin.machine"
DOCUMENT: dict[str, Any] = {
    "Id": "sha256:" + "1" * 64,
    "Architecture": "amd64",
    "Os": "linux",
    "Created": "2026-01-01T00:00:00Z",
    "Config": {"Cmd": ["run"], "Volumes": {"/data": {}, "srv/db/": {}}, "Labels": {"by": "somebody"}, "User": "ada"},
    "RootFS": {"Type": "layers", "Layers": ["sha256:" + "2" * 64, "sha256:" + "3" * 64]},
}


def test_a_twin_is_the_image_without_volumes() -> None:
    twin_id, tar = twin(DOCUMENT, MACHINE)

    with tarfile.open(fileobj=io.BytesIO(tar)) as files:
        read = {name: json.loads(content.read()) for name in files.getnames() if (content := files.extractfile(name))}
    (manifest,) = read["manifest.json"]
    image = read[manifest["Config"]]
    assert manifest["Config"] == f"{twin_id.removeprefix('sha256:')}.json"
    assert "Volumes" not in image["config"]
    assert (image["config"]["Cmd"], image["config"]["User"]) == (["run"], "ada")
    assert image["config"]["Labels"]["by"] == "somebody"
    assert image["config"]["Labels"][TWIN_MACHINE] == MACHINE
    assert "io.kaalia.machine" not in image["config"]["Labels"], "what somebody makes from it is not ours"
    assert image["rootfs"]["diff_ids"] == DOCUMENT["RootFS"]["Layers"]
    assert len(manifest["Layers"]) == 2
    assert twin(DOCUMENT, MACHINE)[0] == twin_id
    assert twin(DOCUMENT, "8@aa")[0] != twin_id


def test_paths_that_a_mount_covers_are_left_out() -> None:
    assert volume_paths(DOCUMENT) == ("/data", "/srv/db")
    assert volume_paths(DOCUMENT, ["/data/"]) == ("/srv/db",)
    assert volume_paths({"Config": {"Volumes": None}}) == ()
    assert with_parents(["/srv/db", "/data"]) == ("/data", "/srv", "/srv/db")


@pytest.fixture(scope="module")
def volume_image(docker_host: PrivateDocker) -> Iterator[str]:
    changes = ("ENV PATH=/bin", 'CMD ["sh"]', "VOLUME /data /srv/db", "EXPOSE 8080", "USER nobody")
    docker_host.import_image(IMAGE, rootfs({"data/seed": b"seeded\n"}), changes)
    yield IMAGE
    docker_host.request("DELETE", f"/images/{IMAGE}")


def script(text: str, **changes: Any) -> Any:
    return build_spec(image=IMAGE, args=("sh", "-c", text), user="0", disk_bytes=100 * MIB, **changes)


def volumes(engine: PrivateDocker) -> list[Any]:
    return engine.request("GET", "/volumes")["Volumes"] or []


def twins(engine: PrivateDocker) -> list[str]:
    listed = engine.request("GET", "/images/json?all=1")
    return [image["Id"] for image in listed if TWIN_MACHINE in (image["Labels"] or {})]


@pytest.mark.docker
@pytest.mark.usefixtures("volume_image")
async def test_data_at_a_volume_path_are_the_instances_own(
    runtime: ContainerRuntime, docker_host: PrivateDocker, docker_engine: DockerEngine
) -> None:
    write = "dd if=/dev/zero of=/srv/db/x bs=1M count=20 && sync"
    text = f"cat /data/seed; ls -d /srv/db; if [ -e /srv/db/x ]; then echo kept; else {write}; fi; echo end"
    await runtime.create(build_placement(221, spec=script(text)))
    await runtime.start(221)

    first = await output(runtime, 221, "end\n")
    await runtime.stop(221, 0)
    await runtime.start(221)
    await output(runtime, 221, "kept\nend\n")

    inspected = docker_host.inspect("C.221")
    usage = await EngineSpace(docker_engine, MACHINE, runtime.twins).usage()
    assert first.startswith("seeded\n/srv/db\n")
    assert "kept" not in first
    assert inspected["Mounts"] == []
    assert volumes(docker_host) == []
    assert dict(usage.instances)[221] >= 20 * MIB
    assert {image.name: image.in_use for image in usage.images}[IMAGE]
    assert not {image.image_id for image in usage.images} & set(twins(docker_host))

    await runtime.remove(221)
    assert twins(docker_host) == []
    assert await runtime.image(IMAGE)


@pytest.mark.docker
@pytest.mark.usefixtures("volume_image")
async def test_a_volume_path_has_no_more_room_than_was_rented(
    runtime: ContainerRuntime, docker_host: PrivateDocker
) -> None:
    if not docker_host.enforces_disk_size:
        pytest.skip("no btrfs here")
    await runtime.create(build_placement(222, spec=script("dd if=/dev/zero of=/data/x bs=1M count=150; echo end")))
    await runtime.start(222)

    text = await output(runtime, 222, "end\n")

    assert "Disk quota exceeded" in text or "No space left" in text


@pytest.mark.docker
@pytest.mark.usefixtures("volume_image")
async def test_a_twin_stays_as_long_as_anybody_uses_it(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    for contract_id in (223, 224):
        await runtime.create(build_placement(contract_id, spec=script("sleep 99")))
    (twin_id,) = twins(docker_host)
    body = {"Image": twin_id, "Cmd": ["sleep", "1"]}
    docker_host.request("POST", "/containers/create?name=somebodys", body)

    for contract_id in (223, 224):
        await runtime.remove(contract_id)
        await runtime.twins.sweep()
        assert twins(docker_host) == [twin_id]
    assert (await runtime.observe()).workloads == (), "the foreign container inherits labels, and is not ours for that"

    docker_host.request("DELETE", "/containers/somebodys")
    await runtime.twins.sweep()
    assert twins(docker_host) == []


class DeafEngine(DockerEngine):
    """Takes no twins, as containerd's image store."""

    async def load_image(self, tar: bytes) -> None:
        raise WorkloadError("engine_refused", "cannot load an image: the container engine refused")


@pytest.mark.docker
@pytest.mark.usefixtures("volume_image")
async def test_without_twins_volumes_count_as_the_instances_and_go_with_it(docker_host: PrivateDocker) -> None:
    engine = DeafEngine(docker_host.socket)
    runtime = ContainerRuntime(engine, MACHINE)
    before = volumes(docker_host)
    await runtime.create(
        build_placement(225, spec=script("dd if=/dev/zero of=/data/x bs=1M count=30; echo end; sleep 99"))
    )
    await runtime.start(225)
    await output(runtime, 225, "end\n")

    space = EngineSpace(engine, MACHINE, runtime.twins)
    usage, written = await space.usage(), (await space.written())[225]
    allocated = await space.allocated(225, written)
    made = len(volumes(docker_host))
    await runtime.remove(225)
    await runtime.close()
    engine.close()

    assert made == len(before) + 2
    assert dict(usage.instances)[225] >= 30 * MIB
    assert written >= 30 * MIB
    assert allocated is None if docker_host.enforces_disk_size else (allocated or 0) >= 30 * MIB
    assert volumes(docker_host) == before


@pytest.mark.docker
@pytest.mark.usefixtures("volume_image")
async def test_a_mount_over_a_volume_path_wins(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    source = docker_host.data_root / "test" / "V.9" / "data"
    source.mkdir(parents=True)
    (source / "mine").write_text("mine\n")
    mount = BindMount(9, str(source), "/data")
    spec = script("cat /data/mine; ls /data; echo end")
    await runtime.create(build_placement(226, spec=spec, mounts=(mount,)))
    await runtime.start(226)

    assert await output(runtime, 226, "end\n") == "mine\nmine\nend\n"
    await runtime.remove(226)
    assert (source / "mine").exists()


@pytest.mark.docker
async def test_an_image_without_volumes_needs_no_twin(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    await runtime.create(build_placement(227))

    assert twins(docker_host) == []
    assert docker_host.inspect("C.227")["Config"]["Image"] == DEMO_IMAGE
