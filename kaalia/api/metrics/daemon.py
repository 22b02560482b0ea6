"""Metrics of the daemon itself: its loops, its state, its link. They are there in safe mode too."""

from collections.abc import Iterator

from kaalia import __version__
from kaalia.api.metrics.internals import Internals
from kaalia.api.metrics.metric import Sample, counter, gauge, info
from kaalia.pulse import Pulse

BUILD = info("kaalia_build_info", "The version of kaalia.", "version")
STARTED = gauge("kaalia_daemon_start_timestamp_seconds", "When the daemon was started, since the epoch.")
SAFE_MODE = gauge("kaalia_daemon_safe_mode", "1 while the state cannot be used: tenants run on, nothing is admitted.")
UNWRITTEN = gauge("kaalia_daemon_state_unwritable", "1 when the last change of the state could not be written.")
HEARD = gauge("kaalia_marketplace_heard_timestamp_seconds", "When the marketplace last answered, since the epoch.")
TURNS = counter("kaalia_daemon_turns_total", "Turns of a loop of the daemon.", "loop")
TURNS_FAILED = counter("kaalia_daemon_turn_failures_total", "Turns that ended with an error; the loop goes on.", "loop")
TURNS_TIME = counter(
    "kaalia_daemon_turn_seconds_total", "Time that the turns took, with what they wait for in them.", "loop"
)
TURNS_LONGEST = gauge("kaalia_daemon_turn_longest_seconds", "The longest of them.", "loop")
LAG = gauge("kaalia_daemon_loop_lag_seconds", "How late the event loop woke when it was last looked at; every 10 s.")
LAG_LONGEST = gauge("kaalia_daemon_loop_lag_longest_seconds", "The most of all looks.")
LAG_LOOKS = counter("kaalia_daemon_loop_looks_total", "How often it was looked at.")
LAG_LATE = counter("kaalia_daemon_loop_late_total", "How often it woke more than 50 ms late.")
METRICS = (
    *(BUILD, STARTED, SAFE_MODE, UNWRITTEN, HEARD, TURNS, TURNS_FAILED, TURNS_TIME, TURNS_LONGEST),
    *(LAG, LAG_LONGEST, LAG_LOOKS, LAG_LATE),
)

PROCESS = (
    counter("process_cpu_seconds_total", "CPU time of the daemon, without its children."),
    gauge("process_resident_memory_bytes", "Its resident memory, pages shared with others included."),
    gauge("process_virtual_memory_bytes", "Its address space."),
    gauge("process_start_time_seconds", "When its process was started, since the epoch."),
    gauge("process_open_fds", "Files and sockets that it has open."),
    gauge("process_max_fds", "How many it may have open."),
)
"""Made by prometheus-client's own collector, by the names that all its users have."""


def samples(found: Internals) -> Iterator[Sample]:
    yield Sample(BUILD, (__version__,), 1)
    yield Sample(STARTED, (), found.started_at.timestamp())
    yield Sample(SAFE_MODE, (), float(found.safe_mode))
    yield Sample(UNWRITTEN, (), float(found.unwritable))
    if found.heard_at is not None:
        yield Sample(HEARD, (), found.heard_at.timestamp())
    yield from _pulse(found.pulse)


def _pulse(pulse: Pulse) -> Iterator[Sample]:
    for loop, turns in sorted(pulse.turns.items()):
        yield Sample(TURNS, (loop,), turns.done)
        yield Sample(TURNS_FAILED, (loop,), turns.failed)
        yield Sample(TURNS_TIME, (loop,), turns.total_s)
        yield Sample(TURNS_LONGEST, (loop,), turns.longest_s)
    lag = pulse.lag
    yield Sample(LAG_LOOKS, (), lag.looks)
    yield Sample(LAG_LATE, (), lag.late)
    if lag.looks:
        yield Sample(LAG, (), lag.last_s)
        yield Sample(LAG_LONGEST, (), lag.longest_s)
