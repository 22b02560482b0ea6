from pathlib import Path

from tests.marketplace.support import open_market


async def test_unknown_path_is_a_json_refusal(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        answer = await market.anyone.call("GET", "/api/v0/nothing")

    assert answer.status == 404
    assert answer.body["error"] == "no_such_endpoint"
    assert answer.headers["Content-Type"] == "application/json"
