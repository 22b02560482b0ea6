"""The Docker Engine of the demo: this machine's own when it answers, else a private one that leaves no trace.

Simulated GPUs need a private one: NVIDIA's hook must be found in the engine's PATH.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from tests.support.docker_engine import PrivateDocker
from tests.support.engine_api import EngineApi
from tests.support.fake_nvidia.build import install_hook
from tests.support.images import DEMO_IMAGE, EXPOSE_IMAGE, import_demo
from tests.support.scene import simulated_gpus

SYSTEM_SOCKET = Path("/var/run/docker.sock")
BRIDGE = "kaalia-demo0"
QUIET = ("--iptables=false", "--ip-forward=false", "--ip-masq=false")
"""Leaves the machine's firewall and routing alone; published ports are then served by Docker's own proxy."""


@dataclass
class DemoEngine:
    """`private`: an engine of the demo's own, which takes everything with it when it ends."""

    api: EngineApi
    private: bool
    gpu_env: dict[str, str] | None = None
    made_image: bool = False
    _had: set[str] = field(default_factory=set)

    def make_demo_image(self) -> str:
        """An image made on the spot from busybox: no registry is needed."""
        self._had = _tags(self.api)
        self.made_image = True
        return import_demo(self.api)

    def remove_image(self) -> None:
        """Take the demo's images away again, unless they were here before."""
        for reference in {DEMO_IMAGE, EXPOSE_IMAGE} - self._had if self.made_image and not self.private else ():
            self.api.request("DELETE", f"/images/{quote(reference, safe='')}?force=1")


@contextmanager
def open_engine(folder: Path, gpus: str | None, say: Callable[[str], None]) -> Iterator[DemoEngine]:
    """An engine that answers."""
    system = EngineApi(_system_socket())
    if gpus is None and _answers(system):
        say("using this machine's Docker Engine")
        engine = DemoEngine(system, private=False)
        try:
            yield engine
        finally:
            engine.remove_image()
        return
    say("starting a private Docker Engine")
    hook = install_hook(folder / "hook")
    private = PrivateDocker(folder / "docker", extra_path=hook.folder, bridge=BRIDGE, options=QUIET)
    with private:
        gpu_env = simulated_gpus(folder, gpus) if gpus else None
        yield DemoEngine(private, private=True, gpu_env=gpu_env)


def _system_socket() -> Path:
    host = os.environ.get("DOCKER_HOST", "")
    return Path(host.removeprefix("unix://")) if host.startswith("unix://") else SYSTEM_SOCKET


def _answers(engine: EngineApi) -> bool:
    try:
        return bool(engine.request("GET", "/version", timeout_s=5))
    except (OSError, RuntimeError):
        return False


def _tags(engine: EngineApi) -> set[str]:
    return {tag for image in engine.request("GET", "/images/json") for tag in image["RepoTags"] or ()}
