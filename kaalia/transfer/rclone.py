"""How rclone is called to copy from and to clouds, what it says meanwhile, and what its end means. Pure."""

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kaalia.errors import Problem
from kaalia.model.copying import CloudLogin, CloudOrder
from kaalia.transfer import plan
from kaalia.transfer.plan import Route
from kaalia.units import format_bytes

FILES = "/files"
"""Where the cell shows the holder's files."""
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
"""Where rclone looks for them (Go, crypto/x509), whatever the machine calls the file."""
MAX_S = 24 * 3600.0
_REMOTE = "cloud"
_OPTIONS = (
    *("--use-json-log", "--log-level=NOTICE", "--stats=2s", "--stats-log-level=NOTICE"),
    *("--retries=2", "--retries-sleep=2s", "--low-level-retries=5", "--contimeout=30s", "--timeout=2m"),
    # Links and devices are not copied: what a link leads to would be another's, or nothing.
    *("--skip-links", "--transfers=4", "--checkers=8", "--buffer-size=4M", "--ask-password=false"),
)
_PROXY = f"socks5://127.0.0.1:{plan.OUTLET_PORT}"
ENV: Mapping[str, str] = {
    "HOME": "/",
    "LC_ALL": "C",
    "GOMAXPROCS": "2",
    "GOMEMLIMIT": "768MiB",
    "HTTP_PROXY": _PROXY,
    "HTTPS_PROXY": _PROXY,
    "RCLONE_CONFIG": "/dev/null",
    # Files that a running instance writes to are copied as long as they were when they were seen.
    "RCLONE_LOCAL_NO_CHECK_UPDATED": "true",
    # A key that may write objects may not always make buckets; and nobody gets one by a slip of the pen.
    "RCLONE_S3_NO_CHECK_BUCKET": "true",
}
_PLAIN = frozenset(
    {"endpoint", "region", "provider", "location_constraint", "scope", "root_folder_id", "team_drive", "client_id"}
)
"""Options that are no secret, and that the renter should see in words of rclone's."""
_NO_SPACE = ("no space left on device", "disk quota exceeded", "remaining disk space")
_REFUSED = re.compile(
    r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|ExpiredToken|InvalidToken|bad_auth_token|unauthorized|"
    r"invalid_grant|invalid_client|invalid_access_token|expired_access_token|status(?: code)?:? ?40[13]\b|"
    r"403 Forbidden|couldn't fetch token|failed to (?:get|configure) token",
    re.IGNORECASE,
)
_MISSING = ("directory not found", "NoSuchBucket", "object not found", "no such file or directory")


@dataclass(frozen=True, slots=True)
class Progress:
    """`files`: that are or will be copied, as far as rclone knows them; it forgets a file that went in parts."""

    moved_bytes: int
    total_bytes: int
    files: int
    bytes_per_s: float

    def __str__(self) -> str:
        share = f"{self.moved_bytes * 100 // self.total_bytes} %, " if self.total_bytes else ""
        return f"{share}{format_bytes(self.moved_bytes)}, {format_bytes(round(self.bytes_per_s))}/s"


def argv(program: str, order: CloudOrder) -> tuple[str, ...]:
    """Up to what the route adds."""
    return (program, "copy", *_OPTIONS, *order.flags, "--", *(() if order.is_upload else (_cloud(order),)))


def words_after(order: CloudOrder) -> tuple[str, ...]:
    return (_cloud(order),) if order.is_upload else ()


def route(order: CloudOrder) -> Route:
    if order.is_upload:
        return Route(FILES, order.place.path, is_followed=True)
    return Route(target_tree=FILES, target=order.place.path, is_followed=True)


def environment(login: CloudLogin) -> dict[str, str]:
    """What makes rclone know the cloud, without a file."""
    options = {"type": login.kind, **login.options}
    if login.kind == "s3":
        options.setdefault("provider", "Other" if "endpoint" in options else "AWS")
    return {f"RCLONE_CONFIG_{_REMOTE.upper()}_{name.upper()}": value for name, value in options.items()}


def secrets(login: CloudLogin) -> tuple[str, ...]:
    """What nobody should read; tokens are objects of several."""
    found = [value for name, value in login.options.items() if name not in _PLAIN]
    for value in tuple(found):
        with contextlib.suppress(ValueError):
            inner = json.loads(value)
            found += [one for one in inner.values() if isinstance(one, str)] if isinstance(inner, dict) else []
    return tuple(found)


def heard(line: str) -> Progress | str | None:
    """What a line of rclone's says: how far it is, or words; None: nothing."""
    try:
        told: Any = json.loads(line)
    except ValueError:
        return line
    if not isinstance(told, dict):
        return line
    stats = told.get("stats")
    if isinstance(stats, dict):
        names = ("bytes", "totalBytes", "transfers", "totalTransfers", "speed")
        numbers = [number for name in names if isinstance(number := stats.get(name), int | float)]
        if len(numbers) < len(names):
            return None
        moved, total, done, known, speed = numbers
        going = stats.get("transferring")
        seen = done + (len(going) if isinstance(going, list) else 0)
        return Progress(int(moved), int(total), int(max(seen, known)), speed)
    if told.get("level") not in ("error", "critical", "fatal"):
        return None
    about = f"{told['object']}: " if told.get("object") else ""
    return f"{about}{told.get('msg', '')}"


def problem(order: CloudOrder, exit_code: int, said: str) -> Problem | None:
    """What went wrong; None: all is copied. `said`: its complaints, without secrets."""
    if exit_code == 0:
        return None
    place, cloud, low = order.place, f"{order.cloud}:{order.path}", said.lower()
    if not order.is_upload and any(sign in low for sign in _NO_SPACE):
        message = f"cannot copy all to {place}: the disk space of {place.holder} is used up"
        return Problem("copy_disk_full", message, "free space there, then copy again: what is there is left out", said)
    if exit_code == plan.SOURCE_MISSING:
        message = f"cannot copy {place.path} of {place.holder}: it is not there"
        return Problem("copy_source_missing", message, "look with `vastai execute ID 'ls /'`", said)
    if exit_code == plan.TARGET_UNUSABLE:
        message = f"cannot copy to {place}: a part of this path is no folder"
        return Problem("copy_target_unusable", message, "name another folder", said)
    if "not allowed by ruleset" in low:
        message = f"cannot reach the cloud of {order.cloud}: its address is none on the internet"
        return Problem("cloud_address_refused", message, "name an endpoint that is reached from the internet", said)
    if _REFUSED.search(said):
        message = f"cannot log in to the cloud of {order.cloud}: it refuses the login, or what is asked with it"
        return Problem("cloud_login_refused", message, "make a connection with a login that may do this", said)
    if any(sign in said for sign in _MISSING):
        message = f"cannot copy with {cloud}: there is no such place, or a part of it went"
        return Problem("copy_source_missing", message, "see that bucket and folder are there", said)
    message = f"cannot copy all with {cloud}: rclone ended with {exit_code}"
    return Problem("copy_failed", message, "copy again: what is there already is left out", said)


def finished(order: CloudOrder, progress: Progress | None) -> str:
    """The public client tells its user to wait for these words."""
    files, moved = (0, 0) if progress is None else (progress.files, progress.moved_bytes)
    done = "would be copied" if "--dry-run" in order.flags else "copied"
    count = f"{files} files, " if files or not moved else ""
    return f"Cloud Copy Operation Finished, {count}{format_bytes(moved)} {done}"


def _cloud(order: CloudOrder) -> str:
    return f"{_REMOTE}:{order.path}"
