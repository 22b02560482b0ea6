"""Mounts are heard of without a look. Needs scripts/sandbox, whose mounts are its own."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from kaalia.errors import HostError
from kaalia.host.mount_ear import MountEar
from tests.support import own_network
from tests.support.sysfs import write_files

SOON_S = 20.0


@pytest.mark.parametrize("files", [{}, {"proc/1/mountinfo": "a file that tells no changes"}])
async def test_a_machine_that_tells_no_changes_is_not_heard(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(HostError) as refused:
        MountEar(lambda: None, write_files(tmp_path, files))

    assert refused.value.code == "mounts_unheard"


@pytest.mark.skipif(not own_network.is_possible(), reason="needs scripts/sandbox: a mount would be the machine's own")
async def test_each_change_is_heard_once(tmp_path: Path) -> None:
    heard = asyncio.Event()
    calls: list[float] = []

    def note() -> None:
        calls.append(asyncio.get_running_loop().time())
        heard.set()

    ear = MountEar(note)
    try:
        for change in (
            ("mount", "-t", "tmpfs", "tmpfs", str(tmp_path)),
            ("mount", "-o", "remount,ro", str(tmp_path)),
            ("umount", str(tmp_path)),
        ):
            await asyncio.to_thread(subprocess.run, change, check=True)
            async with asyncio.timeout(SOON_S):
                await heard.wait()
            heard.clear()
        await asyncio.sleep(0.1)
    finally:
        ear.close()
    assert len(calls) <= 6, "it does not wake again and again for one change"
