"""The operator's own word on a machine's verification, beside what follows from its state."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from kaalia.contracts import verification as rules
from kaalia.errors import ConfigError
from kaalia.marketplace import listings, machines, verification
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.verification import VerificationView

WORDS_MAX_CHARS = 300


async def view(engine: AsyncEngine, machine_id: int, now: datetime) -> VerificationView:
    """Raises ConfigError `machine_unknown`."""
    async with engine.begin() as tx:
        machine = await _machine(tx, machine_id)
        return rules.view(verification.known(machine, now))


async def bar(engine: AsyncEngine, machine_id: int, words: str, now: datetime) -> None:
    """Deverified, and nothing of it is rented out anew. Raises ConfigError `machine_unknown`, `words_invalid`."""
    if not 0 < len(words.strip()) <= WORDS_MAX_CHARS:
        raise ConfigError(
            "words_invalid",
            f"cannot bar machine {machine_id} with these words: they must be 1 to {WORDS_MAX_CHARS} characters",
            remedy="say in a sentence why; the machine's owner reads it",
        )
    async with engine.begin() as tx:
        machine = await _machine(tx, machine_id, for_update=True)
        await verification.put(tx, machine_id, rules.barred(verification.known(machine, now), words.strip(), now))
        await listings.refresh_asks(tx, machine_id, now)


async def lift(engine: AsyncEngine, machine_id: int, now: datetime) -> None:
    """Raises ConfigError `machine_unknown`, `not_barred`."""
    async with engine.begin() as tx:
        machine = await _machine(tx, machine_id, for_update=True)
        known = verification.known(machine, now)
        if not known.barred:
            message = f"cannot lift the operator's word from machine {machine_id}: there is none"
            raise ConfigError("not_barred", message, remedy="see: kaalia marketplace verification show MACHINE")
        await verification.put(tx, machine_id, rules.lifted(known))
        await listings.refresh_asks(tx, machine_id, now)


async def _machine(tx: AsyncConnection, machine_id: int, *, for_update: bool = False) -> MachineRecord:
    if for_update:
        await machines.lock(tx, machine_id)
    machine = await machines.get(tx, machine_id)
    if machine is None or machine.deleted_at is not None:
        message = f"cannot find machine {machine_id}: there is none of this number"
        raise ConfigError("machine_unknown", message, remedy="its owner sees it by: vastai show machines")
    return machine
