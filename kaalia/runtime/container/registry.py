"""Asks a registry for the tags of an image (Distribution API v2): the one thing that the engine cannot tell.

Follows no redirects, and speaks HTTP only with a registry of this machine itself, as the engine does. A login goes to
the registry that it was given for and to the place that this one names for tokens, in headers alone.
"""

import asyncio
import base64
import ipaddress
import itertools
import json
import re
from typing import Any

import aiohttp
from yarl import URL

from kaalia.contracts import image as references
from kaalia.contracts.image import DOCKER_HUB
from kaalia.errors import WorkloadError
from kaalia.runtime.base import RegistryLogin
from kaalia.units import MIB

_HUB_HOST = "registry-1.docker.io"
TIMEOUT_S = 20.0
"""For the whole list."""
PAGE_TAGS = 1000
PAGES_MAX = 20
PAGE_MAX_BYTES = 4 * MIB
TAGS_MAX = PAGES_MAX * PAGE_TAGS
"""Whatever the registry puts into a page: choosing among them takes 0.2 s."""
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


async def tags(name: str, login: RegistryLogin | None) -> tuple[str, ...]:
    """All tags of `[registry/]path`, at most TAGS_MAX and PAGES_MAX pages of them.

    Raises WorkloadError registry_unauthorized, image_not_found, registry_rate_limited, registry_unreachable.
    """
    registry = references.registry_of(name)
    fits = login is not None and references.registry_name(login.registry) == registry
    try:
        async with asyncio.timeout(TIMEOUT_S), aiohttp.ClientSession() as session:
            return await _Asking(session, name, registry, login if fits else None).all()
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise _failed(
            "registry_unreachable",
            name,
            f"{registry} does not answer",
            "check the registry's name, and the machine's DNS and internet connection",
            type(error).__name__,
        ) from error


class _Asking:
    """One list. `login` is of this registry."""

    def __init__(self, session: aiohttp.ClientSession, name: str, registry: str, login: RegistryLogin | None) -> None:
        self._session = session
        self._name = name
        self._login = login
        self._authorization: str | None = None
        host = _HUB_HOST if registry == DOCKER_HUB else registry
        self._path = _path(name, registry)
        self._base = URL(f"{'http' if _is_here(host) else 'https'}://{host}")

    async def all(self) -> tuple[str, ...]:
        found: list[str] = []
        url: URL | None = (self._base / f"v2/{self._path}/tags/list").with_query(n=PAGE_TAGS)
        for _ in range(PAGES_MAX):
            if url is None or len(found) >= TAGS_MAX:
                break
            page, url = await self._page(url)
            found += page
        return tuple(found[:TAGS_MAX])

    async def _page(self, url: URL) -> tuple[list[str], URL | None]:
        for is_last in (False, True):
            headers = {"Authorization": self._authorization} if self._authorization else {}
            async with self._session.get(url, headers=headers, allow_redirects=False) as reply:
                if reply.status == 401 and not is_last and not self._authorization:
                    self._authorization = await self._authorized(reply.headers.get("WWW-Authenticate", ""))
                    continue
                self._check(reply.status)
                document = await _json(reply)
                link = reply.links.get("next")
            listed = await asyncio.to_thread(_tags, document)
            target = None if link is None else url.join(URL(str(link.get("url", ""))))
            is_same = target is not None and target.origin() == self._base
            return listed, target if is_same else None
        raise self._refused("the registry refuses access")

    def _check(self, status: int) -> None:
        if status in (401, 403):
            raise self._refused("the registry refuses access, or there is no such repository")
        if status == 404:
            raise _failed("image_not_found", self._name, "there is no such image", "check the image's name")
        if status == 429:
            remedy = "wait, or rent with a registry login"
            raise _failed("registry_rate_limited", self._name, "the registry refuses more requests for now", remedy)
        if status != 200:
            raise ValueError(f"status {status}")

    async def _authorized(self, challenge: str) -> str:
        """The header that the challenge asks for."""
        basic = _basic(self._login) if self._login else None
        kind = challenge.partition(" ")[0].lower()
        if kind == "basic":
            if basic is None:
                raise self._refused("the registry wants a login")
            return basic
        asked = dict(_CHALLENGE.findall(challenge))
        realm = URL(asked.get("realm", ""))
        is_safe = realm.scheme == "https" or (realm.scheme == "http" and self._base.scheme == "http")
        if kind != "bearer" or not is_safe or not _may_follow(realm.host or "", self._base.host or ""):
            raise self._refused("the registry asks for a login in a way that is not known")
        query = {"service": asked.get("service", ""), "scope": f"repository:{self._path}:pull"}
        url = realm.update_query(query)
        headers = {"Authorization": basic} if basic else {}
        async with self._session.get(url, headers=headers, allow_redirects=False) as reply:
            self._check(reply.status)
            document = await _json(reply)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str):
            raise ValueError("no token")
        return f"Bearer {token}"

    def _refused(self, why: str) -> WorkloadError:
        remedy = "check the image's name, and give a registry login if it is private"
        return _failed("registry_unauthorized", self._name, why, remedy)


def _failed(code: str, name: str, why: str, remedy: str, evidence: str = "") -> WorkloadError:
    return WorkloadError(code, f"cannot list the tags of {name}: {why}", remedy=remedy, evidence=evidence)


def _tags(document: dict[str, Any]) -> list[str]:
    """Those of a page that can be tags: it is a stranger who writes it."""
    listed = document.get("tags")
    texts = (one for one in listed if isinstance(one, str)) if isinstance(listed, list) else ()
    return list(itertools.islice(filter(references.is_tag, texts), TAGS_MAX))


async def _json(reply: aiohttp.ClientResponse) -> dict[str, Any]:
    """Raises ValueError for what is no object, or too long."""
    raw = bytearray()
    async for chunk in reply.content.iter_chunked(64 * 1024):
        raw += chunk
        if len(raw) > PAGE_MAX_BYTES:
            raise ValueError("the answer is too long")
    try:
        document = await asyncio.to_thread(json.loads, bytes(raw))
    except RecursionError as error:
        raise ValueError("the answer is nested too deep") from error
    if not isinstance(document, dict):
        raise ValueError("the answer is no object")
    return document


def _basic(login: RegistryLogin) -> str:
    return "Basic " + base64.b64encode(f"{login.username}:{login.password}".encode()).decode()


def _path(name: str, registry: str) -> str:
    """Of the repository in its registry; Docker Hub's own images are below `library`."""
    first, _, rest = name.partition("/")
    is_named = bool(rest) and ("." in first or ":" in first or first == "localhost")
    path = rest if is_named else name
    return f"library/{path}" if registry == DOCKER_HUB and "/" not in path else path


def _is_here(host: str) -> bool:
    """On loopback, where the engine takes a registry without TLS."""
    name = URL(f"http://{host}").host or ""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _may_follow(realm: str, registry: str) -> bool:
    """A registry elsewhere does not send this machine to itself."""
    return not _is_here(f"[{realm}]" if ":" in realm else realm) or _is_here(registry)
