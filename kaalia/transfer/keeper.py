"""Which port a door gets: one of the machine's range that no contract has, claimed in the ledger while it is open."""

from collections.abc import Callable

from kaalia.clock import Clock
from kaalia.errors import ContractError, StoreError
from kaalia.model.machine import PortRange
from kaalia.model.workload import Protocol
from kaalia.store import claims, reach
from kaalia.store.claims import MACHINE, Claim, ClaimKind
from kaalia.store.database import Database, Transaction


class PortKeeper:
    """`is_busy`: whether a program of the machine has the port."""

    def __init__(
        self, database: Database, clock: Clock, ports: PortRange, is_busy: Callable[[int, Protocol], bool]
    ) -> None:
        self._database = database
        self._clock = clock
        self._ports = ports
        self._is_busy = is_busy

    async def take(self) -> int:
        """The highest free one, of those that the outside was proven to reach if any was. Raises `ports_exhausted`."""
        for port in await self._database.read(self._free):
            if not self._is_busy(port, Protocol.TCP) and await self._claim(port):
                return port
        raise ContractError(
            "copy_ports_exhausted",
            f"cannot open a port for copies: none of {self._ports.first}-{self._ports.last} is free and reached "
            "from outside",
            remedy="copy by scp or rsync over the instance's own ssh port",
        )

    async def _claim(self, port: int) -> bool:
        """False: a contract was faster."""
        wanted, now = Claim(ClaimKind.PORT_TCP, str(port), MACHINE, 0), self._clock.now()
        try:
            await self._database.transaction(lambda tx: claims.claim(tx, [wanted], now))
        except StoreError as error:
            if error.code != "claim_taken":
                raise
            return False
        return True

    async def give_back(self, port: int) -> None:
        kind = ClaimKind.PORT_TCP
        await self._database.transaction(lambda tx: claims.give_back(tx, kind, str(port), MACHINE))

    async def forget(self) -> None:
        """What an earlier daemon had: its doors went with it."""
        await self._database.transaction(lambda tx: claims.release(tx, MACHINE))

    def _free(self, tx: Transaction) -> list[int]:
        taken = {int(one.key) for one in claims.all_claims(tx) if one.kind is ClaimKind.PORT_TCP}
        free = [port for port in range(self._ports.last, self._ports.first - 1, -1) if port not in taken]
        known = reach.get_map(tx)
        if known is None or known.proven is None:
            return free
        spans = ((port, known.state_at((port, Protocol.TCP))) for port in free)
        return [port for port, span in spans if span is not None and span.is_open]
