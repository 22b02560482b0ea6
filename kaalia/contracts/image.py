"""Image references: is this text one, and which image does it name?

The grammar is that of the OCI distribution specification, as Docker reads it.
"""

import re

from kaalia.errors import ContractError

NAME_MAX_CHARS = 255
"""Registry, path and blanks between them, without tag and digest: Docker's own limit."""
AUTOMATIC_TAG = "@vastai-automatic-tag"
"""A placeholder that the public service replaces by a tag it knows; only that service has the list."""
DOCKER_HUB = "docker.io"
_HUB_NAMES = frozenset(
    {"", DOCKER_HUB, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com"}
)

_HOST_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?"
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_PART}(?:/{_PART})*)(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?", re.ASCII
)


def check(reference: str) -> None:
    """Raise ContractError image_invalid unless `reference` is `[registry/]path[:tag][@digest]`."""
    parts(reference)


def parts(reference: str) -> tuple[str, str | None, str | None]:
    """Name (registry and path), tag and digest. Raises ContractError image_invalid."""
    if AUTOMATIC_TAG in reference:
        raise _invalid(reference, "only the service that made up this tag can resolve it", "name a tag of the image")
    match = _REFERENCE.fullmatch(reference) if len(reference) <= 2 * NAME_MAX_CHARS + 128 else None
    if match is None:
        raise _invalid(reference, "it is no image reference", "write it as ubuntu:22.04 or ghcr.io/owner/name:tag")
    if len(match["name"]) > NAME_MAX_CHARS:
        raise _invalid(reference, f"its name is longer than {NAME_MAX_CHARS} characters", "use a shorter name")
    return match["name"], match["tag"], match["digest"]


def normalise(reference: str) -> str:
    """`repo` becomes `repo:latest`. Raises what `check` raises."""
    check(reference)
    has_tag = "@" in reference or ":" in reference.rpartition("/")[2]
    return reference if has_tag else f"{reference}:latest"


def registry_of(reference: str) -> str:
    """The registry's host name and port; `docker.io` when the reference names none."""
    first, slash, _ = reference.partition("/")
    is_named = slash and ("." in first or ":" in first or first == "localhost")
    return registry_name(first) if is_named else DOCKER_HUB


def registry_name(name: str) -> str:
    """A registry as a renter names it, with or without scheme and path; all names of Docker's own are one."""
    host = re.sub(r"^https?://", "", name.strip().lower()).partition("/")[0]
    return DOCKER_HUB if host in _HUB_NAMES else host


def _invalid(reference: str, why: str, remedy: str) -> ContractError:
    return ContractError("image_invalid", f"cannot use image {reference[:300]!r}: {why}", remedy=remedy)
