"""What is imported in a thread of its own while the daemon starts: see `__main__`."""

import aiohttp as aiohttp  # noqa: PLC0414 - for the effect of it
