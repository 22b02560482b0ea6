"""How process 1 of the access kit guards port 22: its rule, compiled apart from all else that it does."""

import subprocess
from pathlib import Path

import pytest

INIT = Path(__file__).parents[3] / "scripts" / "kit" / "init.c"

# Per line: which connections there are (how many, how old in seconds), and of all 256 dice how many refuse the next.
_PROGRAM = """
#define main process_1
#include "{init}"
#undef main
#include <stdio.h>
int main(int count, char **words)
{{
    int at = 0, refused = 0;
    for (int word = 1; word + 1 < count; word += 2)
        for (int many = atoi(words[word]); many > 0; many--)
            connections[at++] = (struct connection){{.child = 1, .began_s = 1000 - atoi(words[word + 1])}};
    for (int dice = 0; dice < 256; dice++)
        refused += is_refused(logging_in(1000), dice);
    printf("%d", refused);
    return 0;
}}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("init")
    (folder / "rule.c").write_text(_PROGRAM.format(init=INIT))
    subprocess.run(["cc", "-Wall", "-Werror", "-o", folder / "rule", folder / "rule.c"], check=True)
    return folder / "rule"


@pytest.mark.parametrize(
    ("connections", "least", "most"),
    [
        ("", 0, 0),
        ("29 5", 0, 0),
        ("30 5", 70, 85),
        ("65 5", 150, 180),
        ("99 5", 245, 255),
        ("100 5", 256, 256),
        ("100 39", 256, 256),
        ("400 41 29 5", 0, 0),
        ("511 3600", 0, 0),
    ],
)
def test_the_more_are_logging_in_the_more_are_refused(program: Path, connections: str, least: int, most: int) -> None:
    done = subprocess.run([program, *connections.split()], capture_output=True, text=True, check=True)

    assert least <= int(done.stdout) <= most


_LISTENS = """
#define main process_1
{init}
#undef main
#include <stdio.h>
int main(void)
{{
    struct sockaddr_storage place;
    socklen_t size = sizeof place, length = sizeof(int);
    int listener = listening(), client, taken, is_set = -1;
    if (listener < 0 || getsockname(listener, (struct sockaddr *)&place, &size) != 0)
        return 1;
    client = socket(place.ss_family, SOCK_STREAM, 0);
    if (connect(client, (struct sockaddr *)&place, size) != 0 || (taken = accept(listener, NULL, NULL)) < 0)
        return 2;
    getsockopt(taken, IPPROTO_TCP, TCP_NODELAY, &is_set, &length);
    printf("%d", is_set != 0);
    return 0;
}}
"""


def test_what_sshd_answers_at_a_login_is_sent_at_once(tmp_path: Path) -> None:
    anywhere = INIT.read_text().replace("#define PORT 22\n", "#define PORT 0\n")
    (tmp_path / "listens.c").write_text(_LISTENS.format(init=anywhere))
    subprocess.run(["cc", "-Wall", "-Werror", "-o", tmp_path / "listens", tmp_path / "listens.c"], check=True)

    done = subprocess.run([tmp_path / "listens"], capture_output=True, text=True, check=True)

    assert done.stdout == "1"
