"""Memory: its modules as the firmware lists them (SMBIOS types 16 and 17, DSP0134). Only root may read it. And swap.

Reads bytes that firmware wrote: a length that does not fit ends the reading, nothing is believed beyond it.
"""

from collections.abc import Iterator
from pathlib import Path

from kaalia.host.kernel import read_text, unreadable
from kaalia.model.inventory import MemoryModule, MemoryParts

ROOT = Path("/")
TABLE = "sys/firmware/dmi/tables/DMI"
TABLE_BYTES_MAX = 1 << 20

_ARRAY, _MODULE, _END = 16, 17, 127
_SYSTEM_MEMORY = 3
_CORRECTION = {3: "none", 4: "parity", 5: "single-bit", 6: "multi-bit", 7: "crc"}
_KINDS = {18: "DDR", 19: "DDR2", 24: "DDR3", 26: "DDR4", 27: "LPDDR", 28: "LPDDR2", 29: "LPDDR3", 30: "LPDDR4"}
_KINDS |= {32: "HBM", 33: "HBM2", 34: "DDR5", 35: "LPDDR5", 36: "HBM3"}
"""7.18.2 of DSP0134."""
_UNKNOWN = frozenset({"", "unknown", "not specified", "no dimm", "none", "undefined"})


def memory(root: Path = ROOT) -> MemoryParts:
    """Raises HostError `unreadable`: no table (virtual machines, ARM boards), or not the rights to read it."""
    path = root / TABLE
    try:
        with path.open("rb") as file:
            table = file.read(TABLE_BYTES_MAX)
    except PermissionError:
        raise unreadable("the memory modules", f"only root may read {path}") from None
    except OSError as error:
        raise unreadable("the memory modules", f"the firmware shows no table ({error.strerror})") from error
    slots, correction, modules = 0, None, []
    for kind, body, texts in _structures(table):
        if kind == _ARRAY and len(body) >= 0x0F and body[0x05] == _SYSTEM_MEMORY:
            slots += int.from_bytes(body[0x0D:0x0F], "little")
            correction = correction or _CORRECTION.get(body[0x06])
        elif kind == _MODULE and (module := _module(body, texts)):
            modules.append(module)
    if not modules:
        raise unreadable("the memory modules", "the firmware lists none")
    return MemoryParts(None, slots or None, correction, tuple(modules))


def swap_bytes(root: Path = ROOT) -> int:
    """Of all swap areas together. Raises HostError `unreadable`."""
    for line in read_text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "SwapTotal" and value.split()[:1] and value.split()[0].isdecimal():
            return int(value.split()[0]) * 1024
    raise unreadable("the swap space", "/proc/meminfo does not tell it")


def _module(body: bytes, texts: list[str]) -> MemoryModule | None:
    """None: an empty slot."""
    if len(body) < 0x15:
        return None
    size = _word(body, 0x0C)
    if size in (0, 0xFFFF):
        return None
    total = (size & 0x7FFF) << 10 if size & 0x8000 else size << 20
    if size == 0x7FFF:  # 32 GiB and more stand elsewhere, in MiB
        total = (int.from_bytes(body[0x1C:0x20], "little") & 0x7FFFFFFF) << 20
    return MemoryModule(
        slot=_text(body, 0x10, texts) or "unnamed",
        total_bytes=total,
        kind=_KINDS.get(body[0x12]),
        speed_mts=_speed(body, 0x20, 0x58) or _speed(body, 0x15, 0x54),
        maker=_text(body, 0x17, texts),
    )


def _speed(body: bytes, at: int, extended_at: int) -> int | None:
    """In MT/s; 65535: it stands in the longer field."""
    value = _word(body, at)
    if value == 0xFFFF and len(body) >= extended_at + 4:
        value = int.from_bytes(body[extended_at : extended_at + 4], "little") & 0x7FFFFFFF
    return value or None


def _word(body: bytes, at: int) -> int:
    return int.from_bytes(body[at : at + 2], "little") if len(body) >= at + 2 else 0


def _text(body: bytes, at: int, texts: list[str]) -> str | None:
    number = body[at] if len(body) > at else 0
    text = texts[number - 1].strip() if 0 < number <= len(texts) else ""
    return None if text.lower() in _UNKNOWN else text


def _structures(table: bytes) -> Iterator[tuple[int, bytes, list[str]]]:
    """Type, formatted part and texts of each; each ends with two zero bytes."""
    at = 0
    while at + 4 <= len(table):
        kind, length = table[at], table[at + 1]
        end = table.find(b"\0\0", at + length)
        if length < 4 or end < 0 or kind == _END:
            return
        texts = table[at + length : end].split(b"\0")
        yield kind, table[at : at + length], [text.decode(errors="replace") for text in texts]
        at = end + 2
