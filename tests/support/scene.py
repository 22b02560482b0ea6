"""A stack with an engine and an image, for proofs and benchmarks: everything private, everything gone at the end."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.support.docker_engine import DISK_BYTES, PrivateDocker
from tests.support.fake_nvidia.build import build, build_cuda, environment, install_hook
from tests.support.fake_nvidia.profiles import machine, write
from tests.support.images import import_demo
from tests.support.stack import Stack, StackOptions


@contextmanager
def scene(
    gpus: str | None = None,
    folder: Path | None = None,
    *,
    has_live_restore: bool = True,
    has_quota: bool = True,
    disk_bytes: int = DISK_BYTES,
    cuda: bool = False,
    **options: Any,
) -> Iterator[tuple[Stack, str]]:
    """A running stack on a private Docker Engine, and the name of an image in it. `gpus`: such as 2xRTX_4090.

    `has_quota`: the engine's storage driver is btrfs, else overlay2. `cuda`: as of `simulated_gpus`. `options`:
    further StackOptions.
    """
    with ExitStack() as cleanup:
        home = folder or Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="kaalia-")))
        hook = install_hook(home / "hook")
        private = PrivateDocker(
            home / "docker",
            has_quota=has_quota,
            extra_path=hook.folder,
            has_live_restore=has_live_restore,
            disk_bytes=disk_bytes,
        )
        engine = cleanup.enter_context(private)
        image = import_demo(engine)
        gpu_env = simulated_gpus(home, gpus, cuda=cuda) if gpus else None
        stack = Stack(home / "stack", StackOptions(engine, gpu_env=gpu_env, **options))
        cleanup.callback(stack.close)
        stack.up()
        yield stack, image


def simulated_gpus(folder: Path, gpus: str, *, cuda: bool = False) -> dict[str, str]:
    """Build the simulated driver into `folder`; the environment that makes a probe read it.

    `cuda`: with a libcuda that computes the self-test's kernels, which takes five seconds to build.
    """
    profile = folder / "gpus.txt"
    write(profile, machine(gpus))
    library = build(folder / "driver")
    return environment(build_cuda(library) if cuda else library, profile)
