"""The only door to other programs: `run` for a command, `Child` for a long-lived one that answers line by line,
`Program` for one that only talks.

Refuses: shells (an argument vector only), waits without an end, unbounded output. Whatever outlives its deadline is
killed with its whole process group; what even SIGKILL cannot end (a call stuck in the kernel) is not awaited, nor tried
again while it is there.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Self, TypeVar, cast

from kaalia.errors import HostError
from kaalia.host import stuck
from kaalia.host.child_output import STDERR, STDOUT, Lines, Output, Told
from kaalia.units import MIB

KILL_GRACE_S = 1.0
"""How long to wait for a killed process to go. SIGKILL takes microseconds unless the process is stuck in the kernel."""
EVIDENCE_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Result:
    """A command that ended. `exit_code` is negative for a signal. Output is decoded, wrong bytes replaced."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str
    truncated: bool = False
    """True: one of the streams was longer than allowed; its beginning is here."""


async def run(
    argv: Sequence[str],
    timeout_s: float,
    max_output_bytes: int = MIB,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    *,
    check: bool = False,
) -> Result:
    """Run a command to its end. `env` is its whole environment; None: the daemon's own.

    Raises HostError `command_missing`, `command_refused` (it cannot be started), `command_timeout`, `command_stuck`
    (the same one cannot be ended), and with `check` `command_failed` for an exit code other than 0. Arguments appear in
    errors: secrets belong into `stdin` or `env`.
    """
    if (pid := stuck.pid_of(argv)) is not None:
        raise HostError(
            "command_stuck",
            f"cannot run `{_shown(argv)}`: the same command is stuck in the kernel since an earlier try",
            remedy=f"see what it waits for: cat /proc/{pid}/stack; dmesg; a disk or a driver does not answer",
        )
    transport, output = await _spawn(argv, env, Output(max_output_bytes), with_stdin=stdin is not None)
    try:
        _feed(transport, stdin)
        async with asyncio.timeout(timeout_s):
            await asyncio.shield(output.closed)
    except TimeoutError:
        raise HostError(
            "command_timeout",
            f"cannot finish `{_shown(argv)}` within {timeout_s:g} s",
            remedy="see whether the machine is overloaded or a device hangs (dmesg)",
            evidence=output.text(STDERR)[-EVIDENCE_CHARACTERS:],
        ) from None
    finally:
        await _end(transport, output)
        if not output.exited.done():
            stuck.leave(argv, transport.get_pid(), output.exited)
    exit_code = cast(int, transport.get_returncode())
    result = Result(tuple(argv), exit_code, output.text(STDOUT), output.text(STDERR), output.truncated)
    if check and exit_code != 0:
        raise HostError(
            "command_failed",
            f"cannot run `{_shown(argv)}`: exit code {exit_code}",
            evidence=(result.stderr or result.stdout)[-EVIDENCE_CHARACTERS:],
        )
    return result


def forked(work: Callable[[], NoReturn]) -> int:
    """A copy of this process that does `work`, and no more; its number. For programs with one thread and no loop."""
    child = os.fork()
    if child == 0:
        work()
    return child


class Child:
    """A child that answers each line on its stdin with one line on its stdout. One request at a time."""

    def __init__(self, argv: Sequence[str], transport: asyncio.SubprocessTransport, lines: Lines) -> None:
        self._argv = tuple(argv)
        self._transport = transport
        self._lines = lines

    @classmethod
    async def start(cls, argv: Sequence[str], env: Mapping[str, str] | None = None, max_line_bytes: int = MIB) -> Self:
        """Start it. Raises HostError `command_missing` or `command_refused`."""
        transport, lines = await _spawn(argv, env, Lines(max_line_bytes), with_stdin=True)
        return cls(argv, transport, lines)

    @property
    def alive(self) -> bool:
        """False once the process is really gone; a killed one stuck in the kernel is still alive."""
        return not self._lines.exited.done()

    @property
    def pid(self) -> int:
        return self._transport.get_pid()

    async def request(self, line: str, deadline_s: float) -> str:
        """Send `line`, return the answer without its line end. After any error the child has been killed.

        Raises HostError `child_hung` (no answer in time), `child_gone` (it ended; exit code and stderr as evidence),
        `child_babbles` (the answer is longer than the limit).
        """
        answer = self._lines.expect()
        _feed(self._transport, line.encode() + b"\n", close=False)
        try:
            async with asyncio.timeout(deadline_s):
                return await answer
        except TimeoutError:
            raise HostError(
                "child_hung", f"cannot get an answer from `{_shown(self._argv)}` within {deadline_s:g} s"
            ) from None
        except EOFError:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_GRACE_S):
                    await asyncio.shield(self._lines.exited)
            raise HostError(
                "child_gone",
                f"cannot get an answer from `{_shown(self._argv)}`: it ended with {self._transport.get_returncode()}",
                evidence=self._lines.text(STDERR)[-EVIDENCE_CHARACTERS:],
            ) from None
        except OverflowError:
            raise HostError(
                "child_babbles",
                f"cannot read the answer of `{_shown(self._argv)}`: longer than {self._lines.limit_bytes} bytes",
            ) from None
        finally:
            if not answer.done() or answer.cancelled() or answer.exception() is not None:
                await self.kill()

    async def close(self, grace_s: float = KILL_GRACE_S) -> None:
        """Close its stdin so that it ends by itself; kill it if it does not within `grace_s`."""
        with contextlib.suppress(TimeoutError):
            _feed(self._transport, None)
            async with asyncio.timeout(grace_s):
                await asyncio.shield(self._lines.closed)
        await self.kill()

    async def kill(self) -> None:
        """Kill the process group. Returns within KILL_GRACE_S even if the kernel keeps the process."""
        await _end(self._transport, self._lines)


class Program:
    """A long-lived child that speaks for itself: each line of its stderr goes to `on_line`, its stdout nowhere; with
    `by_output` each line of its stdout does, and its stderr is kept as evidence.

    What it starts in sessions of its own is left alone.
    """

    def __init__(self, transport: asyncio.SubprocessTransport, told: Told) -> None:
        self._transport = transport
        self._told = told

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        on_line: Callable[[str], None],
        env: Mapping[str, str] | None = None,
        connection: int | None = None,
        *,
        by_output: bool = False,
    ) -> Self:
        """Start it. `connection`: a descriptor that becomes its standard input and output, beside the caller's own.

        Raises HostError `command_missing` or `command_refused`.
        """
        transport, told = await _spawn(
            argv, env, Told(on_line, STDOUT if by_output else STDERR), with_stdin=False, connection=connection
        )
        return cls(transport, told)

    @property
    def pid(self) -> int:
        return self._transport.get_pid()

    @property
    def alive(self) -> bool:
        """False once the process is really gone; a killed one stuck in the kernel is still alive."""
        return not self._told.exited.done()

    @property
    def evidence(self) -> str:
        """The end of its stderr, with `by_output`."""
        return self._told.text(STDERR)[-EVIDENCE_CHARACTERS:]

    async def ended(self) -> int:
        """Wait for its end; its exit code, negative for a signal."""
        await asyncio.shield(self._told.exited)
        return cast(int, self._transport.get_returncode())

    async def said(self, grace_s: float = KILL_GRACE_S) -> None:
        """After its end: wait until its last words were heard, or for so long where others keep its stderr open."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await asyncio.shield(self._told.closed)

    async def stop(self, grace_s: float = KILL_GRACE_S) -> None:
        """SIGTERM, and SIGKILL to its group after `grace_s`."""
        try:
            with contextlib.suppress(TimeoutError, ProcessLookupError):
                self._transport.terminate()
                async with asyncio.timeout(grace_s):
                    await asyncio.shield(self._told.exited)
            if not self._told.exited.done():
                await _end(self._transport, self._told)
        finally:
            self._transport.close()  # who is cancelled once more while he waits leaves it killed


_P = TypeVar("_P", bound=Output)


async def _spawn(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    protocol: _P,
    *,
    with_stdin: bool,
    connection: int | None = None,
) -> tuple[asyncio.SubprocessTransport, _P]:
    nothing = asyncio.subprocess.DEVNULL if connection is None else connection
    spawner: asyncio.Task[object] | None = None

    async def start() -> asyncio.SubprocessTransport:
        nonlocal spawner
        spawner = asyncio.current_task()
        made, _ = await asyncio.get_running_loop().subprocess_exec(
            lambda: protocol,
            *argv,
            stdin=asyncio.subprocess.PIPE if with_stdin else nothing,
            stdout=asyncio.subprocess.PIPE if connection is None else connection,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
        return made

    spawning = asyncio.gather(start())
    try:
        (transport,) = await asyncio.shield(spawning)
    except asyncio.CancelledError:
        # When a loop ends, asyncio's own tasks are cancelled too: it has killed the process then, and would wait for
        # ever for pipes that nobody connects any more.
        while spawner is not None and spawner.cancelling() and not spawner.done():
            spawner.cancel()
            await asyncio.sleep(0)
        # Cancelled halfway, asyncio kills the leader only and waits for ever for pipes that its children hold:
        # let it start, which takes a few turns of the loop, and end it as any other.
        with contextlib.suppress(OSError, ValueError):
            (transport,) = await asyncio.shield(spawning)
            await _end(transport, protocol)
        raise
    except FileNotFoundError as error:
        raise HostError(
            "command_missing", f"cannot run `{_shown(argv)}`: {error.filename} is not on this machine"
        ) from error
    except (OSError, ValueError) as error:
        raise HostError("command_refused", f"cannot run `{_shown(argv)}`: {error}") from error
    return transport, protocol


def _feed(transport: asyncio.SubprocessTransport, data: bytes | None, *, close: bool = True) -> None:
    """Write to the child's stdin. A child that no longer reads is no error here: its exit says what happened."""
    pipe = cast(asyncio.WriteTransport | None, transport.get_pipe_transport(0))
    if pipe is None or pipe.is_closing():
        return
    if data:
        pipe.write(data)
    if close:
        pipe.write_eof()


async def _end(transport: asyncio.SubprocessTransport, output: Output) -> None:
    """Make sure that the process group is gone and the pipes are closed, or abandon it after KILL_GRACE_S."""
    try:
        if not output.closed.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(transport.get_pid(), signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_GRACE_S):
                    await asyncio.shield(output.exited)
    finally:
        transport.close()


def _shown(argv: Sequence[str]) -> str:
    """The command as people read it, cut to one line."""
    text = " ".join(argv).replace("\n", " ")
    return text if len(text) <= 200 else text[:200] + "..."
