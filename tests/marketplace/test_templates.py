import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from kaalia.marketplace import accounts
from tests.marketplace.renting import accept, contract_of, rent, rented_market, show
from tests.marketplace.support import Answer, Api, Market, open_market

CREATE: dict[str, Any] = {
    "name": "vllm",
    "image": "vllm/vllm-openai",
    "tag": "v1",
    "href": None,
    "repo": None,
    "env": "-e MODEL_ID=deepseek-ai/DeepSeek-R1-Distill-Llama-8B -e MAX_TOKENS=4096 -p 8000:8000",
    "onstart": None,
    "jup_direct": False,
    "ssh_direct": True,
    "use_jupyter_lab": False,
    "runtype": "ssh",
    "use_ssh": True,
    "jupyter_dir": None,
    "docker_login_repo": None,
    "extra_filters": {"verified": {"eq": True}},
    "recommended_disk_space": "20.0",
    "readme": None,
    "readme_visible": True,
    "desc": None,
    "private": True,
}
"""What `vastai create template` sends."""


async def create(api: Api, **changes: Any) -> dict[str, Any]:
    answer = await api.call("POST", "/api/v0/template/", {**CREATE, **changes})
    assert answer.status == 200, answer.body
    row: dict[str, Any] = answer.body["template"]
    return row


async def search(api: Api, **filters: Any) -> list[dict[str, Any]]:
    query = urlencode({"select_cols": '["*"]', "select_filters": json.dumps(filters)})
    answer = await api.call("GET", f"/api/v0/template/?{query}")
    assert answer.body["success"] is True, answer.body
    rows: list[dict[str, Any]] = answer.body["templates"]
    return rows


async def update(api: Api, path: str = "/api/v1/template/", **body: Any) -> Answer:
    return await api.call("PUT", path, body)


async def stranger_of(market: Market) -> Api:
    return market.anyone.using(await accounts.add_user(market.context.engine, "stranger", False, market.clock.now()))


async def test_a_template_is_created_and_found(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        row = await create(market.renter)

        found = await search(market.renter, name={"eq": "vllm"}, use_ssh={"eq": True}, id={"eq": str(row["id"])})

        assert found == [row]
        assert len(row["hash_id"]) == 32
        assert row["creator_id"] == 2
        assert row["count_created"] == 0
        assert row["recommended_disk_space"] == 20.0
        assert json.loads(row["extra_filters"]) == {"verified": {"eq": True}}
        assert await search(market.renter, name={"eq": "other"}) == []


async def test_identical_content_is_the_same_template(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        first = await create(market.renter)
        again = await create(market.renter)
        other = await create(market.renter, name="other")
        stranger = await create(await stranger_of(market))

        assert again == first
        assert other["hash_id"] != first["hash_id"]
        assert stranger["hash_id"] == first["hash_id"]
        assert stranger["id"] != first["id"]


async def test_private_templates_are_for_their_creator(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await create(market.renter)
        public = await create(market.renter, name="public", private=False)
        stranger = await stranger_of(market)

        assert [row["id"] for row in await search(stranger)] == [public["id"]]
        assert len(await search(market.renter)) == 2
        assert len(await search(market.renter, private={"eq": True})) == 1
        foreign = await update(stranger, id=public["id"], hash_id=public["hash_id"], name="mine")
        deletion = await stranger.call("DELETE", "/api/v0/template/", {"template_id": public["id"]})
        assert (foreign.status, foreign.body["error"]) == (404, "no_such_template")
        assert deletion.status == 404


@pytest.mark.parametrize("path", ["/api/v0/template/", "/api/v1/template/"])
async def test_an_update_keeps_what_is_null_and_changes_the_hash(tmp_path: Path, path: str) -> None:
    async with open_market(tmp_path) as market:
        row = await create(market.renter)
        nulls = dict.fromkeys(CREATE)

        answer = await update(
            market.renter, path, **{**nulls, "id": row["id"], "hash_id": row["hash_id"], "name": "new", "tag": "v2"}
        )

        changed = answer.body["template"]
        assert answer.body["success"] is True
        assert changed["id"] == row["id"]
        assert changed["hash_id"] != row["hash_id"]
        assert (changed["name"], changed["tag"], changed["env"]) == ("new", "v2", row["env"])
        assert changed["ssh_direct"] is True
        assert await search(market.renter) == [changed]


async def test_an_update_by_an_old_hash_alone_finds_the_template(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        row = await create(market.renter)
        await update(market.renter, hash_id=row["hash_id"], name="second")

        answer = await update(market.renter, "/api/v0/template/", hash_id=row["hash_id"], name="third")

        assert answer.body["template"]["id"] == row["id"]
        assert [found["name"] for found in await search(market.renter)] == ["third"]


async def test_a_template_is_deleted_by_id_or_hash(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        first, second = await create(market.renter), await create(market.renter, name="second")

        by_id = await market.renter.call("DELETE", "/api/v0/template/", {"template_id": first["id"]})
        by_hash = await market.renter.call("DELETE", "/api/v0/template/", {"hash_id": second["hash_id"]})
        again = await market.renter.call("DELETE", "/api/v0/template/", {"template_id": first["id"]})
        swapped = await market.renter.call("DELETE", "/api/v0/template/", {"template_id": second["hash_id"]})
        neither = await market.renter.call("DELETE", "/api/v0/template/", {})

        assert by_id.body["success"] is by_hash.body["success"] is True
        assert await search(market.renter) == []
        assert again.status == 404
        assert swapped.status == neither.status == 400


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image": None}, "image"),
        ({"env": "-e 'A=B"}, "quote"),
        ({"env": "--gpus all"}, "--gpus"),
        ({"onstart": "x" * 4049}, "4048"),
        ({"recommended_disk_space": "big"}, "recommended_disk_space"),
        ({"extra_filters": "{"}, "extra_filters"),
        ({"extra_filters": {"num_gpus": {"about": 1}}}, "about"),
        ({"private": "perhaps"}, "private"),
        ({"docker_login_pass": "pw"}, "docker_login_pass"),
    ],
)
async def test_a_bad_template_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    async with open_market(tmp_path) as market:
        answer = await market.renter.call("POST", "/api/v0/template/", {**CREATE, **changes})

        assert answer.status == 400
        assert named in answer.body["msg"]
        assert await search(market.renter) == []


async def test_extra_filters_come_as_text_or_object(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        as_object = await create(market.renter, extra_filters={"num_gpus": {"gte": 2}})
        as_text = await create(market.renter, extra_filters='{"num_gpus": {"gte": 2}}')
        blank = await create(market.renter, extra_filters="")

        assert as_text == as_object
        assert blank["extra_filters"] == "{}"


async def test_a_rental_fills_in_the_template_and_the_request_wins(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        template = await create(market.renter)

        instance_id = await rent(
            market,
            image=None,
            template_hash_id=template["hash_id"],
            env="-e MODEL_ID=mistralai/Mistral-7B-v0.1 -e HF_TOKEN=hf_xxx",
        )

        spec = (await contract_of(market, instance_id)).spec
        env = dict(spec.env)
        row = await show(market, instance_id)
        assert spec.image == "vllm/vllm-openai:v1"
        assert (env["MODEL_ID"], env["MAX_TOKENS"], env["HF_TOKEN"]) == ("mistralai/Mistral-7B-v0.1", "4096", "hf_xxx")
        assert [port.container_port for port in spec.ports] == [22, 8000]
        assert row["disk_space"] == 20.0
        assert row["image_runtype"] == "ssh_direc ssh_proxy"
        assert (row["template_id"], row["template_name"]) == (template["id"], "vllm")
        assert row["template_hash_id"] == template["hash_id"]


async def test_scalars_of_the_request_override_the_template(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        template = await create(market.renter, onstart="echo template")

        instance_id = await rent(
            market, image="ubuntu:24.04", disk=10.0, onstart="echo mine", template_id=template["id"], runtype="jupyter"
        )

        spec = (await contract_of(market, instance_id)).spec
        assert (spec.image, spec.disk_bytes, spec.onstart) == ("ubuntu:24.04", 10_000_000_000, "echo mine")
        assert spec.launch_mode == "jupyter"


async def test_rentals_are_counted(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        template = await create(market.renter)
        market.clock.advance(100)
        await rent(market, image=None, template_hash_id=template["hash_id"])
        repeated = await accept(market, 4711, image=None, template_hash_id=template["hash_id"])

        found = (await search(market.renter, count_created={"gt": "0"}))[0]

        assert repeated.status == 404
        assert found["count_created"] == 1
        assert found["recent_create_date"] == market.clock.now().timestamp()


async def test_old_hashes_of_edited_and_deleted_templates_resolve(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        template = await create(market.renter)
        edited = (await update(market.renter, id=template["id"], tag="v2")).body["template"]
        await market.renter.call("DELETE", "/api/v0/template/", {"template_id": template["id"]})

        old = await rent(market, image=None, template_hash_id=template["hash_id"])
        new = await rent(market, image=None, template_hash_id=edited["hash_id"])

        assert (await contract_of(market, old)).spec.image == "vllm/vllm-openai:v1"
        assert (await contract_of(market, new)).spec.image == "vllm/vllm-openai:v2"


async def test_a_private_template_is_shared_by_hash_not_by_id(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        template = await create(market.renter)
        stranger = await stranger_of(market)

        by_id = await accept(market, by=stranger, image=None, template_id=template["id"])
        by_hash = await accept(market, by=stranger, image=None, template_hash_id=template["hash_id"])

        assert by_id.status == 400
        assert by_hash.status == 200
