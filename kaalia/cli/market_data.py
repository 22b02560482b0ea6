"""What the marketplace's commands share: where its data is, and work on the database there."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from kaalia.marketplace import run

T = TypeVar("T")

DEFAULT_DATA = Path("/var/lib/kaalia-marketplace")
DataDir = Annotated[Path, typer.Option("--data", metavar="DIR", help="Directory of the database and the signing key.")]


def at_the_database(data: Path, work: Callable[..., Awaitable[T]]) -> T:
    """Open it, do the work, close it. Raises ConfigError `data_dir_invalid`, and what the work raises."""

    async def do() -> T:
        async with run.open_database(data) as engine:
            return await work(engine)

    return asyncio.run(do())
