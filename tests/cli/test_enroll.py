"""Marketplace and machine by the command line alone, as their owners use it. Real processes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.stack import free_port
from tests.support.waiting import wait_until

Done = subprocess.CompletedProcess[str]


def kaalia(*args: str, stdin: str = "") -> Done:
    return subprocess.run(
        [sys.executable, "-m", "kaalia.cli.main", *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Market:
    def __init__(self, folder: Path) -> None:
        self.data = folder / "market"
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = folder / "market.log"
        listen = self.url.removeprefix("http://")
        with self._log.open("w") as log:
            command = [sys.executable, "-m", "kaalia.cli.main", "marketplace", "serve"]
            self.process = subprocess.Popen(
                [*command, "--listen", listen, "--data", str(self.data)], stdout=log, stderr=log
            )
        wait_until("the marketplace", lambda: self.url in self._log.read_text(), 30)

    def call(self, *args: str) -> Done:
        return kaalia("marketplace", *args, "--data", str(self.data))

    def token(self) -> str:
        return str(json.loads(self.call("enroll-token", "--user", "owner", "--json").stdout)["token"])


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    market = Market(tmp_path_factory.mktemp("market"))
    assert market.call("user", "add", "owner", "--host").returncode == 0
    yield market
    market.process.terminate()
    assert market.process.wait(10) == 0


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "kaalia.yaml"
    path.write_text(yaml.safe_dump({"state_dir": str(tmp_path / "state"), "socket": str(tmp_path / "s")}))
    return str(path)


def test_a_user_is_added_once_and_the_key_is_shown_once(market: Market) -> None:
    first = market.call("user", "add", "renter", "--json")
    second = market.call("user", "add", "renter", "--json")

    assert json.loads(first.stdout)["api_key"]
    assert second.returncode == 2
    assert second.stdout == ""
    assert "[user_exists]" in second.stderr


def test_a_machine_enrols_with_a_token_from_stdin_and_only_once(market: Market, config: str) -> None:
    done = kaalia("enroll", market.url, "-", "--config", config, "--json", stdin=market.token() + "\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["machine_id"] >= 1
    key = Path(config).parent / "state" / "identity.pem"
    assert key.stat().st_mode & 0o777 == 0o600

    again = kaalia("enroll", market.url, "-", "--config", config, stdin=market.token())

    assert again.returncode == 2
    assert "[already_enrolled]" in again.stderr


def test_the_token_may_be_in_a_file_and_is_good_for_one_machine(market: Market, config: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(market.token())
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"state_dir": str(tmp_path / "other"), "socket": str(tmp_path / "o")}))

    first = kaalia("enroll", market.url, "--token-file", str(file), "--config", config)
    second = kaalia("enroll", market.url, "--token-file", str(file), "--config", str(other))

    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("enrolled as machine ")
    assert second.returncode == 1
    assert "cannot" in second.stderr
    assert file.read_text() not in second.stderr


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["http://127.0.0.1:9", "x"], "marketplace_unreachable"),
        (["http://192.0.2.1", "x"], "tls_required"),
        (["ftp://market.example", "x"], "url_invalid"),
        (["http://127.0.0.1:9"], "token_missing"),
        (["http://127.0.0.1:9", "--token-file", "/nonexistent/token"], "token_missing"),
    ],
)
def test_what_cannot_be_done_is_told_with_a_remedy(config: str, args: list[str], code: str) -> None:
    done = kaalia("enroll", *args, "--config", config)

    assert done.returncode == 2
    assert f"[{code}]" in done.stderr
    assert "remedy:" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_marketplace_refuses_half_of_a_tls_pair(tmp_path: Path) -> None:
    done = kaalia("marketplace", "serve", "--tls-cert", "cert.pem", "--data", str(tmp_path / "m"))

    assert done.returncode == 2
    assert "--tls-cert and --tls-key belong together" in done.stderr


def test_the_marketplace_refuses_plain_http_to_the_network(tmp_path: Path) -> None:
    done = kaalia("marketplace", "serve", "--listen", "0.0.0.0:0", "--data", str(tmp_path / "m"))

    assert done.returncode == 2
    assert "[tls_required]" in done.stderr
