"""What the host saw of the GPUs under a step's load joins what its program found."""

from kaalia.contracts.under_load import Broken
from kaalia.model.selftest import Outcome, StepName, StepResult
from kaalia.selftest.step import with_broken

PASSED = StepResult(StepName.BURN, Outcome.PASSED, "9000 rounds, all alike")
FAILED = StepResult(StepName.BURN, Outcome.FAILED, "cannot trust GPU 0: a result differs", "burn_wrong", "replace it")
HOT = Broken("load_too_hot", "GPU-b", "it became 2 °C hotter than it is designed to", "clean it")
STORM = Broken("load_ecc_corrected", "GPU-a", "ECC corrected 40 errors a minute", "watch it", is_advice=True)
WORN = Broken("load_ecc_uncorrected", "GPU-a", "1 ECC errors that could not be corrected", "reset it")


def name_of(uuid: str) -> str:
    return {"GPU-a": "GPU 0 (RTX 4090)", "GPU-b": "GPU 1 (RTX 4090)"}[uuid]


def test_gpus_that_broke_no_rule_change_nothing() -> None:
    assert with_broken(PASSED, (), name_of) is PASSED
    assert with_broken(FAILED, (), name_of) is FAILED


def test_a_broken_rule_fails_the_step_by_its_code() -> None:
    found = with_broken(PASSED, (WORN, HOT), name_of)

    assert (found.outcome, found.code, found.remedy) == (Outcome.FAILED, "load_ecc_uncorrected", "reset it")
    assert found.words == f"GPU 0 (RTX 4090): {WORN.words}; GPU 1 (RTX 4090): {HOT.words}"


def test_advice_is_told_and_fails_nothing() -> None:
    found = with_broken(PASSED, (STORM,), name_of)

    assert (found.outcome, found.code, found.remedy) == (Outcome.PASSED, "", "")
    assert found.words == f"{PASSED.words}; GPU 0 (RTX 4090): {STORM.words} (watch it)"
    assert with_broken(PASSED, (STORM, HOT), name_of).code == "load_too_hot"


def test_what_the_program_found_goes_first() -> None:
    found = with_broken(FAILED, (HOT,), name_of)

    assert (found.code, found.remedy) == ("burn_wrong", "replace it")
    assert found.words == f"{FAILED.words}; GPU 1 (RTX 4090): {HOT.words}"
