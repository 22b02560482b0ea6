"""A real Prometheus that scrapes one port, and promtool, which judges metrics: Debian's, fetched by scripts/setup."""

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.free_range import free_range
from tests.support.waiting import wait_until

CACHE = Path(__file__).parents[2] / ".cache" / "prometheus"


def program(name: str) -> str:
    """Of the cache, or an installed one."""
    found = shutil.which(name, path=str(CACHE)) or shutil.which(name)
    assert found is not None, f"there is no {name}: run scripts/setup"
    return found


@dataclass(frozen=True)
class Prometheus:
    url: str

    def ask(self, path: str, **query: str) -> Any:
        """The `data` of an answer. Raises AssertionError with Prometheus' own words."""
        try:
            with urllib.request.urlopen(
                f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10
            ) as reply:
                answer = json.load(reply)
        except urllib.error.HTTPError as error:
            if error.code == 503:
                raise ConnectionError("it is not ready yet") from error
            raise AssertionError(f"{query}: {error.read().decode()}") from error
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series now."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def is_up(self) -> bool:
        """It answers, and has scraped its target."""
        try:
            return [one["value"][1] for one in self.query("up")] == ["1"]
        except OSError:
            return False


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Scrapes `target` (HOST:PORT) five times a second as the job `kaalia`; is up and has scraped it once."""
    port = free_range(1).first
    settings = folder / "prometheus.yml"
    job = {"job_name": "kaalia", "static_configs": [{"targets": [target]}]}
    settings.write_text(json.dumps({"global": {"scrape_interval": "200ms"}, "scrape_configs": [job]}))
    log = folder / "prometheus.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={settings}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=file,
            stderr=file,
        )
    try:
        found = Prometheus(f"http://127.0.0.1:{port}")
        wait_until(f"Prometheus, see {log}", found.is_up, 60)
        yield found
    finally:
        process.kill()
        process.wait()
