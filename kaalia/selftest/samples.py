"""The samples of a run, within a bound however long it burns: when there are too many, fewer of each GPU are kept."""

from collections.abc import Iterator

from kaalia.model.selftest import Sample

MOST = 20_000
FIRST_GAP_S = 1.0
_NEVER = float("-inf")


class Samples:
    """In the order in which they came. Those with throughput and those without come from two sources."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._gap_s = 0.0
        self._kept: list[Sample] = []
        self._last_s: dict[tuple[str, bool], float] = {}

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def append(self, one: Sample) -> None:
        key = (one.gpu_uuid, one.throughput is None)
        last_s = self._last_s.get(key, _NEVER)
        if last_s <= one.at_s < last_s + self._gap_s:  # a time before the last one is of another step
            return
        self._last_s[key] = one.at_s
        self._kept.append(one)
        if len(self._kept) > self._most:
            self._thin_out()

    def _thin_out(self) -> None:
        self._gap_s = max(FIRST_GAP_S, 2 * self._gap_s)
        before, self._kept, self._last_s = self._kept, [], {}
        for one in before:
            self.append(one)
