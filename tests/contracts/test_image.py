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


@given(st.text(max_size=2000))
def test_no_text_breaks_the_check(text: str) -> None:
    with suppress(ContractError):
        image.check(text)


def test_long_near_misses_are_quick() -> None:
    for text in ("a-" * 300, "a." * 300 + "/", "a_" * 300, "a/" * 300 + "!", "a" * 700):
        with pytest.raises(ContractError):
            image.check(text)
