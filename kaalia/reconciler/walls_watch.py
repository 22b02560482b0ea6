"""Watches that the walls around tenants' networks stand and that their ports lead to them, and tells when they did not.

The conditions of source `walls`. Once a minute, and when something may have happened to the firewall. Touches no
container: a tenant whose walls cannot be raised, or whose ports cannot be published, runs on; new ones do not start.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kaalia.clock import Clock
from kaalia.errors import HostError, Problem
from kaalia.model.health import Condition, Severity
from kaalia.pulse import PULSE
from kaalia.runtime.networking import NetworkPorts, NetworkWalls, SecondFamily
from kaalia.service import run_forever
from kaalia.store import conditions
from kaalia.store.database import Database

log = logging.getLogger(__name__)

SOURCE = "walls"
LOOK_S = 60.0
SETTLE_S = 0.5
"""After an alarm: who changes a firewall changes it in bursts."""
PAUSE_S = 3.0
"""Between looks at least: each costs 15 ms, and some programs never stop changing rules."""
TOLD = timedelta(hours=1)
"""How long a repair is told, so that its cause is looked for."""
MANY = 10
"""Repairs within `TOLD`: so often changes who wants other rules, and does not stop."""
TRUCE_S = 20.0
"""Between looks then: a look every `PAUSE_S` would cost half a percent of a core for ever."""


@dataclass(frozen=True, slots=True)
class _Watched:
    """One of both, and the beginnings of what is told when it does not stand, and when it did not."""

    hands: NetworkPorts
    missing: Problem
    repaired: Problem


_LEAVE_ALONE = "see which program flushes or reloads the firewall, and let it leave the KAALIA chains alone"
_WALLS_MISSING = Problem(
    "walls_missing",
    "cannot hold the walls around tenants' networks",
    remedy="see `iptables-save` of the machine; until then no tenant is started",
)
_WALLS_REPAIRED = Problem(
    "walls_repaired",
    "cannot rely on the firewall of this machine: somebody changed kaalia's rules",
    remedy=_LEAVE_ALONE,
)
_PORTS_MISSING = Problem(
    "ports_missing",
    "cannot hold the ports of contracts",
    remedy="see `iptables-save -t nat` of the machine; until then no tenant with ports is started",
)
_PORTS_REPAIRED = Problem(
    "ports_repaired",
    "cannot keep contracts reachable all the time: somebody changed the rules of their ports",
    remedy=_LEAVE_ALONE,
)


class WallsWatch:
    """`look_s`: between two looks when nothing is heard."""

    name = "walls"

    def __init__(
        self,
        database: Database,
        walls: NetworkWalls,
        ports: NetworkPorts,
        clock: Clock,
        look_s: float = LOOK_S,
        ipv6: SecondFamily | None = None,
    ) -> None:
        self._database = database
        self._ipv6 = ipv6
        self._walls = walls
        # Walls first: a bridge that takes packets for 127.0.0.1 has them already.
        self._watched = (
            _Watched(walls, _WALLS_MISSING, _WALLS_REPAIRED),
            _Watched(ports, _PORTS_MISSING, _PORTS_REPAIRED),
        )
        self._clock = clock
        self._look_s = look_s
        self._told: list[Condition] | None = None
        self._repaired: dict[_Watched, tuple[datetime, Condition]] = {}
        self._repairs: deque[datetime] = deque(maxlen=MANY)
        self._contested: Condition | None = None

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        with PULSE.turn(self.name):
            await self.look()
        looked_s = self._clock.monotonic_s()
        await self._walls.alarmed(self._look_s)
        await asyncio.sleep(max(SETTLE_S, looked_s + self.pause_s - self._clock.monotonic_s()))

    @property
    def pause_s(self) -> float:
        """Between looks at least."""
        return PAUSE_S if self._contested is None else TRUCE_S

    async def look(self) -> None:
        """One look, and what came of it."""
        found: list[Condition] = []
        now, is_repair = self._clock.now(), False
        for one in self._watched:
            try:
                mended = await one.hands.mend()
            except HostError as error:
                found.append(_missing(one.missing, error.problem))
            else:
                if mended.chains:
                    self._repaired[one] = (now, _repaired(one.repaired, mended.chains, now))
                    is_repair = True
        repaired = [told for at, told in self._repaired.values() if now - at < TOLD]
        if is_repair:
            self._repairs.append(now)
        if not (len(self._repairs) == MANY and now - self._repairs[0] < TOLD):
            self._contested = None
        elif self._contested is None:
            self._contested = _contested(", ".join(one.problem.evidence for one in repaired))
        found += [self._contested] if self._contested is not None else repaired
        if self._ipv6 is not None and (why := await self._ipv6.problem()) is not None:
            found.append(
                Condition(why, Severity.WARN, "new contracts' networks can have IPv6, or the owner wants none")
            )
        if found != self._told:
            await self._tell(found, now)

    async def _tell(self, found: list[Condition], now: datetime) -> None:
        await self._database.transaction(lambda tx: conditions.replace(tx, SOURCE, found, now))
        for condition in found:
            if condition not in (self._told or []):
                log.error("walls: %s (%s)", condition.problem.message, condition.problem.evidence)
        self._told = found


def _missing(kind: Problem, why: Problem) -> Condition:
    message, remedy = f"{kind.message}: {why.message}", why.remedy or kind.remedy
    problem = Problem(kind.code, message, remedy, why.evidence)
    return Condition(problem, Severity.CRITICAL, "the firewall takes kaalia's rules", blocks=True)


def _repaired(kind: Problem, chains: Iterable[str], now: datetime) -> Condition:
    problem = replace(kind, message=f"{kind.message}, as seen at {now:%F %T} UTC", evidence=", ".join(chains))
    return Condition(problem, Severity.WARN, "an hour passes without another change")


def _contested(chains: str) -> Condition:
    problem = Problem(
        "walls_contested",
        f"cannot agree on the firewall with another program: it changed kaalia's rules {MANY} times within an hour",
        remedy="find the program that manages the firewall, and let it leave the KAALIA chains and the first place of "
        f"mangle PREROUTING alone; until then its changes are repaired every {TRUCE_S:.0f} s",
        evidence=chains,
    )
    return Condition(problem, Severity.WARN, "an hour passes with fewer changes")
