import asyncio

from kaalia.store import machine
from tests.api.conftest import Local
from tests.support.builders import build_report


async def test_the_report_is_shown_as_it_was_stored(local: Local) -> None:
    await local.database.transaction(lambda tx: machine.put_report(tx, build_report()))

    assert await asyncio.to_thread(local.client.report) == build_report()
