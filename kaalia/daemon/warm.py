"""What is done before everything else is imported, so that it leaves out what the daemon never uses: see `__main__`."""

import dataclasses
import inspect
import mimetypes
import sys
import warnings
from types import SimpleNamespace
from typing import Any


class _Shared:
    """What each frozen dataclass would get written anew: 800 of them, 2.7 MB, and a quarter of the start."""

    def __setattr__(self: Any, name: str, value: object) -> None:
        """What derives from a dataclass without being one may have attributes of its own."""
        if "__dataclass_fields__" in vars(type(self)) or name in self.__dataclass_fields__:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def __delattr__(self: Any, name: str) -> None:
        if "__dataclass_fields__" in vars(type(self)) or name in self.__dataclass_fields__:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        object.__delattr__(self, name)

    def __repr__(self: Any) -> str:
        shown = (f"{one.name}={getattr(self, one.name)!r}" for one in dataclasses.fields(self) if one.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"


# By names of Python 3.11 and 3.12; a version with other ones takes no notice.
_python: Any = dataclasses
_python._frozen_get_del_attr = lambda *_: (_Shared.__setattr__, _Shared.__delattr__)
_python._repr_fn = lambda *_: _Shared.__repr__
# Each dataclass without a docstring, and without docstrings none has one, would get its signature in the place of it:
# half a second of the start, for a text that nobody reads.
_python.inspect = SimpleNamespace(**{**vars(inspect), "signature": lambda *_, **__: ""})

_modules: dict[str, Any] = sys.modules
# docker's HTTP library guesses character sets, by tables of 2 MB. The engine speaks UTF-8: the guess without tables.
_modules["charset_normalizer"] = None
warnings.filterwarnings("ignore", "Unable to find acceptable character detection")
# Of docker itself the low-level client is all that is used.
_modules["docker.client"] = SimpleNamespace(DockerClient=None, from_context=None, from_env=None)
# The server escapes HTML, for which no names of entities are needed, and serves no files, whose types go by endings.
_modules["html.entities"] = SimpleNamespace(html5={})
mimetypes.knownfiles.clear()

import aiohttp as aiohttp  # noqa: E402, PLC0414 - for the effect of it
