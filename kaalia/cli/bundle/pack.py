"""The file itself: a new tar.gz of mode 0600, with a manifest of what is in it and what is not."""

import gzip
import io
import os
import tarfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from pydantic_core import to_json

from kaalia.cli.bundle.parts import PART_MAX_BYTES, Part
from kaalia.cli.bundle.scrub import Scrubber
from kaalia.errors import ConfigError

MANIFEST = "MANIFEST.json"


def cleaned(parts: Iterable[Part], scrubber: Scrubber) -> list[Part]:
    """Without secrets, and of bearable size: of what is too long the end is kept."""
    return [
        Part(
            part.name,
            part.about,
            None if part.text is None else _end(scrubber.clean(part.text)),
            scrubber.clean(part.why),
        )
        for part in parts
    ]


def write(path: Path, folder: str, parts: list[Part], now: datetime) -> int:
    """Its size in bytes. Raises ConfigError `bundle_not_written`; then nothing is left of it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _not_written(path, error) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            with gzip.GzipFile(fileobj=file, mode="wb") as packed, tarfile.open(fileobj=packed, mode="w") as archive:
                for name, text in _files(parts):
                    content = text.encode(errors="replace")
                    entry = tarfile.TarInfo(f"{folder}/{name}")
                    entry.size, entry.mode, entry.mtime = len(content), 0o600, int(now.timestamp())
                    archive.addfile(entry, io.BytesIO(content))
            file.flush()
            return os.fstat(descriptor).st_size
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _not_written(path, error) from None


def _files(parts: list[Part]) -> list[tuple[str, str]]:
    entries = [
        {"file": part.name, "about": part.about, "bytes": len((part.text or "").encode()), "missing": part.why}
        for part in parts
    ]
    manifest = to_json(entries, indent=2).decode() + "\n"
    return [(MANIFEST, manifest), *((part.name, part.text) for part in parts if part.text is not None)]


def _end(text: str) -> str:
    return text if len(text) <= PART_MAX_BYTES else f"[cut: only the end is here]\n{text[-PART_MAX_BYTES:]}"


def _not_written(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        "bundle_not_written",
        f"cannot write {path}: {error.strerror}",
        remedy="name a file that does not exist yet, where there is room: kaalia support-bundle --output FILE",
    )
