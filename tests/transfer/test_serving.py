"""What is written for each connection."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kaalia.transfer.serving import private_file


def test_connections_that_come_together_do_not_tread_on_each_other(tmp_path: Path) -> None:
    path = tmp_path / "transfer" / "C.1.json"
    contents = [b"one" * 100_000, b"two" * 100_000]

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda number: private_file(path, contents[number % 2]), range(200)))

    assert set(written) == {path}
    assert path.read_bytes() in contents
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o600
