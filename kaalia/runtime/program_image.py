"""An image of one program and nothing else, made here byte for byte the same each time: no registry is needed. Pure."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

_CREATED = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class ProgramImage:
    """`tar`: for the engine's load; it then knows the image by `tag`. `layer`: the id of its one layer."""

    layer: str
    tag: str
    tar: bytes


def image(repository: str, path: str, program: bytes, architecture: str) -> ProgramImage:
    """`path`: where the program is, and the image's entrypoint. `architecture`: in the image's word, such as amd64."""
    layer = _tar({path.lstrip("/"): program}, 0o755)
    layer_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": _CREATED,
        "config": {"Entrypoint": [path]},
        "rootfs": {"type": "layers", "diff_ids": [layer_id]},
        "history": [{"created": _CREATED, "created_by": "kaalia"}],
    }
    content = json.dumps(config, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()
    tag = f"{repository}:{digest[:12]}"
    manifest = json.dumps([{"Config": f"{digest}.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]).encode()
    files = {f"{digest}.json": content, "layer.tar": layer, "manifest.json": manifest}
    return ProgramImage(layer_id, tag, _tar(files, 0o644))


def is_same(found: Mapping[str, object], made: ProgramImage) -> bool:
    """`found`: the engine's word on an image. Ids differ between image stores; a layer's does not."""
    root = found.get("RootFS")
    return isinstance(root, Mapping) and list(root.get("Layers") or []) == [made.layer]


def _tar(files: Mapping[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
