"""`vastai execute`: what a renter may have done among an instance's files without logging in. Pure.

`ls`, `rm` and `du`, parsed here and never given to a shell: no variables, wildcards, pipes, redirections. Refuses, as
ContractError: another program (`command_refused`), and what cannot be understood (`command_invalid`).
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from kaalia.errors import ContractError

COMMAND_MAX_CHARACTERS = 512
"""The public API's own limit."""
DEPTH_MAX = 1000


class Program(StrEnum):
    LS = "ls"
    RM = "rm"
    DU = "du"


@dataclass(frozen=True, slots=True)
class Command:
    """`options`: letters, long names already replaced. `depth`: of `du -d`. `paths`: as the renter wrote them."""

    program: Program
    options: frozenset[str]
    paths: tuple[str, ...]
    depth: int | None = None


_LETTERS = {Program.LS: "AFRSUadghilnoprst1", Program.RM: "Rdfrv", Program.DU: "abchkmsx"}
_LONG = {
    Program.LS: {
        "all": "a",
        "almost-all": "A",
        "classify": "F",
        "directory": "d",
        "human-readable": "h",
        "inode": "i",
        "numeric-uid-gid": "n",
        "recursive": "R",
        "reverse": "r",
    },
    Program.RM: {"dir": "d", "force": "f", "recursive": "r", "verbose": "v"},
    Program.DU: {
        "all": "a",
        "bytes": "b",
        "human-readable": "h",
        "one-file-system": "x",
        "summarize": "s",
        "total": "c",
    },
}
_DEPTH = "max-depth"
_OPERATORS = frozenset("();<>|&\n\r")
_ONLY = "use ls, rm or du; for anything else log in by ssh"


def parse(text: str) -> Command:
    """Raises ContractError `command_refused` or `command_invalid`."""
    words = _words(text)
    try:
        program = Program(words[0].removeprefix("/bin/").removeprefix("/usr/bin/"))
    except ValueError:
        raise ContractError(
            "command_refused", f"cannot execute {words[0][:80]!r}: only ls, rm and du are", remedy=_ONLY
        ) from None
    options: set[str] = set()
    paths: list[str] = []
    depth: int | None = None
    rest = iter(words[1:])
    for word in rest:
        if word == "--":
            paths.extend(rest)
        elif word.startswith("--"):
            name, has_value, value = word[2:].partition("=")
            if program is Program.DU and name == _DEPTH:
                depth = _depth(value if has_value else next(rest, ""))
            elif has_value or name not in _LONG[program]:
                raise _unknown(program, word)
            else:
                options.add(_LONG[program][name])
        elif word.startswith("-") and word != "-":
            depth = _letters(program, word, options, rest, depth)
        else:
            paths.append(word)
    return _checked(Command(program, frozenset(options), tuple(paths), depth))


def _words(text: str) -> list[str]:
    if not text.strip():
        raise _invalid("cannot execute nothing: the command is empty", _ONLY)
    if len(text) > COMMAND_MAX_CHARACTERS:
        raise _invalid(
            f"cannot execute a command of {len(text)} characters: at most {COMMAND_MAX_CHARACTERS} are allowed",
            "name fewer paths at once",
        )
    if not _is_plain(text):
        raise _invalid(f"cannot execute {text[:80]!r}: it has characters that are no text", "send plain text")
    lexer = shlex.shlex(text, posix=True, punctuation_chars="".join(sorted(_OPERATORS)))
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    try:
        words = list(lexer)
    except ValueError as error:
        raise _invalid(f"cannot execute {text[:80]!r}: {str(error).lower()}", "close the quotes") from error
    for word in words:
        # Quoted ones are refused too: what they stand for could not be told any more.
        if word and _OPERATORS.issuperset(word):
            raise _invalid(
                f"cannot execute {text[:80]!r}: no shell reads it, so {word!r} means nothing",
                "send one command; quote a path that has such characters",
            )
    return words


def _is_plain(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= one <= "\udfff" for one in text)


def _letters(program: Program, word: str, options: set[str], rest: Iterator[str], depth: int | None) -> int | None:
    """Take a word such as -lh or -d2; the depth that holds from now on."""
    for place, letter in enumerate(word[1:], 1):
        if program is Program.DU and letter == "d":
            return _depth(word[place + 1 :] or next(rest, ""))
        if letter not in _LETTERS[program]:
            raise _unknown(program, f"-{letter}")
        options.add("r" if program is Program.RM and letter == "R" else letter)
    return depth


def _depth(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or int(value) > DEPTH_MAX:
        raise _invalid(f"cannot use depth {value[:20]!r} of du: it must be a number up to {DEPTH_MAX}", "say du -d 2")
    return int(value)


def _checked(command: Command) -> Command:
    if command.program is Program.RM and not command.paths:
        raise _invalid("cannot execute rm: it names no path", "say what to remove, such as rm -r /tmp/old")
    if command.program is Program.DU and "s" in command.options and (command.depth or "a" in command.options):
        raise _invalid("cannot execute du: -s goes together with neither -a nor a depth", "leave one of them out")
    return command if command.paths else replace(command, paths=(".",))


def _unknown(program: Program, option: str) -> ContractError:
    known = " ".join(f"-{letter}" for letter in sorted(_LETTERS[program], key=str.lower))
    also = " -d N" if program is Program.DU else ""
    return _invalid(f"cannot execute {program}: option {option[:40]!r} is not known", f"{program} knows {known}{also}")


def _invalid(message: str, remedy: str) -> ContractError:
    return ContractError("command_invalid", message, remedy=remedy)
