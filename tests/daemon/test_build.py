import asyncio
from pathlib import Path

import pytest

from kaalia.config import Config
from kaalia.daemon.build import ReopenService


def settings(folder: Path) -> Config:
    return Config.model_validate({"state_dir": folder, "socket": folder / "s"})


async def test_safe_mode_ends_once_the_state_can_be_used_again(tmp_path: Path) -> None:
    config = settings(tmp_path)
    config.identity_path.touch()
    reopen = asyncio.ensure_future(ReopenService(config, interval_s=0.02).run())

    await asyncio.sleep(0.1)
    assert not reopen.done()
    config.identity_path.unlink()

    await asyncio.wait_for(reopen, 30)


async def test_safe_mode_lasts_while_the_state_is_corrupt(tmp_path: Path) -> None:
    config = settings(tmp_path)
    config.database_path.write_bytes(b"not a database" * 1000)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ReopenService(config, interval_s=0.02).run(), 0.3)
