"""The image of the machine's own test container: one static program out of the access kit. No registry is asked."""

import asyncio
import platform
from pathlib import Path

from kaalia.errors import WorkloadError
from kaalia.runtime import program_image
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.kit import newest
from kaalia.runtime.program_image import ProgramImage, is_same

PROGRAM = "sbin/canary"
PATH = "/canary"
REPOSITORY = "kaalia.invalid/canary"
"""Of a registry that cannot exist (RFC 2606): no pull can move the tag to another image."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""`platform.machine` -> the image's word."""


class CanaryImage:
    """`kits`: what `scripts/build-kit` made."""

    def __init__(self, engine: DockerEngine, kits: Path) -> None:
        self._engine = engine
        self._kits = kits

    async def ready(self) -> str:
        """Its tag; the engine has it. Raises WorkloadError `canary_program_missing`, `canary_image_strange`."""
        made = await asyncio.to_thread(self._make)
        found = await self._engine.image(made.tag)
        if found is None or not is_same(found, made):
            await self._engine.load_image(made.tar)
            found = await self._engine.image(made.tag)
        if found is None or not is_same(found, made):
            raise WorkloadError(
                "canary_image_strange",
                f"cannot use image {made.tag}: it is not the one that kaalia loads",
                remedy=f"docker image rm {made.tag}, and see who made it",
            )
        return made.tag

    def _make(self) -> ProgramImage:
        try:
            program = (newest(self._kits) / PROGRAM).read_bytes()
        except (OSError, WorkloadError) as error:
            raise WorkloadError(
                "canary_program_missing",
                "cannot test this machine by a container: the access kit, or its test program, is not there",
                remedy="run install.sh again on the machine, or scripts/build-kit; or set canary.every_hours: off",
                evidence=str(error),
            ) from error
        architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
        return program_image.image(REPOSITORY, PATH, program, architecture)
