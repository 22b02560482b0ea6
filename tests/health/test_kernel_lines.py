"""Which lines tell a fault. The examples are lines as drivers and kernels print them."""

import pytest

from kaalia.health.kernel_lines import UNLISTED, catalogue
from tests.support.kmsg import FALLEN

BOOK = catalogue()

LINES = [
    (FALLEN, "gpu_xid_79", "0000:65:00"),
    ("NVRM: Xid (PCI:0000:CB:00): 13, pid='<unknown>', name=<unknown>, Graphics SM Warp", "gpu_xid_13", "0000:cb:00"),
    ("NVRM: Xid (PCI:00000000:01:00.0): 119, pid=1, Timeout after 6s of waiting for RPC", "gpu_xid_119", "0000:01:00"),
    ("NVRM: GPU at PCI:0000:65:00: GPU-6a1b", None, None),
    ("NVRM: GPU 0000:65:00.0: GPU has fallen off the bus.", "gpu_fallen_off_bus", "0000:65:00"),
    ("NVRM: The NVIDIA GPU 0000:65:00.0", None, None),
    ("NVRM: API mismatch: the client has the version 570.1, but", "nvidia_version_mismatch", ""),
    (
        "NVRM: Xid (PCI:0000:18:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
        "gpu_recovery_reset",
        "0000:18:00",
    ),
    (
        "NVRM: Xid (PCI:0000:18:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)",
        "gpu_recovery_recovered",
        "0000:18:00",
    ),
    ("NVRM: Xid (PCI:0000:18:00): 154, something else", "gpu_xid_154", "0000:18:00"),
    ("nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 24007, Fatal, Link 44 sourcetrack", "nvswitch_fatal", "0000:c1:00"),
    ("nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 32", "nvswitch_error", "0000:c1:00"),
    ("pcieport 0000:00:01.1: AER: Uncorrectable (Fatal) error message received", "pcie_uncorrected", "0000:00:01"),
    ("pcieport 0000:00:01.1: AER: Corrected error message received from 0000:01:00.0", None, None),
    ("EDAC MC0: 1 UE memory read error on CPU_SrcID#0", "memory_uncorrected", "MC0"),
    ("EDAC MC0: 1 CE memory read error on CPU_SrcID#0", None, None),
    ("mce: [Hardware Error]: Machine check events logged", "machine_check", ""),
    ("Out of memory: Killed process 4242 (python) total-vm:1kB", "out_of_memory", ""),
    ("Memory cgroup out of memory: Killed process 4242 (python) total-vm:1kB", None, None),
    ("EXT4-fs (nvme0n1p2): Remounting filesystem read-only", "filesystem_read_only", "nvme0n1p2"),
    ("EXT4-fs error (device sda1): ext4_find_entry:1455: inode #2", "filesystem_damaged", "sda1"),
    ("XFS (dm-1): Metadata CRC error detected at xfs_agi_read_verify", "filesystem_damaged", "dm-1"),
    ("XFS (dm-1): Mounting V5 Filesystem", None, None),
    ("BTRFS error (device loop7): bdev /dev/loop7 errs: corrupt 1", "filesystem_damaged", "loop7"),
    ("BTRFS error (device sda2): bdev /dev/sda2 errs: wr 5, rd 0, flush 0, corrupt 0, gen 0", None, None),
    ("BTRFS error (device sda2): checksum verify failed on 30408704 wanted 1 found 2", "filesystem_damaged", "sda2"),
    ("I/O error, dev nvme1n1, sector 12 op 0x0:(READ)", "disk_errors", "nvme1n1"),
    ("blk_update_request: I/O error, dev sdb, sector 2048", "disk_errors", "sdb"),
    ("critical medium error, dev sdc, sector 9 op 0x0:(READ)", "disk_errors", "sdc"),
    ("blk_update_request: I/O error, dev sr0, sector 0 op 0x0:(READ)", None, None),
    ("I/O error, dev fd0, sector 0 op 0x0:(READ)", None, None),
    ("I/O error, dev loop7, sector 8 op 0x1:(WRITE)", None, None),
    ("critical medium error, dev sr1, sector 9 op 0x0:(READ)", None, None),
    ("INFO: task nvidia-smi:977 blocked for more than 120 seconds.", "task_hung", ""),
    ("mce: CPU3: Package temperature above threshold, cpu clock throttled", "cpu_hot", ""),
    # What a tenant can bring about: his program's name, and what it says, stand later in the line.
    (f"{FALLEN[:15]}[4242]: segfault at 0 ip 0 sp 0 error 4", None, None),
    (f"python[1]: {FALLEN}", None, None),
    (f"Out of memory: Killed process 1 (x) {FALLEN}", "out_of_memory", ""),
    (f"x\\x0a{FALLEN}", None, None),
    ("NVRM: Xid (PCI:0000:65:00): 99999999999, pid=1", None, None),
    ("", None, None),
]


@pytest.mark.parametrize(("text", "code", "subject"), LINES)
def test_a_line_tells_one_fault_or_none(text: str, code: str | None, subject: str | None) -> None:
    told = BOOK.told(text)

    assert (told.code, told.subject) == (code, subject) if told else code is None


def test_each_entry_of_the_catalogue_is_used_and_whole() -> None:
    seen = {told.code for text, _, _ in LINES if (told := BOOK.told(text)) is not None}

    assert {line.id for line in BOOK.lines} <= seen, "an example of each stands above"
    assert {action for action, _ in BOOK.xids.values()} <= BOOK.actions.keys()
    assert set(BOOK.steps.values()) <= {*BOOK.actions, "recovered"}
    assert {name for action in BOOK.actions.values() for name in action.hides} <= BOOK.actions.keys()
    assert UNLISTED in BOOK.actions
    assert all(line.says and line.source and line.action.remedy and line.action.severity for line in BOOK.lines)
    assert len(BOOK.xids) > 90
