"""Every flow of the unmodified client and SDK, one line each."""

from tests.e2e.flows import FLOWS, World
from tests.proofs.report import Report, Say
from tests.support.scene import scene


def prove(seed: int, rounds: int, say: Say) -> Report:
    """The flows in order, `rounds` times (default once). The seed has no say here: nothing is random."""
    report = Report(say)
    with scene(gpus="2xRTX_4090") as (stack, image):
        for _ in range(rounds or 1):
            world = World(stack, image)
            for flow in FLOWS:
                report.counts["flows"] += 1
                try:
                    flow(world)
                    say(f"ok    {flow.__name__}: {(flow.__doc__ or '').splitlines()[0]}")
                except (AssertionError, TimeoutError, RuntimeError, KeyError, ValueError) as error:
                    report.check(flow.__name__, False, repr(error)[:500])
                else:
                    report.check(flow.__name__, True)
    return report
