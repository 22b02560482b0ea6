"""What the access kit notes of a contract's Jupyter, and what its renter is told of it. Pure.

    waiting for its certificate, which the marketplace has not sent yet
    installing jupyterlab: 12 packages found
    started lab
    failed jupyter_no_pip the Python of the image has neither pip nor ensurepip

The note lies on the instance's own disk, so its renter may have written it: nothing but words follow from it.
"""

from dataclasses import dataclass

from kaalia.errors import Problem

WORDS_MAX = 200
_ELSE = "ssh works nevertheless"


@dataclass(frozen=True, slots=True)
class Notebook:
    """`words`: for the renter, empty when Jupyter runs. `is_settled`: nothing else is to be expected soon."""

    words: str
    is_settled: bool


UNKNOWN = Notebook("", is_settled=False)


def read(note: str) -> Notebook:
    """The first line counts. A note that cannot be meant says nothing."""
    # Cut first: a note may be as long as its writer likes, and each is looked at every two seconds.
    line = "".join(char if char.isprintable() else " " for char in note[:WORDS_MAX].partition("\n")[0])
    kind, _, rest = line.partition(" ")
    if kind == "started":
        return Notebook("", is_settled=True)
    if kind in ("installing", "waiting"):
        return Notebook(f"Jupyter is not there yet: {line}", is_settled=False)
    code, _, why = rest.partition(" ")
    found = problem(code, why) if kind == "failed" else None
    if found is None:
        return UNKNOWN
    return Notebook(f"{found.message} [{found.code}]. {found.remedy}", is_settled=True)


def problem(code: str, why: str) -> Problem | None:
    """None: there is no such code."""
    match code:
        case "jupyter_no_python":
            return Problem(
                "jupyter_no_python",
                "cannot start Jupyter: the image has no Python 3 on its PATH",
                f"rent with an image that has Python 3, or with runtype ssh; {_ELSE}",
            )
        case "jupyter_no_pip":
            return Problem(
                "jupyter_no_pip",
                "cannot install Jupyter: the image's Python has neither pip nor ensurepip",
                f"install python3-pip and python3-venv, or rent with an image that has jupyterlab; {_ELSE}",
            )
        case "jupyter_no_network":
            return Problem(
                "jupyter_no_network",
                "cannot install Jupyter: the package index does not answer",
                f"look whether the instance reaches it (PIP_INDEX_URL), or rent an image that has jupyterlab; {_ELSE}",
            )
        case "jupyter_disk_full":
            return Problem(
                "jupyter_disk_full",
                "cannot install Jupyter: the disk of the instance is full",
                f"free 500 MB, or rent with a larger disk; {_ELSE}",
            )
        case "jupyter_install_failed":
            return Problem(
                "jupyter_install_failed",
                f"cannot install Jupyter: pip refused: {why}",
                f"see the instance's log and /.kaalia-jupyter/install.log; {_ELSE}",
            )
        case "jupyter_ends":
            return Problem(
                "jupyter_ends",
                f"cannot keep Jupyter running: it ended again and again, last with {why}",
                f"see the instance's log; {_ELSE}",
            )
    return None
