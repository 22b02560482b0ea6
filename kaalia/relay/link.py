"""Asks the marketplace whom to let in: a long-poll with the relay's token."""

import json

import aiohttp

from kaalia.errors import KaaliaError, MarketplaceError, UnauthorizedError, UnreachableError
from kaalia.relay.options import Options
from kaalia.wire import document
from kaalia.wire.protocol import LONG_POLL_S
from kaalia.wire.relay import PATH_PERMITS, RelayPermits, RelayPoll

REPLY_MAX_BYTES = 16 * 1024 * 1024
REPLY_TIMEOUT_S = 20.0


class Link:
    """`host_key`: the relay's, public. Close it in the end."""

    def __init__(self, options: Options, host_key: str) -> None:
        self._options = options
        self._host_key = host_key
        self._session: aiohttp.ClientSession | None = None

    async def permits(self, known: str, wait_s: float = LONG_POLL_S) -> RelayPermits | None:
        """All permits once they are others than `known` (a digest), None when there was no news.

        Raises UnauthorizedError, MarketplaceError, UnreachableError.
        """
        options = self._options
        poll = RelayPoll(self._host_key, options.user, options.ports.first, options.ports.last, known, wait_s)
        url = options.marketplace + PATH_PERMITS.format(name=options.name)
        headers = {"Authorization": f"Bearer {options.token}", "Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=wait_s + REPLY_TIMEOUT_S, sock_connect=10.0)
        try:
            async with self._opened().post(
                url, data=document.encode(poll).encode(), headers=headers, timeout=timeout, allow_redirects=False
            ) as reply:
                raw = await reply.content.read(REPLY_MAX_BYTES)
                while len(raw) < REPLY_MAX_BYTES and (more := await reply.content.read(REPLY_MAX_BYTES)):
                    raw += more
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise UnreachableError(
                "marketplace_unreachable",
                f"cannot reach {options.marketplace}: {str(error) or type(error).__name__}",
                remedy="check the network; machines that are known go on to be served",
            ) from error
        if reply.status == 204:
            return None
        if reply.status != 200:
            raise _refusal(reply.status, raw)
        try:
            return document.decode(RelayPermits, raw)
        except KaaliaError as error:
            message = f"cannot understand the marketplace's answer: {error.problem.message}"
            raise MarketplaceError("reply_invalid", message, remedy="update the older side") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self._session


def _refusal(status: int, raw: bytes) -> MarketplaceError:
    try:
        body = json.loads(raw)
        code, message, remedy = str(body["error"])[:80], str(body["msg"])[:1000], str(body.get("remedy", ""))[:1000]
    except (ValueError, KeyError, TypeError):
        code, message, remedy = "marketplace_refused", f"HTTP status {status}", "is this a kaalia marketplace's URL?"
    sentence = f"cannot serve as a relay: the marketplace says: {message}"
    if status >= 500 or status == 429:
        return UnreachableError(code, sentence, status=status, remedy=remedy)
    kind = UnauthorizedError if status in (401, 403) else MarketplaceError
    return kind(code, sentence, status=status, remedy=remedy)
