"""Image references: is this text one? The grammar is that of the OCI distribution specification, as Docker reads it."""

import re

from kaalia.errors import ContractError

NAME_MAX_CHARS = 255
"""Registry, path and blanks between them, without tag and digest: Docker's own limit."""
AUTOMATIC_TAG = "@vastai-automatic-tag"
"""A placeholder that the public service replaces by a tag it knows; only that service has the list."""

_HOST_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?"
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,128}"
_REFERENCE = re.compile(rf"(?P<name>(?:{_DOMAIN}/)?{_PART}(?:/{_PART})*)(?::{_TAG})?(?:@{_DIGEST})?", re.ASCII)


def check(reference: str) -> None:
    """Raise ContractError image_invalid unless `reference` is `[registry/]path[:tag][@digest]`."""
    if AUTOMATIC_TAG in reference:
        raise _invalid(reference, "only the service that made up this tag can resolve it", "name a tag of the image")
    match = _REFERENCE.fullmatch(reference) if len(reference) <= 2 * NAME_MAX_CHARS + 128 else None
    if match is None:
        raise _invalid(reference, "it is no image reference", "write it as ubuntu:22.04 or ghcr.io/owner/name:tag")
    if len(match["name"]) > NAME_MAX_CHARS:
        raise _invalid(reference, f"its name is longer than {NAME_MAX_CHARS} characters", "use a shorter name")


def _invalid(reference: str, why: str, remedy: str) -> ContractError:
    return ContractError("image_invalid", f"cannot use image {reference[:300]!r}: {why}", remedy=remedy)
