"""The access kit in real containers: process 1, variables, onstart, and a user other than root."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.model.workload import LaunchMode
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.wire import signature
from tests.support.containers import output, refused
from tests.support.docker_engine import PrivateDocker
from tests.support.images import rootfs
from tests.support.placements import build_placement, build_spec

pytestmark = pytest.mark.docker

IMAGE = "kaalia/worker:latest"
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/tmp:/bin/sh\n"


@pytest.fixture(scope="module")
def worker_image(docker_host: PrivateDocker) -> str:
    """One with an account beside root, and a file of its own at /etc/environment."""
    files = {"etc/passwd": PASSWD, "etc/group": b"root:x:0:\nworker:x:1000:\n", "etc/environment": b"MINE=1\n"}
    docker_host.import_image(IMAGE, rootfs(files), ["ENV PATH=/bin:/usr/bin"])
    return IMAGE


async def started(runtime: ContainerRuntime, contract_id: int, script: str, **changes: object) -> str:
    """The log of an instance once its onstart came to its end."""
    spec = build_spec(launch_mode=LaunchMode.SSH, onstart=f"{script}\necho end", args=(), **changes)
    await runtime.create(build_placement(contract_id, spec=spec))
    await runtime.start(contract_id)
    return await output(runtime, contract_id, "end\n")


async def test_process_1_buries_orphans_and_is_small(runtime: ContainerRuntime) -> None:
    script = (
        "for i in 1 2 3 4 5; do (sleep 0.1 &) ; done; sleep 0.5; ps -o stat,comm; "
        "grep VmRSS /proc/1/status; cat /proc/1/comm"
    )
    text = await started(runtime, 240, script)

    assert not [line for line in text.splitlines() if line.startswith("Z")]
    assert text.splitlines()[-2] == "init"
    assert int(text.splitlines()[-3].split()[1]) < 3000, "KiB: what an idle instance pays for the kit"


async def test_told_to_stop_everybody_may_tidy_up(runtime: ContainerRuntime) -> None:
    spec = build_spec(
        launch_mode=LaunchMode.SSH, onstart="trap 'echo tidied; exit' TERM\necho ready\nsleep 100 &\nwait", args=()
    )
    await runtime.create(build_placement(241, spec=spec))
    await runtime.start(241)
    await output(runtime, 241, "ready\n")

    began = asyncio.get_running_loop().time()
    await runtime.stop(241, 20)
    took_s = asyncio.get_running_loop().time() - began
    seen = await runtime.inspect(241)

    assert took_s < 5
    assert seen is not None
    assert seen.exit_code == 0
    assert "tidied" in await runtime.logs(241, 100)


async def test_variables_stand_in_etc_environment_and_what_was_there_stays(
    runtime: ContainerRuntime, worker_image: str
) -> None:
    env = (("PLAIN", "a b"), ("QUOTED", "it's $HOME"), ("LINES", "one\ntwo"), ("not-a-name", "x"))
    script = 'cat /etc/environment; . /etc/environment; echo "[$QUOTED]"'

    text = await started(runtime, 242, script, env=env, image=worker_image)

    assert text.splitlines()[0] == "MINE=1"
    assert "PLAIN='a b'" in text
    assert "[it's $HOME]" in text
    assert "LINES" not in text, "a line holds no two"
    assert "not-a-name" not in text
    await runtime.stop(242, 5)
    await runtime.start(242)
    again = await output(runtime, 242, f"{text}MINE=1\n# kaalia: begin\n")
    assert again.count("# kaalia: begin") == 2, "once a start"


async def test_onstart_runs_as_the_user(runtime: ContainerRuntime, worker_image: str) -> None:
    text = await started(
        runtime, 243, "id -u; echo $HOME $PLAIN", env=(("PLAIN", "x"),), image=worker_image, user="worker"
    )

    assert text == "1000\n/tmp x\nend\n"


async def test_a_user_that_the_image_lacks_is_refused_by_name(runtime: ContainerRuntime, worker_image: str) -> None:
    spec = build_spec(launch_mode=LaunchMode.SSH, args=(), image=worker_image, user="bob")

    error = await refused(runtime.create(build_placement(244, spec=spec)))

    assert error.code == "user_unknown"
    assert "'bob'" in str(error)
    assert "root is the default" in error.problem.remedy
    plain = build_placement(245, spec=build_spec(user="bob"))
    await runtime.create(plain)
    assert (await refused(runtime.start(245))).code == "user_unknown"


async def test_keys_change_under_a_running_container(runtime: ContainerRuntime) -> None:
    placement = build_placement(246, spec=build_spec(launch_mode=LaunchMode.SSH, args=(), onstart="echo end"))
    contract = replace(placement.contract, ssh_keys=("ssh-ed25519 AAAA one",))
    await runtime.create(replace(placement, contract=contract))
    await runtime.start(246)
    await output(runtime, 246, "end\n")

    await runtime.authorize(replace(contract, ssh_keys=("ssh-ed25519 BBBB two",)))

    assert "BBBB" in (await inside(runtime, 246))


async def test_another_generation_and_a_new_container_have_the_same_host_key(
    runtime: ContainerRuntime, tmp_path: Path
) -> None:
    file = tmp_path / "access" / "C.247" / "host_key"
    found = []
    for generation in (1, 2, 3):
        spec = build_spec(launch_mode=LaunchMode.SSH, args=(), onstart=f"echo {generation}")
        await runtime.create(build_placement(247, spec=spec, generation=generation))
        found.append(signature.openssh_public(signature.load_openssh(file.read_bytes())))
        if generation == 2:
            await runtime.remove(247)
            assert not file.exists()

    assert len(set(found)) == 1


async def inside(runtime: ContainerRuntime, contract_id: int) -> str:
    """What the container sees of its keys now: a start reads them anew."""
    await runtime.stop(contract_id, 5)
    await runtime.start(contract_id)
    document = await runtime._engine.get_archive(f"C.{contract_id}", f"C.{contract_id}", "/root/.ssh/authorized_keys")
    for _ in range(50):
        if document is not None and b"BBBB" in document:
            break
        await asyncio.sleep(0.1)
        document = await runtime._engine.get_archive(
            f"C.{contract_id}", f"C.{contract_id}", "/root/.ssh/authorized_keys"
        )
    return (document or b"").decode(errors="replace")
