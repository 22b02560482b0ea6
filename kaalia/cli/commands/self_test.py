"""`kaalia self-test machine`: prove the whole machine, without listing or renting it, and show what each step saw.

A program of its own: the daemon does the work, this one orders, follows and shows it. Broken off, it takes the order
back and waits until everything is given back.
"""

import os
import signal
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from pydantic_core import to_json
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from kaalia.cli import output
from kaalia.cli.burn_chart import draw
from kaalia.cli.following import follow
from kaalia.client import LocalClient
from kaalia.contracts.selftest import MARGIN, steps_named
from kaalia.errors import ConfigError, HostError, KaaliaError
from kaalia.model.selftest import BURN_MAX_S, Outcome, RequirementVerdict, RunResult, SelfTestRun, StepName
from kaalia.wire.selftest_local import SelfTestDocument, SelfTestWish

FOLLOW_S = BURN_MAX_S + MARGIN.total_seconds()
"""Longer than any test."""
THROUGHPUT = "burn_tflops"
"""The figure of the burn whose samples the picture shows."""
END_S = 30.0
"""After an end was asked for: containers are removed, children killed."""
EXIT_CODES = {RunResult.PASSED: output.OK, RunResult.FAILED: output.REFUSED, RunResult.NOT_RUN: output.COULD_NOT_RUN}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback(
    epilog="Exit codes of a test: 0 passed, 1 failed, 2 it could not be run, was broken off, or passed and could not "
    "be written where you said."
)
def _root() -> None:
    """Prove this machine by itself: no listing, no marketplace and no renting is needed."""


@app.command(
    epilog="Examples: kaalia self-test machine --quick; kaalia self-test machine --only memory --only burn --burn 30; "
    "kaalia self-test machine --json --report test.json --plot burn.png"
)
def machine(
    quick: Annotated[bool, typer.Option("--quick", help="As short as still proves something.")] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="STEP", help="This step, and no others; may be repeated.")
    ] = None,
    burn: Annotated[float | None, typer.Option("--burn", metavar="MINUTES", help="How long the burn takes.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all that was found, as JSON.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the burn as a picture (PNG): heat, clocks, power, speed.")
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Test nothing, show the newest result.")] = False,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Test GPUs, memory, links, CPU, disk, network and ports; a renter who comes wins, and the test says so."""
    wish = _wish(only or [], burn, is_quick=quick)
    _check_place(report)
    _check_place(plot)
    client = output.connect(config, socket, dict(os.environ))
    document = client.self_test() if last else _tested(client, wish, quiet=as_json)
    if document.run is None:
        raise HostError(
            "selftest_never_run", "cannot show a result: this machine was never tested", remedy="leave out --last"
        )
    result = document.run.result
    code = output.COULD_NOT_RUN if result is None else EXIT_CODES[result]
    has_told = _told(document.run, as_json=as_json)
    has_written = _written(document.run.run_id, report, plot, client)
    raise typer.Exit(code if has_told and has_written else code or output.COULD_NOT_RUN)


@app.command(epilog="Example: kaalia self-test cancel")
def cancel(config: output.ConfigFile = None, socket: output.SocketFile = None) -> None:
    """Break off the test that is under way; everything that it holds is given back."""
    client = output.connect(config, socket, dict(os.environ))
    document = client.self_test()
    if document.run is None or document.run.result is not None:
        typer.echo("no self-test is under way")
        return
    _broken_off(client, document.run.run_id)
    typer.echo(f"self-test {document.run.run_id} was broken off")


def _wish(only: list[str], burn_minutes: float | None, *, is_quick: bool) -> SelfTestWish:
    """Raises KaaliaError for a step or a length that there is not."""
    if burn_minutes is not None and not 0 < burn_minutes <= BURN_MAX_S / 60:
        raise ConfigError(
            "selftest_burn_invalid",
            f"cannot burn for {burn_minutes:g} minutes: it is more than 0 and at most {BURN_MAX_S / 60:g}",
            remedy="kaalia self-test machine --burn 10",
        )
    return SelfTestWish(is_quick, steps_named(only), None if burn_minutes is None else burn_minutes * 60)


def _check_place(report: Path | None) -> None:
    """Before a test of minutes, not after it."""
    if report is None:
        return
    why = ""
    if report.is_dir():
        why = "it is a folder"
    elif report.exists() and not os.access(report, os.W_OK):
        why = "it cannot be written"
    elif not report.exists() and not os.access(report.absolute().parent, os.W_OK | os.X_OK):
        why = "its folder cannot be written"
    if why:
        raise ConfigError("selftest_place_invalid", f"cannot write {report}: {why}", remedy="name another file")


def _tested(client: LocalClient, wish: SelfTestWish, *, quiet: bool) -> SelfTestDocument:
    """Order a run and follow it to its end. Whoever breaks this off breaks off the run.

    Raises HostError `selftest_goes_on`.
    """
    signals = _Signals()
    ordered = client.order_self_test(wish).run
    assert ordered is not None
    try:
        signals.let_through()
        return _followed(client, ordered.run_id, quiet=quiet)
    except KeyboardInterrupt:
        typer.echo("\nbreaking off the self-test...", err=True)
        return _broken_off(client, ordered.run_id)


class _Signals:
    """Those that break the command off: the first one does, and what it wants is done whatever comes meanwhile.

    A terminal that goes away sends more than one. Who comes while the test is ordered waits for the answer: else
    nobody would know what to take back.
    """

    def __init__(self) -> None:
        self._are_held, self._has_come = True, False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                signal.signal(number, self._come)

    def let_through(self) -> None:
        """Raises KeyboardInterrupt, now or later."""
        self._are_held = False
        if self._has_come:
            raise KeyboardInterrupt

    def _come(self, _number: int, _frame: FrameType | None) -> None:
        is_first, self._has_come = not self._has_come, True
        if is_first and not self._are_held:
            raise KeyboardInterrupt


def _followed(client: LocalClient, run_id: int, *, quiet: bool) -> SelfTestDocument:
    screen = output.console(stderr=True)
    columns = (TextColumn("{task.description:<17}"), BarColumn(30), TextColumn("{task.fields[words]}"))
    bar = Progress(*columns, console=screen)
    with bar if screen.is_terminal and not quiet else nullcontext():
        task = bar.add_task("waiting", total=1.0, words="")

        def show(document: SelfTestDocument) -> None:
            if (now := document.progress) is not None:
                share = (now.done + (now.share or 0.0)) / max(1, now.steps)
                words = f"{now.done}/{now.steps} {now.words}"
                bar.update(task, description=str(now.step), completed=share, words=words)

        return follow(lambda: client.self_test(run_id), _goes_on, FOLLOW_S, show=show)


def _goes_on(document: SelfTestDocument) -> bool:
    return document.run is not None and document.run.result is None


def _broken_off(client: LocalClient, run_id: int) -> SelfTestDocument:
    """Ask for the end and see it. Raises HostError `selftest_goes_on`."""
    client.cancel_self_test(run_id)
    document = follow(lambda: client.self_test(run_id), _goes_on, END_S)
    if _goes_on(document):
        raise HostError("selftest_goes_on", "cannot see the end of the self-test", remedy="see the daemon's log")
    return document


def _told(run: SelfTestRun, *, as_json: bool) -> bool:
    """Whether it could be shown. Who reads no further, such as `head`, has seen enough."""
    try:
        if as_json:
            output.print_json(run)
        else:
            _print(run, output.console())
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # by the second rich leaves, with an exit code of its own
        output.drop_stdout()
    except OSError as error:
        output.drop_stdout()
        output.print_error(_unwritten("the result", error))
        return False
    return True


def _written(run_id: int, report: Path | None, plot: Path | None, client: LocalClient) -> bool:
    """What was found is shown already: a file that cannot be written takes nothing from it."""
    if report is None and plot is None:
        return True
    try:
        _write(client.self_test(run_id, samples=True), report, plot, client)
    except OSError as error:
        output.print_error(_unwritten(str(error.filename or report or plot), error))
    except KaaliaError as error:
        output.print_error(error)
    else:
        return True
    return False


def _unwritten(what: str, error: OSError) -> HostError:
    return HostError(
        "selftest_not_written",
        f"cannot write {what}: {error.strerror or error}",
        remedy="make room, or name another file: kaalia self-test machine --last --report FILE",
    )


def _write(document: SelfTestDocument, report: Path | None, plot: Path | None, client: LocalClient) -> None:
    if report is not None:
        report.write_bytes(to_json(document, indent=2) + b"\n")
    if plot is not None and document.run is not None:
        burnt = {one.gpu_uuid for one in document.samples}
        names = {uuid: name for uuid, name in _gpu_names(client).items() if uuid in burnt}
        plot.write_bytes(draw(document.samples, names, _title(document.run), _unit(document.run)))


def _gpu_names(client: LocalClient) -> dict[str, str]:
    try:
        gpus = client.report().gpus
    except KaaliaError:  # after a start the machine is not read yet; the picture has their UUIDs then
        return {}
    return {gpu.uuid: f"{number}: {gpu.name}" for number, gpu in enumerate(gpus)}


def _title(run: SelfTestRun) -> str:
    began = "" if run.began_at is None else f", {run.began_at:%Y-%m-%d %H:%M} UTC"
    return f"kaalia self-test {run.run_id}: burn{began}"


def _unit(run: SelfTestRun) -> str:
    """Of the throughput that the burn tells."""
    burns = [one for step in run.steps if step.step is StepName.BURN for one in step.figures]
    return next((one.unit for one in burns if one.name == THROUGHPUT), "")


def _print(run: SelfTestRun, out: Console) -> None:
    rows = [(str(one.step), str(one.outcome), f"{one.took_s:.1f} s", one.words) for one in run.steps]
    if rows:
        output.print_table(("Step", "Result", ">Took", "~Seen"), rows, out)
    if run.verdicts:
        out.print()
        kept = [(one.words, _outcome(one), one.actual, one.required) for one in run.verdicts]
        output.print_table(("~Requirement", "Result", ">Actual", ">Required"), kept, out)
    out.print()
    _print_failures(run, out)
    if run.problem is not None:
        output.print_problem(run.problem, out)
    out.print(_verdict(run))


def _outcome(one: RequirementVerdict) -> str:
    return "advice" if one.is_advice and one.outcome is Outcome.FAILED else str(one.outcome)


def _print_failures(run: SelfTestRun, out: Console) -> None:
    for step in run.steps:
        if step.outcome is Outcome.FAILED:
            output.print_pairs([(f"{step.step} failed", f"{step.words} [{step.code}]"), ("remedy", step.remedy)], out)
    for one in run.verdicts:
        if one.outcome is Outcome.FAILED and not one.is_advice:
            seen = f"{one.actual}, required {one.required} [{one.requirement}]"
            output.print_pairs([(one.words, seen), ("source", one.source), ("remedy", one.remedy)], out)


def _verdict(run: SelfTestRun) -> str:
    took = ""
    if run.began_at is not None and run.ended_at is not None:
        took = f" after {output.span(run.ended_at - run.began_at + timedelta(seconds=0.5))}"
    words = {
        RunResult.PASSED: "Self-test passed",
        RunResult.FAILED: "Self-test failed",
        RunResult.NOT_RUN: "Self-test came to no verdict",
        None: "Self-test is under way",
    }
    part = "" if not run.order.only else f" (only {', '.join(run.order.only)} of {len(StepName)} steps)"
    return f"{words[run.result]}{took}{part}."


if __name__ == "__main__":
    # A refusal is no verdict on the machine.
    sys.exit(output.COULD_NOT_RUN if output.run(app, sys.argv[1:], "kaalia self-test") else output.OK)
