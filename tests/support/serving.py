"""A service that runs beside a test, and is ended with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from kaalia.service import Service


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[None]:
    """It has had a moment to begin when the test goes on, and has ended when this is left."""
    task = asyncio.create_task(service.run())
    await asyncio.sleep(0.05)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
