"""What stands, what is over, and what is only the symptom of something greater."""

from dataclasses import replace
from datetime import timedelta

from kaalia.contracts.symptoms import causes
from kaalia.health.availability import catalogue as outages
from kaalia.health.kernel_faults import conditions, several
from kaalia.health.kernel_lines import catalogue
from kaalia.model.gpu_health import KnownGpu
from kaalia.model.health import HOST, Condition, OpenCondition, Severity
from kaalia.model.kernel_log import KernelFault
from kaalia.model.machine import Gpu
from tests.support.clock import START

BOOK = catalogue()
CARD = "0000:65:00"
GPU = Gpu("GPU-6a1b", 2, "RTX 4090", 24564, pci_address="0000:65:00.0")
OTHER = Gpu("GPU-0000", 3, "RTX 4090", 24564, pci_address="0000:66:00.0")


def fault(code: str, number: int = 1, subject: str = CARD, **more: object) -> KernelFault:
    made = KernelFault(code, subject, START, START, number, 1, f"line {number}")
    return replace(made, **more)  # type: ignore[arg-type]


def judge(*faults: KernelFault, hours: float = 0) -> list[Condition]:
    return conditions(faults, [OTHER, GPU], BOOK, START + timedelta(hours=hours))


def shown(*faults: KernelFault, hours: float = 0) -> list[Condition]:
    """As whoever reads them is told."""
    found = [OpenCondition(one, "kernel", START) for one in judge(*faults, hours=hours)]
    return [one.condition for one in causes(found)]


def codes(*faults: KernelFault, hours: float = 0) -> list[str]:
    return [one.problem.code for one in shown(*faults, hours=hours)]


def test_a_fault_names_the_gpu_what_to_do_and_what_ends_it() -> None:
    (found,) = judge(fault("gpu_xid_95"))

    assert found.scope == GPU.uuid
    assert found.severity is Severity.CRITICAL
    assert found.problem.message == (
        "cannot count on GPU 2 (RTX 4090, 0000:65:00): its driver reported Xid 95, uncontained memory error"
    )
    assert "nvidia-smi --gpu-reset -i GPU-6a1b" in found.problem.remedy
    assert found.problem.evidence == "at 2026-01-01 12:00:00 UTC: line 1"
    assert "Xid 154" in found.clears_when


def test_a_gpu_that_the_driver_no_longer_shows_is_named_by_its_place() -> None:
    (found,) = conditions([fault("gpu_xid_79")], [], BOOK, START)

    assert found.scope == CARD
    assert "the GPU at 0000:65:00" in found.problem.message


def test_a_gpu_that_was_there_keeps_its_name() -> None:
    known = KnownGpu("GPU-6a1b", 2, "RTX 4090", "0000:65:00.0", "boot-1", START)

    (found,) = conditions([fault("gpu_xid_79")], [known], BOOK, START)

    assert found.scope == "GPU-6a1b"
    assert "GPU 2 (RTX 4090, 0000:65:00)" in found.problem.message


def test_two_words_for_one_fall_are_one() -> None:
    assert codes(fault("gpu_fallen_off_bus"), fault("gpu_xid_79", 2), fault("pcie_uncorrected", 3)) == ["gpu_xid_79"]


def test_a_program_that_fails_is_no_fault_of_the_machine() -> None:
    assert codes(fault("gpu_xid_13"), fault("gpu_xid_31", 2), fault("gpu_xid_43", 3)) == []


def test_an_unlisted_number_is_told_for_a_day() -> None:
    assert codes(fault("gpu_xid_900"), hours=23) == ["gpu_xid_900"]
    assert codes(fault("gpu_xid_900"), hours=24) == []


def test_a_lost_gpu_hides_what_follows_from_it_on_the_same_card_only() -> None:
    lost = fault("gpu_xid_79")
    symptom, elsewhere = fault("gpu_xid_119", 2), fault("gpu_xid_119", 3, "0000:66:00")

    assert [(one.problem.code, one.scope) for one in shown(lost, symptom, elsewhere)] == [
        ("gpu_xid_79", GPU.uuid),
        ("gpu_xid_119", OTHER.uuid),
    ]


def test_the_drivers_word_that_a_gpu_recovered_ends_what_came_before() -> None:
    before, recovered = fault("gpu_xid_119", 1), fault("gpu_recovery_recovered", 5)

    assert codes(before, recovered) == []
    assert codes(recovered, fault("gpu_xid_119", 6)) == ["gpu_xid_119"]
    assert codes(fault("gpu_xid_119", 1, "0000:66:00"), recovered) == ["gpu_xid_119"]


def test_only_the_newest_step_of_a_recovery_counts() -> None:
    reset, reboot = fault("gpu_recovery_reset", 1), fault("gpu_recovery_reboot", 2)

    assert codes(reset, reboot) == ["gpu_recovery_reboot"]
    assert codes(fault("gpu_recovery_reset", 3), reboot) == ["gpu_recovery_reset"]


def test_a_disk_is_the_scope_and_fills_the_remedy() -> None:
    (found,) = judge(fault("disk_errors", subject="sdb"), hours=1)

    assert found.scope == "sdb"
    assert "smartctl -a /dev/sdb" in found.problem.remedy
    assert found.clears_when == "24 hours pass without another, or the machine is booted anew"
    assert codes(fault("disk_errors", subject="sdb"), hours=24) == []


def test_what_concerns_no_part_concerns_the_machine() -> None:
    (found,) = judge(fault("memory_uncorrected", subject=""), hours=1000)

    assert found.scope == HOST
    assert found.clears_when == "the machine is booted anew"


def test_what_a_tenants_own_libraries_bring_about_is_a_warning_that_ends() -> None:
    """The driver's own word for a machine whose libraries are wrong is `gpu_driver_mismatch`."""
    (found,) = judge(fault("nvidia_version_mismatch", subject=""), hours=1)

    assert (found.severity, found.blocks) == (Severity.WARN, None)
    assert codes(fault("nvidia_version_mismatch", subject=""), hours=24) == []
    assert "nvidia_version_mismatch" not in outages()


def test_a_code_that_this_version_does_not_know_is_history() -> None:
    assert codes(fault("line_of_tomorrow"), fault("gpu_recovery_tomorrow", 2)) == []


def test_the_same_fault_of_the_same_part_is_counted() -> None:
    later = START + timedelta(seconds=9)

    (one, two) = several([fault("gpu_xid_13"), fault("disk_errors", 2), fault("gpu_xid_13", 3, last_at=later)])

    assert (one.count, one.first_at, one.last_at, one.last_number, one.text) == (2, START, later, 3, "line 3")
    assert two.count == 1
