"""Conditions of GPUs, reading by reading: told when enough readings in a row show a fault, over when enough do not."""

from collections import deque
from collections.abc import Iterable, Mapping

from kaalia.health.gpu_facts import Earlier
from kaalia.health.gpu_findings import Findings, Key, Past, of_reading
from kaalia.health.gpu_rules import Book
from kaalia.model.gpu_health import GpuReading, KnownGpu
from kaalia.model.health import HOST, Condition
from kaalia.model.power import PowerMark


class Judge:
    """`standing`: what was told before, by an earlier process too; then `remember` the newest reading of that one."""

    def __init__(self, book: Book, standing: Iterable[Condition] = ()) -> None:
        self.book = book
        self._standing: dict[Key, Condition] = {
            (one.problem.code, one.scope): one for one in standing if one.problem.code in book.rules
        }
        self._streaks: dict[Key, int] = {}
        """Readings in a row that contradict what is told now."""
        self._earlier: dict[str, Earlier] = {}
        self._reasons: dict[str, deque[int]] = {}
        self._boot_id = ""
        self.is_unsure = False
        """The newest reading showed what another must show too, and that need not be a minute later."""
        self.has_changed = False
        """Something is told since the newest reading, or no more."""

    @property
    def standing(self) -> list[Condition]:
        """What is wrong by the readings so far."""
        return list(self._standing.values())

    def remember(self, reading: GpuReading) -> None:
        """Take it for the reading before the next."""
        self._boot_id = reading.boot_id
        for sample in reading.gpus:
            if sample.uuid is not None and not reading.uncounted:
                self._earlier[sample.uuid] = Earlier(reading.read_at, sample.facts)

    def judge(
        self, reading: GpuReading, known: Iterable[KnownGpu], set_here: Mapping[str, PowerMark] | None = None
    ) -> list[Condition]:
        """What is wrong after this reading. `known`: by `known_after`; `set_here`: by the owner's power policy."""
        present = tuple(known)
        if reading.boot_id != self._boot_id:
            self._begin_anew()
        if not reading.out_of_turn:
            self._note_reasons(reading)
        found = of_reading(reading, present, Past(self._earlier, self._reasons, set_here or {}), self.book)
        if reading.out_of_turn:
            found = {key: one for key, one in found.items() if not self.book.rules[key[0]].lasts}
        else:
            self.remember(reading)
        self._fold(found)
        self._forget(reading, {gpu.uuid for gpu in present})
        return self.standing

    def _begin_anew(self) -> None:
        """After a boot counters start at nothing, and what was seen under load is to be seen again."""
        self._earlier, self._reasons, self._streaks = {}, {}, {}
        self._standing = {key: one for key, one in self._standing.items() if not self.book.rules[key[0]].fact}

    def _note_reasons(self, reading: GpuReading) -> None:
        for sample in reading.gpus:
            reasons = sample.facts.get("clock_reasons")
            if sample.uuid is not None and reasons is not None:
                kept = self._reasons.setdefault(sample.uuid, deque(maxlen=self.book.window))
                kept.append(int(reasons))

    def _fold(self, found: Findings) -> None:
        self.is_unsure = self.has_changed = False
        for key, condition in found.items():
            rule = self.book.rules[key[0]]
            if (condition is not None) == (key in self._standing):
                self._streaks.pop(key, None)
                if condition is not None:
                    self._standing[key] = condition
                continue
            streak = self._streaks.get(key, 0) + 1
            self._streaks[key] = streak
            if condition is not None and streak >= rule.samples:
                self._standing[key] = condition
                del self._streaks[key]
                self.has_changed = not rule.lasts or self.has_changed
            elif condition is None and streak >= rule.clear_samples:
                del self._standing[key], self._streaks[key]
                self.has_changed = not rule.lasts or self.has_changed
            elif condition is not None and not rule.lasts:
                self.is_unsure = True

    def _forget(self, reading: GpuReading, uuids: set[str]) -> None:
        """What stands of a part that is known no more: a GPU that was taken out, a place on the bus that is empty."""
        places = {gpu.address.rpartition(".")[0] for gpu in reading.on_bus}
        nameless = {f"gpu {sample.index}" for sample in reading.gpus if sample.uuid is None}
        parts = uuids | places | nameless | {HOST}
        for kept in (self._standing, self._streaks):
            for key in [key for key in kept if key[1] not in parts]:
                del kept[key]
