import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from kaalia.config import Config
from kaalia.config_metrics import MetricsConfig
from kaalia.daemon.build import ReopenService, daemon, safe_mode
from kaalia.daemon.notify import Systemd
from kaalia.errors import Problem
from kaalia.service import Service
from tests.support.clock import FakeClock


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


async def names(context: AbstractAsyncContextManager[list[Service]]) -> set[str]:
    async with context as services:
        return {one.name for one in services}


def test_metrics_are_served_where_the_owner_wants_them(tmp_path: Path) -> None:
    """Not a coroutine: a daemon that starts may read its catalogues."""
    plain, both = settings(tmp_path), {"metrics", "tenant metrics"}
    wanted = plain.model_copy(update={"metrics": MetricsConfig(listen="127.0.0.1:9464", tenants=True)})
    why = Problem("state_corrupt", "cannot use it")

    assert asyncio.run(names(daemon(plain, FakeClock(), Systemd({})))) & both == set()
    assert asyncio.run(names(daemon(wanted, FakeClock(), Systemd({})))) & both == both
    assert asyncio.run(names(safe_mode(wanted, FakeClock(), Systemd({}), why))) & both == {"metrics"}
