"""How long to wait for one who usually answers at once, and now and then needs his time. Pure."""

LEAST_S = 4.0
"""With a look each 5 s, what hangs is told within 10."""
TIMES = 3.0
"""So often the time of the slowest answer."""


class Patience:
    """Of one kind of question. While no answer is known: the most, since a driver without persistence mode wakes each
    GPU first. Afterwards a few times what it takes, and after each wait in vain twice as long, up to the most."""

    def __init__(self, most_s: float) -> None:
        self.most_s = most_s
        self.now_s = most_s

    def answered(self, took_s: float) -> None:
        self.now_s = min(self.most_s, max(LEAST_S, TIMES * took_s))

    def in_vain(self) -> None:
        self.now_s = min(self.most_s, 2 * self.now_s)
