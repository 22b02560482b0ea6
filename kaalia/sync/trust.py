"""Which certificate authorities the daemon trusts: the system's, read when a connection needs them and not before."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where OpenSSL reads the authorities instead of its built-in places."""


@cache
def system_context() -> ssl.SSLContext:
    """For clients: the system's authorities, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.

    The first call reads files, for some 20 ms.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))
    return context


@contextmanager
def unread() -> Iterator[None]:
    """aiohttp reads all authorities, twice, when it is imported: 2 MB and 40 ms for clients that bring no context."""
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(dict.fromkeys(_VARIABLES, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
