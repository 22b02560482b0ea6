"""Builds the simulated driver with gcc, and installs the hook that Docker's `--gpus` calls.

library = build(folder)                               a folder for LD_LIBRARY_PATH
build_cuda(library)                                   CUDA too, for the self-test's programs
env = os.environ | environment(library, profile)      what a process needs to see the simulated GPUs
hook = install_hook(folder)                           put hook.folder first in the PATH of a private dockerd
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaalia.host.nvml_probe import SIMULATED_SYMBOL
from tests.support.fake_nvidia.translate import translated

HERE = Path(__file__).parent
KERNELS = Path(__file__).parents[3] / "kaalia/selftest/work/kernels"
LIBRARY = "libnvidia-ml.so.1"
CUDA_LIBRARY = "libcuda.so.1"
HOOK = "nvidia-container-runtime-hook"
CUDA_FLAGS = ("-fPIC", "-Wall", "-Wextra", "-Werror", f"-I{HERE}")
_COMPILER = {
    ".c": ("gcc", "-O1"),
    ".cc": (
        "g++",
        "-O2",
        "-std=c++17",
        "-ffp-contract=off",
        "-fvisibility=hidden",
        "-Wno-unused",
    ),
}
# A container has no libstdc++ of its own.
_LINKER = ("g++", "-shared", "-static-libstdc++", "-static-libgcc", f"-Wl,-soname,{CUDA_LIBRARY}")
_bringing = threading.Lock()
FLAGS = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{LIBRARY}")


def build(folder: Path, missing: Sequence[str] = ()) -> Path:
    """Compile into a folder of its own below `folder` and return it; the same source is compiled once.

    `missing`: functions that this build does not export, as in an older driver.
    """
    source = b"".join(path.read_bytes() for path in sorted(HERE.glob("*.[ch]")))
    name = hashlib.sha256(source + repr((FLAGS, sorted(missing))).encode()).hexdigest()[:16]
    target = folder / f"nvml-{name}"
    if (target / LIBRARY).exists():
        return target
    _link(target / LIBRARY, missing, ["gcc", *FLAGS, str(HERE / "nvml.c")])
    for link in ("libnvidia-ml.so", "libnvidia-ml.so.570.133.20"):
        (target / link).unlink(missing_ok=True)
        (target / link).symlink_to(LIBRARY)
    return target


def build_cuda(library: Path, missing: Sequence[str] = ()) -> Path:
    """Put the simulated libcuda beside the library that `build` made, and return that folder; once for each source.

    It has the kernels of the self-test, compiled for the CPU: five seconds. `missing`: functions that one in a folder
    of its own below does not export, as an older driver's.
    """
    texts = sorted(KERNELS.glob("*.ptx"))
    sources = [*sorted(HERE.glob("*.[ch]*")), HERE / "translate.py", *texts]
    text = b"".join(path.read_bytes() for path in sources) + repr(CUDA_FLAGS).encode()
    mark, made_of = library / "cuda.built", hashlib.sha256(text).hexdigest()
    parts = [library / "cuda.o", library / "kernels.o"]
    if not mark.exists() or mark.read_text() != made_of:
        (library / "kernels.inc").write_text(translated([one.read_text() for one in texts]))
        for source, part in zip((HERE / "cuda.c", HERE / "kernels.cc"), parts, strict=True):
            fresh = part.with_name(f"{part.name}.{os.getpid()}")
            subprocess.run(
                [*_COMPILER[source.suffix], *CUDA_FLAGS, f"-I{library}", "-c", "-o", fresh, source], check=True
            )
            fresh.replace(part)
        _link(library / CUDA_LIBRARY, (), [*_LINKER, *map(str, parts)])
        mark.write_text(made_of)
    if not missing:
        return library
    lesser = library / f"without-{hashlib.sha256(repr(sorted(missing)).encode()).hexdigest()[:16]}"
    _link(lesser / CUDA_LIBRARY, missing, [*_LINKER, *map(str, parts)])
    if not (lesser / LIBRARY).exists():
        (lesser / LIBRARY).symlink_to(library / LIBRARY)
    return lesser


@contextmanager
def unmarked(library: Path) -> Iterator[None]:
    """While it lasts the driver does not say that it is simulated: what is asked of true GPUs only is asked of it."""
    marked = (library / LIBRARY).read_bytes()
    _put(library / LIBRARY, (build(library.parent, missing=[SIMULATED_SYMBOL]) / LIBRARY).read_bytes())
    try:
        yield
    finally:
        _put(library / LIBRARY, marked)


def _put(path: Path, content: bytes) -> None:
    """In one step: who has the old one loaded keeps it."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)


def _link(target: Path, missing: Sequence[str], command: Sequence[str]) -> None:
    """Run a compiler that makes a shared library, less the functions that are `missing`; whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}")
    version_script = part.with_name(f"{part.name}.map")
    version_script.write_text("{ local: " + "".join(f"{symbol}; " for symbol in missing) + "};\n")
    script = [f"-Wl,--version-script={version_script}"] if missing else []
    subprocess.run([*command, *script, "-o", part], check=True)
    version_script.unlink()
    part.replace(target)


def environment(library: Path, profile: Path) -> dict[str, str]:
    """Variables by which a process, and its children, finds the simulated driver and its profile."""
    return {"LD_LIBRARY_PATH": str(library), "KAALIA_FAKE_NVML": str(profile)}


@dataclass(frozen=True, slots=True)
class Hook:
    """An installed hook. It writes one JSON line per started container to `log`."""

    folder: Path
    log: Path
    control: Path

    def containers(self) -> dict[str, dict[str, Any]]:
        """What the hook saw of each container id at its newest start: visible_devices, driver_capabilities, pid ..."""
        if not self.log.exists():
            return {}
        seen = [json.loads(line) for line in self.log.read_text().splitlines()]
        return {entry["container_id"]: entry for entry in seen}

    def fail(self, message: str) -> None:
        """The next starts fail with `message` on the hook's stderr, until `behave`."""
        self._write({"fail": message})

    def sleep(self, seconds: float) -> None:
        """The next starts take `seconds` longer, until `behave`."""
        self._write({"sleep_s": seconds})

    def behave(self) -> None:
        self.control.unlink(missing_ok=True)

    def make_nodes(self) -> None:
        """The next containers have device nodes for their GPUs, until `behave`."""
        self._write({"nodes": True})

    def bring(self, gpu_uuids: Sequence[str], mounts: Mapping[str, str], fail: str = "") -> None:
        """Containers with one of these GPUs get files of the machine, by their paths inside, or fail with a message.

        Orders for other GPUs stay.
        """
        own = {"mounts": dict(mounts), **({"fail": fail} if fail else {})}
        with _bringing:
            control = json.loads(self.control.read_text()) if self.control.exists() else {}
            control["of"] = {**control.get("of", {}), **dict.fromkeys(gpu_uuids, own)}
            self._write(control)

    def _write(self, control: dict[str, object]) -> None:
        part = self.control.with_suffix(".part")
        part.write_text(json.dumps(control))
        part.replace(self.control)


def install_hook(folder: Path) -> Hook:
    """Install the hook executable into `folder` (created); its log and control files lie beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    # Isolated and without site-packages: 10 ms instead of 30 in the start of every container.
    interpreter = Path(sys.executable).resolve()
    executable = folder / HOOK
    executable.write_text(f"#!{interpreter} -IS\n" + (HERE / "hook.py").read_text())
    executable.chmod(0o755)
    return Hook(folder, folder / "hook.log", folder / "hook.control")
