import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kaalia.errors import ContractError, MarketplaceError, StoreError
from kaalia.marketplace import app
from kaalia.marketplace.routing import PUBLIC, Call, Route
from kaalia.wire.error import ApiError
from tests.marketplace.support import Answer, Api, open_context, open_market


@asynccontextmanager
async def one_route(
    folder: Path, route: Route, monkeypatch: pytest.MonkeyPatch, access_log: logging.Logger | None = None
) -> AsyncIterator[Api]:
    """An application that has this route only."""
    monkeypatch.setattr(app, "ROUTES", (route,))
    async with open_context(folder) as context, aiohttp.ClientSession() as session:
        server = TestServer(app.build(context), host="127.0.0.1")
        await server.start_server(access_log=access_log, access_log_class=app.AccessLog)
        yield Api(session, f"http://127.0.0.1:{server.port}")
        await server.close()


async def raising(folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> Answer:
    async def handler(_: Call) -> Any:
        raise error

    async with one_route(folder, Route("GET", "/api/v0/x", PUBLIC, handler), monkeypatch) as api:
        return await api.call("GET", "/api/v0/x")


@pytest.mark.parametrize(
    "path",
    [
        "/api/v0/users/current",
        "/api/v0/users/current/",
        "//api/v0/users/current",
        "/api//v0///users/current//",
        "/api/v0/users/current/?owner=me",
    ],
)
async def test_slashes_do_not_matter(tmp_path: Path, path: str) -> None:
    async with open_market(tmp_path) as market:
        answer = await market.renter.call("GET", path)

    assert answer.status == 200
    assert answer.body["username"] == "renter"


async def test_a_number_in_the_path_takes_any_slashes_and_no_other_digits(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        statuses = [
            (await market.renter.call("GET", f"/api/v0//auth/apikeys/{part}")).status
            for part in ("2", "2/", "2//", "999", "x", "٢", "9" * 30)
        ]

    assert statuses == [200, 200, 200, 404, 404, 404, 404]


async def test_the_content_type_has_no_charset(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        answers = [
            await market.renter.call("POST", "/api/v0/bundles/", {}),
            await market.anyone.call("GET", "/api/v0/users/current"),
            await market.anyone.call("GET", "/api/v0/nothing"),
            await market.anyone.call("GET", "/api/v0/gpu_names/unique/"),
        ]

    assert [answer.headers["Content-Type"] for answer in answers] == ["application/json"] * 4
    assert [answer.status for answer in answers] == [200, 401, 404, 200]


async def test_a_get_may_carry_a_body(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        answer = await market.host.call("GET", "/api/v0/machines?owner=me", {"machine_id": 1})

    assert (answer.status, answer.body) == (200, {"machines": []})


async def test_unknown_paths_and_wrong_methods_are_json_refusals(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        unknown = await market.anyone.call("GET", "/api/v0/nothing")
        wrong = await market.renter.call("PATCH", "/api/v0/secrets/")

    assert (unknown.status, unknown.body["error"], unknown.body["success"]) == (404, "no_such_endpoint", False)
    assert (wrong.status, wrong.body["error"]) == (405, "method_not_allowed")
    assert set(wrong.headers["Allow"].split(",")) >= {"GET", "POST", "PUT", "DELETE"}


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        (b'{"a": 1,\n "b": }', "line 2 column 7"),
        (b"\xff\xfe{}", "column 1"),
        (b"[1]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"[" * 100_000, "too deep"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(tmp_path: Path, raw: bytes, place: str) -> None:
    async with open_market(tmp_path) as market:
        answer = await market.renter.call("POST", "/api/v0/secrets/", data=raw)

    assert (answer.status, answer.body["error"]) == (400, "invalid_json")
    assert place in answer.body["msg"]


async def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        some = await market.renter.call("POST", "/api/v0/secrets/", data=b" " * (app.BODY_MAX_BYTES + 1))
        more = await market.renter.call("POST", "/api/v0/secrets/", data=b" " * (app.MACHINE_BODY_MAX_BYTES + 1))

    assert (some.status, some.body["error"]) == (413, "body_too_large")
    assert (more.status, more.body["error"]) == (413, "body_too_large")


async def test_an_unexpected_error_leaks_nothing_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await raising(tmp_path, RuntimeError("the secret sauce"), monkeypatch)

    assert (answer.status, answer.body["error"]) == (500, "internal_error")
    assert "sauce" not in json.dumps(answer.body)
    request_id = answer.body["msg"].rsplit(" ", 1)[-1]
    assert request_id in caplog.text
    assert "the secret sauce" in caplog.text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ContractError("port_invalid", "cannot map port 0", remedy="Use 1 to 65535"), 400),
        (MarketplaceError("gone", "cannot do it", status=410), 410),
        (StoreError("store_corrupt", "cannot read the store"), 500),
    ],
)
async def test_errors_keep_code_and_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    answer = await raising(tmp_path, error, monkeypatch)

    assert answer.status == status
    assert answer.body["error"] == error.code  # type: ignore[attr-defined]
    assert answer.body["msg"].startswith("cannot ")


async def test_a_handler_may_answer_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(_: Call) -> Any:
        return web.Response(text="plain", status=202)

    async with one_route(tmp_path, Route("PUT", "/api/v0/x", PUBLIC, handler), monkeypatch) as api:
        answer = await api.call("PUT", "/api/v0/x/")

    assert (answer.status, answer.body) == (202, "plain")


async def test_the_access_log_holds_no_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(_: Call) -> Any:
        return {}

    caplog.set_level(logging.INFO)
    route = Route("GET", "/api/v0/result/{token}", PUBLIC, handler)
    async with one_route(tmp_path, route, monkeypatch, logging.getLogger("access")) as api:
        await api.using("key-in-header").call("GET", "/api/v0/result/unguessable?api_key=key-in-query")
        await api.call("GET", "/nowhere?api_key=key-in-query")

    assert "GET /api/v0/result/{token} 200" in caplog.text
    assert "'/nowhere' 404" in caplog.text
    for secret in ("key-in-header", "key-in-query", "unguessable"):
        assert secret not in caplog.text


async def test_too_many_requests_are_told_when_to_come_back(tmp_path: Path) -> None:
    async with open_market(tmp_path, requests_per_minute=3, searches_per_minute=2) as market:
        searches = [await market.renter.call("POST", "/api/v0/bundles/", {}) for _ in range(3)]
        others = [await market.host.call("GET", "/api/v0/machines") for _ in range(4)]
        guesses = [(await market.anyone.using(f"guess {i}").call("GET", "/api/v0/machines")).status for i in range(4)]
        market.clock.advance(60)
        later = await market.renter.call("POST", "/api/v0/bundles/", {})

    assert [answer.status for answer in searches] == [200, 200, 429]
    assert [answer.status for answer in others] == [200, 200, 200, 429]
    assert guesses == [401, 401, 401, 429]
    assert searches[2].body["error"] == "too_many_requests"
    assert searches[2].headers["Retry-After"] == "30"
    assert "retry_after_s" in searches[2].body
    assert later.status == 200


@pytest.mark.parametrize(
    "raw",
    [b'{"volume_info": NaN}', b'{"volume_info": 1e999}', rb'{"name": "\ud800"}', b'{"n": ' + b"1" * 5000 + b"}"],
    ids=["nan", "infinity", "half a surrogate pair", "endless number"],
)
async def test_what_json_cannot_hold_is_refused_before_anything_is_kept(tmp_path: Path, raw: bytes) -> None:
    async with open_market(tmp_path) as market:
        template = raw[:-1] + b', "image": "ubuntu", "private": false}'
        answer = await market.renter.call("POST", "/api/v0/template/", data=template)
        listed = await market.host.call("GET", "/api/v0/template/")

    assert (answer.status, answer.body["error"]) == (400, "invalid_json")
    assert (listed.status, listed.body["templates"]) == (200, [])


async def test_a_query_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        answer = await market.renter.call("GET", f"/api/v1/instances/?select_filters={'[' * 2000}")

    assert (answer.status, answer.body["error"]) == (400, "invalid_args")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/v1/instances/?select_cols=[[1]]", None, 200),
        ("GET", '/api/v0/template/?select_cols=[{"a":1}]', None, 200),
        ("PUT", "/api/v0/asks/3/", {"image": "ubuntu", "disk": "1e999999"}, 400),
        ("PUT", "/api/v0/asks/3/", {"image": "ubuntu", "template_id": 10**30}, 400),
        ("POST", "/api/v0/template/", {"image": "ubuntu", "extra_filters": "[" * 5000}, 400),
    ],
)
async def test_odd_values_are_no_internal_error(tmp_path: Path, method: str, path: str, body: Any, status: int) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine()
        await market.renter.call("POST", "/api/v0/template/", {"image": "ubuntu"})
        answer = await market.renter.call(method, path, body)

    assert answer.status == status, answer.body


async def test_the_status_line_says_why_too_for_clients_that_read_no_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = ApiError(403, "invalid_args", "cannot rent 'caf\u00e9\r\nX: 1': " + "it is not your own " * 20)

    answer = await raising(tmp_path, refusal, monkeypatch)

    assert answer.reason is not None
    assert answer.reason.startswith("Forbidden: cannot rent 'caf???X: 1': it is not your own")
    assert len(answer.reason) == len("Forbidden: ") + app.REASON_CHARS
    assert "X" not in answer.headers
