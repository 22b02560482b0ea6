"""What the kernel's log told of faults: the same fault of the same part is one row, counted."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class KernelFault:
    """`code`: which fault; `subject`: the part, such as the PCI address 0000:65:00, a disk, or "" for the machine.

    `last_number`: of the newest record, which says what came after what; `text`: that record.
    """

    code: str
    subject: str
    first_at: datetime
    last_at: datetime
    last_number: int
    count: int
    text: str


@dataclass(frozen=True, slots=True)
class KernelPosition:
    """The last record that was read, and of which boot: numbers begin anew with each."""

    boot_id: str
    number: int
