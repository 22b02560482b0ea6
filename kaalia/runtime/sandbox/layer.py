"""Own chains of one table with the one jump that leads to them: written wholly, added to, compared with the kernel's.

A jump is looked for by its place: what must decide first is worth nothing behind somebody's ACCEPT.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from kaalia.errors import HostError
from kaalia.host import netfilter
from kaalia.host.netfilter import Change, Family, Rule, Saved

Chains = Mapping[str, Sequence[Rule]]
OWNERS = "-j DOCKER-USER"


class Place(StrEnum):
    """Where in the kernel's chain the jump stands.

    EARLY: behind the jump to `DOCKER-USER`, in which the owner says who reaches published ports; first where there is
    none. Docker puts chains of its own there whenever it makes a network, so this place is mended and not told.
    """

    FIRST = "first"
    EARLY = "early"
    ANY = "any"


class Layer:
    """`hook`: the kernel's chain that jumps to `entrance`."""

    def __init__(self, family: Family, table: str, hook: str, entrance: str, place: Place) -> None:
        self.family = family
        self._table = table
        self._hook = hook
        self._entrance = entrance
        self._place = place
        self._written: dict[str, tuple[Rule, ...]] = {}
        self._seen: dict[str, tuple[str, ...]] | None = None
        """What was written, as the kernel gives it back; None: nothing was written yet."""

    async def read(self) -> Saved:
        """The table as it is now. Raises HostError."""
        return await netfilter.saved(self.family, self._table)

    async def hold(self, wanted: Chains, now: Saved | None = None) -> tuple[str, ...]:
        """Write it anew unless it stands as wanted; the chains that somebody else had changed. Raises HostError."""
        now = now if now is not None else await self.read()
        broken = self.differences(now)
        if not (self.stands(wanted, now) and self._is_placed(now)):
            await self.write(wanted, now)
        return broken

    def stands(self, wanted: Chains, now: Saved) -> bool:
        """Its rules are as wanted and are come to, if perhaps from a later place than they should."""
        return self._seen is not None and not self.differences(now) and self.is_written(wanted)

    def holds(self, now: Saved) -> bool:
        """It stands as it was written."""
        return self._seen is not None and not self.differences(now) and self._is_placed(now)

    def differences(self, now: Saved) -> tuple[str, ...]:
        """The chains that are not as they were written; none before anything was."""
        if self._seen is None:
            return ()
        changed = [chain for chain, texts in self._seen.items() if _texts(now, chain) != texts]
        return tuple(changed if self._is_joined(now) else [*changed, self._hook])

    def is_written(self, chains: Chains) -> bool:
        """These rules were written last; contracts may stand in another order."""
        return self._seen is not None and _sorted(self._written) == _sorted(chains)

    def has(self, entry: Sequence[Rule]) -> bool:
        return set(entry) <= set(self._written.get(self._entrance, ()))

    def leads_to(self, entry: Sequence[Rule]) -> bool:
        """The own chains that these rules go on to were written."""
        return all(rule[-1] in self._written for rule in entry if rule[-2] == "-g")

    def having(self, word: str) -> tuple[Rule, ...]:
        """The rules with this word, such as a bridge or a contract's mark."""
        return tuple(rule for rule in self._written.get(self._entrance, ()) if word in rule)

    async def add(self, entry: Sequence[Rule]) -> None:
        """Rules at the end of the entrance, of the form that iptables-save prints. Raises HostError."""
        commands = [("-A", self._entrance, *rule) for rule in entry]
        await netfilter.apply(self.family, [Change(self._table, commands=commands)])
        seen = self._seen or {}
        self._seen = {**seen, self._entrance: (*seen.get(self._entrance, ()), *(" ".join(rule) for rule in entry))}
        self._written[self._entrance] = (*self._written.get(self._entrance, ()), *entry)

    async def take(self, entry: Sequence[Rule]) -> None:
        """Take rules that were added or written, all in one stroke. Raises HostError, with none of them taken."""
        commands = [("-D", self._entrance, *rule) for rule in entry]
        await netfilter.apply(self.family, [Change(self._table, commands=commands)])
        rules, seen = self._written.get(self._entrance, ()), dict(self._seen or {})
        kept = [at for at, rule in enumerate(rules) if rule not in set(entry)]
        texts = seen.get(self._entrance, ())
        self._written[self._entrance] = tuple(rules[at] for at in kept)
        self._seen = {**seen, self._entrance: tuple(texts[at] for at in kept)}

    async def write(self, chains: Chains, now: Saved) -> None:
        """What is not so already, in one stroke, and read back. `now`: as it is. Raises HostError."""
        changed = {chain: rules for chain, rules in chains.items() if not self._stands(chain, rules, now)}
        jump = (self._hook, "-j", self._entrance)
        old = [("-D", *jump)] * sum(rule.text == f"-j {self._entrance}" for rule in now.get(self._hook, ()))
        await netfilter.apply(self.family, [Change(self._table, changed, [*old, self._joining(now)])])
        after = await self.read()
        short = [chain for chain, rules in chains.items() if len(_texts(after, chain) or ()) != len(rules)]
        if short or not self._is_joined(after):
            raise HostError(
                "firewall_refused",
                f"cannot keep chain {(short or [self._hook])[0]} of table {self._table}: it was changed at once",
                remedy="see which program manages the firewall of this machine, and let it leave KAALIA chains alone",
                evidence="\n".join(_texts(after, (short or [self._hook])[0]) or ()),
            )
        self._written = {chain: tuple(rules) for chain, rules in chains.items()}
        self._seen = {chain: _texts(after, chain) or () for chain in chains}

    def _stands(self, chain: str, rules: Sequence[Rule], now: Saved) -> bool:
        """This one was written so and still is. A rule that is written anew forgets what it has counted."""
        seen = (self._seen or {}).get(chain)
        return seen is not None and _texts(now, chain) == seen and sorted(self._written[chain]) == sorted(rules)

    def _joining(self, now: Saved) -> Rule:
        jump = ("-j", self._entrance)
        if self._place is Place.ANY:
            return ("-A", self._hook, *jump)
        others = [text for text in _texts(now, self._hook) or () if text != " ".join(jump)]
        return ("-I", self._hook, str(_early(others) + 1 if self._place is Place.EARLY else 1), *jump)

    def _is_joined(self, now: Saved) -> bool:
        jump, rules = f"-j {self._entrance}", _texts(now, self._hook) or ()
        return rules.count(jump) == 1 and (self._place is not Place.FIRST or _is_first(rules, jump))

    def _is_placed(self, now: Saved) -> bool:
        rules = _texts(now, self._hook) or ()
        at, early = rules.index(f"-j {self._entrance}"), _early(rules)
        between = rules[early:at]
        return self._place is not Place.EARLY or (at >= early and all(one.startswith("-j KAALIA-") for one in between))


def _is_first(rules: Sequence[str], jump: str) -> bool:
    """Of two daemons of one machine each wants its walls first; none judges the other's networks."""
    peers = jump[: jump.rindex("-") + 1]
    return all(one.startswith(peers) for one in rules[: rules.index(jump)])


def _early(rules: Sequence[str]) -> int:
    """How many rules come before what is early."""
    return rules.index(OWNERS) + 1 if OWNERS in rules else 0


def _texts(now: Saved, chain: str) -> tuple[str, ...] | None:
    return tuple(rule.text for rule in now[chain]) if chain in now else None


def _sorted(chains: Chains) -> dict[str, list[Rule]]:
    return {chain: sorted(rules) for chain, rules in chains.items()}
