"""The steps of the self-test, each with its bounds. A new one is a file and a line here; its name is in model/selftest.

Bounds are for what hangs: a step takes much less. The burn's own time is added to its bound.
"""

from kaalia.model.selftest import StepName
from kaalia.selftest.step import Need, Step, program
from kaalia.selftest.steps import disk, launch, network, ports, system

_CONTAINER = frozenset({Need.CONTAINER})

STEPS: dict[StepName, Step] = {
    one.name: one
    for one in (
        Step(StepName.SYSTEM, system.run, 30, 30),
        Step(StepName.LAUNCH, launch.run, 360, 150, _CONTAINER),
        Step(StepName.PORTS, ports.run, 180, 60, _CONTAINER),
        Step(StepName.NETWORK, network.run, 240, 60, _CONTAINER),
        program(StepName.MEMORY, 300, 90),
        program(StepName.COMPUTE, 180, 60),
        program(StepName.MATRIX, 180, 60),
        program(StepName.DEVICE_BANDWIDTH, 120, 60),
        program(StepName.HOST_BANDWIDTH, 120, 60),
        program(StepName.PEER_BANDWIDTH, 180, 60),
        program(StepName.COLLECTIVE, 180, 60),
        program(StepName.CPU, 90, 60, gpus=False),
        program(StepName.RAM, 300, 90, gpus=False),
        Step(StepName.DISK, disk.run, 240, 120),
        program(StepName.BURN, 120, 60),
    )
}
