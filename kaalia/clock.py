"""The only caller of the system clocks. Everything else takes a `Clock`, or the time itself, as an argument."""

import ctypes
import time
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TIME_ERROR = 5
"""What adjtimex(2) answers while nothing disciplines the clock; setting the time by hand leads there too."""
_TIMEX_BYTES = 256
"""`struct timex` is 208 bytes; all zero asks for nothing but the state."""


class Clock(Protocol):
    """Wall time for deadlines that were agreed with others, monotonic time for durations."""

    def now(self) -> datetime:
        """Current wall time, aware, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start; never jumps."""
        ...


class MachineClock(Clock, Protocol):
    """All that a machine knows of time: what a lease is measured by."""

    def boottime_s(self) -> float:
        """Seconds since this boot, suspended time included; never jumps."""
        ...

    def boot_id(self) -> str:
        """Random, new with each boot."""
        ...

    def is_synchronised(self) -> bool:
        """The kernel says that the wall clock is kept right, as by NTP."""
        ...

    def synchronisation(self) -> bool | None:
        """The same; None: nobody can tell."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()

    def boottime_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        return self._boot_id

    def is_synchronised(self) -> bool:
        return self.synchronisation() is True

    def synchronisation(self) -> bool | None:
        """None: the kernel may not be asked, as under a filter of system calls."""
        state = int(self._libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
        return None if state < 0 else state < _TIME_ERROR

    @cached_property
    def _boot_id(self) -> str:
        return _BOOT_ID.read_text().strip()

    @cached_property
    def _libc(self) -> ctypes.CDLL:
        return ctypes.CDLL(None)


def from_epoch(epoch_s: float) -> datetime:
    """Epoch seconds to aware UTC datetime."""
    return datetime.fromtimestamp(epoch_s, UTC)
