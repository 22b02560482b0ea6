"""Commands end, or are ended; nothing outlives its deadline."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaalia.errors import HostError
from kaalia.host.pidfd import Watch
from kaalia.host.process import Child, Program, run

PYTHON = (sys.executable, "-I", "-S", "-c")


async def gone(pid: int) -> None:
    """Wait until `pid` is no process any more, or a zombie that somebody else must reap."""
    while True:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        await asyncio.sleep(0.01)


async def test_returns_output_and_exit_code() -> None:
    result = await run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=30)

    assert (result.exit_code, result.stdout, result.stderr, result.truncated) == (3, "out\n", "err\n", False)


async def test_check_raises_with_stderr_as_evidence() -> None:
    with pytest.raises(HostError) as caught:
        await run(["sh", "-c", "echo no such table >&2; exit 3"], timeout_s=30, check=True)

    assert caught.value.code == "command_failed"
    assert "exit code 3" in caught.value.problem.message
    assert caught.value.problem.evidence == "no such table\n"


async def test_feeds_stdin_and_keeps_to_the_given_environment() -> None:
    result = await run(["sh", "-c", "cat; echo $ONLY-$HOME"], 30, env={"ONLY": "this"}, stdin=b"rules\n")

    assert result.stdout == "rules\nthis-\n"


async def test_a_command_that_does_not_read_its_stdin_is_no_error() -> None:
    result = await run(["true"], 30, stdin=b"x" * 4_000_000)

    assert result.exit_code == 0


@pytest.mark.parametrize("argument", ["$(touch x)", "; rm -rf /", "a b", "*", ""])
async def test_arguments_never_meet_a_shell(argument: str) -> None:
    result = await run(["printf", "%s", argument], 30)

    assert result.stdout == argument


async def test_a_missing_command_has_its_own_code() -> None:
    with pytest.raises(HostError, match="kaalia-no-such-command") as caught:
        await run(["kaalia-no-such-command"], 30)

    assert caught.value.code == "command_missing"


@pytest.mark.parametrize("argv", [["/"], ["echo", "a\0b"]])
async def test_what_cannot_be_started_is_refused(argv: list[str]) -> None:
    with pytest.raises(HostError) as caught:
        await run(argv, 30)

    assert caught.value.code == "command_refused"


async def test_timeout_kills_the_whole_process_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"echo $$ > {pids}; sleep 600 & echo $! >> {pids}; echo partial >&2; wait"

    with pytest.raises(HostError) as caught:
        await run(["sh", "-c", script], timeout_s=2)

    assert caught.value.code == "command_timeout"
    assert caught.value.problem.evidence == "partial\n"
    for pid in pids.read_text().split():
        await gone(int(pid))


async def test_cancelling_kills_the_process_group(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    task = asyncio.ensure_future(run(["sh", "-c", f"echo $$ > {pid_file}; sleep 600"], timeout_s=600))
    while not pid_file.exists() or not pid_file.read_text().strip():
        await asyncio.sleep(0.01)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await gone(int(pid_file.read_text()))


@pytest.mark.parametrize("turns", range(8))
async def test_cancelling_a_command_that_is_just_being_started_ends_it(tmp_path: Path, turns: int) -> None:
    pids = tmp_path / "pids"
    task = asyncio.ensure_future(run(["sh", "-c", f"sleep 600 & echo $$ $! > {pids}; wait"], timeout_s=600))
    for _ in range(turns):
        await asyncio.sleep(0)
        time.sleep(0.02)  # the command gets ahead while the loop stands still

    task.cancel()
    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError):
            await task

    for pid in pids.read_text().split() if pids.exists() else []:
        await gone(int(pid))


async def test_cancelling_the_start_of_a_missing_command_is_just_cancelled() -> None:
    task = asyncio.ensure_future(run(["kaalia-no-such-command"], timeout_s=600))
    await asyncio.sleep(0)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_grandchild_that_escapes_and_keeps_the_pipes_cannot_hold_us() -> None:
    script = "import os, time\nif os.fork() == 0:\n    os.setsid(); print(os.getpid(), flush=True); time.sleep(20)"

    with pytest.raises(HostError) as caught:
        await run([*PYTHON, script], timeout_s=2)

    assert caught.value.code == "command_timeout"


_HOLD = """
import ctypes, sys, time
SEIZE, TRACE_EXIT = 0x4206, 0x40
if ctypes.CDLL(None, use_errno=True).ptrace(SEIZE, int(sys.argv[1]), None, ctypes.c_void_p(TRACE_EXIT)):
    sys.exit(f"errno {ctypes.get_errno()}")
print("held", flush=True)
sys.stdin.read()
"""
"""Stops a process in the middle of its end, where no signal reaches it: as a call of the kernel that never returns."""


async def test_a_command_that_cannot_be_ended_is_not_begun_again_while_it_is_there(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    argv = ["sh", "-c", f"echo $$ > {pid_file}; exec sleep 600"]
    first = asyncio.ensure_future(run(argv, timeout_s=600))
    while not pid_file.exists() or not pid_file.read_text().strip():
        await asyncio.sleep(0.01)
    pid = pid_file.read_text().strip()
    hold = [sys.executable, "-I", "-c", _HOLD, pid]
    with subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert await asyncio.to_thread(holder.stdout.readline) == "held\n"
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        for _ in range(3):
            with pytest.raises(HostError) as caught:
                await run(argv, timeout_s=5)
            assert caught.value.code == "command_stuck"
            assert f"/proc/{pid}/stack" in caught.value.problem.remedy
        assert (await run(["sh", "-c", "echo another"], 30)).stdout == "another\n"
        holder.kill()
    await gone(int(pid))

    async with asyncio.timeout(60):
        code = "command_stuck"
        while code == "command_stuck":
            with pytest.raises(HostError) as caught:
                await run(argv, timeout_s=0.2)
            code = caught.value.code
            await asyncio.sleep(0.05)
    assert code == "command_timeout", "it is begun again as soon as the earlier one is gone"


@settings(max_examples=10, deadline=None)
@given(size=st.integers(0, 300_000), limit=st.integers(0, 200_000))
async def test_output_is_cut_at_the_limit(size: int, limit: int) -> None:
    result = await run(["head", "-c", str(size), "/dev/zero"], 30, max_output_bytes=limit)

    assert len(result.stdout) == min(size, limit)
    assert result.truncated == (size > limit)
    assert result.exit_code == 0


ECHO = "import sys\nfor line in sys.stdin: print(line.strip()[::-1], flush=True)"


async def test_child_answers_line_by_line_and_ends_when_closed() -> None:
    child = await Child.start([*PYTHON, ECHO])

    assert await child.request("abc", 30) == "cba"
    assert await child.request("xyz", 30) == "zyx"
    assert child.alive

    await child.close(grace_s=30)
    assert not child.alive


async def test_child_that_does_not_answer_is_killed() -> None:
    child = await Child.start([*PYTHON, "import time; time.sleep(600)"])

    with pytest.raises(HostError) as caught:
        await child.request("hello", 0.2)

    assert caught.value.code == "child_hung"
    assert not child.alive


async def test_child_that_ignores_the_end_of_its_input_is_killed() -> None:
    child = await Child.start([*PYTHON, "import sys, time; print(input(), flush=True); time.sleep(600)"])
    assert await child.request("hello", 30) == "hello"

    await child.close(grace_s=0.1)

    assert not child.alive


async def test_child_that_dies_says_how() -> None:
    child = await Child.start(
        [*PYTHON, "import os, sys; input(); sys.stderr.write('boom'); sys.stderr.flush(); os.abort()"]
    )

    with pytest.raises(HostError, match="ended with -6") as caught:
        await child.request("hello", 30)

    assert caught.value.code == "child_gone"
    assert "boom" in caught.value.problem.evidence
    with pytest.raises(HostError, match="ended with -6"):
        await child.request("again", 30)


async def test_child_that_babbles_is_killed() -> None:
    child = await Child.start(
        [*PYTHON, "import sys; input(); sys.stdout.write('x' * 100000); sys.stdout.flush(); input()"],
        max_line_bytes=1000,
    )

    with pytest.raises(HostError) as caught:
        await child.request("hello", 30)

    assert caught.value.code == "child_babbles"
    assert not child.alive


async def test_child_leaves_no_open_descriptors() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(5):
        child = await Child.start([*PYTHON, ECHO])
        await child.request("abc", 30)
        await child.close(grace_s=30)

    await asyncio.sleep(0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_a_program_is_heard_line_by_line() -> None:
    lines: list[str] = []
    program = await Program.start(["sh", "-c", "echo out; printf 'one\\ntwo\\nrest' >&2; exit 3"], lines.append)

    assert await program.ended() == 3
    await program.stop()
    assert lines == ["one", "two"], "what has no end is no line"


async def test_a_line_without_an_end_is_heard_in_parts() -> None:
    lines: list[str] = []
    program = await Program.start([*PYTHON, "import sys; sys.stderr.write('x' * 100000 + '\\n')"], lines.append)
    await program.ended()
    async with asyncio.timeout(30):
        while sum(map(len, lines)) < 100_000:
            await asyncio.sleep(0.01)
    await program.stop()

    assert "".join(lines) == "x" * 100_000


async def test_a_program_is_asked_to_go_then_killed() -> None:
    heard = asyncio.Event()
    deaf = "signal.signal(15, signal.SIG_IGN); print(1, file=sys.stderr, flush=True); time.sleep(99)"
    program = await Program.start([*PYTHON, f"import signal, sys, time; {deaf}"], lambda _: heard.set())
    async with asyncio.timeout(20):
        await heard.wait()
    await program.stop(0.1)

    async with asyncio.timeout(30):
        await gone(program.pid)
    assert await program.ended() == -9


async def test_the_end_of_a_strange_process_is_told_once() -> None:
    ended = asyncio.Event()
    child = await asyncio.create_subprocess_exec("sleep", "99")
    watch = Watch(child.pid, ended.set)
    await asyncio.sleep(0.05)
    assert not ended.is_set()
    child.kill()
    async with asyncio.timeout(30):
        await ended.wait()
    watch.close()
    pid = child.pid
    await child.wait()

    with pytest.raises(ProcessLookupError):
        Watch(pid, ended.set)


_ENDS_IN_A_SPAWN = """
import asyncio, psutil, time
from kaalia.host import process

async def main(turns):
    task = asyncio.create_task(process.run(["sleep", "60"], 60))
    for _ in range(turns):
        await asyncio.sleep(0)

for turns in range(10):
    asyncio.run(main(turns))
until_s = time.monotonic() + 5
while psutil.Process().children() and time.monotonic() < until_s:
    time.sleep(0.01)
print("ended", psutil.Process().children())
"""


def test_a_loop_that_ends_in_the_middle_of_a_spawn_ends() -> None:
    """It cancels all tasks, asyncio's own too, at whichever moment of the spawn."""
    done = subprocess.run(
        [sys.executable, "-c", _ENDS_IN_A_SPAWN], check=True, capture_output=True, text=True, timeout=20
    )

    assert (done.stdout, "never retrieved" in done.stderr) == ("ended []\n", False)


async def test_a_program_is_heard_by_its_output_and_its_errors_are_evidence() -> None:
    lines: list[str] = []
    program = await Program.start(["sh", "-c", "echo one; echo why >&2; echo two"], lines.append, by_output=True)

    assert await program.ended() == 0
    await program.said(30)
    assert (lines, program.evidence, program.alive) == (["one", "two"], "why\n", False)
    await program.stop()
