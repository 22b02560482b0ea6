"""What is known of each contract: told by who makes it, listed by the engine. The newer word counts."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, Protocol, TypeVar


class OfContract(Protocol):
    """A thing of which a contract has one at most."""

    @property
    def contract_id(self) -> int: ...


T = TypeVar("T", bound=OfContract)


class Known(Generic[T]):
    """`look`: all that the engine has; raises WorkloadError."""

    def __init__(self, look: Callable[[], Awaitable[Iterable[T]]]) -> None:
        self._look = look
        self._known: dict[int, T] = {}
        self.has_looked = False

    def put(self, one: T) -> None:
        self._known[one.contract_id] = one

    def drop(self, contract_id: int) -> T | None:
        return self._known.pop(contract_id, None)

    def get(self, contract_id: int) -> T | None:
        return self._known.get(contract_id)

    def all(self) -> list[T]:
        """In the order of contracts."""
        return sorted(self._known.values(), key=lambda one: one.contract_id)

    async def see(self) -> None:
        """Ask the engine. What was told while it answered is left as it is known here. Raises WorkloadError."""
        before = dict(self._known)
        listed = {one.contract_id: one for one in await self._look()}
        for contract_id in before.keys() | listed.keys():
            if self._known.get(contract_id) is before.get(contract_id):
                if contract_id in listed:
                    self._known[contract_id] = listed[contract_id]
                else:
                    self._known.pop(contract_id, None)
        self.has_looked = True
