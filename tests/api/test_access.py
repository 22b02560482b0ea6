import socket
from pathlib import Path

import pytest

from kaalia.api.access import listen
from kaalia.errors import ConfigError


def test_a_socket_left_by_a_dead_process_is_replaced(tmp_path: Path) -> None:
    listen(tmp_path / "s").close()

    with listen(tmp_path / "s"), socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(str(tmp_path / "s"))


def test_a_socket_that_answers_is_left_alone(tmp_path: Path) -> None:
    with listen(tmp_path / "s"):
        with pytest.raises(ConfigError) as caught:
            listen(tmp_path / "s")
        assert (tmp_path / "s").is_socket()

    assert caught.value.code == "socket_in_use"


def test_a_file_in_the_way_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")

    with pytest.raises(ConfigError) as caught:
        listen(tmp_path / "s")

    assert caught.value.code == "socket_unusable"
    assert (tmp_path / "s").read_text() == "precious"


def test_an_impossible_folder_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError) as caught:
        listen(tmp_path / "file" / "s")

    assert caught.value.code == "socket_unusable"


def test_the_folder_is_made_when_it_is_missing(tmp_path: Path) -> None:
    listen(tmp_path / "run" / "s").close()

    assert (tmp_path / "run" / "s").is_socket()
