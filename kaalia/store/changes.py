"""The bell: rung after a commit, it wakes whoever waits for a topic. Rows carry the news, the bell only saves time."""

import asyncio
from enum import StrEnum


class Topic(StrEnum):
    CONTRACTS = "contracts"
    WORKLOADS = "workloads"
    MACHINE = "machine"
    OUTBOX = "outbox"
    TASKS = "tasks"
    ENROLMENT = "enrolment"
    DISK = "disk"
    ENGINE = "engine"
    """The container engine went away, or came back."""
    PORTS = "ports"
    """A probe of the ports was ordered, or the address may have changed."""
    SPEED = "speed"
    """A speed test was ordered, or its result is new."""
    MEASUREMENTS = "measurements"
    """A measurement was ordered, or its result is new."""
    CANARY = "canary"
    """A run of the machine's own test was ordered."""
    SELFTEST = "selftest"
    """A test of the whole machine was ordered, or its end is asked for."""
    ADDRESS = "address"
    """An address of this machine may have changed, its own or the one that the marketplace sees."""
    GPUS = "gpus"
    """The driver was asked how the GPUs are."""
    DRIVER = "driver"
    """The driver answers otherwise than a moment ago: the GPUs are to be read."""
    REPORT = "report"
    """The owner wants the machine read and reported now."""
    TIME = "time"
    """The time of contracts moved otherwise than by passing."""
    CONDITIONS = "conditions"
    """Something is wrong that was not, or is no more, or is worse or better than it was: rung by the store itself."""


class Changes:
    """One event per subscriber and topic. Rings between two waits are not lost, many rings are one."""

    def __init__(self) -> None:
        self._bells: dict[Topic, list[asyncio.Event]] = {topic: [] for topic in Topic}

    def ring(self, topic: Topic) -> None:
        for bell in self._bells[topic]:
            bell.set()

    def ring_later(self, topic: Topic, delay_s: float) -> None:
        """For news that better news will soon overtake: they then travel together."""
        asyncio.get_running_loop().call_later(delay_s, self.ring, topic)

    def subscribe(self, *topics: Topic) -> asyncio.Event:
        """An event that is set by each ring of the topics; the subscriber clears it."""
        bell = asyncio.Event()
        for topic in topics:
            self._bells[topic].append(bell)
        return bell

    def unsubscribe(self, bell: asyncio.Event) -> None:
        """Of one who waited for one thing."""
        for bells in self._bells.values():
            if bell in bells:
                bells.remove(bell)


async def wait(bell: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait for the bell, at most `timeout_s`; clears it. False: it was the time-out."""
    try:
        # Not `wait_for`: in Python 3.11 that one loses a cancellation that comes together with a ring.
        async with asyncio.timeout(timeout_s):
            await bell.wait()
    except TimeoutError:
        return False
    bell.clear()
    return True
