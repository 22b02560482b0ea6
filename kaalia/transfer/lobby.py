"""Connections that have proven no key yet, over all doors of the machine: few, and few of one address.

Who proves a key leaves the lobby. When it is full the one that waits longest is hung up on, so that strangers who fill
it keep nobody out who proves a key within the time that they need to fill it anew.
"""

import ipaddress
from collections.abc import Callable

LOBBY_MAX = 16
ADDRESS_MAX = 8
"""Of one IPv4 address, or of one network /64, which is what one subscriber has of IPv6; until they are over."""
_SUBSCRIBER_BITS = 64


class Lobby:
    """Numbers are given by `enter`, in order."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[str, Callable[[], None]]] = {}
        self._ending: dict[int, str] = {}
        """Hung up on, and not over yet: of whom."""
        self._numbers = 0

    def enter(self, address: str, hang_up: Callable[[], None]) -> int | None:
        """None: that address has enough who wait. `hang_up` ends the connection, to make room for another one."""
        subscriber = _subscriber(address)
        of_all = [*(one for one, _ in self._waiting.values()), *self._ending.values()]
        if of_all.count(subscriber) >= ADDRESS_MAX:
            return None
        if len(self._waiting) >= LOBBY_MAX:
            oldest = next(iter(self._waiting))
            self._ending[oldest], end = self._waiting.pop(oldest)
            end()
        self._numbers += 1
        self._waiting[self._numbers] = (subscriber, hang_up)
        return self._numbers

    def leave(self, number: int) -> None:
        """It has proven a key, or is over; once or more often."""
        self._waiting.pop(number, None)
        self._ending.pop(number, None)


def _subscriber(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    mapped = found.ipv4_mapped
    return str(mapped or ipaddress.ip_network((int(found), _SUBSCRIBER_BITS), strict=False))
