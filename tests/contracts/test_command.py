import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts.command import Command, Program, parse
from kaalia.errors import ContractError


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("ls", Command(Program.LS, frozenset(), (".",))),
        ("ls -l -o -r", Command(Program.LS, frozenset("lor"), (".",))),
        ("ls -lah /root --reverse", Command(Program.LS, frozenset("lahr"), ("/root",))),
        ("/bin/ls '/a b' \"c'd\" e\\ f", Command(Program.LS, frozenset(), ("/a b", "c'd", "e f"))),
        ("ls '/a;b' /x#y", Command(Program.LS, frozenset(), ("/a;b", "/x#y"))),
        ("rm -r home/delete_this.txt", Command(Program.RM, frozenset("r"), ("home/delete_this.txt",))),
        ("rm -Rf -- -x --y", Command(Program.RM, frozenset("rf"), ("-x", "--y"))),
        ("rm 'a\nb'", Command(Program.RM, frozenset(), ("a\nb",))),
        ("du -d2 -h", Command(Program.DU, frozenset("h"), (".",), 2)),
        ("du -hd 1 /x", Command(Program.DU, frozenset("h"), ("/x",), 1)),
        ("du --max-depth=0 -c", Command(Program.DU, frozenset("c"), (".",), 0)),
        ("du -s /x", Command(Program.DU, frozenset("s"), ("/x",))),
    ],
)
def test_commands_are_understood(text: str, command: Command) -> None:
    assert parse(text) == command


@pytest.mark.parametrize("text", ["cat /etc/passwd", "bash -c ls", "/tmp/ls", "LS", "''", "lsblk", "sudo rm x"])
def test_other_programs_are_refused(text: str) -> None:
    with pytest.raises(ContractError) as refusal:
        parse(text)

    assert refusal.value.code == "command_refused"
    assert "ls, rm or du" in refusal.value.problem.remedy


@pytest.mark.parametrize(
    "text",
    [
        *("", "  ", "ls; rm -r /x", "ls /a && rm /b", "ls | rm x", "rm x > y", "ls & ", "rm a\nrm b", "rm a\r\nb"),
        *("ls 'x", "ls -Z", "ls --color", "rm", "rm -f", "rm -i x", "du -d", "du -d x", "du -d -1", "du -s -d 1"),
        *("ls \0", "ls \udcff", "ls " + "x" * 512, "du --max-depth=99999", "ls --all=1", "rm --no-preserve-root /"),
    ],
)
def test_what_cannot_be_understood_is_refused(text: str) -> None:
    with pytest.raises(ContractError) as refusal:
        parse(text)

    assert refusal.value.code == "command_invalid"
    assert refusal.value.problem.message.startswith("cannot ")
    assert refusal.value.problem.remedy


@given(st.text(max_size=80))
def test_any_text_is_a_command_or_refused(text: str) -> None:
    try:
        command = parse(f"rm {text}")
    except ContractError as error:
        code = error.code
    else:
        code = "" if command.program is Program.RM and command.paths else "nothing is removed"

    assert code in {"", "command_invalid"}
