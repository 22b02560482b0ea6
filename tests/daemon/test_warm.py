"""What the daemon's process leaves out changes nothing that it uses."""

import subprocess
import sys

SCRIPT = """
from dataclasses import FrozenInstanceError, dataclass, field, replace
from html import escape
from runpy import run_module

run_module("kaalia.daemon.warm")


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    label: str = field(default="", repr=False)


@dataclass(frozen=True)
class Place(Point):
    name: str = ""


class Marked(Place):
    pass


def refusal(change):
    try:
        change()
    except FrozenInstanceError as error:
        return str(error)


place, marked = Place(1, name="here"), Marked(2)
marked.mark = 3
print(repr(place), repr(Point(4)), repr(replace(place, x=5)), repr(marked), marked.mark)
print(refusal(lambda: setattr(place, "x", 2)), refusal(lambda: setattr(place, "other", 2)))
print(refusal(lambda: delattr(place, "x")), refusal(lambda: setattr(marked, "x", 2)))
del marked.mark
print(place == Place(1, name="here"), hash(place) == hash(Place(1, name="here")), hasattr(marked, "mark"))
print(escape("<a&b>"))

import docker

print(docker.APIClient.__name__)
"""


def test_frozen_dataclasses_are_described_and_refuse_changes_as_everywhere() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.splitlines() == [
        "Place(x=1, name='here') Point(x=4) Place(x=5, name='here') Marked(x=2, name='') 3",
        "cannot assign to field 'x' cannot assign to field 'other'",
        "cannot delete field 'x' cannot assign to field 'x'",
        "True True False",
        "&lt;a&amp;b&gt;",
        "APIClient",
    ]
