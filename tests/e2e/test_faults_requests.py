"""Requests that cannot be granted: refused with a code and a sentence, by the real client where it can ask them."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.rented import SLEEP, destroy, refusal, rent
from tests.support.images import DEMO_IMAGE
from tests.support.rest import Rest
from tests.support.stack import Stack

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]

TOO_MANY = " ".join(f"-p {port}:{port}" for port in range(10000, 10065))


@pytest.fixture(autouse=True)
def nothing_was_rented(stack: Stack) -> Iterator[None]:
    """Whatever was refused left no instance, and marketplace and daemon go on."""
    yield
    assert stack.renter_api.get("/api/v0/instances/") == {"success": True, "instances": []}
    assert stack.marketplace is not None
    assert stack.daemon is not None
    assert (stack.marketplace.poll(), stack.daemon.poll()) == (None, None)


def accept(stack: Stack, **body: Any) -> tuple[int, str, str]:
    """The refusal of a request for an offer that could be had."""
    return refusal(stack.renter_api.call("PUT", f"/api/v0/asks/{stack.rentable_offer(1)}/", {**SLEEP, **body}))


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (TOO_MANY, ("cannot open 65 ports", "64 at most", "drop 1 of the -p options")),
        ("-p 0:0", ("cannot open port '0:0'", "a number lies outside 1-65535", "such as -p 8080:8080")),
        ("-p 100000:100000", ("cannot open port '100000:100000'", "outside 1-65535", "such as -p 8080:8080")),
    ],
    ids=["65 ports", "port 0", "port 100000"],
)
def test_docker_options_that_the_client_sends(stack: Stack, env: str, words: tuple[str, ...]) -> None:
    offer = str(stack.rentable_offer(1))
    done = stack.renter.run(
        "create", "instance", offer, "--image", DEMO_IMAGE, "--disk", "1", "--env", env, "--args", "sleep", "9"
    )

    said = done.stdout + done.stderr
    assert [word for word in words if word not in said] == [], said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        ({"env": "A=B"}, "env_invalid", "cannot read variable 'A': it stands without -e. put -e before it: -e A=..."),
        ({"env": TOO_MANY}, "too_many_ports", "cannot open 65 ports"),
        ({"env": "-e A=B --privileged"}, "env_option_refused", "cannot use Docker option '--privileged': only -e, -h"),
        ({"env": "--gpus all"}, "env_option_refused", "leave it out: all GPUs of the offer are attached"),
        ({"image": "Upper/Case"}, "image_invalid", "Upper/Case"),
        ({"image_login": "-u me"}, "login_invalid", "user or password is missing"),
    ],
    ids=["no -e", "65 ports", "--privileged", "--gpus", "image", "login"],
)
def test_fields_that_cannot_be_used(stack: Stack, body: dict[str, Any], reason: str, words: str) -> None:
    request = {**SLEEP, **body}
    answer = stack.renter_api.call("PUT", f"/api/v0/asks/{stack.rentable_offer(1)}/", request)

    assert refusal(answer)[:2] == (400, "invalid_args")
    assert answer[1]["reason"] == reason
    assert words in answer[1]["msg"]


def test_a_disk_that_is_too_small_or_too_large(stack: Stack) -> None:
    assert accept(stack, disk=0.5) == (
        400,
        "invalid_args",
        "cannot use disk=0.5: it is less than 1 GB. Ask for 1 GB or more",
    )
    code, error, told = accept(stack, disk=1e9)
    assert (code, error) == (400, "invalid_args")
    assert "GB free of other contracts" in told


def test_somebody_elses_instance_is_not_there(stack: Stack) -> None:
    mine = rent(stack)
    other = Rest(stack.url, stack.add_user("other"))

    for method, body in (("DELETE", {}), ("PUT", {"state": "stopped"})):
        code, _, told = refusal(other.call(method, f"/api/v0/instances/{mine}/", body))
        assert code == 404
        assert str(mine) in told
    assert other.get(f"/api/v0/instances/{mine}/?owner=me") == {"instances": None}
    stack.wait_status(mine, "running")
    destroy(stack, mine)


def test_an_instance_that_never_was(stack: Stack) -> None:
    done = stack.renter.run("destroy", "instance", "999999", "-y")
    assert "999999" in done.stdout + done.stderr
    assert "`vastai show instances` lists yours" in done.stdout + done.stderr


def test_an_offer_that_never_was(stack: Stack) -> None:
    done = stack.renter.run("create", "instance", "999999", "--image", DEMO_IMAGE, "--disk", "1")

    said = done.stdout + done.stderr
    assert "cannot rent offer 999999: no_such_ask, there is no such offer" in said
    assert "`vastai search offers` shows what is" in said


def test_a_body_that_is_no_json(stack: Stack) -> None:
    request = urllib.request.Request(
        f"{stack.url}/api/v0/asks/1/",
        data=b'{"image": "x",\n "disk": }',
        method="PUT",
        headers={"Authorization": f"Bearer {stack.renter_key}", "Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    with caught.value as reply:
        body = json.loads(reply.read())

    assert refusal((reply.code, body))[:2] == (400, "invalid_json")
    assert "at line 2 column 10" in body["msg"]


def test_a_key_that_may_only_read_rents_nothing(stack: Stack) -> None:
    permissions: dict[str, Any] = {"api": {"instance_read": {}, "misc": {}}}
    _, made = stack.renter_api.call("POST", "/api/v0/auth/apikeys/", {"name": "reader", "permissions": permissions})
    reader = Rest(stack.url, made["key"])

    code, _, told = refusal(reader.call("PUT", f"/api/v0/asks/{stack.rentable_offer(1)}/", SLEEP))

    assert code == 403
    assert "instance_write" in told
    assert reader.get("/api/v0/instances/") is not None


def test_a_host_rents_only_its_own_machines(stack: Stack) -> None:
    rival = Rest(stack.url, stack.add_user("rival", host=True))

    code, error, told = refusal(rival.call("PUT", f"/api/v0/asks/{stack.rentable_offer(1)}/", SLEEP))

    assert (code, error) == (403, "invalid_args")
    assert "hosts can only rent their own machines. Rent with an account that is no host" in told


def test_the_same_request_twice_makes_one_contract(stack: Stack) -> None:
    path = f"/api/v0/asks/{stack.rentable_offer(1)}/"
    answers = [stack.renter_api.call("PUT", path, {**SLEEP, "label": "twice"}) for _ in range(2)]

    assert [code for code, _ in answers] == [200, 200]
    assert answers[0] == answers[1]
    assert len(stack.renter_api.get("/api/v0/instances/")["instances"]) == 1
    destroy(stack, int(answers[0][1]["new_contract"]))
