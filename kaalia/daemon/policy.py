"""The owner's policy, from his configuration."""

from datetime import UTC, datetime, time, timedelta

from kaalia.config_canary import CanaryConfig
from kaalia.config_network import NetworkConfig
from kaalia.config_policy import PolicyConfig
from kaalia.contracts.policy import Policy
from kaalia.runtime.sandbox.rules import CONNECTION_TABLE, CONNECTIONS_SHARE, Reach

_DAY = timedelta(days=1)
_MEGA = 1_000_000


def read(config: PolicyConfig) -> Policy:
    """The day that is named is the last one: a rental may run until it is over, in UTC."""
    last_day, longest = config.latest_end, config.max_duration_days
    return Policy(
        min_price_gpu_per_hour=config.min_price_gpu_per_hour,
        latest_end_at=None if last_day is None else datetime.combine(last_day, time(), UTC) + _DAY,
        max_duration=None if longest is None else longest * _DAY,
        banned_images=config.banned_images,
        admit_default_jobs=config.admit_default_jobs,
        admit_interruptible=config.admit_interruptible,
    )


def reach(config: NetworkConfig, connection_table: int = CONNECTION_TABLE) -> Reach:
    """What tenants' networks reach. `connection_table`: how many connections the kernel follows."""
    pace, width, most = config.connections_per_s, config.bandwidth_mbit, config.connections
    share = connection_table // CONNECTIONS_SHARE if most == "auto" else most
    return Reach(
        allow=config.allow,
        blocks_smtp=config.block_smtp,
        connections_per_s=None if pace == "unlimited" else pace,
        bits_per_s=None if width == "unlimited" else round(width * _MEGA / 8) * 8,
        connections=None if share == "unlimited" else share,
    )


def canary_every(config: CanaryConfig) -> timedelta | None:
    """None: the machine proves itself only when it is asked to."""
    return None if config.every_hours == "off" else timedelta(hours=config.every_hours)
