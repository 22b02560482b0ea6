"""How long to wait for one who usually answers at once, and now and then needs his time. Pure."""

LEAST_S = 4.0
"""With a look each 5 s, what hangs is told within 10."""
TIMES = 3.0
"""So often the time of the last answer."""


class Patience:
    """Of one kind of question. While no answer is known: the most, since a driver without persistence mode wakes each
    GPU first. Afterwards a few times what it takes, and after each wait in vain twice as long, up to the most."""

    def __init__(self, most_s: float) -> None:
        self.most_s = most_s
        self.usual_s = most_s
        self._in_vain = 0

    @property
    def now_s(self) -> float:
        return min(self.most_s, self.usual_s * (1 << self._in_vain))

    def answered(self, took_s: float) -> None:
        self.usual_s = max(LEAST_S, TIMES * took_s)
        self._in_vain = 0

    def in_vain(self) -> None:
        self._in_vain = min(self._in_vain + 1, 10)

    def forget(self) -> None:
        """What was in vain was so for a reason that is over."""
        self._in_vain = 0
