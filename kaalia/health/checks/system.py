"""The operating system: time, packages, kernels, memory, other managers of GPUs; and what only the outside knows."""

from collections.abc import Iterator
from datetime import timedelta

from kaalia.health.host_facts import Check, Finding, HostFacts, Limits, Reboot, Swapping
from kaalia.host.packages import Upgrades
from kaalia.units import MIB, format_bytes

_NAMED_MAX = 12


def clock(facts: HostFacts, limits: Limits) -> Iterator[Finding]:
    if facts.is_synchronised is False and facts.uptime_s >= limits.clock_settle_min * 60:
        message = "cannot be sure of the time: no NTP keeps the clock of this machine right"
        yield Finding("clock_unsynchronised", message, "adjtimex: STA_UNSYNC")


def upgrades(facts: HostFacts, _: Limits) -> Iterator[Finding]:
    if isinstance(facts.upgrades, Upgrades) and facts.upgrades.exposed:
        names = facts.upgrades.exposed
        message = f"cannot keep {_in_short(names)} as they are: unattended upgrades may replace them at any time"
        evidence = f"APT::Periodic::Unattended-Upgrade is on; not on hold: {', '.join(names)}"
        yield Finding("unattended_upgrades", message, evidence, words={"names": " ".join(names)})


def reboot(facts: HostFacts, _: Limits) -> Iterator[Finding]:
    found = facts.reboot
    if not isinstance(found, Reboot) or (found.packages is None and found.newer is None):
        return
    told = []
    if found.packages is not None:
        told.append(f"/run/reboot-required: {', '.join(found.packages) or 'of packages that are not named'}")
    if found.newer is not None:
        told.append(f"kernel {found.running} runs, {found.newer} is installed")
    yield Finding("reboot_pending", "cannot run all updates before this machine is booted anew", "; ".join(told))


def managers(facts: HostFacts, limits: Limits) -> Iterator[Finding]:
    if not isinstance(facts.services, frozenset) or facts.report is None or not facts.report.gpus:
        return
    units = sorted(facts.services & limits.managers.keys())
    if units:
        names = ", ".join(dict.fromkeys(limits.managers[unit] for unit in units))
        message = f"cannot be the only one who hands out this machine's GPUs: {names} runs here too"
        yield Finding("other_manager", message, ", ".join(units), words={"units": " ".join(units)})


def swap(facts: HostFacts, limits: Limits) -> Iterator[Finding]:
    found = facts.swapping
    if not isinstance(found, Swapping) or found.pages_per_s is None or not found.swap.total_bytes:
        return
    used, total = found.swap.used_bytes, found.swap.total_bytes
    is_full = used * 100 >= limits.swap_used_percent * total and used >= limits.swap_used_mb * MIB
    if is_full and found.pages_per_s >= limits.swap_pages_per_s:
        message = (
            f"cannot work at full speed: memory is short, {format_bytes(used)} of {format_bytes(total)} swap are used"
        )
        yield Finding("swap_busy", message, f"{found.pages_per_s:.0f} pages a second go in and out")


def nouveau(facts: HostFacts, _: Limits) -> Iterator[Finding]:
    if isinstance(facts.nouveau_gpus, tuple) and facts.nouveau_gpus:
        message = f"cannot use {len(facts.nouveau_gpus)} NVIDIA GPUs: the driver nouveau holds them"
        yield Finding("nouveau_loaded", message, ", ".join(facts.nouveau_gpus))


def marketplace(facts: HostFacts, _: Limits) -> Iterator[Finding]:
    if facts.silence is not None:
        url, since = facts.silence.url, facts.silence.since
        message = f"cannot admit new rentals: {url} has not been heard of in time; running ones go on"
        evidence = f"its last word admits until {since:%Y-%m-%d %H:%M:%S} UTC"
        yield Finding("marketplace_silent", message, evidence, words={"path": url})


def address(facts: HostFacts, _: Limits) -> Iterator[Finding]:
    if facts.moved is not None:
        before, now, at = facts.moved.before, facts.moved.now, facts.moved.at
        message = f"cannot keep the address {before}: this machine has {now} since {at:%Y-%m-%d %H:%M} UTC"
        yield Finding("address_changed", message, "instances that ran before were told the old one")


def certificates(facts: HostFacts, limits: Limits) -> Iterator[Finding]:
    margin = timedelta(days=limits.certificate_days)
    for one in facts.certificates:
        left = one.ends_at - facts.now
        # Those of short lives are renewed by parts of their life, and are never so far from their end.
        if left < min(margin, (one.ends_at - one.begins_at) / 6):
            name = f"C.{one.contract_id}"
            message = f"cannot show a valid certificate for {name} much longer: no new one has come"
            yield Finding("certificate_expiring", message, f"it ends at {one.ends_at:%Y-%m-%d %H:%M} UTC", name)


def _in_short(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(names[:_NAMED_MAX]) + more


CHECKS = (
    Check(("clock_unsynchronised",), clock, ("is_synchronised",)),
    Check(("unattended_upgrades",), upgrades, ("upgrades",)),
    Check(("reboot_pending",), reboot, ("reboot",)),
    Check(("other_manager",), managers, ("services",)),
    Check(("swap_busy",), swap, ("swapping",)),
    Check(("nouveau_loaded",), nouveau, ("nouveau_gpus",)),
    Check(("marketplace_silent",), marketplace),
    Check(("address_changed",), address),
    Check(("certificate_expiring",), certificates),
)
