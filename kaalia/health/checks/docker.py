"""Docker: does it answer, and is it set up so that rentals last, have their GPUs and keep to their disk?"""

from collections.abc import Iterator

from kaalia.health.host_facts import Check, Finding, HostFacts, Limits

_SETTINGS = (
    "live_restore_off",
    "default_runtime_foreign",
    "gpu_injection_missing",
    "disk_size_unenforced",
    "cgroup_v1",
)


def answers(facts: HostFacts, _: Limits) -> Iterator[Finding]:
    if facts.report is not None and facts.report.engine is None:
        why = next((one.reason for one in facts.report.missing if one.field == "engine"), "")
        yield Finding("engine_unavailable", "cannot run rentals: Docker does not answer", why)


def is_slow(facts: HostFacts, limits: Limits) -> Iterator[Finding]:
    taken_s = facts.engine_answer_s
    if taken_s is not None and taken_s >= limits.engine_slow_s:
        message = f"cannot start rentals quickly: Docker takes {taken_s:.1f} s to say how it is"
        yield Finding("engine_slow", message, f"GET /info took {taken_s:.1f} s; {limits.engine_slow_s:g} s are slow")


def settings(facts: HostFacts, limits: Limits) -> Iterator[Finding]:
    report = facts.report
    if report is None or (engine := report.engine) is None:
        return
    if not engine.live_restore:
        message = "cannot keep rentals running while dockerd is restarted or updated: live-restore is off"
        yield Finding("live_restore_off", message, "docker info: Live Restore Enabled: false")
    if engine.default_runtime and engine.default_runtime not in limits.runtimes:
        message = f"cannot count on Docker's default runtime {engine.default_runtime}"
        yield Finding("default_runtime_foreign", message, f"known ones: {', '.join(limits.runtimes)}")
    if report.gpus and engine.gpu_mode == "none":
        message = f"cannot give the {len(report.gpus)} GPUs of this machine to containers"
        yield Finding("gpu_injection_missing", message, "no nvidia-container-runtime-hook in PATH, no CDI device")
    if not engine.enforces_disk_size:
        kind = report.disk.filesystem if report.disk and report.disk.filesystem else "its file system"
        message = f"cannot hold instances to their disk size: {engine.storage_driver} on {kind} has no quota"
        yield Finding("disk_size_unenforced", message, f"{engine.data_root}", words={"path": engine.data_root})
    if engine.cgroup_version == "1":
        message = "cannot hold tenants' memory and processors as well as with cgroup v2: this machine runs version 1"
        yield Finding("cgroup_v1", message, "docker info: Cgroup Version: 1")


CHECKS = (
    Check(("engine_unavailable",), answers),
    Check(("engine_slow",), is_slow),
    Check(_SETTINGS, settings),
)
