"""The road of a tenant: a container came up, has exactly its GPUs, is held to its disk; ssh logs in to another, and a
third one's Jupyter answers."""

from kaalia.model import canary
from kaalia.model.selftest import Figure, Outcome, StepName, StepResult
from kaalia.selftest import login, notebook
from kaalia.selftest.container import Running
from kaalia.selftest.step import Here, failed, failed_by, skipped

_CODES = {
    canary.Step.GPU: ("canary_gpu_failed", "see nvidia-smi and nvidia-ctk --version; restart Docker"),
    canary.Step.QUOTA: ("canary_quota_failed", "see docker info: btrfs with quotas on, or xfs with pquota"),
}


async def run(here: Here) -> StepResult:
    """Raises KaaliaError when nobody could log in, or Jupyter does not answer."""
    if here.running is None:
        return not_up(here, StepName.LAUNCH)
    here.tell(None, "the container is asked what it has")
    proven = await here.proven()
    parts = [proven[step] for step in (canary.Step.LAUNCH, *_CODES)]
    broken = next((one for one in parts if one.outcome is Outcome.FAILED), None)
    if broken is not None:
        code, remedy = _CODES[broken.step]
        return failed(StepName.LAUNCH, code, broken.words, remedy)
    words = [*(one.words for one in parts), *await _visited(here, here.running)]
    took = Figure("launch_s", round(here.running.took_s, 2), "s")
    return StepResult(StepName.LAUNCH, Outcome.PASSED, "; ".join(words), figures=(took,))


async def _visited(here: Here, running: Running) -> tuple[str, ...]:
    """What renters do with a container."""
    if not any(row.gpu_uuids for row in running.rows):
        # Contracts without GPUs run one at a time: contracts/placement.py.
        why = "without a GPU that is well no second container runs beside the first"
        return (f"ssh and Jupyter were not tried: {why}",)
    here.tell(None, "ssh logs in to another container")
    by_ssh = await login.tried(here.containers, here.report, here.log_in)
    if here.order.is_quick:
        return by_ssh, "Jupyter was not tried: a quick test leaves it out"
    here.tell(None, "Jupyter is asked in another container")
    return by_ssh, await notebook.tried(here.containers, here.report, here.clock.now(), here.ask)


def not_up(here: Here, step: StepName) -> StepResult:
    """The container did not come up: the failure of the first step that wants it, and no news for the others."""
    if here.why_none is None or step is not StepName.LAUNCH:
        return skipped(step, "the machine's own container did not come up")
    return failed_by(step, here.why_none, "see: journalctl -u docker; docker info")
