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
        "Vastai/Base:@vastai-automatic-tag",
        "@vastai-automatic-tag",
        "a:@vastai-automatic-tag:1",
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


@pytest.mark.parametrize("tag", image.AUTOMATIC_TAGS)
def test_an_automatic_tag_is_taken_and_never_pulled(tag: str) -> None:
    image.check(f"ghcr.io/a/b:{tag}")

    assert image.automatic_name(f"ghcr.io/a/b:{tag}") == "ghcr.io/a/b"
    assert image.registry_of(f"ghcr.io/a/b:{tag}") == "ghcr.io"
    with pytest.raises(ContractError):
        image.normalise(f"ghcr.io/a/b:{tag}")


@pytest.mark.parametrize(
    ("tags", "cuda", "chosen"),
    [
        (["app-cuda-12.8", "app-cuda-12.6"], "12.8", "app-cuda-12.8"),
        (["app-cuda-12.8", "app-cuda-12.6"], "12.7", "app-cuda-12.6"),
        (["app-cuda-12.8"], "12.6", None),
        (["latest", "12.4", "cudnn-8.9", "barracuda-1.2"], "13.0", None),
        (["cuda-12.4.1", "cuda-12.4.0", "cuda-9.2"], "12.4", "cuda-12.4.1"),
        (["cuda-12.10", "cuda-12.9"], "12.10", "cuda-12.10"),
        (["v9-cuda-12.4", "v10-cuda-12.4", "v1-cuda-12.4"], "13.0", "v10-cuda-12.4"),
        (["cuda-12.4.1-auto", "cuda-12.4.1-py312", "cuda-12.4.1-2026-01-01"], "12.4", "cuda-12.4.1-auto"),
        (["2.6-cu118", "2.6-cu124", "2.6-cu126"], "12.4", "2.6-cu124"),
        (["cuda12.1-runtime", "cuda_11.8"], "12.4", "cuda12.1-runtime"),
        ([], "12.4", None),
    ],
)
def test_the_newest_cuda_that_the_driver_allows_is_chosen(tags: list[str], cuda: str, chosen: str | None) -> None:
    assert image.choose_tag(tags, cuda) == chosen


@given(st.lists(st.text("cuda-_.0123456789v", max_size=30)))
def test_no_tags_break_the_choice(tags: list[str]) -> None:
    assert image.choose_tag(tags, "12.4") in (None, *tags)


@given(st.text(max_size=2000))
def test_no_text_breaks_the_check(text: str) -> None:
    with suppress(ContractError):
        image.check(text)


def test_long_near_misses_are_quick() -> None:
    for text in ("a-" * 300, "a." * 300 + "/", "a_" * 300, "a/" * 300 + "!", "a" * 700):
        with pytest.raises(ContractError):
            image.check(text)
