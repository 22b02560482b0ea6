"""Own chains of one table with the one jump that leads to them: written wholly, added to, compared with the kernel's.

A jump is looked for by its place: what must decide first is worth nothing behind somebody's ACCEPT.
"""

from collections.abc import Mapping, Sequence

from kaalia.errors import HostError
from kaalia.host import netfilter
from kaalia.host.netfilter import Change, Family, Rule, Saved

Chains = Mapping[str, Sequence[Rule]]


class Layer:
    """`hook`: the kernel's chain that jumps to `entrance`, with its first rule or with any."""

    def __init__(self, family: Family, table: str, hook: str, entrance: str, *, is_first: bool) -> None:
        self.family = family
        self._table = table
        self._hook = hook
        self._entrance = entrance
        self._is_first = is_first
        self._written: dict[str, tuple[Rule, ...]] = {}
        self._seen: dict[str, tuple[str, ...]] | None = None
        """What was written, as the kernel gives it back; None: nothing was written yet."""

    async def read(self) -> Saved:
        """The table as it is now. Raises HostError."""
        return await netfilter.saved(self.family, self._table)

    def holds(self, now: Saved) -> bool:
        """It stands as it was written."""
        return self._seen is not None and not self.differences(now)

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

    def knows(self, bridge: str) -> bool:
        return any(bridge in rule for rule in self._written.get(self._entrance, ()))

    async def add(self, entry: Sequence[Rule]) -> None:
        """Rules at the end of the entrance, of the form that iptables-save prints. Raises HostError."""
        commands = [("-A", self._entrance, *rule) for rule in entry]
        await netfilter.apply(self.family, [Change(self._table, commands=commands)])
        seen = self._seen or {}
        self._seen = {**seen, self._entrance: (*seen.get(self._entrance, ()), *(" ".join(rule) for rule in entry))}
        self._written[self._entrance] = (*self._written.get(self._entrance, ()), *entry)

    async def write(self, chains: Chains, now: Saved) -> None:
        """What is not so already, in one stroke, and read back. `now`: as it is. Raises HostError."""
        changed = {chain: rules for chain, rules in chains.items() if not self._stands(chain, rules, now)}
        jump = (self._hook, "-j", self._entrance)
        old = [("-D", *jump)] * sum(rule.text == f"-j {self._entrance}" for rule in now.get(self._hook, ()))
        new = ("-I", self._hook, "1", "-j", self._entrance) if self._is_first else ("-A", *jump)
        await netfilter.apply(self.family, [Change(self._table, changed, [*old, new])])
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

    def _is_joined(self, now: Saved) -> bool:
        jump, rules = f"-j {self._entrance}", _texts(now, self._hook) or ()
        return rules.count(jump) == 1 and (not self._is_first or _is_first(rules, jump))


def _is_first(rules: Sequence[str], jump: str) -> bool:
    """Of two daemons of one machine each wants its walls first; none judges the other's networks."""
    peers = jump[: jump.rindex("-") + 1]
    return all(one.startswith(peers) for one in rules[: rules.index(jump)])


def _texts(now: Saved, chain: str) -> tuple[str, ...] | None:
    return tuple(rule.text for rule in now[chain]) if chain in now else None


def _sorted(chains: Chains) -> dict[str, list[Rule]]:
    return {chain: sorted(rules) for chain, rules in chains.items()}
