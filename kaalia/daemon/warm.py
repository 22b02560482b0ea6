"""What is imported before everything else, while no certificate authorities are to be read: see `__main__`."""

import aiohttp as aiohttp  # noqa: PLC0414 - for the effect of it
