"""What may be copied from where to where, and by whose keys. Pure.

A place is written `C.7001`, `V.901`, `7001` (an instance, the older form) or `local`; its path is absolute, and no part
of it is `..`.
"""

import base64
import hashlib
import posixpath
import re
from collections.abc import Iterable

from kaalia.contracts import cloud
from kaalia.errors import ContractError
from kaalia.model.copying import CloudOrder, CopyEnd, CopyOrder, Holder, HolderKind

LOCAL = "local"
CLOUDS = frozenset({"drive", "s3", "b2", "dropbox", "hf"})
PATH_MAX_BYTES = 4095
"""What Linux takes."""
KEYS_MAX = 200
_HOLDER = re.compile(r"(?:([CV])\.)?([1-9][0-9]{0,17})")
_KEY = re.compile(
    r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r" [A-Za-z0-9+/]{40,16000}={0,3}"
)
_ID = re.compile(r"[0-9a-f]{8,64}")
"""It becomes part of names of files."""
_REMEDY = "write C.ID:/path for an instance, V.ID:/path for a volume, local:path for your own machine"


def holder(name: str, value: object) -> Holder | None:
    """Whose files a place of the public API names; None: the caller's own machine. `name`: of the field.

    Raises ContractError `copy_place_invalid` or `copy_cloud_unsupported`.
    """
    if value is None or value == LOCAL:
        return None
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if text.partition(".")[0] in CLOUDS:
        raise ContractError(
            "copy_cloud_unsupported",
            f"cannot copy with {name}={text[:80]!r}: this names no connection to a cloud that is known here",
            remedy="look at `vastai show connections`, and write s3.ID:bucket/path; or run rclone inside the instance",
        )
    found = _HOLDER.fullmatch(text)
    if found is None:
        raise ContractError(
            "copy_place_invalid", f"cannot copy with {name}={str(value)[:80]!r}: it names no place", remedy=_REMEDY
        )
    return Holder(HolderKind(found[1] or "C"), int(found[2]))


def path(name: str, value: object) -> str:
    """A path inside an instance or volume, as rsync shall see it: a last slash stays, since rsync heeds it.

    Raises ContractError `copy_path_invalid`.
    """
    if not isinstance(value, str) or not value or not value.isprintable():
        raise _path_invalid(name, value, "it must be text, without line breaks")
    if len(value.encode(errors="replace")) > PATH_MAX_BYTES:
        raise _path_invalid(name, value, f"it is longer than {PATH_MAX_BYTES} bytes")
    if ".." in value.split("/"):
        raise _path_invalid(name, value, "no part of it may be ..")
    clean = posixpath.normpath(f"/{value.lstrip('/')}")
    return f"{clean}/" if value.endswith(("/", "/.")) and clean != "/" else clean


def check_order(order: CopyOrder | CloudOrder) -> None:
    """On the machine, whoever signed. Raises ContractError `copy_path_invalid`, `copy_id_invalid`, and a cloud's."""
    if not _ID.fullmatch(order.copy_id):
        message = f"cannot copy by the order {order.copy_id[:80]!r}: that is no id of one"
        raise ContractError("copy_id_invalid", message, remedy="tell the marketplace's operator")
    if isinstance(order, CloudOrder):
        path("path", order.place.path)
        cloud.path("path", cloud.check_cloud(order.cloud), order.path)
        cloud.flags(order.flags)
        return
    for end in (order.source, order.target):
        path("path", end.path)


def check_apart(source: CopyEnd, target: CopyEnd) -> None:
    """Raises ContractError `copy_overlaps`: files would be copied onto themselves, or into what is being copied."""
    inner, outer = target.path.rstrip("/"), source.path.rstrip("/")
    landing = inner if source.path.endswith("/") else posixpath.join(inner or "/", posixpath.basename(outer))
    overlaps = _is_within(inner, outer) or _is_within(landing, outer) or (_is_within(outer, landing) and outer != "")
    if source.holder == target.holder and (overlaps or outer == ""):
        raise ContractError(
            "copy_overlaps",
            f"cannot copy {source.path} of {source.holder} to its own {target.path}: one is inside the other",
            remedy="name two places that lie apart",
        )


def warning(target: CopyEnd) -> str:
    """What the renter should know of this target; empty: nothing."""
    if target.holder.kind is HolderKind.INSTANCE and target.path.rstrip("/") in ("", "/root"):
        return (
            f"warning: {target.path} of {target.holder} holds files that ssh needs; "
            "wrong owners or modes in /root can lock you out, so a folder such as /workspace/ is better"
        )
    return ""


def keys(lines: Iterable[str]) -> tuple[str, ...]:
    """Type and base64 of each key, each once, in order; whatever else stands in a line is left out.

    Raises ContractError `copy_keys_missing` when there is none left.
    """
    found = dict.fromkeys(" ".join(line.split()[:2]) for line in lines)
    good = tuple(key for key in found if _KEY.fullmatch(key))[:KEYS_MAX]
    if not good:
        raise ContractError(
            "copy_keys_missing",
            "cannot let anybody in to copy: neither the account nor the instance has an SSH key",
            remedy='`vastai create ssh-key "$(cat ~/.ssh/id_ed25519.pub)"`, then copy again',
        )
    return good


def fingerprint(key: str) -> str:
    """As sshd tells it of a key of `keys`: SHA-256 of its second word, which is base64; empty for what is no key."""
    try:
        blob = base64.b64decode(key.split()[1], validate=True)
    except (IndexError, ValueError):
        return ""
    return f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"


def _is_within(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith(f"{outer}/")


def _path_invalid(name: str, value: object, why: str) -> ContractError:
    message = f"cannot copy with {name}={str(value)[:80]!r}: {why}"
    return ContractError("copy_path_invalid", message, remedy="name an absolute path such as /workspace/")
