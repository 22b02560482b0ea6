"""Power and heat policy, where the owner wants one: a part of the daemon that is imported only then."""

from kaalia.clock import MachineClock
from kaalia.config_power import PowerConfig
from kaalia.service import Service
from kaalia.store import conditions
from kaalia.store.changes import Changes
from kaalia.store.database import Database, Transaction


async def service(config: PowerConfig, clock: MachineClock, changes: Changes, database: Database) -> Service | None:
    """None: there is no policy, and nothing of an earlier one to be put back. Raises StoreError."""
    if not config.enabled and not await database.read(_is_marked):
        now = clock.now()
        await database.transaction(lambda tx: conditions.replace(tx, "power", (), now))
        return None
    # Few owners have a policy, and every daemon would hold it in memory.
    from kaalia.power.service import PowerService  # noqa: PLC0415

    return PowerService.of(database, changes, clock, config)


def _is_marked(tx: Transaction) -> bool:
    """Something that kaalia set may still be there."""
    return tx.execute("SELECT 1 FROM power_marks LIMIT 1").fetchone() is not None
