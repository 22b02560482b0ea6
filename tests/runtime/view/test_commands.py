"""What `ls`, `rm` and `du` print, beside the machine's own tools, in a folder of the test's."""

import errno
import os
import re
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kaalia.contracts.command import Program, parse
from kaalia.runtime.view import listing, output, removal, usage
from kaalia.runtime.view.listing import Listing
from kaalia.runtime.view.output import EnoughError, Output, human, shown
from kaalia.runtime.view.removal import Removal
from kaalia.runtime.view.usage import Usage

DOES: dict[Program, type[Listing | Removal | Usage]] = {Program.LS: Listing, Program.RM: Removal, Program.DU: Usage}


@pytest.fixture
def quiet_stdin() -> Iterator[None]:
    """As in the process that serves: a pipe that is open, and says nothing."""
    reader, writer = os.pipe()
    kept = os.dup(0)
    os.dup2(reader, 0)
    yield
    os.dup2(kept, 0)
    for handle in (reader, writer, kept):
        os.close(handle)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet_stdin: None) -> Path:
    for name in ("a/b/c", "a/.hidden", "empty"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/b/large").write_bytes(bytes(3_000_000))
    (tmp_path / "a/small").write_text("12345")
    (tmp_path / "a/second name").hardlink_to(tmp_path / "a/b/large")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "broken").symlink_to("/nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "program").write_text("")
    (tmp_path / "program").chmod(0o755)
    for number, path in enumerate(sorted(tmp_path.rglob("*"))):
        os.utime(path, (1_700_000_000 + number * 3600,) * 2, follow_symlinks=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def done(text: str, bytes_max: int = 100_000, seconds: float = 5) -> str:
    command, out = parse(text), Output(bytes_max, seconds)
    with suppress(EnoughError):
        DOES[command.program](command, out).run()
    return out.text()


def as_gnu(text: str) -> str:
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC", "TIME_STYLE": "+%Y-%m-%d %H:%M"}
    ran = subprocess.run(text.split(), capture_output=True, text=True, check=False, env=env, errors="replace")
    return ran.stdout


@pytest.mark.parametrize(
    "text",
    [
        *("ls", "ls -a", "ls -A a", "ls -l", "ls -la a", "ls -lh a/b", "ls -R", "ls -lR a", "ls -d a", "ls -ld a link"),
        *("ls link", "ls -l link", "ls -l link/", "ls -F", "ls -p", "ls -i", "ls -s a", "ls -lS a", "ls -lt a"),
        *("ls -lr a", "ls -lg a", "ls -lo a", "ls -n a", "ls a empty", "ls program a", "ls -1 a", "ls -lish a"),
        *("du", "du -a", "du -h", "du -s", "du -d1", "du -b a", "du -c a empty", "du -m", "du a/small", "du -ah a"),
    ],
)
def test_it_prints_what_the_ordinary_tool_prints(tree: Path, text: str) -> None:
    ours, theirs = done(text), as_gnu(text)
    if text.startswith("du"):  # in the order of the folder, which is anybody's
        ours, theirs = ("\n".join(sorted(one.splitlines())) for one in (ours, theirs))

    assert ours == theirs


def test_errors_are_lines_among_the_others(tree: Path) -> None:
    assert done("ls -d nowhere empty") == "ls: cannot access 'nowhere': No such file or directory\nempty\n"
    assert done("rm a") == "rm: cannot remove 'a': Is a directory\n"
    assert done("rm nowhere") == "rm: cannot remove 'nowhere': No such file or directory\n"
    assert done("rm -f nowhere") == ""
    assert done("rm link/") == "rm: cannot remove 'link/': Not a directory\n"
    assert done("rm -d a") == "rm: cannot remove 'a': Directory not empty\n"
    assert done("du nowhere") == "du: cannot access 'nowhere': No such file or directory\n"
    for path in ("/", ".", "..", "a/..", "//"):
        assert "it is the root" in done(f"rm -rf {path}")


def test_it_removes_names_and_not_what_they_lead_to(tree: Path) -> None:
    assert done("rm -v link broken pipe") == "removed 'link'\nremoved 'broken'\nremoved 'pipe'\n"
    assert (tree / "a/small").exists()

    (tree / "empty/out").symlink_to(tree / "a")
    assert done("rm -r empty") == ""
    assert (tree / "a/small").exists()

    assert done("rm -rf a") == ""
    assert [path.name for path in tree.iterdir()] == ["program"]
    (tree / "empty").mkdir()
    assert done("rm -d empty") == ""


def test_strange_names_stay_on_one_line(tree: Path) -> None:
    folder = os.fsencode(tree / "empty")
    for name in (b"two\nlines", b"-rf", b"\xff\xfe", b"bell\x07", "Zürich 雪".encode()):
        Path(os.fsdecode(folder + b"/" + name)).write_text("")

    assert sorted(done("ls empty").splitlines()) == sorted(
        ["-rf", "\\xff\\xfe", "bell\\x07", "two\\nlines", "Zürich 雪"]
    )
    assert done("rm 'empty/two\nlines' empty/-rf") == ""
    assert shown("\udcff") == "\\xff"


def test_a_number_of_thousands_of_digits_is_nobody_s(tmp_path: Path) -> None:
    accounts = tmp_path / "passwd"
    accounts.write_text(f"long:x:{'1' * 5000}:0::/:\nworker:x:1000:1000::/:\n")

    assert listing._names(str(accounts)) == {1000: "worker"}


def test_output_is_cut_and_says_so(tree: Path) -> None:
    for number in range(300):
        (tree / "empty" / f"file{number:04}").write_text("")

    text = done("ls empty", bytes_max=100)

    assert text.endswith("[cut: the output is longer than 100 bytes]\n")
    assert len(text) < 200


def test_time_is_limited(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_LOOK_EVERY", 1)

    assert done("du", seconds=-1) == "[not finished within -1 s: what is above is all that was done]\n"


def test_a_folder_of_many_names_goes_by_and_by(tree: Path) -> None:
    names, seconds = 10_000, 0.05
    (tree / "empty/deeper").mkdir()
    handle = os.open(tree / "empty", os.O_RDONLY)
    for number in range(names):
        os.close(os.open(f"{number}", os.O_CREAT, dir_fd=handle))
    os.close(handle)
    removed, times = 0, 0
    while text := done("rm -r empty", seconds=seconds):
        late, goes_on = text.splitlines()
        assert late.startswith(f"[not finished within {seconds:g} s")
        found = re.fullmatch(r"\[(\d+) names were removed so far; the same command again goes on\]", goes_on)
        assert found is not None
        removed, times = removed + int(found[1]), times + 1
        assert 0 < removed < names + 2

    assert not (tree / "empty").exists()
    assert times >= 1, "it is no test of a limit otherwise"


def test_names_are_not_gathered(tree: Path) -> None:
    for number in range(2000):
        (tree / "empty" / f"{number:0250}").touch()
    tracemalloc.start()
    for command in ("du -s empty", "rm -r empty"):
        done(command)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 250_000, "bytes: the names alone are twice that"


def test_what_does_not_go_is_told_once_and_the_rest_goes(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a file system skips names while others go, and one name stays whatever is done."""
    real, read, known = os.unlink, usage.names_in, set[int]()

    def unlink(name: str, *, dir_fd: int) -> None:
        if name == "small":
            raise PermissionError(errno.EPERM, "immutable")
        real(name, dir_fd=dir_fd)

    def skipping(handle: int) -> Iterator[str]:
        names, inode = sorted(read(handle)), os.fstat(handle).st_ino
        again = inode in known
        known.add(inode)
        return iter(names if again else names[::2])

    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(removal, "names_in", skipping)

    text = done("rm -r a")

    assert sorted(text.splitlines()) == [
        "rm: cannot remove 'a': Directory not empty",
        "rm: cannot remove 'a/small': Operation not permitted",
    ]
    assert [path.name for path in (tree / "a").iterdir()] == ["small"]


def test_nobody_waits_any_more(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_LOOK_EVERY", 1)
    reader, writer = os.pipe()
    os.dup2(reader, 0)
    os.close(writer)

    assert "[stopped" in done("rm -r a")
    assert (tree / "a").exists()


def test_folders_without_end_are_told(tree: Path) -> None:
    handle = os.open("empty", os.O_RDONLY)
    for _ in range(420):
        os.mkdir("d", dir_fd=handle)
        inner = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)

    assert "too many folders in each other" in done("du -s empty")
    assert "too many folders in each other" in done("ls -R empty", bytes_max=1_000_000)
    assert "too many folders in each other" in done("rm -r empty")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1.0K"), (1025, "1.1K"), (10_239, "10K"), (10 * 1024**2, "10M"), (2**60, "1.0E")],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert human(size) == text
