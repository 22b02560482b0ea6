"""What may be copied from and to clouds, and with which logins. Pure.

A connection has a kind and options, by their names in rclone's configuration; those that name files of the machine, or
programs, are not taken. Marketplace and machine both look, whoever signed.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from kaalia.errors import ContractError
from kaalia.model.copying import CloudLogin

FLAGS = frozenset({"--dry-run", "--size-only", "--ignore-existing", "--update", "--delete-excluded"})
"""Those of the public client."""
PATH_MAX_BYTES = 1024
"""S3's own limit for a key."""
OPTION_MAX_BYTES, OPTIONS_MAX_BYTES = 8192, 16384
NAME_MAX_CHARS = 100
_DIRECTIONS = {"instance to cloud": True, "cloud to instance": False}
_KINDS = "s3, b2, drive or dropbox"
_CLOUD = re.compile(r"(s3|b2|drive|dropbox)\.[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Kind:
    """Of a cloud. `needs`: one of these sets of options is there. `has_buckets`: a path begins with one."""

    needs: tuple[frozenset[str], ...]
    may: frozenset[str]
    has_buckets: bool = False


_OAUTH = frozenset({"client_id", "client_secret"})
KINDS: Mapping[str, Kind] = {
    "s3": Kind(
        (frozenset({"access_key_id", "secret_access_key"}),),
        frozenset({"provider", "region", "endpoint", "session_token", "location_constraint"}),
        has_buckets=True,
    ),
    "b2": Kind((frozenset({"account", "key"}),), frozenset({"endpoint"}), has_buckets=True),
    "drive": Kind(
        (frozenset({"token"}), frozenset({"service_account_credentials"})),
        _OAUTH | {"token", "service_account_credentials", "scope", "root_folder_id", "team_drive"},
    ),
    "dropbox": Kind((frozenset({"token"}),), _OAUTH),
}


def check_login(kind: str, options: object) -> CloudLogin:
    """Raises ContractError `cloud_kind_unknown`, `cloud_login_invalid`. No value stands in their words."""
    known = KINDS.get(kind)
    if known is None:
        message = f"cannot use cloud_type={kind[:40]!r}: this is no cloud that is known here"
        raise ContractError("cloud_kind_unknown", message, remedy=f"it is {_KINDS}")
    if not isinstance(options, Mapping) or not all(isinstance(one, str) for one in options):
        raise _login_invalid(kind, "its options are no object with names")
    given = {str(name): _option(kind, str(name), value) for name, value in options.items() if value not in (None, "")}
    for name in given.keys() - known.may - frozenset().union(*known.needs):
        raise _login_invalid(kind, f"the option {name[:40]!r} is not taken")
    if not any(needed <= given.keys() for needed in known.needs):
        wanted = " or ".join(" and ".join(sorted(one)) for one in known.needs)
        raise _login_invalid(kind, f"it needs {wanted}")
    if sum(len(one.encode()) for one in given.values()) > OPTIONS_MAX_BYTES:
        raise _login_invalid(kind, f"its options are longer than {OPTIONS_MAX_BYTES} bytes in all")
    return CloudLogin(kind, given)


def _option(kind: str, name: str, value: Any) -> str:
    """Tokens are JSON, which may be given as such."""
    text = (
        json.dumps(value) if isinstance(value, Mapping) and name in ("token", "service_account_credentials") else value
    )
    is_text = isinstance(text, str) and "\0" not in text and len(text.encode(errors="replace")) <= OPTION_MAX_BYTES
    if not is_text or not text.isascii():
        raise _login_invalid(kind, f"{name[:40]!r} must be text of at most {OPTION_MAX_BYTES} bytes")
    if name == "endpoint" and not _is_endpoint(kind, text):
        raise _login_invalid(kind, "its endpoint must be a URL, as https://s3.example.com")
    if name == "provider" and not re.fullmatch(r"[A-Za-z0-9]{1,32}", text):
        raise _login_invalid(kind, "its provider must be one of rclone's words for one, as AWS or Minio")
    return str(text)


def _is_endpoint(kind: str, text: str) -> bool:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    schemes = ("https", "http") if kind == "s3" else ("https",)  # what S3 is sent is signed, others send passwords
    is_plain = bool(url.hostname) and "@" not in url.netloc and not url.query and not url.fragment
    return url.scheme in schemes and is_plain and port != 0 and text.isprintable()


def path(name: str, kind: str, value: object) -> str:
    """A place in a cloud, without a slash in front. Raises ContractError `copy_path_invalid`."""
    text = value if isinstance(value, str) else ""
    clean = "/".join(part for part in text.split("/") if part not in ("", "."))
    if not isinstance(value, str) or not text.isprintable() or ".." in text.split("/"):
        raise _path_invalid(name, value, "it must be text, without line breaks and without ..")
    if len(clean.encode(errors="replace")) > PATH_MAX_BYTES:
        raise _path_invalid(name, value, f"it is longer than {PATH_MAX_BYTES} bytes")
    if KINDS[kind].has_buckets and not clean:
        raise _path_invalid(name, value, "it begins with the name of a bucket")
    return clean


def check_cloud(text: str) -> str:
    """The kind of a connection's public name, as `s3.1001`. Raises ContractError `cloud_kind_unknown`."""
    if not _CLOUD.fullmatch(text):
        message = f"cannot copy with the cloud {text[:80]!r}: that is no connection"
        raise ContractError("cloud_kind_unknown", message, remedy="look at `vastai show connections`")
    return text.partition(".")[0]


def is_upload(value: object) -> bool:
    """By the client's `transfer`. Raises ContractError `cloud_transfer_invalid`."""
    found = _DIRECTIONS.get(" ".join(value.lower().split())) if isinstance(value, str) else None
    if found is None:
        message = f"cannot copy with transfer={str(value)[:80]!r}: it says no direction"
        raise ContractError("cloud_transfer_invalid", message, remedy='say "Instance To Cloud" or "Cloud To Instance"')
    return found


def flags(value: object) -> tuple[str, ...]:
    """Each once, in order. Raises ContractError `cloud_flag_refused`."""
    given = value if isinstance(value, list | tuple) else [] if value is None else [value]
    for one in given:
        if one not in FLAGS:
            message = f"cannot copy with the flag {str(one)[:80]!r}: it is not taken"
            raise ContractError("cloud_flag_refused", message, remedy=f"taken are {', '.join(sorted(FLAGS))}")
    return tuple(dict.fromkeys(given))


def _login_invalid(kind: str, why: str) -> ContractError:
    needs = {name: sorted(frozenset().union(*one.needs)) for name, one in KINDS.items()}
    return ContractError(
        "cloud_login_invalid",
        f"cannot log in to a cloud of kind {kind}: {why}",
        remedy=f"give options of rclone's configuration for {kind}: {', '.join(needs[kind])}",
    )


def _path_invalid(name: str, value: object, why: str) -> ContractError:
    message = f"cannot copy with {name}={str(value)[:80]!r}: {why}"
    return ContractError("copy_path_invalid", message, remedy="name a bucket or folder, such as my-bucket/data")
