"""What is imported before everything else, so that it leaves out what the daemon never uses: see `__main__`."""

import aiohttp as aiohttp  # noqa: PLC0414 - for the effect of it
