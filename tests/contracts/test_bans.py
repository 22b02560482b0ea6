"""A ban holds for an image however it is spelt, and for no other."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts import bans
from kaalia.errors import ContractError

HEX = "a" * 64


@pytest.mark.parametrize(
    ("pattern", "reference"),
    [
        ("ubuntu", "ubuntu"),
        ("ubuntu", "ubuntu:22.04"),
        ("ubuntu", f"ubuntu@sha256:{HEX}"),
        ("ubuntu", f"ubuntu:22.04@sha256:{HEX}"),
        ("ubuntu", "library/ubuntu"),
        ("ubuntu", "docker.io/ubuntu"),
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu", "DOCKER.IO/library/ubuntu"),
        ("ubuntu", "index.docker.io/library/ubuntu"),
        ("ubuntu", "registry-1.docker.io/library/ubuntu"),
        ("ubuntu", "Registry-1.Docker.io:443/library/ubuntu"),
        ("ubuntu", "registry.hub.docker.com/library/ubuntu:1"),
        ("docker.io/library/ubuntu", "ubuntu"),
        ("library/ubuntu", "ubuntu:1"),
        ("index.docker.io/library/ubuntu", "ubuntu"),
        ("UBUNTU", "ubuntu"),
        ("ubuntu:latest", "ubuntu"),
        ("ubuntu:22.*", "docker.io/library/ubuntu:22.04"),
        ("ubuntu:edge", "ubuntu:EDGE"),
        ("xmrig/*", "xmrig/xmrig:v6"),
        ("xmrig/*", "docker.io/xmrig/proxy"),
        ("*/xmrig*", "ghcr.io/someone/xmrig-gpu"),
        ("*/xmrig*", "xmrig"),
        ("*xmrig*", "someone/myxmrig"),
        ("ghcr.io/bad/*", "GHCR.io:0443/bad/one/two@sha256:" + HEX),
        ("ghcr.io:443/bad/*", "ghcr.io/bad/one"),
        ("registry.lan:5000/*", "registry.lan:5000/a"),
        (f"*@sha256:{HEX}", f"ghcr.io/any/name:v1@sha256:{HEX}"),
        ("*", "anything"),
    ],
)
def test_a_ban_sees_through_every_spelling(pattern: str, reference: str) -> None:
    assert bans.banned_by(reference, ["nothing-like-it", pattern]) == pattern


@pytest.mark.parametrize(
    ("pattern", "reference"),
    [
        ("ubuntu", "ubuntu-mini"),
        ("ubuntu", "someone/ubuntu"),
        ("ubuntu", "ghcr.io/library/ubuntu"),
        ("ubuntu:22.04", "ubuntu:24.04"),
        ("ubuntu:latest", "ubuntu:22.04"),
        ("xmrig/*", "xmrigger/one"),
        ("ghcr.io/bad/*", "ghcr.io/badly/one"),
        ("ghcr.io/bad/*", "ghcr.io:8443/bad/one"),
        ("registry.lan/*", "registry.lan:5000/a"),
    ],
)
def test_a_ban_names_nothing_else(pattern: str, reference: str) -> None:
    assert bans.banned_by(reference, [pattern]) is None


@pytest.mark.parametrize("reference", [f"sha256:{HEX}", "sha256:abc", "sha256", "Upper/Case", "a b", "", "a\nb", "x@y"])
def test_what_hides_its_name_is_not_let_through_a_ban(reference: str) -> None:
    with pytest.raises(ContractError) as caught:
        bans.banned_by(reference, ["xmrig"])

    assert caught.value.code == "image_invalid"
    assert bans.banned_by(reference, []) is None


@given(st.from_regex(r"\A[a-zA-Z0-9./:@_-]{1,40}\Z"))
def test_whatever_is_a_name_is_seen_by_the_widest_ban(reference: str) -> None:
    with suppress(ContractError):
        assert bans.banned_by(reference, ["*"]) == "*"
