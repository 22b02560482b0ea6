import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaalia.daemon.notify import NotifyService, Systemd
from kaalia.errors import StoreError


class Receiver:
    """Stands where systemd stands: a datagram socket that keeps what it is told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def received(self) -> list[str]:
        lines: list[str] = []
        while True:
            try:
                lines += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path / "notify")
    yield receiver
    receiver.close()


async def run_briefly(service: NotifyService, seconds: float = 0.2) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(service.run(), seconds)


def ready() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def fine() -> str:
    return "2 running"


async def test_it_says_ready_and_shows_a_status_from_the_store(receiver: Receiver) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": str(receiver.path), "WATCHDOG_USEC": "60000000"})

    await run_briefly(NotifyService(systemd, ready(), fine))

    assert receiver.received() == ["READY=1", "STATUS=2 running", "WATCHDOG=1"]


async def test_it_is_not_ready_before_the_daemon_listens(receiver: Receiver) -> None:
    await run_briefly(NotifyService(Systemd({"NOTIFY_SOCKET": str(receiver.path)}), asyncio.Event(), fine))

    assert receiver.received() == []


async def test_the_watchdog_is_fed_three_times_in_its_time(receiver: Receiver) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": str(receiver.path), "WATCHDOG_USEC": "300000"})

    await run_briefly(NotifyService(systemd, ready(), fine), 0.35)

    assert 3 <= receiver.received().count("WATCHDOG=1") <= 4


async def test_the_watchdog_starves_when_the_store_stops(receiver: Receiver) -> None:
    async def stopped() -> str:
        raise StoreError("state_unavailable", "cannot use the state database: locked")

    await run_briefly(NotifyService(Systemd({"NOTIFY_SOCKET": str(receiver.path)}), ready(), stopped))

    assert receiver.received() == ["READY=1"]


async def test_a_watchdog_of_another_process_is_not_ours(receiver: Receiver) -> None:
    assert Systemd({"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}).watchdog_s is None
    assert Systemd({"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": "60000000"}).watchdog_s == 60


async def test_without_systemd_nothing_is_sent_and_nothing_fails() -> None:
    systemd = Systemd({})

    systemd.send("READY=1")
    await run_briefly(NotifyService(systemd, ready(), fine), 0.05)

    assert not systemd.listens


async def test_a_socket_that_is_gone_is_no_failure(tmp_path: Path) -> None:
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "gone")}).send("READY=1")


async def test_an_abstract_socket_is_understood() -> None:
    name = "kaalia-test-notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind("\0" + name)
        door.settimeout(2)

        Systemd({"NOTIFY_SOCKET": "@" + name}).send("READY=1")

        assert door.recv(100) == b"READY=1"
