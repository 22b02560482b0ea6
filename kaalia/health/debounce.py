"""Told only when it lasts, over only when it is really gone: pure but for what it remembers."""

from collections.abc import Collection, Iterable, Mapping

from kaalia.model.health import Condition

Key = tuple[str, str]
"""Code and scope."""


def key(condition: Condition) -> Key:
    return condition.problem.code, condition.scope


class Debounce:
    """`known`: what was told before the daemon began anew: it needs no second proof."""

    def __init__(self, known: Iterable[Condition] = ()) -> None:
        self._told: dict[Key, Condition] = {key(one): one for one in known}
        self._seen: dict[Key, int] = {}
        self._missed: dict[Key, int] = {}

    def look(
        self, found: Iterable[Condition], turns: Mapping[str, int], unseen: Collection[str] = ()
    ) -> list[Condition]:
        """What to tell after one look.

        `turns`: by code, how many looks in a row must find it, or miss it. `unseen`: codes that were not looked for.
        """
        now = {key(one): one for one in found if one.problem.code not in unseen}
        self._seen = self._counted(self._seen, now.keys(), unseen)
        self._missed = self._counted(self._missed, self._told.keys() - now.keys(), unseen)
        for name, one in now.items():
            if name in self._told or self._seen[name] >= turns.get(name[0], 1):
                self._told[name] = one
        for name in [name for name, missed in self._missed.items() if missed >= turns.get(name[0], 1)]:
            self._told.pop(name, None)
        return list(self._told.values())

    @staticmethod
    def _counted(counts: Mapping[Key, int], names: Collection[Key], unseen: Collection[str]) -> dict[Key, int]:
        """One more for each of `names`; of what was not looked for they stay, of the rest they begin anew."""
        kept = {name: count for name, count in counts.items() if name[0] in unseen}
        return kept | {name: counts.get(name, 0) + 1 for name in names if name[0] not in unseen}
