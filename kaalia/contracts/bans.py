"""Images that an owner does not want, by glob patterns on their names.

One image has many spellings (`ubuntu`, `docker.io/library/ubuntu:latest`, `registry-1.docker.io:443/library/ubuntu`): a
pattern is compared with all that Docker takes for the same name. A ban goes by name: a copy under another is not seen.
"""

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from kaalia.contracts import image
from kaalia.contracts.image import DOCKER_HUB
from kaalia.errors import ContractError

_OFFICIAL = "library/"
_HTTPS_PORT = 443
_ID_NAME = "sha256"
"""Docker takes `sha256:...` for the id of an image that is there, whatever its name."""


def banned_by(reference: str, patterns: Iterable[str]) -> str | None:
    """The first of the patterns that names this image; None: none does. `*` reaches over `/`; case is ignored.

    A pattern without tag and digest names all of them. Raises ContractError `image_invalid` for what hides its name.
    """
    spellings: set[str] | None = None
    for pattern in patterns:
        spellings = set(_spellings(reference)) if spellings is None else spellings
        wanted = _plain(pattern.strip().lower())
        if any(fnmatchcase(spelling, wanted) for spelling in spellings):
            return pattern
    return None


def _spellings(reference: str) -> Iterator[str]:
    """All ways to write the same reference, in lower case: with and without what Docker adds, tag and digest."""
    name, tag, digest = image.parts(reference)
    if name == _ID_NAME:
        message = f"cannot use image {reference[:300]!r}: it is the id of an image, and says no name"
        raise ContractError("image_invalid", message, remedy="name the image")
    at = f"@{digest}" if digest else ""
    colon = f":{tag.lower()}" if tag else "" if digest else ":latest"
    for each in _names(name):
        yield from (f"{each}{end}" for end in {"", colon, at, f"{colon}{at}"})


def _names(name: str) -> Iterator[str]:
    registry, path = _split(name)
    if registry != DOCKER_HUB:
        yield f"{registry}/{path}"
        return
    short = path.removeprefix(_OFFICIAL)
    for each in {path, short} if "/" not in short else {path}:
        yield each
        yield f"{DOCKER_HUB}/{each}"


def _split(name: str) -> tuple[str, str]:
    """Registry and path, as Docker tells them apart: a registry has a dot, a port or a capital, or is localhost."""
    first, slash, _ = name.partition("/")
    is_registry = slash and (re.search(r"[.:A-Z]", first) or first == "localhost")
    registry, _, path = _plain(name.lower() if is_registry else f"{DOCKER_HUB}/{name}").partition("/")
    return registry, f"{_OFFICIAL}{path}" if registry == DOCKER_HUB and "/" not in path else path


def _plain(name: str) -> str:
    """A name or pattern with Docker Hub's own name in place of its others, and without the port of HTTPS."""
    registry, slash, path = name.partition("/")
    host, colon, port = registry.rpartition(":")
    if colon and port.isdecimal() and int(port) == _HTTPS_PORT:
        registry = host
    return f"{image.registry_name(registry) if slash else registry}{slash}{path}"
