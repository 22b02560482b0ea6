"""The image by which this machine tries Jupyter on itself: its own Python, and what the installer fetched of Jupyter.

It is of some 130 MB and wanted once in a machine's life, so it is made for each test, and removed when that is over.
"""

import asyncio
import json
import logging
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from kaalia.errors import HostError, WorkloadError
from kaalia.runtime import python_root
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.labels import encode_own_image, own_image_filter
from kaalia.runtime.python_root import PythonRoot

log = logging.getLogger(__name__)

REPOSITORY = "kaalia.invalid/jupyter"
"""Of a registry that cannot exist (RFC 2606): no pull can move the tag to another image."""
MODULE = "jupyter_server"
TAG_BYTES = 6
PIECE_BYTES = 256 * 1024


class JupyterImage:
    """Of one machine (`labels.machine_name`). `packages`: where Jupyter is, if it is here at all."""

    def __init__(self, engine: DockerEngine, machine: str, packages: Path) -> None:
        self._engine = engine
        self._machine = machine
        self._packages = packages
        self._working = asyncio.Lock()

    def why_not(self) -> str:
        """Why there can be none; "": it can be made. Reads the disk."""
        if not (self._packages / MODULE).is_dir():
            return "this machine has none to put into a container; install.sh fetches it"
        return "" if shutil.which("ldd") else "this machine has no ldd"

    async def ready(self) -> str:
        """Made anew; its tag. Raises HostError `jupyter_image_failed`.

        Who is cancelled leaves the work to end by itself: `clear` waits for it.
        """
        return await asyncio.shield(self._made())

    async def clear(self) -> None:
        """Remove every one that no container uses, also what a crash left. Raises WorkloadError."""
        async with self._working:
            for entry in await self._engine.images(own_image_filter(self._machine)):
                await self._remove(str(entry["Id"]))

    async def _made(self) -> str:
        tag = secrets.token_hex(TAG_BYTES)
        async with self._working:
            try:
                root = await python_root.read(self._packages)
                await self._load(root, tag)
            except (OSError, HostError, WorkloadError) as error:
                raise HostError(
                    "jupyter_image_failed",
                    "cannot make an image of this machine's Python and Jupyter, to test it by",
                    remedy="see that Docker's disk has room, and run install.sh again, which fetches Jupyter",
                    evidence=str(error),
                ) from error
        return f"{REPOSITORY}:{tag}"

    async def _load(self, root: PythonRoot, tag: str) -> None:
        """By a pipe, so that no disk but Docker's takes it. Raises OSError, WorkloadError."""
        ends = os.pipe()
        source, into = os.fdopen(ends[0], "rb"), os.fdopen(ends[1], "wb")

        def write() -> None:
            with into:
                root.write(into)

        async def load() -> None:
            with source:  # who writes ends, should the engine not read to the end
                pieces = iter(lambda: source.read(PIECE_BYTES), b"")
                labels = encode_own_image(self._machine)
                await self._engine.import_image(pieces, REPOSITORY, tag, changes(root, labels))

        written, loaded = await asyncio.gather(asyncio.to_thread(write), load(), return_exceptions=True)
        # A pipe that broke tells nothing of why.
        if isinstance(written, BaseException) and not isinstance(written, BrokenPipeError):
            raise written
        if loaded is not None:
            raise loaded

    async def _remove(self, image_id: str) -> None:
        try:
            await self._engine.remove_image(image_id)
        except WorkloadError as error:
            if error.code != "engine_conflict":
                raise
            log.warning("the image of a self-test stays: %s", error)


def changes(root: PythonRoot, labels: Mapping[str, str]) -> list[str]:
    """Lines of a Dockerfile."""
    words = [*(("ENV", name, value) for name, value in root.env.items())]
    words += [("LABEL", name, value) for name, value in labels.items()]
    return [f"{what} {name}={json.dumps(value)}" for what, name, value in words]
