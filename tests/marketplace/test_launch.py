"""`launch instance`: search and rent in one; a repetition is told from another launch by whether it was answered."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kaalia.marketplace import rentals
from kaalia.marketplace.routing import Caller
from tests.marketplace.renting import contract_of, rented_market, show
from tests.marketplace.support import unanswered


def launch_body(**filters: Any) -> dict[str, Any]:
    """What `vastai launch instance -g RTX_4090 -n 1 -i ubuntu` sends, with `filters` in place of its own."""
    question = {"rentable": {"eq": True}, "rented": {"eq": False}, "num_gpus": {"eq": "1"}, **filters}
    question |= {"order": [["score", "desc"]], "type": "on-demand", "allocated_storage": 16.0}
    return {"image": "ubuntu", "disk": 16.0, "q": question, "env": {}, "runtype": "ssh", "template_hash_id": None}


async def test_launch_searches_and_rents_once(tmp_path: Path) -> None:
    """However often it comes, as long as nobody has heard the answer."""
    async with rented_market(tmp_path) as market:
        body, caller = launch_body(gpu_name={"eq": "RTX 4090"}), Caller(user_id=2, is_host=False, key_id=1)

        made = [await rentals.launch(market.context, caller, body) for _ in range(3)]
        other = await rentals.launch(market.context, caller, {**body, "label": "2"})

        assert made == [made[0]] * 3
        assert other.contract_id != made[0].contract_id
        assert (await contract_of(market, made[0].contract_id)).spec.gpu_count == 1


async def test_two_launches_with_equal_words_are_two_instances(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        answers = [await market.renter.call("PUT", "/api/v0/launch_instance/", launch_body()) for _ in range(3)]

        assert [answer.body["success"] for answer in answers] == [True] * 3
        assert len({answer.body["new_contract"] for answer in answers}) == 3
        assert len({(await show(market, answer.body["new_contract"]))["ask_contract_id"] for answer in answers}) == 3


async def test_a_launch_whose_caller_went_away_is_repeated_and_not_doubled(tmp_path: Path) -> None:
    """As the client does it after a broken connection: the first answer reached nobody."""
    async with rented_market(tmp_path) as market:
        async with unanswered(market, "PUT", "/api/v0/launch_instance/", launch_body()), asyncio.timeout(30):
            while not (found := (await market.renter.call("GET", "/api/v0/instances/")).body["instances"]):
                await asyncio.sleep(0.01)

        again = await market.renter.call("PUT", "/api/v0/launch_instance/", launch_body())
        third = await market.renter.call("PUT", "/api/v0/launch_instance/", launch_body())

        assert again.body["new_contract"] == found[0]["id"]
        assert third.body["new_contract"] != found[0]["id"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (launch_body(gpu_name={"eq": "H100"}), "no_such_ask"),
        ({**launch_body(), "image": None}, "invalid_args"),
        ({**launch_body(), "q": "num_gpus=1"}, "invalid_args"),
        (launch_body(num_gpus={"about": 1}), "filter_invalid"),
    ],
)
async def test_a_refused_launch_says_so_in_message(tmp_path: Path, body: dict[str, Any], error: str) -> None:
    async with rented_market(tmp_path) as market:
        answer = await market.renter.call("PUT", "/api/v0/launch_instance/", body)

        assert (answer.status, answer.body["success"], answer.body["error"]) == (200, False, error)
        assert answer.body["message"] == answer.body["msg"]
        assert answer.body["msg"].startswith("cannot")
