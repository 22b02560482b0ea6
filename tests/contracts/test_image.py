from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts import image
from kaalia.errors import ContractError


@pytest.mark.parametrize(
    "reference",
    [
        "ubuntu",
        "ubuntu:22.04",
        "vllm/vllm-openai:latest",
        "ghcr.io/huggingface/text-generation-inference:1.0.3",
        "localhost:5000/a/b_c__d-e.f",
        "registry.example.com:443/x@sha256:" + "a" * 64,
        "ubuntu:22.04@sha256:" + "0" * 64,
        "[::1]:5000/x",
    ],
)
def test_references_that_docker_takes_are_taken(reference: str) -> None:
    image.check(reference)


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "Ubuntu",
        "ubuntu:",
        "ubuntu 22.04",
        "-v",
        "--privileged",
        "ubuntu:22.04\n",
        "a//b",
        "/ubuntu",
        "ubuntu/",
        "https://docker.io/ubuntu",
        "ubuntu@sha256:abc",
        "ubuntu@md5:" + "a" * 32,
        "ubuntu@sha256:" + "A" * 64,
        "a b",
        "-a",
        "a:b:c",
        "../etc",
        "a" * 600,
        "a:tag?x=1",
        "a" * 256,
        "ubuntu:" + "x" * 129,
        "übuntu",
        "vastai/base-image:@vastai-automatic-tag",
    ],
)
def test_anything_else_is_refused_with_a_remedy(reference: str) -> None:
    with pytest.raises(ContractError) as caught:
        image.check(reference)

    assert caught.value.code == "image_invalid"
    assert caught.value.problem.remedy


@pytest.mark.parametrize(
    ("reference", "normal", "registry"),
    [
        ("ubuntu", "ubuntu:latest", "docker.io"),
        ("vastai/kvm", "vastai/kvm:latest", "docker.io"),
        ("docker.io/library/busybox", "docker.io/library/busybox:latest", "docker.io"),
        ("index.docker.io/library/busybox:1", "index.docker.io/library/busybox:1", "docker.io"),
        ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1", "ghcr.io"),
        ("localhost:5000/a", "localhost:5000/a:latest", "localhost:5000"),
        ("a@sha256:" + "0" * 64, "a@sha256:" + "0" * 64, "docker.io"),
    ],
)
def test_a_reference_is_normalised(reference: str, normal: str, registry: str) -> None:
    assert image.normalise(reference) == normal
    assert image.registry_of(normal) == registry


@given(st.text(max_size=2000))
def test_no_text_breaks_the_check(text: str) -> None:
    with suppress(ContractError):
        image.check(text)


def test_long_near_misses_are_quick() -> None:
    for text in ("a-" * 300, "a." * 300 + "/", "a_" * 300, "a/" * 300 + "!", "a" * 700):
        with pytest.raises(ContractError):
            image.check(text)
