"""Whether the outside comes through to a port of a container, by the prober that tries this machine's ports."""

import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from kaalia.errors import KaaliaError
from kaalia.model.reach import Outcome
from kaalia.model.workload import Protocol
from kaalia.store import reach
from kaalia.store.database import Database, Transaction
from kaalia.wire.probe import NONCE_BYTES, ProbeReply, ProbeRequest, ProbeTarget

log = logging.getLogger(__name__)

TRIES = 2
Ask = Callable[[ProbeRequest], Awaitable[ProbeReply]]
Open = Callable[[], AbstractAsyncContextManager[Ask]]


async def seen(database: Database, prober: Open, port: int) -> Outcome | None:
    """What a prober sees of a TCP port that it reached at its last probe, when the daemon itself answered there.

    None: it never did, so that nothing is known of the way in; or it has no time, or another address.
    """
    address = await database.read(lambda tx: _address(tx, port))
    if address is None:
        return None
    outcome = None
    try:
        async with prober() as ask:
            for _ in range(TRIES):
                nonce = secrets.token_bytes(NONCE_BYTES).hex()
                reply = await ask(ProbeRequest(nonce, (ProbeTarget(port, Protocol.TCP, connect_only=True),)))
                if reply.address != address:
                    return None
                outcome = next((one.outcome for one in reply.results if one.port == port), None)
                if outcome is Outcome.CONNECTED:
                    break
    except (KaaliaError, OSError) as error:
        log.info("canary: nobody outside tries its port: %s", error)
        return None
    return outcome


def _address(tx: Transaction, port: int) -> str | None:
    """Where the outside reached this port."""
    found = reach.get_map(tx)
    span = found.state_at((port, Protocol.TCP)) if found is not None and not found.is_blind else None
    return found.address if found is not None and span is not None and span.is_open else None
