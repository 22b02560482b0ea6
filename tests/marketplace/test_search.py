from pathlib import Path
from typing import Any

import pytest

from tests.marketplace.support import open_market
from tests.support.machines import machine_report


async def test_the_best_score_comes_first_and_that_is_the_whole_machine(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=4), price_gpu=1)
        await market.list_machine(machine_report(gpus=2), price_gpu=0.1)
        offers = await market.search()

    assert [offer["num_gpus"] for offer in offers] == [2, 1, 1, 4, 2, 2, 1, 1, 1, 1]
    assert [offer["score"] for offer in offers] == sorted((offer["score"] for offer in offers), reverse=True)


async def test_both_spellings_give_the_same_offers(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=2))
        question = {"num_gpus": {"eq": 2}}
        direct = await market.renter.call("POST", "/api/v0/bundles", question)
        nested = await market.renter.call("PUT", "/api/v0/search/asks/", {"select_cols": ["*"], "q": question})
        columns = await market.renter.call(
            "PUT", "/api/v0/search/asks/", {"select_cols": ["id", "nothing"], "q": question}
        )

    assert direct.body == nested.body
    assert columns.body["offers"] == [{"id": direct.body["offers"][0]["id"], "nothing": None}]


async def test_the_questions_of_the_public_self_test(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=2))
        await market.list_machine(machine_report(gpus=1))
        offers = await market.search(
            machine_id={"eq": str(machine_id)},
            verified={"eq": "any"},
            rentable={"eq": True},
            rented={"eq": "any"},
            order=[["score", "desc"]],
            type="on-demand",
            allocated_storage=5.0,
        )

    assert [offer["num_gpus"] for offer in offers] == [2, 1, 1]
    assert [offer["dlperf"] for offer in offers] == [46.0, 23.0, 23.0], "twice for two GPUs"
    assert all(offer["reliability"] > 0.9 for offer in offers)


async def test_verified_machines_only_unless_asked_otherwise(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=1))

        assert await market.search(verified={"eq": True}) == []
        assert len(await market.search(verified={"eq": False})) == 1
        assert len(await market.search(verification={"in": ["unverified"]}, external={"eq": False})) == 1


async def test_what_is_not_known_satisfies_no_bound(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=1))

        for field in ("inet_down", "pcie_bw", "disk_bw", "nw_disk_avg_bw"):
            assert await market.search(**{field: {"gte": 0}}) == [], field


@pytest.mark.parametrize("limit", [1, 2.0, "2", None])
async def test_limit_cuts(tmp_path: Path, limit: Any) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=2))

        assert len(await market.search(limit=limit)) == (3 if limit is None else int(limit))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"limit": -1}, "invalid_args"),
        ({"limit": "many"}, "invalid_args"),
        ({"allocated_storage": -5}, "invalid_args"),
        ({"allocated_storage": True}, "invalid_args"),
        ({"type": "gift"}, "invalid_args"),
        ({"type": ["bid"]}, "invalid_args"),
        ({"order": "score"}, "invalid_args"),
        ({"order": [["score"]]}, "filter_invalid"),
        ({"order": [1]}, "invalid_args"),
        ({"num_gpus": 4}, "filter_invalid"),
        ({"num_gpus": {"about": 4}}, "filter_invalid"),
    ],
)
async def test_a_question_that_cannot_be_read_is_refused(tmp_path: Path, body: dict[str, Any], code: str) -> None:
    async with open_market(tmp_path) as market:
        answer = await market.renter.call("POST", "/api/v0/bundles/", body)

    assert (answer.status, answer.body["error"]) == (400, code)
    assert answer.body["msg"].startswith("cannot ")


async def test_an_expired_or_silent_machine_says_so_by_its_flags_only(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=1))
        market.clock.advance(3600)
        offers = await market.search(rentable={"eq": False})

    assert [(offer["rentable"], offer["rented"]) for offer in offers] == [(False, False)]
