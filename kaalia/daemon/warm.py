"""What is done before everything else is imported, so that it leaves out what the daemon never uses: see `__main__`."""

import dataclasses
import inspect
import sys
import warnings
from types import SimpleNamespace

# Each dataclass without a docstring, and without docstrings none has one, would get its signature in the place of it:
# half a second of the start, for a text that nobody reads.
dataclasses.inspect = SimpleNamespace(**{**vars(inspect), "signature": lambda *_, **__: ""})  # type: ignore[attr-defined]

import aiohttp as aiohttp  # noqa: E402, PLC0414 - for the effect of it

# docker's HTTP library guesses character sets, by tables of 2 MB. The engine speaks UTF-8: the guess without tables.
sys.modules["charset_normalizer"] = None  # type: ignore[assignment]
warnings.filterwarnings("ignore", "Unable to find acceptable character detection")
