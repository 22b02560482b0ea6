from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kaalia.marketplace import auth
from kaalia.marketplace.db import tables
from kaalia.marketplace.routing import Call, Caller, Route
from kaalia.wire.error import ApiError
from tests.marketplace.support import Api, Market, open_market


async def _nothing(_: Call) -> Any:
    return {}


LOGS = Route("PUT", r"/api/v0/instances/request_logs/{id:\d+}", "instance_read", _nothing)
SHOW = Route("GET", r"/api/v0/instances/{id:\d+}", "instance_read", _nothing)
ALL = Route("GET", "/api/v1/instances", "instance_read", _nothing)
REBOOT = Route("PUT", r"/api/v0/instances/reboot/{id:\d+}", "instance_write", _nothing)
CHANGE = Route("PUT", r"/api/v0/instances/{id:\d+}", "instance_write", _nothing)
DESTROY = Route("DELETE", r"/api/v0/instances/{id:\d+}", "instance_write", _nothing)


def key(permissions: dict[str, Any] | None = None, instance_id: int | None = None) -> auth.Key:
    return auth.Key(Caller(1, False, 1, instance_id), permissions)


def refused(which: auth.Key, route: Route, parameters: dict[str, Any]) -> str:
    with pytest.raises(ApiError) as caught:
        auth.authorise(which, route, parameters)
    assert caught.value.status == 403
    assert caught.value.code == "not_authorized"
    return caught.value.problem.message


async def restricted(market: Market, permissions: dict[str, Any]) -> Api:
    body = {"name": "restricted", "permissions": permissions}
    made = await market.renter.call("POST", "/api/v0/auth/apikeys/", body)
    assert made.status == 200, made.body
    return market.renter.using(made.body["key"])


async def test_no_key_and_a_wrong_key_are_refused(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        without = await market.anyone.call("GET", "/api/v0/users/current")
        wrong = await market.anyone.using("nonsense").call("GET", "/api/v0/users/current")

    assert (without.status, without.body["error"]) == (401, "auth_error")
    assert (wrong.status, wrong.body["error"], wrong.body["msg"]) == (401, "auth_error", "Invalid user key")


async def test_the_key_may_stand_in_the_query(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        answer = await market.anyone.call("GET", f"/api/v0/users/current/?api_key={market.host.key}")

    assert answer.body["username"] == "host"


async def test_keys_are_stored_as_digests_only(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market, market.context.engine.begin() as tx:
        rows = (await tx.execute(sa.select(tables.api_keys))).all()

    assert market.host.key is not None
    assert market.host.key not in str(rows)
    assert auth.digest(market.host.key) in str(rows)
    assert len({auth.new_key() for _ in range(100)}) == 100


async def test_a_category_opens_its_routes_and_no_other(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        api = await restricted(market, {"api": {"user_read": {}}})
        user = await api.call("GET", "/api/v0/users/current")
        search = await api.call("POST", "/api/v0/bundles/", {})

    assert user.status == 200
    assert (search.status, search.body["error"]) == (403, "not_authorized")
    assert "misc" in search.body["msg"]


async def test_a_restricted_key_makes_no_wider_key(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        api = await restricted(market, {"api": {"user_read": {}, "user_write": {}}})
        wider = {"name": "wider", "permissions": {"api": {"misc": {}}}}
        equal = {"name": "equal", "permissions": {"api": {"user_read": {}}}}
        refusal = await api.call("POST", "/api/v0/auth/apikeys/", wider)
        made = await api.call("POST", "/api/v0/auth/apikeys/", equal)
        inherited = await api.call("POST", "/api/v0/auth/apikeys/", {"name": "inherited"})

    assert (refusal.status, refusal.body["error"]) == (403, "not_authorized")
    assert made.status == 200
    assert inherited.body["permissions"] == {"api": {"user_read": {}, "user_write": {}}}


@pytest.mark.parametrize(
    ("rule", "sent", "opens"),
    [
        ({"eq": 1227}, "1227", True),
        ({"eq": 1227}, "1228", False),
        ({"gte": 10, "lte": 20}, "15", True),
        ({"gte": 10, "lte": 20}, "21", False),
        ({"gte": 10}, "x", False),
        ({"lte": 20}, None, False),
    ],
)
def test_constraints_of_one_endpoint(rule: dict[str, int], sent: str | None, opens: bool) -> None:
    which = key({"api": {"instance_read": {"api.instance.request_logs": {"constraints": {"id": rule}}}}})
    parameters = {} if sent is None else {"id": sent}

    if opens:
        auth.authorise(which, LOGS, parameters)
    else:
        assert "instance_read" in refused(which, LOGS, parameters)
    refused(which, SHOW, parameters)


@pytest.mark.parametrize(
    ("route", "name"),
    [
        (LOGS, "api.instance.request_logs"),
        (SHOW, "api.instance.show"),
        (DESTROY, "api.instance.delete"),
        (REBOOT, "api.instance.reboot"),
    ],
)
def test_endpoint_names(route: Route, name: str) -> None:
    assert auth.endpoint_name(route) == name


@pytest.mark.parametrize("route", [SHOW, CHANGE, DESTROY, LOGS])
def test_an_instance_key_reaches_its_own_instance(route: Route) -> None:
    auth.authorise(key(instance_id=7), route, {"id": "7"})

    assert "7" in refused(key(instance_id=7), route, {"id": "8"})
    refused(key(instance_id=7), route, {})


@pytest.mark.parametrize("route", [ALL, REBOOT])
def test_an_instance_key_reaches_nothing_else(route: Route) -> None:
    assert route.access in refused(key(instance_id=7), route, {"id": "7"})


async def test_a_body_cannot_pretend_to_be_the_instance_of_the_path(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        text = auth.new_key()
        async with market.context.engine.begin() as tx:
            await tx.execute(
                sa.insert(tables.api_keys).values(
                    user_id=2, name="", key_sha256=auth.digest(text), instance_id=7, created_at=0.0
                )
            )
        answer = await market.anyone.using(text).call("PUT", "/api/v0/instances/8/?id=7", {"id": 7, "state": "stopped"})

    assert answer.status == 403


async def test_a_constraint_on_the_id_holds_for_every_id_of_a_bulk_request(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        one = {"constraints": {"id": {"eq": 5}}}
        opened = {"api.instance.update": one, "api.instance.delete": one}
        api = await restricted(market, {"api": {"instance_write": opened}})
        stop = {"id": 5, "ids": [5, 6], "state": "stopped"}
        destroy = {"id": 5, "instance_ids": [6]}

        stopped = await api.call("PUT", "/api/v0/instances/", stop)
        destroyed = await api.call("DELETE", "/api/v0/instances/?id=5", destroy)
        shadowed = await api.call("DELETE", "/api/v0/instances/", {"ids": [5], "instance_ids": [6]})
        allowed = await api.call("PUT", "/api/v0/instances/", {"ids": [5], "state": "stopped"})

    assert [answer.body["error"] for answer in (stopped, destroyed, shadowed)] == ["not_authorized"] * 3
    assert allowed.body["error"] == "no_such_instance"
