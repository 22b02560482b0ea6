"""Faults that the kernel tells: every Xid that asks for something, every other line, floods, torn and hostile lines."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kaalia.health.kernel_lines import UNLISTED, catalogue
from tests.proofs.fault import Fault, World
from tests.support.fake_nvidia.profiles import gpu_uuid
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.proofs.faults import Maker, Row

SOURCE = "kernel log"
PCI = "0000:01:00"
"""Of GPU 0 of the simulated machine, which the tenant has."""
RECOVERED = f"NVRM: Xid (PCI:{PCI}): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"
LINES_PER_S = 10_000
FLOOD_S = 10.0
LINES = {
    "gpu_fallen_off_bus": f"NVRM: GPU {PCI}.0: GPU has fallen off the bus.",
    "nvidia_version_mismatch": "NVRM: API mismatch: the client has the version 570.1, but this kernel module has 550.2",
    "nvswitch_fatal": "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 24007, Fatal, Link 44 sourcetrack timeout",
    "nvswitch_error": "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 32 egress",
    "pcie_uncorrected": f"nvidia {PCI}.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal)",
    "memory_uncorrected": "EDAC MC0: 1 UE memory read error on CPU_SrcID#0",
    "machine_check": "mce: [Hardware Error]: Machine check events logged",
    "out_of_memory": "Out of memory: Killed process 4242 (python) total-vm:1kB",
    "filesystem_read_only": "EXT4-fs (nvme0n1p2): Remounting filesystem read-only",
    "filesystem_damaged": "EXT4-fs error (device sda1): ext4_find_entry:1455: inode #2",
    "disk_errors": "I/O error, dev nvme1n1, sector 12 op 0x0:(READ)",
    "task_hung": "INFO: task nvidia-smi:977 blocked for more than 120 seconds.",
    "cpu_hot": "mce: CPU3: Package temperature above threshold, cpu clock throttled",
}
"""By the condition, a line as kernels print it."""


def xids() -> tuple[Fault, ...]:
    """All that ask something of the host, on the tenant's own GPU; the driver says that it recovered."""
    book = catalogue()
    asking = [number for number, (action, _) in sorted(book.xids.items()) if book.actions[action].severity]
    return tuple(_xid(number, book.xids.get(number, (UNLISTED, ""))[1]) for number in [*asking, 9999])


def passing() -> tuple[Fault, ...]:
    """Lines that are over after a time without another: the clocks go on by that time."""
    rules = {line.id: line.action for line in catalogue().lines}
    return tuple(
        Fault(SOURCE, text, code, partial(_say, text), partial(_pass, rules[code].quiet_h or 0))
        for code, text in LINES.items()
        if rules[code].quiet_h is not None
    )


def reboot(world: World, row: "Maker") -> "list[Row]":
    """Lines that only a reboot ends: all together, then the daemon finds another boot."""
    rules = {line.id: line.action for line in catalogue().lines}
    lasting = {code: text for code, text in LINES.items() if rules[code].quiet_h is None}
    rows = []
    for code, text in lasting.items():
        began = time.monotonic()
        _say(text, world)
        took = world.wait(f"{code} to be told", partial(world.tells, code, None), 10, began)
        world.report.worst("slowest_to_appear_s", took)
        rows.append((Fault(SOURCE, text, code, _nothing, _nothing), code, took))
    identity = world.tenant.look()
    world.stack.kill_daemon()
    world.clocks.reboot(off_s=0)
    began = time.monotonic()
    world.stack.start_daemon()
    wait_until("the daemon of another boot", world.answers, 30)
    for _, code, _ in rows:
        gone: Callable[[], bool] = lambda code=code: not world.tells(code, None)  # type: ignore[misc]  # noqa: E731
        world.wait(f"{code} to be over", gone, 30, began)
    took = time.monotonic() - began
    world.report.say(f"{SOURCE}: {len(rows)} faults are over {took:.1f} s after a restart in another boot")
    is_untouched = world.tenant.look() == identity
    world.report.check("the tenant keeps its process through it", is_untouched, identity)
    return [row(fault, code, appeared_s, took, is_untouched) for fault, code, appeared_s in rows]


def floods(world: World) -> None:
    """Ten seconds of ten thousand lines each, and a fault in the midst of them."""
    noise = "audit: type=1400 apparmor=ALLOWED operation=open profile=x pid=1 comm=y requested_mask=r denied_mask=r"
    began, sent, told_s = time.monotonic(), 0, None
    struck = False
    while (passed := time.monotonic() - began) < FLOOD_S:
        while sent < passed * LINES_PER_S:
            sent += _write(world, noise, 30)
        if passed > FLOOD_S / 2 and not struck:
            struck, struck_at = True, time.monotonic()
            world.kernel.say(f"NVRM: Xid (PCI:{PCI}): 48, pid=1, name=python, Double Bit ECC Error")
        if struck and told_s is None and world.tells("gpu_xid_48", None):
            told_s = time.monotonic() - struck_at
        time.sleep(0.005)
    if told_s is None:
        told_s = world.wait("the fault in the flood", partial(world.tells, "gpu_xid_48", None), 10, struck_at)
    world.report.worst("flood_lines_per_s", sent / (time.monotonic() - began))
    world.report.worst("fault_in_flood_s", told_s)
    world.report.check("a fault in a flood is told within 10 s", told_s <= 10, told_s)
    world.report.say(f"flood: {sent} lines in {FLOOD_S:g} s; a fault in it was told after {told_s:.2f} s")
    _recover(world)
    world.wait("it to be over", lambda: not world.tells("gpu_xid_48", None), 15, time.monotonic())
    world.tenant.check(world.report, "a flood of lines")


def hostile(world: World) -> None:
    """What is no record, or no word of the kernel's, tells nothing and breaks nothing; one in two pieces is one."""
    before = world.codes()
    fallen = f"NVRM: Xid (PCI:{PCI}): 79, pid=1, GPU has fallen off the bus."
    first = world.kernel.number + 1
    for piece in (
        b"\n",
        b"\0" * 4096 + b"\n",
        os.urandom(8192).replace(b"\n", b"x") + b"\n",
        b"3,not,a,-;number\n",
        b"3," + b"9" * 300 + b",1,-;" + fallen.encode() + b"\n",
        b"-3,-1,-1,-;" + fallen.encode() + b"\n",
        f"3,{first},1,-;".encode() + b"A" * 40_000 + b"\n",
        f"12,{first + 1},1,-;{fallen}\n".encode(),  # of a program, by its facility
        f"3,{first + 2},1,-;python[1]: {fallen}\n".encode(),
        f"3,{first + 3},1,-;x\\x0a{fallen}\n".encode(),
        f" {fallen}\n".encode(),  # a further line of the record above
        f"3,{first + 4},1,-;".encode() + b"\x1b]0;title\x07\x1b[2J" + bytes(range(128, 256)) + b"\n",
    ):
        _raw(world, piece)
        world.report.counts["hostile_lines"] += 1
    world.kernel.number = first + 5
    head, tail = f"3,{world.kernel.number},1,-;NVRM: Xid (PCI:{PCI}".encode(), b"): 62, pid=1, halted\n"
    _raw(world, head)
    time.sleep(1.0)
    world.report.check("hostile and torn lines tell nothing", world.codes() == before, world.codes() - before)
    began = time.monotonic()
    _raw(world, tail)
    took = world.wait("the torn record to be told whole", partial(world.tells, "gpu_xid_62", None), 10, began)
    world.report.worst("torn_record_s", took)
    _recover(world)
    world.wait("it to be over", lambda: not world.tells("gpu_xid_62", None), 15, time.monotonic())
    world.tenant.check(world.report, "hostile lines")


def _xid(number: int, says: str) -> Fault:
    text = f"NVRM: Xid (PCI:{PCI}): {number}, pid=1234, name=python, {says or 'something new'}"
    return Fault(SOURCE, f"Xid {number}", f"gpu_xid_{number}", partial(_say, text), _recover, gpu_uuid(0))


def _say(text: str, world: World) -> None:
    world.kernel.say(text, world.clocks.boottime_s())


def _recover(world: World) -> None:
    world.kernel.say(RECOVERED)


def _pass(hours: float, world: World) -> None:
    """The time passes; the next line of the kernel, whichever, makes the daemon look."""
    world.clocks.passes(hours * 3600 + 60)
    _say("usb 1-1: new high-speed USB device number 2 using xhci_hcd", world)


def _nothing(_world: World) -> None:
    pass


def _write(world: World, text: str, lines: int) -> int:
    """So many records at once, at most 4096 bytes, or none while the pipe is full."""
    kernel = world.kernel
    numbers = range(kernel.number + 1, kernel.number + 1 + lines)
    try:
        kernel.raw("".join(f"6,{number},1000000,-;{text}\n" for number in numbers).encode())
    except BlockingIOError:
        time.sleep(0.001)
        return 0
    kernel.number += lines
    return lines


def _raw(world: World, piece: bytes) -> None:
    """All of it: a pipe takes no more than it has room for."""
    for start in range(0, len(piece), 4096):
        wait_until("room in the pipe", partial(_tried, world, piece[start : start + 4096]), 10, 0.01)


def _tried(world: World, piece: bytes) -> bool:
    try:
        world.kernel.raw(piece)
    except BlockingIOError:
        return False
    return True
