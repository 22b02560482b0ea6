"""The C library's heap: how much of it a process keeps that it does not use. Does nothing where there is no glibc."""

import ctypes

_M_ARENA_MAX = -8
"""malloc.h of glibc."""


def limit_arenas(count: int) -> None:
    """Threads share `count` pools of memory; by default each may open one of its own, up to eight a processor."""
    _call("mallopt", _M_ARENA_MAX, count)


def trim() -> None:
    """Give back to the kernel what was freed."""
    _call("malloc_trim", 0)


def _call(name: str, *numbers: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*numbers)
