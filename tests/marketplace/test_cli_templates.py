"""Templates with the real client."""

from pathlib import Path
from typing import Any

from tests.marketplace.renting import ask_of, contract_of, rented_market
from tests.marketplace.support import Client, Market, open_market

ENV = "-e MODEL_ID=deepseek-ai/DeepSeek-R1-Distill-Llama-8B -e MAX_TOKENS=4096"
CREATE = (
    *("create", "template", "--name", "vllm server", "--image", "vllm/vllm-openai", "--image_tag", "latest"),
    *("--env", ENV, "--disk_space", "50", "--ssh", "--direct", "--onstart-cmd", 'echo "hi"; vllm serve $MODEL_ID'),
)


async def only_template(client: Client) -> dict[str, Any]:
    (row,) = await client.json("search", "templates", "private=true")
    assert isinstance(row, dict)
    return row


async def rent_with(market: Market, template_hash: str, *more: str) -> int:
    ask_id = str(await ask_of(market.context))
    command = ("create", "instance", ask_id, "--template_hash", template_hash, *more)
    made = await market.client(market.renter).json(*command)
    return int(made["new_contract"])


async def test_create_search_and_create_again(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        renter = market.client(market.renter)

        created = await renter.run(*CREATE)
        again = await renter.run(*CREATE)

        row = await only_template(renter)
        assert "New Template" in created.stdout, created.stdout + created.stderr
        assert row["hash_id"] in created.stdout
        assert row["hash_id"] in again.stdout
        assert (row["name"], row["env"], row["ssh_direct"], row["runtype"]) == ("vllm server", ENV, True, "ssh")
        assert await renter.json("search", "templates", "count_created > 100") == []
        table = await renter.run("search", "templates", "use_ssh == True recommended == False")
        assert table.returncode == 0, table.stderr
        assert "vllm" in table.stdout


async def test_update_keeps_the_rest_and_changes_the_hash(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        renter = market.client(market.renter)
        await renter.run(*CREATE)
        before = await only_template(renter)

        done = await renter.run("update", "template", before["hash_id"], "--name", "renamed")
        unknown = await renter.run("update", "template", "0" * 32, "--name", "x")

        after = await only_template(renter)
        assert done.returncode == 0, done.stdout + done.stderr
        assert unknown.returncode == 1
        assert after["id"] == before["id"]
        assert after["hash_id"] != before["hash_id"]
        assert after["name"] == "renamed"
        for field in ("image", "env", "onstart", "ssh_direct", "use_ssh", "runtype", "extra_filters"):
            assert after[field] == before[field], field


async def test_an_instance_from_a_template_with_overrides(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        renter = market.client(market.renter)
        await renter.run(*CREATE)
        template = await only_template(renter)

        merged = await rent_with(
            market, template["hash_id"], "--env", "-e MODEL_ID=mistralai/Mistral-7B-v0.1 -e HF_TOKEN=hf_xxx"
        )
        own = await rent_with(market, template["hash_id"], "--image", "nvidia/cuda:12.1", "--disk", "20")

        env = dict((await contract_of(market, merged)).spec.env)
        spec = (await contract_of(market, own)).spec
        assert env["MODEL_ID"] == "mistralai/Mistral-7B-v0.1"
        assert env["MAX_TOKENS"] == "4096"
        assert env["HF_TOKEN"] == "hf_xxx"
        assert (await contract_of(market, merged)).spec.disk_bytes == 50_000_000_000
        assert (spec.image, spec.disk_bytes) == ("nvidia/cuda:12.1", 20_000_000_000)
        assert dict(spec.env)["MODEL_ID"] == "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
        assert (await only_template(renter))["count_created"] == 2


async def test_delete_by_id_and_by_hash(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        renter = market.client(market.renter)
        await renter.run(*CREATE)
        row = await only_template(renter)

        by_id = await renter.run("delete", "template", "--template-id", str(row["id"]))
        await renter.run(*CREATE)
        by_hash = await renter.run("delete", "template", "--hash-id", row["hash_id"])
        missing = await renter.run("delete", "template", "--hash-id", row["hash_id"])

        assert "deleted" in by_id.stdout
        assert "deleted" in by_hash.stdout
        assert "404" in missing.stdout + missing.stderr
        assert await renter.json("search", "templates") == []


async def test_the_sdk_class_makes_and_rents_templates(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        script = """
import json, os
from vastai import VastAI
sdk = VastAI(server_url=os.environ["VAST_URL"], raw=True, quiet=True)
made = sdk.create_template(name="tgi", image="ghcr.io/huggingface/text-generation-inference:1.0.3",
    env="-p 3000:3000 -e MODEL_ARGS='--model-id TheBloke/Llama-2-7B-chat-GPTQ --quantize gptq'",
    search_params="gpu_ram>=23 num_gpus=1 disk_space>=192", disk_space="8.0", ssh=True, direct=True)
found = sdk.search_templates(query="name == tgi")
rented = sdk.create_instance(id=1, template_hash=found[0]["hash_id"], disk=20)
sdk.update_template(hash_id=found[0]["hash_id"], name="tgi two")
changed = sdk.search_templates(query="")
sdk.delete_template(template_id=found[0]["id"])
print(json.dumps({"found": found, "rented": rented, "changed": changed, "left": sdk.search_templates(query="")}))
"""
        done = await market.client(market.renter).python(script)

        assert done.returncode == 0, done.stderr
        assert '"left": []' in done.stdout
        instance = (await market.renter.call("GET", "/api/v0/instances")).body["instances"][0]
        spec = (await contract_of(market, instance["id"])).spec
        assert dict(spec.env)["MODEL_ARGS"] == "--model-id TheBloke/Llama-2-7B-chat-GPTQ --quantize gptq"
        assert spec.disk_bytes == 20_000_000_000
        assert '"tgi two"' in done.stdout
