"""Tags as a registry lists them: pages, logins of both kinds, and what is refused."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from aiohttp import web

from kaalia.errors import WorkloadError
from kaalia.runtime.base import RegistryLogin
from kaalia.runtime.container import registry as door
from tests.support.registry import Mode, Registry

TAGS = ("cuda-11.8", "cuda-12.4.1", "cuda-12.8", "latest", "v1")


@pytest_asyncio.fixture
async def registry() -> AsyncIterator[Registry]:
    made = Registry()
    await made.start()
    for tag in TAGS:
        made.add("team/app", tag, [])
    yield made
    await made.stop()


def login(registry: Registry, password: str | None = None) -> RegistryLogin:
    return RegistryLogin(registry.address, registry.username, password or registry.password)


@asynccontextmanager
async def serving(say: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """A registry that answers everything so; its address."""
    app = web.Application()
    app.router.add_get("/{any:.*}", say)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def refused(name: str, given: RegistryLogin | None = None) -> str:
    with pytest.raises(WorkloadError) as caught:
        await door.tags(name, given)
    assert caught.value.problem.message.startswith(f"cannot list the tags of {name}: ")
    assert caught.value.problem.remedy
    return caught.value.code


async def test_all_pages_are_read(registry: Registry) -> None:
    assert await door.tags(f"{registry.address}/team/app", None) == TAGS


@pytest.mark.parametrize("mode", [Mode.BASIC, Mode.BEARER])
async def test_a_private_list_is_for_those_whom_the_registry_lets_in(registry: Registry, mode: Mode) -> None:
    registry.mode = mode
    name = f"{registry.address}/team/app"

    assert await door.tags(name, login(registry)) == TAGS
    assert await refused(name) == "registry_unauthorized"
    assert await refused(name, login(registry, "guessed")) == "registry_unauthorized"
    registry.authorizations.clear()
    other = RegistryLogin("registry.example", registry.username, registry.password)
    assert await refused(name, other) == "registry_unauthorized"
    assert registry.authorizations == [], "a login of another registry goes nowhere"


async def test_a_stranger_s_list_is_bounded_and_holds_tags_alone(registry: Registry) -> None:
    page = {"tags": ["cuda-11.8", "cuda-11.8-" + "1" * 5000, 7, "a b", "", *(f"t{number}" for number in range(30_000))]}

    async def say(_: web.Request) -> web.Response:
        return web.json_response(page, headers={"Link": '</v2/team/app/tags/list?n=1000>; rel="next"'})

    async with serving(say) as address:
        found = await door.tags(f"{address}/team/app", None)

    assert (found[:2], len(found)) == (("cuda-11.8", "t0"), door.TAGS_MAX)


async def test_what_is_not_there_and_who_does_not_answer(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await refused(f"{registry.address}/team/none") == "image_not_found"
    await registry.stop()
    assert await refused(f"{registry.address}/team/app") == "registry_unreachable"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (web.Response(status=429), "registry_rate_limited"),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), "registry_unreachable"),
        (web.Response(text="[1, 2]"), "registry_unreachable"),
        (web.Response(text="no json"), "registry_unreachable"),
        (web.Response(text='{"tags": ' + "[" * 200_000), "registry_unreachable"),
        (web.Response(status=401, headers={"WWW-Authenticate": 'Bearer realm="file:///etc/passwd"'}), None),
        (web.Response(status=401, headers={"WWW-Authenticate": "Negotiate"}), None),
    ],
)
async def test_strange_answers_are_told(answer: web.Response, code: str | None) -> None:
    async def say(_: web.Request) -> web.Response:
        return answer

    async with serving(say) as address:
        assert await refused(f"{address}/a") == (code or "registry_unauthorized")


def test_places_of_names() -> None:
    assert door._path("debian", "docker.io") == "library/debian"
    assert door._path("docker.io/vastai/base-image", "docker.io") == "vastai/base-image"
    assert door._path("ghcr.io/a/b", "ghcr.io") == "a/b"
    assert [door._is_here(host) for host in ("localhost:5000", "127.0.0.1", "[::1]:5000", "ghcr.io")] == [
        *(True, True, True),
        False,
    ]
    assert not door._may_follow("127.0.0.1", "ghcr.io")
