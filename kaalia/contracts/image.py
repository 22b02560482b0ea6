"""Image references: is this text one, and which image does it name?

The grammar is that of the OCI distribution specification, as Docker reads it.
"""

import re
from collections.abc import Iterable

from kaalia.errors import ContractError

NAME_MAX_CHARS = 255
"""Registry, path and blanks between them, without tag and digest: Docker's own limit."""
AUTOMATIC_TAGS = ("@vastai-automatic-tag", "[Automatic]")
"""In place of a tag: the machine chooses one from the registry's list, by the CUDA that its driver supports."""
DOCKER_HUB = "docker.io"
_HUB_NAMES = frozenset(
    {"", DOCKER_HUB, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com"}
)

_HOST_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?"
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_TAG_ALONE = re.compile(_TAG, re.ASCII)
_DIGEST = r"(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})"
_CUDA = re.compile(r"(?:^|[-_.])cuda[-_]?([0-9]{1,3}\.[0-9]{1,3}(?:\.[0-9]{1,3})?)", re.ASCII)
_CUDA_SHORT = re.compile(r"(?:^|[-_.])cu([0-9]{2})([0-9])(?![0-9.])", re.ASCII)
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_PART}(?:/{_PART})*)(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?", re.ASCII
)
_ALARMING = re.compile(r"error|fail|exception|traceback|oci runtime|denied", re.IGNORECASE)
"""What clients take for the end of a start, wherever it stands in the words that they are told."""


def shown(reference: str) -> str:
    """The image in words about a workload that is well: one whose name sounds like a fault has none there."""
    return "the image" if _ALARMING.search(reference) else reference


def is_tag(text: str) -> bool:
    """Whether this can be a tag: of at most 128 characters."""
    return _TAG_ALONE.fullmatch(text) is not None


def check(reference: str) -> None:
    """Raise ContractError image_invalid unless `reference` is `[registry/]path[:tag][@digest]`."""
    parts(reference)


def parts(reference: str) -> tuple[str, str | None, str | None]:
    """Name (registry and path), tag and digest; none of an automatic one. Raises ContractError image_invalid."""
    reference = automatic_name(reference) or reference
    match = _REFERENCE.fullmatch(reference) if len(reference) <= 2 * NAME_MAX_CHARS + 128 else None
    if match is None:
        raise invalid(reference, "it is no image reference", "write it as ubuntu:22.04 or ghcr.io/owner/name:tag")
    if len(match["name"]) > NAME_MAX_CHARS:
        raise invalid(reference, f"its name is longer than {NAME_MAX_CHARS} characters", "use a shorter name")
    return match["name"], match["tag"], match["digest"]


def normalise(reference: str) -> str:
    """`repo` becomes `repo:latest`. Raises what `check` raises."""
    check(reference)
    if automatic_name(reference) is not None:
        raise invalid(reference, "its tag is still to be chosen", "name a tag of the image")
    has_tag = "@" in reference or ":" in reference.rpartition("/")[2]
    return reference if has_tag else f"{reference}:latest"


def automatic_name(reference: str) -> str | None:
    """What stands before an automatic tag; None: the reference has none.

    >>> automatic_name("vastai/base-image:@vastai-automatic-tag"), automatic_name("ubuntu:22.04")
    ('vastai/base-image', None)
    """
    for tag in AUTOMATIC_TAGS:
        if reference.endswith(tag):
            return reference.removesuffix(tag).removesuffix(":")
    return None


def choose_tag(tags: Iterable[str], cuda: str) -> str | None:
    """The tag for a driver that supports CUDA up to `cuda` (`12.4`): of the newest CUDA that it allows.

    Among equals an `auto` one, else the last by numbers: lists of tags tell no times. None: no tag names such a CUDA.
    `tags`: as `is_tag` allows them.

    >>> choose_tag(["cuda-11.8", "v2-cuda-12.4.1-auto", "v10-cuda-12.4.1", "cuda-12.8", "latest"], "12.4")
    'v2-cuda-12.4.1-auto'
    """
    limit = _version(cuda)
    found = [(version, tag) for tag in tags if (version := _cuda_of(tag)) and version[:2] <= limit[:2]]
    best = max(found, key=lambda one: (one[0], "auto" in one[1].split("-"), _by_numbers(one[1])), default=None)
    return None if best is None else best[1]


def _cuda_of(tag: str) -> tuple[int, ...]:
    """The CUDA version in a tag, as `cuda-12.4.1`, `cuda12.4` or `cu124`; empty: it names none."""
    if match := _CUDA.search(tag):
        return _version(match[1])
    match = _CUDA_SHORT.search(tag)
    return () if match is None else (int(match[1]), int(match[2]))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _by_numbers(tag: str) -> list[tuple[int, str]]:
    """An order in which v10 comes after v9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", tag)]


def push_target(reference: str) -> str:
    """Where a snapshot is pushed, with its tag. Raises ContractError image_invalid.

    >>> push_target("ghcr.io/owner/name")
    'ghcr.io/owner/name:latest'
    """
    name, tag, digest = parts(reference)
    if digest is not None or automatic_name(reference) is not None:
        raise invalid(reference, "a snapshot needs a plain tag", "write it as owner/name:tag")
    return f"{name}:{tag or 'latest'}"


def registry_of(reference: str) -> str:
    """The registry's host name and port; `docker.io` when the reference names none."""
    first, slash, _ = reference.partition("/")
    is_named = slash and ("." in first or ":" in first or first == "localhost")
    return registry_name(first) if is_named else DOCKER_HUB


def registry_name(name: str) -> str:
    """A registry as a renter names it, with or without scheme and path; all names of Docker's own are one."""
    host = re.sub(r"^https?://", "", name.strip().lower()).partition("/")[0]
    return DOCKER_HUB if host in _HUB_NAMES else host


def invalid(reference: str, why: str, remedy: str) -> ContractError:
    """The refusal of a reference, `image_invalid`."""
    return ContractError("image_invalid", f"cannot use image {reference[:300]!r}: {why}", remedy=remedy)
