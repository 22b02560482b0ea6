"""The section `power` of the configuration as the rules know it."""

from kaalia.config_power import LimitsConfig, PowerConfig
from kaalia.contracts.power import Guard, Limits, PowerPolicy, Use


def read(config: PowerConfig) -> PowerPolicy:
    """As if it were enabled."""
    limits = {
        Use.IDLE: _limits(config.idle),
        Use.RENTED: _limits(config.rented),
        Use.DEFAULT_JOB: _limits(config.default_job),
    }
    return PowerPolicy(limits, Guard(config.guard.above_c, config.guard.below_c, config.guard.power_w))


def in_force(config: PowerConfig) -> PowerPolicy:
    """Not enabled: nothing is wanted, so that what was set is put back."""
    return read(config) if config.enabled else PowerPolicy({})


def _limits(config: LimitsConfig) -> Limits:
    return Limits(config.power_w, config.clock_max_mhz)
