"""Takes secrets out of text before it is written: those that this machine knows, and whatever looks like one.

The bundle is made of what holds no secrets in the first place; this is the second wall. It rather takes too much.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from kaalia.config import Config
from kaalia.config_notify import MailConfig, WebhookConfig
from kaalia.log import redact

GONE = "[removed]"
PLAIN_MIN, SECRET_MIN = 8, 4
"""A shorter text is no secret, and would hide half of the log; less is enough where its name says that it is one."""
FILE_MAX_BYTES = 64 * 1024
_NAMED = re.compile(r"(?i)key|token|pass|secret|auth|cred|login|pin")
_LOOKS = (
    re.compile(r"\b(?:whsec|whsk)_[A-Za-z0-9+/=]{8,}"),
    re.compile(r"\b(?:hf|ghp|gho|github_pat|glpat|sk|rk|xox[abp])[-_][A-Za-z0-9_-]{12,}"),
    re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    re.compile(r"\bssh-(?:ed25519|rsa) [A-Za-z0-9+/=]{16,}"),
    re.compile(r"-----BEGIN [A-Z ]+-----.*?(?:-----END [A-Z ]+-----|\Z)", re.DOTALL),
    re.compile(r"(?i)(?<=[?&])(?:[a-z_-]*(?:token|key|sig|secret|password)[a-z_-]*=)[^\s&\"']+"),
)


class Scrubber:
    """`texts`: (name, text) of what must not appear."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        found: set[str] = set()
        for name, text in texts:
            bare = text.strip()
            if len(bare) >= (SECRET_MIN if _NAMED.search(name) else PLAIN_MIN):
                found.update(_forms(bare))
        # The longest first: one may be part of another.
        self._known = sorted(found, key=lambda one: (-len(one), one))

    def clean(self, text: str) -> str:
        for one in self._known:
            if one in text:
                text = text.replace(one, GONE)
        for pattern in _LOOKS:
            text = pattern.sub(GONE, text)
        return redact(text)


def of_machine(config: Config | None) -> Iterator[tuple[str, str]]:
    """What the machine's own files hold: its keys, and the secrets that the configuration names."""
    if config is None:
        return
    paths = [config.identity_path, config.state_dir / "relay" / "key"]
    if config.speed.secret_file is not None:
        paths.append(config.speed.secret_file)
    for channel in config.notify.channels.values():
        match channel:
            case WebhookConfig():
                paths.append(channel.secret_file)
                yield "secret", channel.url
            case MailConfig(login_file=Path() as file):
                paths.append(file)
    for path in paths:
        yield from (("secret", line) for line in _lines(path))


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            return file.read(FILE_MAX_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return []


def _forms(text: str) -> Iterator[str]:
    """As it stands, as JSON writes it, as a URL does, and as base64 of the whole."""
    yield text
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield quote(text, safe="")
    yield base64.b64encode(text.encode(errors="replace")).decode()
