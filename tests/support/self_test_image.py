"""The self-test image as scripts/build-self-test-image makes it, variants of it, and what containers see of a GPU."""

import io
import json
import platform
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

from scripts.self_test_image import settings
from tests.support.engine_api import EngineApi
from tests.support.fake_nvidia import build

SELF_TEST_IMAGE = "kaalia/self-test:latest"
BUILDER = Path(__file__).parents[2] / "scripts" / "self_test_image.py"
LIBRARIES = f"/usr/lib/{platform.machine()}-linux-gnu"
BRIEF: dict[str, dict[str, object]] = {
    "burn": {"minutes": 0.02},
    "cpu": {"seconds": 1},
    "ram": {"seconds": 1, "bytes_max": 32 << 20},
    "disk": {"seconds": 0.2, "bytes": 16 << 20},
}
"""The simulated GPUs compute on the processor, which tests share."""
PROFILE = "/usr/share/gpus.txt"
_CHANGES = (f"ENV KAALIA_FAKE_NVML={PROFILE}",)


def build_tar(folder: Path) -> Path:
    """With short steps. Takes some seconds."""
    made = folder / "self-test.tar"
    subprocess.run([sys.executable, BUILDER, "--into", made, "--quick"], check=True, capture_output=True)
    return made


def import_self_test(
    engine: EngineApi, tar: Path, name: str = SELF_TEST_IMAGE, files: Mapping[str, str] | None = None
) -> str:
    """`files`: by path, instead of the image's own."""
    files, buffer = files or {}, io.BytesIO()
    with tarfile.open(tar) as source, tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in source:
            if entry.name not in files:  # the engine takes no path twice
                archive.addfile(entry, source.extractfile(entry) if entry.isfile() else None)
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(text.encode()), 0o755
            archive.addfile(entry, io.BytesIO(text.encode()))
    engine.import_image(name, buffer.getvalue(), _CHANGES)
    return name


def work_file(step: str) -> str:
    """Where the image has a step's program."""
    return f"verification/kaalia/selftest/work/{step}.py"


def settings_file(deadline_s: float | None = None) -> dict[str, str]:
    """The image's settings with the shortest steps, which have so much time; for `import_self_test`."""
    told = settings(is_quick=True)
    for step, arguments in BRIEF.items():
        told["arguments"][step] |= arguments
    if deadline_s is not None:
        told["deadline_s"] = dict.fromkeys(told["deadline_s"], deadline_s)
    return {"verification/settings.json": json.dumps(told)}


def driver_files(driver: Path, profile: Path) -> dict[str, str]:
    """What containers get of the simulated driver, by their paths in them."""
    libraries = {name: str(driver / name) for name in (build.LIBRARY, build.CUDA_LIBRARY)}
    for name in ("libstdc++.so.6", "libgcc_s.so.1"):  # the simulated one's own
        found = subprocess.run(["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True)
        libraries[name] = str(Path(found.stdout.strip()).resolve())
    return {**{f"{LIBRARIES}/{name}": path for name, path in libraries.items()}, PROFILE: str(profile)}
