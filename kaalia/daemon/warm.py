"""What is done before everything else is imported, so that it leaves out what the daemon never uses: see `__main__`."""

import sys
import warnings

import aiohttp as aiohttp  # noqa: PLC0414 - for the effect of it

# docker's HTTP library guesses character sets, by tables of 2 MB. The engine speaks UTF-8: the guess without tables.
sys.modules["charset_normalizer"] = None  # type: ignore[assignment]
warnings.filterwarnings("ignore", "Unable to find acceptable character detection")
