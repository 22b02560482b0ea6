"""What follows from a GPU's model and capability, and that the data are such as the simulated driver has them too."""

import tomllib
from dataclasses import replace
from importlib import resources

import pytest

from kaalia.wire import facts, gpu_figures
from tests.support.builders import build_gpus, build_report
from tests.support.fake_nvidia.profiles import MODELS, Model


@pytest.mark.parametrize(
    ("driver_cuda", "capabilities", "cuda"),
    [
        ("13.0", [(8, 9)], "13.0"),
        ("13.0", [(7, 5)], "13.0"),
        ("13.1", [(7, 0)], "12.9"),
        ("12.4", [(6, 1)], "12.4"),
        ("13.0", [(8, 6), (6, 1)], "12.9"),  # all of them are to run it
        ("12.2", [(3, 7)], "11.8"),
        ("13.0", [None], "13.0"),
        ("13.0", [], "13.0"),
        ("12.10", [(7, 0)], "12.9"),
    ],
)
def test_a_driver_runs_gpus_that_newer_programs_have_forgotten(
    driver_cuda: str, capabilities: list[tuple[int, int] | None], cuda: str
) -> None:
    gpus = [replace(build_gpus(1)[0], compute_capability=one) for one in capabilities]

    assert gpu_figures.cuda_max(driver_cuda, gpus) == cuda


def test_an_offer_names_the_newest_cuda_that_its_gpus_run() -> None:
    report = build_report(gpus=1)
    assert report.driver is not None
    volta = replace(report.gpus[0], compute_capability=(7, 0))
    old = replace(report, gpus=(volta,), driver=replace(report.driver, cuda_version="13.0"))

    assert facts.encode(old)["cuda_max_good"] == 12.9


@pytest.mark.parametrize("name", ["NVIDIA GeForce GTX 1060 3GB", "NVIDIA GeForce GTX 1060 6GB", "Tesla P100-PCIE-12GB"])
def test_names_as_drivers_tell_them_are_in_the_table(name: str) -> None:
    gpu = replace(build_gpus(1)[0], name=name)

    found = gpu_figures.fp32_tflops(gpu, facts.gpu_name(name))

    assert found is not None
    assert found.method.startswith("data sheet")


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_every_simulated_model_has_its_figures(model: Model) -> None:
    name = facts.gpu_name(model.name)

    assert name in _models()


def test_each_figure_is_of_this_world() -> None:
    for name, figures in _models().items():
        assert figures.keys() == {"fp32_tflops", "memory_gbps"}, name
        assert 1 < figures["fp32_tflops"] < 200, name
        assert 100 < figures["memory_gbps"] < 10_000, name


def _models() -> dict[str, dict[str, float]]:
    text = (resources.files("kaalia.wire") / "gpu_models.toml").read_text(encoding="utf-8")
    found: dict[str, dict[str, float]] = tomllib.loads(text)["model"]
    return found
