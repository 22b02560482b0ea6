"""The composition root: the only file that names every concrete part of the daemon and joins them."""

import asyncio

from kaalia.api import status
from kaalia.api.app import LocalApiService
from kaalia.api.context import Context
from kaalia.clock import Clock
from kaalia.config import Config
from kaalia.daemon.notify import NotifyService, Systemd
from kaalia.errors import Problem, StoreError
from kaalia.service import Service
from kaalia.store import folder
from kaalia.store.changes import Changes
from kaalia.store.database import Database

REOPEN_INTERVAL_S = 60.0
"""How often safe mode looks whether the state can be used again."""


def services(config: Config, clock: Clock, systemd: Systemd, changes: Changes, database: Database) -> list[Service]:
    """Everything that runs while the state is sound."""
    context = Context(database, clock, clock.now())
    return [*_local_services(config, systemd, context)]


def safe_mode_services(config: Config, clock: Clock, systemd: Systemd, why: Problem) -> list[Service]:
    """What runs while the state cannot be used: nothing that touches a tenant."""
    context = Context(Database(config.database_path, Changes()), clock, clock.now(), safe_mode=why)
    return [*_local_services(config, systemd, context), ReopenService(config)]


class ReopenService:
    """Ends as soon as the state can be opened again; the daemon then starts in full."""

    name = "reopen"

    def __init__(self, config: Config, interval_s: float = REOPEN_INTERVAL_S) -> None:
        self._config = config
        self._interval_s = interval_s

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                database = await folder.open_database(self._config, Changes())
            except StoreError:
                continue
            await database.close()
            return


def _local_services(config: Config, systemd: Systemd, context: Context) -> list[Service]:
    async def progress() -> str:
        return status.line(await status.read(context))

    return [
        LocalApiService(config.socket, context),
        NotifyService(systemd, context.listening, progress),
    ]
