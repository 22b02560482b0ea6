"""A clock that stands still until a test moves it."""

from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


class FakeClock:
    """All clocks of a machine. They move together by `advance`; a jump, a suspend or a reboot moves some of them."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self._monotonic_s = 1000.0
        self._boottime_s = 1000.0
        self._boots = 1
        self.synchronised = False

    def now(self) -> datetime:
        return self._now

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def boottime_s(self) -> float:
        return self._boottime_s

    def boot_id(self) -> str:
        return f"boot-{self._boots}"

    def is_synchronised(self) -> bool:
        return self.synchronised

    def synchronisation(self) -> bool | None:
        return self.synchronised

    def advance(self, seconds: float) -> None:
        self._monotonic_s += seconds
        self.suspend(seconds)

    def suspend(self, seconds: float) -> None:
        """The machine sleeps: its timers stand still."""
        self._now += timedelta(seconds=seconds)
        self._boottime_s += seconds

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock; the kernel no longer calls it synchronised."""
        self._now += timedelta(seconds=seconds)
        self.synchronised = False

    def reboot(self, off_s: float, wall_error_s: float = 0.0) -> None:
        """Off for a while, and a hardware clock that is wrong by so much more."""
        self._now += timedelta(seconds=off_s + wall_error_s)
        self._boottime_s = self._monotonic_s = 5.0
        self._boots += 1
        self.synchronised = False
